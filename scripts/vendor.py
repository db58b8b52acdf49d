#!/usr/bin/env python3
"""Make, check and maintain vendored_integration/_vendor/ and patches/.

Needs `packaging` and `unidiff`; the SDK's wheels come through pip and are kept in
.cache/wheels (VENDOR_CACHE names another directory). RELEASE is an exact release
of sentry-sdk. CONTRIBUTING.md shows which command comes when.

Exit status: 0 all right, 1 there is something to mend (`check` has found a
difference, `port` a conflict, `wheels` has failed for a release), 2 an error.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Callable, Sequence

try:
    import pipeline
    from pipeline import emit, index, lock, patchqueue, releases, rewrite
    from pipeline import port as porting
    from pipeline.errors import (
        FetchError,
        MismatchError,
        PatchError,
        PipelineError,
        PortError,
        ReleaseError,
    )
    from pipeline.merge import BY_HAND, CLEAN, DROPPED, MERGED, Merge
    from pipeline.refresh import changed, refreshed
except ModuleNotFoundError as error:
    # Said after the command line has been parsed: --help needs none of them.
    not_installed = str(error)
else:
    not_installed = ""

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
OUT = ROOT / "vendored_integration" / "_vendor"


def build(args: argparse.Namespace) -> int:
    """Generate vendored_integration/_vendor/ for one release."""
    release = releases.choose(args.release) if args.release else releases.newest()
    emit.write(pipeline.vendor(release, pipeline.upstream(release)), OUT)
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
    supported = releases.supported()
    chosen = _chosen(args.releases)
    for directory in dict.fromkeys(supported[release] for release in chosen):
        try:
            # Looks at all the releases that the directory serves.
            for path in changed(refreshed(directory)):
                problems.append(f"{_short(path)}: differs from what refresh would write")
        except MismatchError as error:
            problems.append(f"{_short(directory)}: {error}")
        for release in (name for name in chosen if supported[name] == directory):
            try:
                files = pipeline.vendor(release, pipeline.upstream(release))
            except MismatchError as error:
                problems.append(f"sentry-sdk {release}: {error}")
                continue
            for name, data in files.items():
                if not name.endswith(".py"):
                    continue
                try:
                    compile(data, name, "exec", dont_inherit=True)
                except SyntaxError as error:
                    problems.append(f"sentry-sdk {release}: {name}: {error}")
            if release == made_for:
                for line in lock.differences(lock.hashes(files), lock.hashes(present)):
                    problems.append(f"{_short(OUT)}/{line}")
            print(f"sentry-sdk {release}: checked", flush=True)
    for problem in dict.fromkeys(problems):
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
    if args.context < 0:
        raise PatchError(
            "-U: how many lines of context?",
            expected="0 or more",
            found=str(args.context),
            next="python3 scripts/vendor.py diff --help",
        )
    directory = releases.supported()[release]
    patches = patchqueue.read(directory)
    names = [patch.name for patch in patches]
    if args.patch not in (None, *names):
        raise PatchError(
            f"{_short(directory)}: no such patch",
            expected=f"one of {', '.join(names)}" if names else "no patch at all",
            found=args.patch,
            next=f"python3 scripts/vendor.py diff {release}",
        )
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    texts = rewrite.rewrite(pipeline.upstream(release).files)
    for patch in patches:
        if args.patch in (None, patch.name):
            text = patchqueue.unified(patch, texts, args.context)
            print(f"{_short(patch.path)}\n\n{patch.header}\n")
            print(_coloured(text) if coloured else text)
        texts = patchqueue.apply(patch, texts)
    return 0


def port(args: argparse.Namespace) -> int:
    """Replay one release's patches on another release: make that one supported.

    Prints what has become of each patch:

        clean     it applies as it is
        merged    upstream has changed the same file; git has found the new places
        dropped   upstream has all of it
        conflict  look at it, mend it, and go on with the command that is printed
        by hand   mended so

    A release whose files are those of an earlier one gets no directory of its own
    (`same sources`). Nothing is written to patches/ before all is done. Needs git.

    Exit status: 0 ported, 1 conflict, 2 an error.
    """
    if args.resume:
        if args.releases or args.from_nearest or args.missing:
            raise PortError(
                "--continue DIR goes alone: the directory knows the releases",
                next=f"python3 scripts/vendor.py port --continue {args.resume}",
            )
        release, merge = porting.resume(args.resume)
        return _ported(release, merge)
    if args.missing:
        if args.releases or args.from_nearest:
            raise PortError(
                "--missing goes alone: it ports all that `status` lists as not ported",
                next="python3 scripts/vendor.py port --missing",
            )
        names, problem = index.listed()
        if problem:
            print(f"note: {problem}", file=sys.stderr)
        missing = [release for release in names if release not in releases.supported()]
        for release in missing:
            code = _port(porting.nearest(release), release)
            if code:
                return code
        if not missing:
            print(f"nothing to port: all {len(names)} releases are supported")
        return 0
    if len(args.releases) != (1 if args.from_nearest else 2):
        raise PortError(
            "which release's patches, and on which release?",
            expected="OLD NEW, or NEW --from-nearest",
            found=" ".join(args.releases) or "no release",
            next="python3 scripts/vendor.py port --help",
        )
    new = releases.parse(args.releases[-1])
    old = porting.nearest(new) if args.from_nearest else releases.choose(args.releases[0])
    return _port(old, new)


def _port(old: str, new: str) -> int:
    found = porting.port(old, new)
    print(f"sentry-sdk {old} -> {new}", flush=True)
    if isinstance(found, Merge):
        return _ported(new, found)
    print(f"  same sources as {found.name}\n{_short(found)}/{lock.NAME}: written")
    return 0


def _ported(release: str, merge: Merge) -> int:
    for step in merge.steps:
        print(f"  {step.name}: {step.status}")
        for reason in step.reasons:
            print(f"    {reason}")
    path = merge.repository.path
    if merge.conflict is None:
        print(f"{_short(releases.PATCHES / release)}: written")
        return 0
    print(
        f"nothing is written. The files are in {path}, as merged so far:\n"
        f"    git -C {path} diff HEAD\n"
        f"mend them there, then:\n"
        f"    python3 scripts/vendor.py port --continue {path}"
    )
    return 1


def replay(args: argparse.Namespace) -> int:
    """Port the oldest release's patches release by release through the whole history.

    Only what `port` does by itself counts: where its result is a conflict, or is
    not what patches/ has for that release, a hand was needed. That share is the
    measure of how much work the next release will be.
    """
    block = re.compile(r"(?s)(<!-- replay -->\n).*(<!-- /replay -->)")
    text = README.read_text(encoding="utf-8") if README.is_file() else ""
    if (args.write or args.check) and not block.search(text):
        raise PipelineError(
            f"{_short(README)}: no place for the table",
            expected="the lines <!-- replay --> and <!-- /replay --> in it",
            next=f"git checkout -- {_short(README)}, or put them where the table belongs",
        )
    steps = []
    for step in porting.replay():
        steps.append(step)
        if step.status != porting.SAME:
            print(f"{step.old:>8} -> {step.new:8} {step.status}", flush=True)
            for reason in step.reasons:
                print(f"    {reason}")
    table = _summary(steps)
    print(table, end="")
    wanted = block.sub(lambda match: f"{match[1]}{table}{match[2]}", text)
    if args.check and wanted != text:
        print(f"{_short(README)}: its table is another one; next: vendor.py replay --write")
        return 1
    if args.write and wanted != text:
        README.write_bytes(wanted.encode())
        print(f"{_short(README)}: written")
    return 0


def _summary(steps: list[porting.Step]) -> str:
    if not steps:
        return "There is only one release.\n"
    counts = Counter(step.status for step in steps)
    hands = [step.new for step in steps if step.status == BY_HAND]
    rows = [
        (porting.SAME, "the release changes no file that is vendored"),
        (CLEAN, "the patches apply as they are"),
        (MERGED, "upstream has changed a patched file; git has found the new places"),
        (DROPPED, "upstream has a whole patch"),
        (BY_HAND, f"somebody had to edit: {', '.join(hands) or 'nowhere'}"),
    ]
    done = len(steps) - len(hands)
    changing = [step for step in steps if step.status != porting.SAME]
    ported = len(changing) - len(hands)
    lines = [
        f"| {steps[0].old} to {steps[-1].new} | steps | share | |",
        "|---|---:|---:|---|",
        *(f"| {name} | {counts[name]} | {_share(counts[name], steps)} | {t} |" for name, t in rows),
        f"| **without a hand** | **{done}** | **{_share(done, steps)}** | of {len(steps)} |",
        f"| not counting same sources | {ported} | {_share(ported, changing)} "
        f"| of {len(changing)} |",
    ]
    return "\n".join(lines) + "\n"


def _share(count: int, steps: list[porting.Step]) -> str:
    return f"{100 * count / len(steps):.1f} %" if steps else "-"


def status(args: argparse.Namespace) -> int:
    """List every release on the package index, and what this checkout has for it.

    supported          its patches are in a directory of its own
    same sources as X  the directory of X serves it
    not ported yet     there is nothing for it

    Without the index it works on the list of the last time, and says so.

    Exit status: 0 all right, 2 an error: what is not ported yet is unknown.
    """
    supported = releases.supported()
    unknown = None
    try:
        names, problem = index.listed()
    except FetchError as error:
        names, problem, unknown = list(supported), "", error
    rows = [("SENTRY-SDK", "STATUS", "PATCHES")]
    for release in names:
        directory = supported.get(release)
        if directory is None:
            rows.append((release, "not ported yet", ""))
            continue
        patches = ", ".join(patch.name for patch in patchqueue.read(directory)) or "none"
        state = "supported" if directory.name == release else f"same sources as {directory.name}"
        if lock.load(directory) is None:
            state = "lock missing"
        rows.append((release, state, patches))
    _print_table(rows)
    served = f"{len(supported)} supported, by {len(set(supported.values()))} directories"
    if unknown:
        print(f"{served}; what is not ported yet is unknown", flush=True)
        raise unknown
    missing = len(names) - len(supported)
    print(f"{len(names)} releases: {served}; {missing} not ported yet")
    if missing:
        print("next: python3 scripts/vendor.py port --missing")
    if problem:
        print(f"note: {problem}")
    return 0


def wheels(args: argparse.Namespace) -> int:
    """Build the releases' wheels into dist/.

    A wheel that is there already and whose sources are still the same is left as it
    is, so a run that was broken off goes on where it stopped. With --rebuild it is
    built again, and has to come out with the same bytes. A release that fails does
    not stop the others. Needs `build` and `rich`.

    Exit status: 0 all built, 1 some have failed, 2 an error.
    """
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from pipeline.wheels import Builder
    except ModuleNotFoundError as error:
        raise PipelineError(str(error), next="python3 -m pip install build rich") from error
    if args.all == bool(args.releases):
        raise ReleaseError(
            "which releases?",
            expected="RELEASE..., or --all for every one",
            found="both" if args.all else "neither",
            next="python3 scripts/vendor.py wheels --help",
        )
    chosen = _chosen(args.releases)
    failed = {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Builder(args.out.resolve()) as builder, Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for release in chosen:
            progress.update(task, description=f"sentry-sdk {release}")
            try:
                if args.rebuild or not builder.up_to_date(release):
                    wheel = builder.build(release)
                    progress.console.print(f"{wheel.name}: built", soft_wrap=True, highlight=False)
            except (PipelineError, OSError, zipfile.BadZipFile) as error:
                failed[release] = str(error)
            progress.advance(task)
    for message in failed.values():
        print(message)
    print(f"{args.out}: {len(chosen) - len(failed)} of {len(chosen)} wheels")
    if failed:
        print(f"failed: {', '.join(failed)}")
        print(f"next: python3 scripts/vendor.py wheels {' '.join(failed)}")
    return 1 if failed else 0


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(text.ljust(n) for text, n in zip(row, widths)).rstrip())


def _chosen(texts: list[str]) -> list[str]:
    return [releases.choose(text) for text in texts] or list(releases.supported())


def _short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


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
    parser_port = command(port)
    parser_port.add_argument("releases", metavar="RELEASE", nargs="*", help="OLD NEW")
    parser_port.add_argument(
        "--from-nearest",
        action="store_true",
        help="NEW alone: from the last supported release before it",
    )
    parser_port.add_argument(
        "--missing",
        action="store_true",
        help="port every release that `status` lists as not ported, in order",
    )
    parser_port.add_argument(
        "--continue",
        dest="resume",
        metavar="DIR",
        type=Path,
        help="go on with a port that stopped at a conflict",
    )
    parser_replay = command(replay)
    readme = parser_replay.add_mutually_exclusive_group()
    readme.add_argument("--write", action="store_true", help="put the table into README.md")
    readme.add_argument("--check", action="store_true", help="exit 1 if README.md has another")
    command(status)
    parser_wheels = command(wheels)
    parser_wheels.add_argument("releases", metavar="RELEASE", nargs="*")
    parser_wheels.add_argument("--all", action="store_true", help="every supported release")
    parser_wheels.add_argument(
        "--out", metavar="DIR", type=Path, default=ROOT / "dist", help="default: dist/"
    )
    parser_wheels.add_argument(
        "--rebuild", action="store_true", help="also what is up to date; compare the bytes"
    )
    return parser


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    if not_installed:
        print(f"error: {not_installed}", file=sys.stderr)
        return 2
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read this has seen enough (`| head`). At its end Python flushes once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
