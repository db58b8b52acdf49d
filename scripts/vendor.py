#!/usr/bin/env python3
"""Make, check and maintain vendored_integration/_vendor/ and patches/.

Needs pip; `check` and `port` need `pyflakes`. The SDK's wheels come through pip and are kept
in .cache/wheels (VENDOR_CACHE names another directory). RELEASE is an exact release of
sentry-sdk. CONTRIBUTING.md shows which command comes when.

Exit status: 0 all right, 1 there is something to mend (`check` has found a difference,
`port` refuses a release, `wheels` has failed for one), 2 an error, 3 damaged input.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from pathlib import Path

from pipeline import package, patch, releases, upstream
from pipeline import port as porting
from pipeline.errors import PipelineError, RefusedError

ROOT = releases.ROOT
OUT = ROOT / "vendored_integration" / "_vendor"


def build(args: argparse.Namespace) -> int:
    """Generate vendored_integration/_vendor/ for one release."""
    release = releases.choose(args.release)
    package.write(package.vendor(_fetch(release)), OUT)
    print(f"{OUT.relative_to(ROOT)}: sentry-sdk {release}, revision {releases.REVISION}")
    return 0


def diff(args: argparse.Namespace) -> int:
    """Show what the patches change, with context from the real source."""
    release = releases.choose(args.release)
    before = patch.rewrite_imports(_fetch(release).files)
    after = patch.apply(releases.supported()[release].patches, before)
    for name in before:
        sides = patch.lines(before[name]), patch.lines(after[name])
        print("".join(difflib.unified_diff(*sides, f"a/{name}", f"b/{name}")), end="")
    return 0


def check(args: argparse.Namespace) -> int:
    """Make each release's patches anew, and compare them with patches/.

    A release that fails does not stop the others.
    """
    locks, errors = [], []
    for directory in releases.directories():
        try:
            locks.append(releases.load(directory))
        except PipelineError as error:
            errors.append(error)
            print(error)
    known = releases.served(locks)
    ports, refused = porting.make_all(known, known, driven=False)
    errors += refused
    differing = [] if errors else porting.differing(porting.arrange(ports))
    for name in differing:
        print(f"patches/{name}: not what the edits give")
    if differing:
        print("next: python3 scripts/vendor.py port --all, or git checkout -- patches")
    print(f"{len(ports)} releases checked")
    return max([error.status for error in errors], default=1 if differing else 0)


def port(args: argparse.Namespace) -> int:
    """Make the patches of a new release, and drive what they give.

    Nothing is written before the release is edited, verified and driven. A release
    whose files are those of the one before it gets no directory of its own.
    """
    if args.find_links:
        # pip prefers it to what the index has. It splits the variable at spaces.
        os.environ["PIP_FIND_LINKS"] = Path(args.find_links).resolve().as_uri()
    known = releases.supported() if any(releases.PATCHES.glob("[0-9]*")) else {}
    if args.release:
        names = {_new(args.release, args.pre)}
    else:
        listed = upstream.listed()
        names = {name for name in listed if not releases.is_pre(name)}
        if args.pre:
            names.add(listed[-1])
        names = names | {*known} if args.all else names - {*known}
    ports, errors = porting.make_all(sorted(names, key=releases.numbers), known, driven=True)
    if not (errors and args.all):
        for line in porting.write(porting.arrange(ports if args.all else {**known, **ports})):
            print(line)
    print(f"{len(ports)} of {len(names)} releases ported")
    return max([error.status for error in errors], default=0)


def _new(release: str, pre: bool) -> str:
    """Refuse what is no release, or one that is not asked for in this way."""
    is_one = releases.RELEASE.fullmatch(release) and (pre or not releases.is_pre(release))
    if not is_one or releases.numbers(release) < releases.numbers(releases.OLDEST):
        raise PipelineError(
            f"sentry-sdk {release}: cannot be ported",
            expected=f"a final release from {releases.OLDEST} on; or, with --pre, a pre-release",
            next="python3 scripts/vendor.py status   (lists the releases)",
        )
    return release


def status(args: argparse.Namespace) -> int:
    """List every release on the package index, and what this checkout has for it.

    Of the pre-releases that are not ported only those of the next release are listed.
    """
    supported = releases.supported()
    for name, lock in supported.items():
        pre = ", a pre-release" if releases.is_pre(name) else ""
        same = "" if lock.directory == name else f"   same sources as {lock.directory}"
        print(f"{name:10}supported{pre}{same}", flush=True)
    listed = upstream.listed()
    newest = max(releases.numbers(name) for name in listed if not releases.is_pre(name))
    missing = [name for name in listed if name not in supported]
    finals = [name for name in missing if not releases.is_pre(name)]
    for name in finals:
        print(f"{name:10}not ported yet")
    for name in missing:
        if releases.is_pre(name) and releases.numbers(name) > newest:
            print(f"{name:10}a pre-release, not ported")
    served = [lock.directory for name, lock in supported.items() if not releases.is_pre(name)]
    counted = f"{len(served)} supported, by {len({*served})} directories"
    print(f"{counted}; {len(finals)} not ported yet")
    if finals:
        print("next: python3 scripts/vendor.py port --missing")
    return 0


def wheels(args: argparse.Namespace) -> int:
    """Build the releases' wheels. A release that fails does not stop the others."""
    chosen = [releases.choose(text) for text in args.releases] or releases.finals()
    errors = []
    args.out.mkdir(parents=True, exist_ok=True)
    for release in chosen:
        try:
            _wheel(release, args.out.resolve())
            print(f"sentry-sdk {release}: built", flush=True)
        except PipelineError as error:
            errors.append(error)
            print(f"sentry-sdk {release}: {error}", flush=True)
    print(f"{args.out}: {len(chosen) - len(errors)} of {len(chosen)} wheels")
    return max([error.status for error in errors], default=0)


def _wheel(release: str, out: Path) -> None:
    """Let pip build the wheel, with the SDK's from the cache: the index need not have it."""
    _fetch(release)
    links = f"{os.environ.get('PIP_FIND_LINKS', '')} {upstream.CACHE.resolve().as_uri()}"
    env = {releases.VARIABLE: release, "PIP_FIND_LINKS": links}
    options = ["--no-deps", f"--wheel-dir={out}", str(ROOT)]
    result = upstream.pip(sys.executable, "wheel", *options, **env)
    if result.returncode != 0:
        raise RefusedError("no wheel", found=result.stdout.strip()[-2000:])


def _fetch(release: str) -> upstream.Upstream:
    return upstream.fetch(release, releases.supported()[release])


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    added = {}
    for run in build, check, diff, port, status, wheels:
        text = (run.__doc__ or "").replace("\n    ", "\n")
        added[run.__name__] = commands.add_parser(
            run.__name__, help=text.split("\n")[0], description=text, formatter_class=layout
        )
        added[run.__name__].set_defaults(run=run)
    for name in "build", "diff":
        added[name].add_argument("release", metavar="RELEASE", nargs="?", help="default: newest")
    added["port"].add_argument("--find-links", metavar="DIR", help="where the SDK's wheel is")
    added["port"].add_argument(
        "--pre", action="store_true", help="a pre-release, too: NEW, or the newest one"
    )
    which = added["port"].add_mutually_exclusive_group(required=True)
    which.add_argument("release", metavar="NEW", nargs="?", help="the release to port to")
    which.add_argument("--missing", action="store_true", help="all that `status` lists as such")
    which.add_argument("--all", action="store_true", help="make all of patches/ anew")
    added["wheels"].add_argument("--out", metavar="DIR", type=Path, default=ROOT / "dist")
    which = added["wheels"].add_mutually_exclusive_group(required=True)
    which.add_argument("releases", metavar="RELEASE", nargs="*", default=[])
    which.add_argument("--all", action="store_true", help="every final release")
    return parser


def main(argv: list[str]) -> int:
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `vendor.py diff | head`
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        return code
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        print(f"error: {error}\n  next: python3 -m pip install pyflakes", file=sys.stderr)
        return 2
    except OSError as error:
        hint = "can VENDOR_CACHE, --out and the checkout be written to?"
        print(f"error: {error}\n  next: {hint}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
