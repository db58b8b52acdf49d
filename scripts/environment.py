"""A command line, and a virtual environment with the wheel of this checkout.

For scripts that run on a machine that has only Python: standard library only. The environments
are kept in .cache/environments.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Sequence

from pipeline import releases
from pipeline.errors import PipelineError

numbers = releases.numbers
ROOT = releases.ROOT
CACHE = ROOT / ".cache" / "environments"


class Refused(SystemExit):
    """Ends the script with status 1. The message says what failed, and the next command."""

    def __init__(self, message: str) -> None:
        super().__init__(f"error: {message}")


# -- command lines


def parser_of(doc: str | None, installs: bool = False) -> argparse.ArgumentParser:
    """Its help is the script's docstring. With `installs` it has what `go_inside` needs."""
    parser = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # what matrix.py does not know is for pytest
    )
    if installs:
        parser.add_argument(
            "--sdk",
            type=sdk_release,
            metavar="RELEASE",
            # The build reads the variable, too, but only after pip has fetched all that it needs.
            default=os.environ.get(releases.VARIABLE) or releases.newest(),
            help="build for this sentry-sdk (default: SENTRY_SDK_VERSION if that is set, or the "
            "newest that patches/ supports)",
        )
        parser.add_argument("--installed", action="store_true", help=argparse.SUPPRESS)
    return parser


def sdk_release(text: str) -> str:
    """The type of an argument: a release of sentry-sdk that patches/ supports; 2.75 is 2.75.0."""
    try:
        return releases.choose(text)
    except PipelineError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def go_inside(
    options: argparse.Namespace, script: str, name: str, requirements: Sequence[str]
) -> None:
    """Start the script again, with `--installed`, in an environment that has the wheel."""
    if options.installed:
        return
    python = make(name, requirements)
    install(options.sdk, python)
    command = [str(python), script, "--installed", *sys.argv[1:]]
    # The SDK would send through a proxy what is for loopback.
    os.execve(command[0], command, {**clean_environ(), "NO_PROXY": "127.0.0.1"})


# -- environments


def make(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of the environment of that name, made if it is not there."""
    directory = CACHE / f"python{sys.version_info[0]}.{sys.version_info[1]}-{name}"
    python = directory / ("Scripts" if os.name == "nt" else "bin") / "python"
    # Written last, and compared: what is half made or out of date is made anew.
    ready = directory / "requirements.txt"
    text = "\n".join(requirements) + "\n"
    if not ready.is_file() or ready.read_text() != text:
        print(f"making {directory.relative_to(ROOT)} ...", flush=True)
        shutil.rmtree(str(directory), ignore_errors=True)
        directory.parent.mkdir(parents=True, exist_ok=True)
        # On Debian and Ubuntu it says that it needs the package python3-venv.
        call([sys.executable, "-m", "venv", str(directory)])
        pip(python, "install", *requirements)
        ready.write_text(text)
    return python


def install(release: str, python: Path) -> None:
    """Install a release of the SDK, and the wheel that this checkout makes for it."""
    print(f"installing sentry-sdk {release} and the wheel built for it ...", flush=True)
    ours = ["--force-reinstall", "--no-deps", str(ROOT)]
    pip(python, "install", *ours, **{releases.VARIABLE: release})
    pip(python, "install", f"sentry-sdk=={release}", "packaging")  # what the wheel requires


def pip(python: Path, *arguments: str, **environ: str) -> None:
    """Run pip, which says something only if it fails."""
    call([str(python), "-m", "pip", "-qq", "--disable-pip-version-check", *arguments], **environ)


def call(command: Sequence[str], **environ: str) -> None:
    if subprocess.call(command, env={**os.environ, **environ}, stdin=subprocess.DEVNULL):
        variables = "".join(f"{name}={value} " for name, value in environ.items())
        raise Refused(f"a command has failed: {variables}{' '.join(command)}")


def last_lines(text: str) -> str:
    """The end of a command's output, for a message."""
    return "\n".join(f"  | {line}" for line in text.splitlines()[-25:])


def clean_environ() -> dict[str, str]:
    """The environment variables for tests: of the user's own settings, none."""
    prefixes = ("SENTRY_", "PYTEST_", "DJANGO_", "PYTHON", "OTEL_", "DD_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
