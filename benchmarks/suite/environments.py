"""A virtual environment for each set of systems that can live side by side.

``sentry``      bare Django, stock, ours and the older third-party package: one SDK
``otel``        OpenTelemetry's Django and WSGI instrumentation
``ddtrace``     Datadog's library
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

from errors import BenchmarkError

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "benchmarks"
WORKER = ROOT / "benchmarks" / "worker"

DJANGO = "Django>=5.2,<5.3" if sys.version_info >= (3, 10) else "Django>=4.2,<4.3"


# The servers' and the timers', in each of them.
COMMON = [DJANGO, "gunicorn", "pyperf"]
#: Traces requests on every SDK so far, and asks for none in particular.
OLDER = "shr_span_recorder==0.1.0"
OTHERS = {
    "otel": [
        "opentelemetry-sdk",
        "opentelemetry-instrumentation-asgi",
        "opentelemetry-instrumentation-django",
        "opentelemetry-instrumentation-wsgi",
    ],
    "ddtrace": ["ddtrace"],
}


class Environment(NamedTuple):
    """A Python with what one or more systems need."""

    python: Path
    #: Added to PYTHONPATH: a package directory instead of the installed wheel.
    package: Optional[Path]

    def variables(self) -> "Dict[str, str]":
        """What every worker inherits: nothing of the user's Sentry, one order of sets."""
        dropped = ("SENTRY_", "OTEL_", "DD_", "PYTHON", "DJANGO_")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        inherited["PYTHONHASHSEED"] = "0"
        # A package directory may not be ours to write to.
        inherited["PYTHONPYCACHEPREFIX"] = str(CACHE / "pycache")
        if self.package is not None:
            inherited["PYTHONPATH"] = str(self.package)
        return inherited


def other(name: str) -> Environment:
    """For OpenTelemetry or ddtrace."""
    return Environment(_venv(name, [*COMMON, *OTHERS[name]]), None)


def sentry(release: "Optional[str]", package: "Optional[Path]") -> Environment:
    """For bare Django, stock and ours.

    :param release: of the SDK; None for the newest supported one.
    :param package: a directory with ``vendored_integration/`` ready made; None to build
        the wheel of this checkout and install it.
    """
    if package is not None:
        release = release_of(package)
        requirements = [*COMMON, OLDER, f"sentry-sdk=={release}"]
        return Environment(_venv(f"package-{release}", requirements), package)
    sys.path.insert(0, str(ROOT / "scripts"))
    from pipeline import releases

    release = release or releases.newest()
    dist = ROOT / ".cache" / "dist"
    wheels = [sys.executable, str(ROOT / "scripts" / "vendor.py"), "wheels", release]
    _call([*wheels, f"--out={dist}"], "build the wheel")
    python = _venv(f"sentry-{release}", [*COMMON, OLDER, "packaging", f"sentry-sdk=={release}"])
    # Also where the version is the same: the wheel may have been built again.
    install = ["--force-reinstall", "--no-deps", "--no-index", f"--find-links={dist}"]
    version = f"{release}.{releases.REVISION}"
    _pip(python, [*install, f"vendored-integration=={version}"])
    return Environment(python, None)


def versions(environment: Environment) -> "Dict[str, str]":
    """What is installed in it."""
    code = (
        "import json, importlib.metadata as m;"
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    out = subprocess.check_output([str(environment.python), "-c", code])
    return dict(json.loads(out))


def release_of(package: Path) -> str:
    """Of the SDK: what a package directory has been generated for."""
    generated = package / "vendored_integration" / "_vendor" / "__init__.py"
    try:
        found = re.search(r'(?m)^SENTRY_SDK_RELEASE = "(.+)"$', generated.read_text("utf-8"))
    except OSError:
        found = None
    if found is None:
        raise BenchmarkError(
            f"{generated}: expected SENTRY_SDK_RELEASE in it\n"
            "  next: name the directory that has vendored_integration/ in it, after\n"
            "        python3 scripts/vendor.py build"
        )
    return found[1]


def _venv(name: str, requirements: "List[str]") -> Path:
    """The Python of an environment, made if it is missing or for something else."""
    directory = CACHE / name
    python = directory / ("Scripts" if os.name == "nt" else "bin") / "python"
    # Written last: without it the environment is taken for half made.
    ready = directory / "requirements.txt"
    wanted = "\n".join([sys.version, *requirements, ""])
    if ready.is_file() and ready.read_text("utf-8") == wanted:
        return python
    shutil.rmtree(str(directory), ignore_errors=True)
    print(f"Installing {', '.join(requirements)} ...", flush=True)
    _call([sys.executable, "-m", "venv", str(directory)], "make an environment")
    _pip(python, requirements)
    ready.write_text(wanted, "utf-8")
    return python


def _pip(python: Path, arguments: "List[str]") -> None:
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _call([*pip, *arguments], "install")


def _call(command: "List[str]", what: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        lines = done.stdout.decode("utf-8", "replace").splitlines()[-25:]
        raise BenchmarkError(
            f"could not {what} (exit status {done.returncode}):\n  " + "\n  ".join(lines)
        )
