#!/usr/bin/env python3
"""Make, check and maintain vendored_integration/_vendor/ and patches/.

Needs `packaging` and `unidiff`; the SDK's wheels come through pip and are kept in
.cache/wheels (VENDOR_CACHE names another directory). RELEASE is an exact release
of sentry-sdk.

Exit status: 0 all right, 1 `check` has found a difference, 2 an error.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Callable

try:
    import pipeline
    from pipeline import emit, extract, fetch, lock, patchqueue, releases, rewrite
    from pipeline.errors import MismatchError, PatchError, PipelineError, ReleaseError
    from pipeline.refresh import changed, refreshed
except ModuleNotFoundError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

OUT = releases.ROOT / "vendored_integration" / "_vendor"


def build(args: argparse.Namespace) -> int:
    """Generate vendored_integration/_vendor/ for one release."""
    release = releases.choose(args.release) if args.release else releases.newest()
    emit.write(pipeline.vendor(release, _upstream(release)), OUT)
    print(f"{_short(OUT)}: sentry-sdk {release}, revision {releases.REVISION}")
    return 0


def check(args: argparse.Namespace) -> int:
    """Build each release anew and list every file that differs, is missing or is extra.

    Compared are the rebuilt files with the lock, the patch files with what
    `refresh` would write, and vendored_integration/_vendor/, where it is present,
    with the rebuilt files of its release.
    """
    present = emit.read(OUT) if OUT.is_dir() else {}
    package = present.get("__init__.py", b"").decode("utf-8", "replace")
    match = re.search(r'(?m)^SENTRY_SDK_RELEASE = "(.+)"$', package)
    made_for = match[1] if match else None
    problems = []
    if present and made_for not in releases.supported():
        problems.append(f"{_short(OUT)}/__init__.py: names no supported release")
    for release in _chosen(args.releases):
        try:
            files = pipeline.vendor(release, _upstream(release))
            texts = refreshed(releases.supported()[release])
        except MismatchError as error:
            problems.append(f"sentry-sdk {release}: {error}")
            continue
        for path in changed(texts):
            problems.append(f"{_short(path)}: differs from what refresh would write")
        for name, data in files.items():
            try:
                compile(data, name, "exec", dont_inherit=True)
            except SyntaxError as error:
                problems.append(f"sentry-sdk {release}: {name}: {error}")
        if release == made_for:
            for line in lock.differences(lock.hashes(files), lock.hashes(present)):
                problems.append(f"{_short(OUT)}/{line}")
        print(f"sentry-sdk {release}: checked")
    for problem in problems:
        print(problem)
    if problems:
        print(
            "next: python3 scripts/vendor.py build RELEASE makes _vendor/ anew, "
            "python3 scripts/vendor.py refresh RELEASE the patch files and the lock"
        )
    return 1 if problems else 0


def refresh(args: argparse.Namespace) -> int:
    """Write the patch files and the locks anew, in their one form.

    Applies the patches in order and writes each as a diff without context against
    what the ones before it leave, then writes the lock. Header texts are kept. A
    file is written only where that changes it.
    """
    wanted: dict[Path, list[str]] = {}
    for release in args.add:
        directory = releases.nearest(releases.parse(release))
        if directory is None:
            raise ReleaseError(f"sentry-sdk {release}: older than every directory")
        wanted.setdefault(directory, []).append(releases.parse(release))
    if args.releases or not args.add:
        for release in _chosen(args.releases):
            wanted.setdefault(releases.supported()[release], [])
    texts: dict[Path, str] = {}
    for directory, added in wanted.items():
        texts.update(refreshed(directory, added))
    for path in changed(texts):
        path.write_bytes(texts[path].encode())
        print(f"{_short(path)}: written")
    print(f"{', '.join(map(_short, wanted))}: up to date")
    return 0


def diff(args: argparse.Namespace) -> int:
    """Show what the patches change, with context from the real source."""
    release = releases.choose(args.release) if args.release else releases.newest()
    directory = releases.supported()[release]
    patches = patchqueue.read(directory)
    names = [patch.name for patch in patches]
    if args.patch not in (None, *names):
        raise PatchError(
            f"{_short(directory)}: no such patch",
            expected=f"one of {', '.join(names)}" if names else "no patch at all",
            found=args.patch,
        )
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    texts = rewrite.rewrite(_upstream(release).files)
    for patch in patches:
        if args.patch in (None, patch.name):
            text = patchqueue.unified(patch, texts, args.context)
            print(f"{_short(patch.path)}\n\n{patch.header}\n")
            print(_coloured(text) if coloured else text)
        texts = patchqueue.apply(patch, texts)
    return 0


def status(args: argparse.Namespace) -> int:
    """List the supported releases and their patches."""
    rows = [("SENTRY-SDK", "DIRECTORY", "LOCK", "PATCHES")]
    for release, directory in releases.supported().items():
        state = "missing" if lock.load(directory) is None else "ok"
        patches = ", ".join(patch.name for patch in patchqueue.read(directory))
        rows.append((release, _short(directory), state, patches or "none"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(text.ljust(n) for text, n in zip(row, widths)).rstrip())
    return 0


def _upstream(release: str) -> extract.Upstream:
    locked = pipeline.locked_or_refuse(releases.supported()[release])
    return extract.from_wheel(fetch.fetch(release, locked))


def _chosen(texts: list[str]) -> list[str]:
    return [releases.choose(text) for text in texts] or list(releases.supported())


def _short(path: Path) -> str:
    return path.relative_to(releases.ROOT).as_posix()


def _coloured(diff: str) -> str:
    colours = {"-": "31", "+": "32", "@": "36"}
    lines = diff.splitlines(keepends=True)
    return "".join(
        f"\033[{colours[line[0]]}m{line.rstrip()}\033[0m\n" if line[0] in colours else line
        for line in lines
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vendor.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        text = run.__doc__ or ""
        summary = text.split("\n")[0]
        added = commands.add_parser(
            run.__name__,
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=text.replace("\n    ", "\n"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    def one_release(added: argparse.ArgumentParser) -> None:
        text = "default: the newest"
        added.add_argument("release", metavar="RELEASE", nargs="?", help=text)

    def several_releases(added: argparse.ArgumentParser) -> None:
        text = "default: all that are supported"
        added.add_argument("releases", metavar="RELEASE", nargs="*", help=text)

    one_release(command(build))
    several_releases(command(check))
    parser_refresh = command(refresh)
    several_releases(parser_refresh)
    parser_refresh.add_argument(
        "--add",
        metavar="RELEASE",
        action="append",
        default=[],
        help="let the nearest earlier directory serve this release too "
        "(refused unless the SDK's files are the same)",
    )
    parser_diff = command(diff)
    one_release(parser_diff)
    parser_diff.add_argument(
        "patch", metavar="PATCH", nargs="?", help="its file name; default: all"
    )
    parser_diff.add_argument(
        "-U",
        "--context",
        metavar="LINES",
        type=int,
        default=3,
        help="lines of context (default: 3)",
    )
    command(status)
    return parser


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        return code
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
