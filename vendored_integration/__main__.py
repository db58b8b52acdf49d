"""What is installed here: `python -m vendored_integration`.

Says what this build carries, from which sentry-sdk it was made, what is installed
beside it, and whether the vendored files are still as they were built.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib import metadata
from typing import Any, Sequence

from . import _provenance

DESCRIPTION = """\
Print what this build of vendored-integration carries and what is installed beside it,
and verify the vendored files.

Exit status: 0 all right, 1 something is wrong: it is listed under "problems".
"""


def report() -> dict[str, Any]:
    """All that is printed, as data; `problems` is empty where all is right."""
    problems = []
    try:
        provenance = _provenance.load()
        differences = _provenance.differences(provenance["files"])
    except _provenance.ProvenanceError as error:
        provenance, differences = None, {}
        problems.append(f"{error}; next: pip install --force-reinstall vendored-integration")
    sdk = _installed("sentry-sdk")
    if provenance:
        package, built_for = provenance["package"], provenance["upstream"]["version"]
        if sdk != built_for:
            found = f"sentry-sdk {sdk} is installed" if sdk else "no sentry-sdk is installed"
            keep = f'to keep the SDK: pip install "vendored-integration=={sdk}.*"; ' if sdk else ""
            problems.append(
                f"this build is for sentry-sdk {built_for}, but {found}: it refuses to be "
                f"imported. {keep}to keep this build: "
                f'pip install "sentry-sdk=={built_for}"'
            )
        if differences:
            problems.append(
                f"{len(differences)} vendored files are not as they were built; next: "
                "pip install --force-reinstall --no-deps --no-cache-dir "
                f"{package['name']}=={package['version']}"
            )
    return {
        "ok": not problems,
        "problems": problems,
        "installed": {
            "vendored-integration": provenance and provenance["package"]["version"],
            "sentry-sdk": sdk,
            "Django": _installed("Django"),
            "Python": platform.python_version(),
        },
        "provenance": provenance,
        "differences": differences,
    }


def _installed(name: str) -> str | None:
    """A distribution's version, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _text(found: dict[str, Any]) -> str:
    lines = []
    for name, version in found["installed"].items():
        lines.append(f"{name:21} {version or 'not installed'}")
    stated = found["provenance"]
    if stated:
        lines[0] += f", built for sentry-sdk {stated['upstream']['version']}"
        lines += _carried(stated, found["differences"])
    lines.append("")
    lines += [f"problem: {problem}" for problem in found["problems"]] or ["ok"]
    return "\n".join(lines)


def _carried(stated: dict[str, Any], differences: dict[str, str]) -> list[str]:
    upstream = stated["upstream"]
    lines = [
        "",
        f"Made from {upstream['name']} {upstream['version']}, licence {upstream['license']}:",
        f"  {upstream['sha256']}  {upstream['wheel']}",
        f"  {upstream['license_sha256']}  its LICENSE",
        f"Patched by {stated['directory']}:",
        *(f"  {patch['sha256']}  {patch['name']}" for patch in stated["patches"]),
        "Upstream's files:",
    ]
    files = stated["files"]
    lines += [f"  {files[n]['upstream']}  {n}" for n in sorted(files) if "upstream" in files[n]]
    lines.append("Vendored files, in vendored_integration/_vendor/:")
    for name in sorted({*files, *differences}):
        if name in differences:
            lines.append(f"  {name}: {differences[name]}")
        else:
            lines.append(f"  {files[name]['vendored']}  {name}  ok")
    return lines


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vendored_integration",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="for machines, with the same content")
    args = parser.parse_args(argv)
    found = report()
    print(json.dumps(found, indent=2) if args.json else _text(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
