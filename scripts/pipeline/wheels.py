"""Build the wheels of many releases, one after the other, in one build environment.

pip makes a build environment for each wheel, which takes most of the time. Here the
requirements are installed once, and each release's SDK is unpacked beside them; the
backend is called as pip calls it, so the bytes are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import venv
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Mapping, Sequence

from build import BuildBackendException, ProjectBuilder

from . import lock, releases
from .errors import BuildError
from .fetch import fetch

# What a wheel is made from, apart from the SDK and the patches.
_SOURCES = (
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "scripts/build_backend.py",
    "scripts/pipeline/*.py",
    "vendored_integration/**/*",
)
# Beside the wheels: what each was made from, and its hash.
_RECORD = ".vendor-wheels.json"


class Builder:
    """Builds into a directory, and knows which wheels there are up to date."""

    def __init__(self, out: Path) -> None:
        self.out = out
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BuildError(
                f"{out}: the wheels cannot be put there",
                expected="a directory that can be written to",
                found=error.strerror or str(error),
                next="name another one with --out DIR",
            ) from error
        self._temporary = tempfile.TemporaryDirectory(prefix="vendor-wheels-")
        self._directory = Path(self._temporary.name)
        self._python = ""
        self._sources = _sources()
        try:
            self._record: dict[str, dict[str, str]] = json.loads((out / _RECORD).read_text())
        except (OSError, ValueError):
            self._record = {}

    def __enter__(self) -> Builder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._temporary.cleanup()

    def up_to_date(self, release: str) -> bool:
        """Whether the wheel is there, whole, and made from what the checkout holds now."""
        wheel = self.out / _name(release)
        known = self._record.get(wheel.name, {})
        return (
            known.get("sources") == self._digest(release)
            and wheel.is_file()
            and known.get("sha256") == lock.sha256(wheel.read_bytes())
        )

    def build(self, release: str) -> Path:
        """Build the release's wheel.

        :raises BuildError: it cannot be built, or an earlier build from the same
            sources gave other bytes.
        """
        sdk = self._directory / release
        locked = lock.locked_or_refuse(releases.supported()[release])
        with zipfile.ZipFile(fetch(release, locked)) as archive:
            archive.extractall(sdk)
        with tempfile.TemporaryDirectory(dir=self._directory) as fresh:
            try:
                built = Path(self._backend(release, sdk).build("wheel", fresh))
            except BuildBackendException as error:
                # It wraps what `run` below raises.
                if isinstance(error.exception, BuildError):
                    raise error.exception from None
                raise BuildError(f"sentry-sdk {release}: no wheel", found=str(error)) from error
            return self._keep(release, built)

    def _keep(self, release: str, built: Path) -> Path:
        wheel = self.out / built.name
        digest, sources = lock.sha256(built.read_bytes()), self._digest(release)
        known = self._record.get(wheel.name, {})
        if known.get("sources") == sources and known.get("sha256") not in (None, digest):
            raise BuildError(
                f"{wheel.name}: the same sources have given other bytes",
                expected=known["sha256"],
                found=digest,
                next=f"if the build requirements have changed: rm {wheel}",
            )
        # Not a rename: it may be another file system. What is half written has no record.
        self._remember(wheel.name, {})
        wheel.write_bytes(built.read_bytes())
        self._remember(wheel.name, {"sources": sources, "sha256": digest})
        return wheel

    def _remember(self, name: str, entry: dict[str, str]) -> None:
        self._record[name] = entry
        text = json.dumps(self._record, indent=2, sort_keys=True) + "\n"
        new = self.out / f"{_RECORD}.new"
        new.write_text(text)
        new.replace(self.out / _RECORD)

    def _backend(self, release: str, sdk: Path) -> ProjectBuilder:
        def run(
            cmd: Sequence[str],
            cwd: str | None = None,
            extra_environ: Mapping[str, str] | None = None,
        ) -> None:
            env = {**os.environ, **(extra_environ or {}), "SENTRY_SDK_VERSION": release}
            path = [str(sdk), *filter(None, [(extra_environ or {}).get("PYTHONPATH")])]
            env["PYTHONPATH"] = os.pathsep.join(path)
            result = subprocess.run(
                cmd,
                cwd=cwd,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                universal_newlines=True,
                errors="replace",
            )
            if result.returncode != 0:
                raise BuildError(
                    f"sentry-sdk {release}: the build backend failed",
                    found=result.stdout.strip()[-2000:],
                    next=f"SENTRY_SDK_VERSION={release} python3 -m pip wheel --no-deps .",
                )

        python = self._environment()
        return ProjectBuilder(releases.ROOT, python_executable=python, runner=run)

    def _environment(self) -> str:
        """Make the build environment when the first wheel is to be built."""
        if not self._python:
            directory = self._directory / "environment"
            venv.create(directory, with_pip=True)
            python = str(directory / ("Scripts" if os.name == "nt" else "bin") / "python")
            requirements = sorted(ProjectBuilder(releases.ROOT).build_system_requires)
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            result = subprocess.run(
                [*command, *requirements],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                universal_newlines=True,
            )
            if result.returncode != 0:
                raise BuildError(
                    "could not install the build requirements",
                    expected=", ".join(requirements),
                    found=result.stdout.strip()[-2000:],
                )
            self._python = python
        return self._python

    def _digest(self, release: str) -> str:
        directory = releases.supported()[release]
        epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
        return _hash([self._sources, release, epoch, _tree(directory, ["*"])])


def _name(release: str) -> str:
    return f"vendored_integration-{release}.{releases.REVISION}-py3-none-any.whl"


def _sources() -> str:
    return _tree(releases.ROOT, _SOURCES)


def _tree(root: Path, patterns: Sequence[str]) -> str:
    """A digest of the files' names and bytes."""
    found = sorted({path for pattern in patterns for path in root.glob(pattern)})
    parts = []
    for path in found:
        name = path.relative_to(root)
        # Generated by an editable install, and not packed from there.
        if path.is_file() and not {"_vendor", "__pycache__"} & set(name.parts):
            parts += [name.as_posix(), lock.sha256(path.read_bytes())]
    return _hash(parts)


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
