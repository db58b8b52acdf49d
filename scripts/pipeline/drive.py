"""Run a built package with its SDK, in an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.parser import BytesParser
from pathlib import Path
from typing import Iterable, Mapping

from .errors import PipelineError, RefusedError
from .releases import DJANGO, ROOT, sha256
from .upstream import CACHE, Upstream, run

_REQUESTS = Path(__file__).with_name("drive_requests.py")
_TIMEOUT = 120  # seconds; it takes two


def drive(source: Upstream, vendored: Mapping[str, bytes]) -> None:
    """Serve requests with the vendored files.

    :raises RefusedError: what comes out of it is not right.
    """
    (name,) = (name for name in source.contents if name.endswith(".dist-info/METADATA"))
    metadata = BytesParser().parsebytes(source.contents[name])
    python = _python(source.release, metadata.get_all("Classifier") or [])
    requires = [text for text in metadata.get_all("Requires-Dist") or [] if "extra" not in text]
    libraries = _libraries(python, [DJANGO, "packaging", *requires])
    with tempfile.TemporaryDirectory(prefix="vendor-drive-") as temporary:
        directory = Path(temporary)
        with zipfile.ZipFile(str(source.wheel)) as archive:
            archive.extractall(directory)
        package = directory / "vendored_integration"
        shutil.copytree(
            ROOT / package.name, package, ignore=shutil.ignore_patterns("_vendor", "__pycache__")
        )
        for path, data in vendored.items():
            target = package / "_vendor" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        # -S: nothing of what is installed beside that Python.
        command = [python, "-S", "-W", "ignore", str(_REQUESTS)]
        env = {key: value for key, value in os.environ.items() if not key.startswith("SENTRY_")}
        env["PYTHONPATH"] = os.pathsep.join([temporary, str(libraries)])
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        try:
            result = run(command, env, _TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise RefusedError(f"a request is not served within {_TIMEOUT} s") from error
    if result.returncode != 0:
        raise RefusedError(
            "the built package does not serve a request as it has to",
            found=result.stdout.strip()[-2000:],
            next='see "When a port is refused" in CONTRIBUTING.md',
        )


def _python(release: str, classifiers: Iterable[str]) -> str:
    """An interpreter that the release says it is for: this one, or another on the machine.

    Up to 2.7 the SDK cannot report an error on Python 3.13, which it does not name.
    """
    text = "\n".join(classifiers)
    minors = sorted({int(n) for n in re.findall(r":: Python :: 3\.(\d+)$", text, re.M)})
    if sys.version_info[1] in minors:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for minor in reversed([minor for minor in minors if minor >= 8]):
        name = f"python3.{minor}"
        found = [str(path) for path in sorted(pyenv.glob(f"versions/3.{minor}.*/bin/{name}"))]
        for python in filter(None, [shutil.which(name), *found]):
            if run([python, "-m", "pip", "--version"]).returncode == 0:
                return python
    raise PipelineError(
        f"sentry-sdk {release}: no Python to run it with",
        expected=f"one of 3.{', 3.'.join(map(str, minors))}, with pip",
        found="3.{}".format(sys.version_info[1]),
        next="install one of them, so that its name (python3.12) is on PATH",
    )


def _libraries(python: str, requirements: list[str]) -> Path:
    """The directory that has them, made if it is missing."""
    kind = run([python, "-c", "import sys; print(sys.version, sys.platform)"]).stdout
    directory = CACHE / f"drive-{sha256(repr((kind, requirements)).encode())[:16]}"
    if not directory.is_dir():
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            target = Path(temporary, "libraries")
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            result = run([*command, f"--target={target}", *requirements])
            if result.returncode != 0:
                raise PipelineError(
                    "could not install what a release is driven with",
                    expected=", ".join(requirements),
                    found=result.stdout.strip()[-2000:],
                )
            target.rename(directory)
    return directory
