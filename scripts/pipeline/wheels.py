"""Build the wheels of many releases, one after the other, in one build environment.

pip makes a build environment for each wheel, which takes most of the time. Here the
requirements are installed once, and each release's SDK is unpacked beside them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Iterable, Iterator, Mapping

from build import FailedProcessError, ProjectBuilder
from build.env import DefaultIsolatedEnv

from . import releases, upstream
from .errors import PipelineError
from .releases import PATCHES, ROOT

# What every wheel is made from, apart from the SDK and the patches.
_SOURCES = (
    *("setup.py", "pyproject.toml", "README.md", "LICENSE", "scripts/build_backend.py"),
    *("scripts/pipeline/*.py", "vendored_integration/*.py", "vendored_integration/runtime/**/*"),
)


def build(
    chosen: Iterable[str], out: Path, rebuild: bool
) -> Iterator[tuple[str, Path | PipelineError | None]]:
    """Build the releases' wheels; yield each one's path, its error, or None if it is up to date.

    :param rebuild: also what is up to date, which has to come out with the same bytes.
    """
    sources = [path for pattern in _SOURCES for path in ROOT.glob(pattern)]
    locks = releases.supported()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PipelineError(
            f"{out}: the wheels cannot be put there",
            found=error.strerror or str(error),
            next="name another directory with --out DIR",
        ) from error
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="vendor-wheels-"))
        python = ""
        for release in chosen:
            wheel = out / f"vendored_integration-{releases.version(release)}-py3-none-any.whl"
            patches = (PATCHES / locks[release].directory).iterdir()
            newest = max(path.stat().st_mtime for path in (*sources, *patches))
            fresh = wheel.is_file() and wheel.stat().st_mtime > newest
            if fresh and not rebuild:
                yield release, None
                continue
            try:
                python = python or _environment(stack)
                new = _build(release, python, Path(temporary, release))
                if fresh and new.read_bytes() != wheel.read_bytes():
                    raise PipelineError(
                        f"{wheel}: the same sources have given other bytes",
                        next=f"if the build requirements have changed: rm {wheel}",
                    )
                # A copy on the same file system first: a rename is all or nothing.
                half = wheel.with_suffix(".new")
                half.write_bytes(new.read_bytes())
                half.replace(wheel)
                yield release, wheel
            except PipelineError as error:
                yield release, error


def _build(release: str, python: str, directory: Path) -> Path:
    with zipfile.ZipFile(upstream.fetch(release, releases.supported()[release])) as archive:
        archive.extractall(directory / "sdk")
    command = [python, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-index", "--no-build-isolation", f"--wheel-dir={directory}", str(ROOT)]
    env = {"SENTRY_SDK_VERSION": release, "PYTHONPATH": str(directory / "sdk")}
    _run(f"sentry-sdk {release}: no wheel", command, {**os.environ, **env})
    return next(directory.glob("*.whl"))


def _environment(stack: contextlib.ExitStack) -> str:
    """Make the build environment, and return its Python.

    By `build`: venv's ensurepip is missing or too old for a Python that a distribution has
    split into packages.
    """
    requirements = {*ProjectBuilder(ROOT).build_system_requires, "pip"}
    try:
        environment = stack.enter_context(DefaultIsolatedEnv())
        environment.install(requirements)
    except (FailedProcessError, subprocess.CalledProcessError) as error:
        failed = error.exception if isinstance(error, FailedProcessError) else error
        raise PipelineError(
            "could not install the build requirements",
            expected=", ".join(sorted(requirements)),
            found=(failed.stderr or failed.output or b"").decode(errors="replace")[-2000:],
        ) from error
    return environment.python_executable


def _run(problem: str, command: list[str], env: Mapping[str, str] | None = None) -> None:
    result = upstream.run(command, env)
    if result.returncode != 0:
        raise PipelineError(problem, found=result.stdout.strip()[-2000:])
