#!/usr/bin/env python3
"""Make, check and maintain vendored_integration/_vendor/ and patches/.

Needs `packaging`; `check` and `port` need `pyflakes`, `wheels` needs `build`. The SDK's
wheels come through pip and are kept in .cache/wheels (VENDOR_CACHE names another
directory). RELEASE is an exact release of sentry-sdk. CONTRIBUTING.md shows which
command comes when.

Exit status: 0 all right, 1 there is something to mend (`check` has found a difference,
`port` refuses a release, `wheels` has failed for one), 2 an error, 3 damaged input.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path
from typing import Callable

try:
    from pipeline import package, patch, releases, upstream
    from pipeline.errors import PipelineError
except ModuleNotFoundError as error:
    # Said after the command line has been parsed: --help needs none of them.
    not_installed = str(error)
else:
    not_installed = ""

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "vendored_integration" / "_vendor"
INSTALL = "python3 -m pip install packaging pyflakes build"


def build(args: argparse.Namespace) -> int:
    """Generate vendored_integration/_vendor/ for one release."""
    release = releases.choose(args.release) if args.release else releases.newest()
    package.write(package.vendor(_source(release)), OUT)
    print(f"{_short(OUT)}: sentry-sdk {release}, revision {releases.REVISION}")
    return 0


def check(args: argparse.Namespace) -> int:
    """Make each release's patches anew, and list every file of patches/ that differs.

    A release that fails does not stop the others.
    """
    from pipeline import port as porting

    problems: list[PipelineError] = []
    locks = []
    for directory in releases.directories():
        try:
            lock = releases.load(directory)
            lock.read_patches()
            locks.append(lock)
        except PipelineError as error:
            problems.append(error)
    known = releases.served(locks)
    fresh = {}
    chosen = [releases.choose(text) for text in args.releases] or list(known)
    for release, found in porting.make_all(chosen, known, driven=False):
        if isinstance(found, PipelineError):
            problems.append(found)
            print(f"sentry-sdk {release}: not checked")
        else:
            fresh[release] = found
            print(f"sentry-sdk {release}: checked", flush=True)
    for problem in problems:
        print(problem)
    if problems:
        return max(problem.status for problem in problems)
    wanted = porting.arrange({**porting.committed(locks), **fresh})
    differing = [f"{_short(path)}: not what the edits give" for path in porting.differing(wanted)]
    if differing:
        print("\n".join(differing))
        print("next: python3 scripts/vendor.py port --all, or git checkout -- patches")
    return 1 if differing else 0


def diff(args: argparse.Namespace) -> int:
    """Show what the patches change, with context from the real source."""
    release = releases.choose(args.release) if args.release else releases.newest()
    before = patch.rewrite_imports(_source(release).files)
    patches = releases.supported()[release].read_patches()
    for name, text in patches.items():
        after = patch.apply({name: text}, before)
        print(text.split("\n\n--- a/")[0], end="\n\n")
        for file, old in before.items():
            sides = patch.lines(old), patch.lines(after[file])
            print("".join(difflib.unified_diff(*sides, f"a/{file}", f"b/{file}")))
    return 0


def port(args: argparse.Namespace) -> int:
    """Make the patches of a new release, and drive what they give.

    Nothing is written before the release is edited, verified and driven. A release
    whose files are those of the one before it gets no directory of its own.
    """
    from pipeline import port as porting

    if len([wish for wish in (args.release, args.missing, args.all) if wish]) != 1:
        raise PipelineError(
            "which release?",
            expected="NEW, --missing or --all",
            next="python3 scripts/vendor.py port --help",
        )
    known = releases.supported() if any(releases.PATCHES.glob("[0-9]*")) else {}
    kept = {} if args.all else porting.committed(known.values())
    if args.release:
        names = [releases.parse(args.release, args.pre)]
    else:
        listed = upstream.listed(known, args.find_links)
        names = listed if args.all else [name for name in listed if name not in known]
    ports, failed = dict(kept), []
    for release, found in porting.make_all(names, known, True, args.find_links):
        if isinstance(found, PipelineError):
            failed.append(found)
            print(f"sentry-sdk {release}: not ported\n{found}", flush=True)
        else:
            print("\n".join(porting.compared(found, ports)), flush=True)
            ports[release] = found
    if not (failed and args.all):
        for line in porting.write(porting.arrange(ports)):
            print(line)
    print(f"{len(names) - len(failed)} of {len(names)} releases ported")
    return max((error.status for error in failed), default=0)


def status(args: argparse.Namespace) -> int:
    """List every release on the package index, and what this checkout has for it."""
    supported = releases.supported()
    for release, lock in supported.items():
        same = "" if lock.directory == release else f"   same sources as {lock.directory}"
        print(f"{release:10}supported{same}")
    served = f"{len(supported)} supported, by {len(releases.directories())} directories"
    try:
        missing = [name for name in upstream.listed(supported) if name not in supported]
    except PipelineError:
        print(f"{served}; what is not ported yet is unknown", flush=True)
        raise
    for release in missing:
        print(f"{release:10}not ported yet")
    print(f"{served}; {len(missing)} not ported yet")
    if missing:
        print("next: python3 scripts/vendor.py port --missing")
    return 0


def wheels(args: argparse.Namespace) -> int:
    """Build the releases' wheels into dist/.

    A wheel that is there already, and newer than all that it is made from, is left as it
    is. A release that fails does not stop the others. Needs `build`.
    """
    from pipeline.wheels import build

    if args.all == bool(args.releases):
        raise PipelineError(
            "which releases?",
            expected="RELEASE..., or --all for every one",
            found="both" if args.all else "neither",
            next="python3 scripts/vendor.py wheels --help",
        )
    chosen = [releases.choose(text) for text in args.releases] or list(releases.supported())
    failed = []
    for release, result in build(chosen, args.out.resolve(), args.rebuild):
        if isinstance(result, PipelineError):
            failed.append(release)
            print(f"sentry-sdk {release}: {result}", flush=True)
        elif result:
            print(f"{result.name}: built", flush=True)
    print(f"{args.out}: {len(chosen) - len(failed)} of {len(chosen)} wheels")
    if failed:
        print(f"next: python3 scripts/vendor.py wheels {' '.join(failed)}")
    return 1 if failed else 0


def _source(release: str) -> upstream.Upstream:
    wheel = upstream.fetch(release, releases.supported()[release])
    return upstream.read_wheel(release, wheel)


def _short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vendor.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

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

    for one in build, diff:
        newest = "default: the newest"
        command(one).add_argument("release", metavar="RELEASE", nargs="?", help=newest)
    supported = "default: all that are supported"
    command(check).add_argument("releases", metavar="RELEASE", nargs="*", help=supported)
    command(status)
    added = command(port)
    added.add_argument("release", metavar="NEW", nargs="?", help="the release to port to")
    added.add_argument("--missing", action="store_true", help="all that `status` lists as such")
    added.add_argument("--all", action="store_true", help="make all of patches/ anew")
    added.add_argument("--find-links", metavar="DIR", help="take the SDK's wheel from there")
    added.add_argument("--pre", action="store_true", help="NEW may be a pre-release")
    added = command(wheels)
    added.add_argument("releases", metavar="RELEASE", nargs="*")
    added.add_argument("--all", action="store_true", help="every supported release")
    added.add_argument("--out", metavar="DIR", type=Path, default=ROOT / "dist", help="or dist/")
    added.add_argument("--rebuild", action="store_true", help="all of them; compare the bytes")
    return parser


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    try:
        if not_installed:
            raise ModuleNotFoundError(not_installed)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except ModuleNotFoundError as error:
        print(f"error: {error}\n  next: {INSTALL}", file=sys.stderr)
        return 2
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read this has seen enough (`| head`). At its end Python flushes once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
