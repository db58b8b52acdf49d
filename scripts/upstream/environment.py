"""Virtual environments, source distributions and the wheel: for others' tests, and to measure.

Everything goes to .cache/upstream. What fails raises :exc:`Refused`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import supported

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "upstream"

SHOWN_LINES = 25  # of a failed command's output


class Refused(Exception):
    """The message says what, what was expected, what was found, and the next command."""


def make_environment(name: str, requirements: "Sequence[str]") -> Path:
    """Return the Python of the environment of that name, made if it is not there."""
    directory = CACHE / f"python{sys.version_info[0]}.{sys.version_info[1]}-{name}"
    python = directory / ("Scripts" if os.name == "nt" else "bin") / "python"
    # Written last, and compared: what is half made or out of date is made anew.
    ready = directory / "requirements.txt"
    text = "\n".join(requirements) + "\n"
    if not ready.is_file() or ready.read_text() != text:
        say(f"making {short(directory)}")
        shutil.rmtree(str(directory), ignore_errors=True)
        directory.parent.mkdir(parents=True, exist_ok=True)
        call([sys.executable, "-m", "venv", str(directory)], "could not make an environment")
        call([*pip(python, "install"), *requirements], "could not install what the tests need")
        ready.write_text(text)
    return python


def unpack(project: str, release: str, python: Path) -> Path:
    """Return the directory with a release's tests, downloaded if it is not there."""
    target = CACHE / f"{project}-{release}"
    if not target.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=str(CACHE)) as scratch:
            say(f"downloading the source distribution of {project} {release}")
            command = [*pip(python, "download"), "--no-deps"]
            command += [f"--no-binary={project}", f"--dest={scratch}", f"{project}=={release}"]
            call(command, f"{project} {release}: could not download the source distribution")
            (archive,) = Path(scratch).glob("*.tar.gz")
            extract_tests(archive, Path(scratch, "out"))
            # Now, so that a broken-off run leaves no half directory.
            Path(scratch, "out").replace(target)
    return target


def extract_tests(archive: Path, target: Path) -> None:
    """Extract tests/ and pyproject.toml: no sources, which would hide what is installed."""
    target.mkdir()
    with tarfile.open(str(archive)) as tar:
        for member in tar:
            _, *parts = member.name.split("/")
            wanted = parts[:1] == ["tests"] or parts == ["pyproject.toml"]
            content = tar.extractfile(member) if wanted and member.isfile() else None
            if content is None or ".." in parts:
                continue
            path = target.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())


def install(release: str, python: Path) -> None:
    """Install a release of the SDK, and the wheel that this checkout makes for it."""
    say(f"installing sentry-sdk {release} and the wheel built for it")
    call(
        [*pip(python, "install"), "--force-reinstall", "--no-deps", str(ROOT)],
        f"could not build or install the wheel for sentry-sdk {release}",
        SENTRY_SDK_VERSION=release,
    )
    call(
        [*pip(python, "install"), f"sentry-sdk=={release}"],
        f"could not install sentry-sdk {release}",
    )


def run_tests(
    title: str,
    command: "Sequence[str]",
    directory: Path,
    environ: "Dict[str, str]",
    log: Path,
    read: "Callable[[Path], Any]",
) -> Any:
    """Run tests that write their results to `log`; return what `read` makes of it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.unlink()  # pytest-reportlog would add to it
    say(f"running the tests of {title}")
    output = log.with_suffix(".txt")
    with output.open("w") as stream:
        status = subprocess.call(
            command,
            cwd=str(directory),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    results = read(log) if log.exists() else None
    # 0 all have passed, 1 some have failed; pytest: 2 some file could not be imported.
    if status not in (0, 1, 2) or not results:
        raise Refused(
            f"could not run the tests of {title}: exit status {status}\n"
            f"{last_lines(output.read_text())}\n  next: read {short(output)}"
        )
    return results


def judge_each(names: "Sequence[str]", judge: "Callable[[str], bool]") -> int:
    """Judge one version after the other; an error with one does not stop the others.

    Returns the exit status: 0 all are right, 1 one is not, 2 an error.
    """
    status = 0
    for name in names:
        try:
            if not judge(name):
                status = max(status, 1)
        except Refused as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
    return status


def parser_of(doc: "Optional[str]") -> argparse.ArgumentParser:
    """The command line of a script that measures what is installed: see `go_inside`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep the result, and write the page")
    supported.add_option(parser)
    parser.add_argument("--installed", action="store_true", help=argparse.SUPPRESS)
    return parser


def go_inside(
    options: argparse.Namespace, script: str, name: str, requirements: "Sequence[str]"
) -> None:
    """Start the script again, with `--installed`, in an environment that has the wheel."""
    if options.installed:
        return
    python = make_environment(name, requirements)
    install(options.sdk or supported.newest(), python)
    command = [str(python), script, "--installed", *sys.argv[1:]]
    # The SDK would send through a proxy what is for loopback.
    os.execve(command[0], command, {**clean_environ(), "NO_PROXY": "127.0.0.1"})


def pip(python: Path, command: str) -> "List[str]":
    """The beginning of a command line of pip."""
    return [str(python), "-m", "pip", command, "--quiet", "--disable-pip-version-check"]


def clean_environ() -> "Dict[str, str]":
    """The environment variables for tests: of the user's own settings, none."""
    prefixes = ("SENTRY_", "PYTEST_", "DJANGO_", "PYTHON", "OTEL_", "DD_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def say(text: str) -> None:
    """Tell what takes time."""
    print(f"{text} ...", flush=True)


def call(command: "Sequence[str]", problem: str, **environ: str) -> None:
    """Run a command; show what it says only if it fails."""
    result = subprocess.run(
        command,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        variables = "".join(f"{name}={value} " for name, value in environ.items())
        raise Refused(
            f"{problem}\n{last_lines(result.stdout)}\n  next: {variables}{' '.join(command)}"
        )


def last_lines(text: str) -> str:
    """The end of a command's output, for a message."""
    return "\n".join(f"  | {line}" for line in text.splitlines()[-SHOWN_LINES:])


def short(path: Path) -> str:
    """A path as the user would write it in the checkout."""
    return path.relative_to(ROOT).as_posix()
