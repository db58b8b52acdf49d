"""Print what this build of vendored-integration carries, and look for what is wrong.

That is: from which sentry-sdk it was made, what is installed beside it, and whether the
vendored files are still as they were built. With a Django project, also what its settings
and its application make of a process: which integration is set up, with which options.

  python -m vendored_integration --settings mysite.settings
  python -m vendored_integration mysite.wsgi

The settings run as they do at the start of a server, and so does the application's module.

Exit status: 0 all right, 1 something is wrong. It is told last, with an id, which the
project's SILENCED_SYSTEM_CHECKS may name.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import os
import platform
import sys
import traceback
from typing import Any, Iterator, Sequence

from . import _provenance, checks

SETTINGS = "DJANGO_SETTINGS_MODULE"
EXAMPLE = "mysite.settings"


def load(wanted: str | None, inits: list[str]) -> tuple[str, Any] | checks.Finding | None:
    """Run the project's settings, Django's setup, and the application's module.

    :param wanted: what the server is told: ``mysite.wsgi``, ``mysite.wsgi:app``.
    :param inits: gets the places where ``sentry_sdk.init()`` is called.
    :return: name and object of the application; or what could not be loaded.
    """
    settings = os.environ.get(SETTINGS)
    name = settings or str(wanted)
    try:
        # What these print must not get into the JSON.
        with contextlib.redirect_stdout(sys.stderr), _recording(inits):
            if settings:
                import django

                django.setup()
            if not wanted:
                return None
            name = wanted
            module, _, attribute = wanted.partition(":")
            attribute = attribute or "application"
            return f"{module}:{attribute}", getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        return _not_loaded(name, error)


def _recording(inits: list[str]) -> Any:
    """Patch the SDK: record where it is initialised, which is the line to change."""
    from unittest import mock

    from sentry_sdk.client import _Client

    init = _Client.__init__

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        frame = sys._getframe(1)
        while frame.f_back and frame.f_globals.get("__name__", "").startswith("sentry_sdk."):
            frame = frame.f_back
        inits.append(checks.place(frame.f_code.co_filename, frame.f_lineno))
        init(self, *args, **kwargs)

    return mock.patch.object(_Client, "__init__", record)


def _not_loaded(name: str, error: BaseException) -> checks.Finding:
    frames = traceback.extract_tb(error.__traceback__)
    # Not the last line of all: it may be Django that raises. The first one is of this file.
    ours = list(filter(_is_of_project, frames[1:]))
    where, hint = "", "mend this; the server's start, or manage.py check, shows the whole traceback"
    if frames[-1].filename == __file__ or (
        isinstance(error, ModuleNotFoundError) and name.startswith(error.name or " ")
    ):
        hint = "give another name, and run this in the directory that has manage.py"
    elif isinstance(error, SyntaxError) and error.filename:
        where = checks.place(error.filename, error.lineno)
    elif ours:
        where = checks.place(ours[-1].filename, ours[-1].lineno)
    text = traceback.format_exception_only(type(error), error)[-1].strip()
    return checks.make("E008", where, name=name, error=text, next=hint)


def _is_of_project(frame: traceback.FrameSummary) -> bool:
    in_project = frame.filename.startswith(os.getcwd() + os.sep)
    return in_project and "site-packages" not in frame.filename


def _interface(application: Any) -> str:
    for layer in checks.layers(application):
        if inspect.iscoroutinefunction(layer) or inspect.iscoroutinefunction(layer.__call__):
            return "asgi"
    return "wsgi"


def _process(inits: list[str], application: tuple[str, Any] | None) -> dict[str, Any]:
    """Return what the project has made of this process."""
    from .runtime.sdk import options_of_integration
    from .runtime.stats import stats

    client = checks.client()
    set_up = checks.set_up()
    ours = set_up == "vendored_integration"
    return {
        "settings": os.environ.get(SETTINGS),
        "application": application and application[0],
        "interface": application and _interface(application[1]),
        "WSGI_APPLICATION": checks.setting("WSGI_APPLICATION"),
        "ASGI_APPLICATION": checks.setting("ASGI_APPLICATION"),
        "inits": inits,
        "integration": set_up,
        "options": options_of_integration()._asdict() if ours else None,
        "trace_lifecycle": client and checks.lifecycle(client),
        "traces_sample_rate": client and client.options.get("traces_sample_rate"),
        "traces_sampler": bool(client and client.options.get("traces_sampler")),
        "stats": stats().as_dict(),
    }


def report(wanted: str | None = None) -> dict[str, Any]:
    """All that is printed, as data; `problems` is empty where all is right."""
    provenance, differences, _ = _provenance.look()
    asked_for = wanted or os.environ.get(SETTINGS)
    found, process = checks.installation(), None
    # With another SDK the package cannot be imported: that is said, and mended first.
    broken = any(finding.id.endswith(("E001", "E002")) for finding in found)
    if asked_for and not broken:
        inits: list[str] = []
        application = load(wanted, inits)
        if isinstance(application, checks.Finding):
            found.append(application)
        else:
            silenced = checks.setting("SILENCED_SYSTEM_CHECKS") or ()
            found = [one for one in checks.findings(inits, application) if one.id not in silenced]
            process = _process(inits, application)
    problems = [str(finding) for finding in found if finding.level != "info"]
    return {
        "ok": not problems,
        "problems": problems,
        "findings": [finding._asdict() for finding in found],
        "installed": {
            "vendored-integration": provenance and provenance["package"]["version"],
            "sentry-sdk": checks.installed("sentry-sdk"),
            "Django": checks.installed("Django"),
            "Python": platform.python_version(),
        },
        "provenance": provenance,
        "differences": differences,
        "asked_for": asked_for,
        "process": process,
    }


def _text(found: dict[str, Any]) -> Iterator[str]:
    """The lines of a report, for people."""
    stated = found["provenance"]
    versions = {name: version or "not installed" for name, version in found["installed"].items()}
    if stated:
        versions["vendored-integration"] += (
            f", built for sentry-sdk {stated['upstream']['version']}"
        )
    for name, version in versions.items():
        yield f"{name:21} {version}"
    if stated:
        yield from _carried(stated, found["differences"])
    if found["process"]:
        yield "\nThis process:"
        # It serves nothing: of the counters, only this one can be more than 0.
        stats = {"internal_errors": found["process"]["stats"]["internal_errors"]}
        for name, value in {**found["process"], "stats": stats}.items():
            yield f"  {name:19} {_shown(value)}"
    elif not found["asked_for"]:
        yield f"\nNo project was looked at; next: python -m vendored_integration --settings {EXAMPLE}"
    yield ""
    findings = [checks.Finding(**finding) for finding in found["findings"]]
    # The problems come last: the last line says whether there is one.
    for finding in sorted(findings, key=lambda finding: finding.level != "info"):
        kind = "info" if finding.level == "info" else "problem"
        yield f"{kind}: {finding} ({finding.id})"
    if found["ok"]:
        yield "ok"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={item!r}" for name, item in value.items())
    if isinstance(value, list):
        value = ", ".join(value)
    return "none" if value in (None, "") else str(value)


def _carried(stated: dict[str, Any], differences: dict[str, str]) -> Iterator[str]:
    upstream, files = stated["upstream"], stated["files"]
    yield f"\nMade from {upstream['name']} {upstream['version']}, licence {upstream['license']}:"
    yield f"  {upstream['sha256']}  {upstream['wheel']}"
    yield f"  {upstream['license_sha256']}  its LICENSE"
    yield f"Patched by {stated['directory']}:"
    for patch in stated["patches"]:
        yield f"  {patch['sha256']}  {patch['name']}"
    yield "Upstream's files:"
    for name in sorted(files):
        if "upstream" in files[name]:
            yield f"  {files[name]['upstream']}  {name}"
    yield "Vendored files, in vendored_integration/_vendor/:"
    for name in sorted({*files, *differences}):
        if name in differences:
            yield f"  {name}: {differences[name]}"
        else:
            yield f"  {files[name]['vendored']}  {name}  ok"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vendored_integration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="for machines, with the same content")
    parser.add_argument(
        "--settings",
        metavar="MODULE",
        help=f"of the Django project to look at, such as {EXAMPLE}; default: ${SETTINGS}",
    )
    parser.add_argument(
        "application",
        nargs="?",
        metavar="APPLICATION",
        help="what the server loads, as it is told: mysite.wsgi, or mysite.asgi:application",
    )
    args = parser.parse_args(argv)
    if args.settings:
        os.environ[SETTINGS] = args.settings
    found = report(args.application)
    print(json.dumps(found, indent=2) if args.json else "\n".join(_text(found)))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
