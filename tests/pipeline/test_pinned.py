"""Projects that pin the SDK get the build for it: pip, uv and poetry, as the README says.

The index is asked once, for what the projects need; then each tool has only a directory
of wheels, or that directory served over HTTP, with the builds for two SDK releases in it.
"""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import venv
from pathlib import Path
from typing import Iterator

import pytest
from conftest import CHECKOUT

pytestmark = pytest.mark.network

SCRIPTS = Path(sysconfig.get_path("scripts"))
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
UV = str(SCRIPTS / "uv")
POETRY = str(SCRIPTS / "poetry")
# poetry looks for releases that are for each of them.
PYTHONS = f">={sys.version_info[0]}.{sys.version_info[1]}"

# The team's SDK -> the build that it must get.
RELEASES = {"2.29.1": "2.29.1.1", "2.75.0": "2.75.0.1"}
teams = pytest.mark.parametrize(("release", "version"), RELEASES.items())

PROJECT = f"""\
[project]
name = "shop"
version = "1"
requires-python = "{PYTHONS}"
dependencies = []
"""


def run(cwd: Path, *command: str, status: int = 0, **env: str) -> str:
    """Run in an environment without settings of pip, uv or poetry, and without index."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PIP_", "UV_", "POETRY_"))
        and key not in ("SENTRY_SDK_VERSION", "SOURCE_DATE_EPOCH", "PYTHONPATH", "VIRTUAL_ENV")
    }
    only = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "UV_CACHE_DIR": str(cwd / "uv-cache"),
        "UV_NO_CONFIG": "1",
        "UV_NO_INDEX": "1",
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
        "POETRY_CACHE_DIR": str(cwd / "poetry-cache"),
        "POETRY_CONFIG_DIR": str(cwd / "poetry-config"),
        "POETRY_NO_INTERACTION": "1",
        "POETRY_VIRTUALENVS_IN_PROJECT": "1",
        "POETRY_VIRTUALENVS_OPTIONS_NO_PIP": "1",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        "NO_COLOR": "1",
        "NO_PROXY": "127.0.0.1",
    }
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**clean, **only, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=600,
    )
    assert result.returncode == status, result.stdout
    return result.stdout


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheels, and all that they and the projects need."""
    directory = tmp_path_factory.mktemp("pinned") / "dist"
    vendor = [sys.executable, "scripts/vendor.py", "wheels", *RELEASES, "--out", str(directory)]
    subprocess.run(vendor, cwd=CHECKOUT, check=True)
    for release in RELEASES:
        wanted = [f"sentry-sdk=={release}", "vendored-integration"]
        # Locks are for every platform, and Django wants this one on Windows.
        wanted.append("tzdata")
        where = ["--find-links", str(directory), "--dest", str(directory)]
        command = [*PIP, "download", "--quiet", "--only-binary=:all:", *where, *wanted]
        subprocess.run(command, check=True)
    return directory


@pytest.fixture
def python(tmp_path: Path) -> Path:
    venv.create(tmp_path / ".venv")
    return tmp_path / ".venv" / "bin" / "python"


def check(directory: Path, release: str, version: str) -> None:
    """What the environment in the directory has, by its own words."""
    python = directory / ".venv" / "bin" / "python"
    found = json.loads(run(directory, str(python), "-m", "vendored_integration", "--json"))
    assert found["ok"], found
    assert found["installed"]["sentry-sdk"] == release
    assert found["installed"]["vendored-integration"] == version


@teams
def test_pip_chooses_the_build(
    dist: Path, python: Path, tmp_path: Path, release: str, version: str
) -> None:
    """Also with the SDK pinned in a constraints file only."""
    install = [*PIP, "--python", str(python), "install", "--find-links", str(dist)]
    run(tmp_path, *install, f"sentry-sdk=={release}", "vendored-integration")
    check(tmp_path, release, version)
    (tmp_path / "constraints.txt").write_text(f"sentry-sdk=={release}\n")
    again = [*install, "--dry-run", "--force-reinstall", "-c", "constraints.txt"]
    assert f"vendored-integration-{version}" in run(tmp_path, *again, "vendored-integration")


def test_pip_refuses_another_sdk(dist: Path, python: Path, tmp_path: Path) -> None:
    install = [*PIP, "--python", str(python), "install", "--find-links", str(dist)]
    wanted = ["sentry-sdk==2.29.1", "vendored-integration==2.75.0.*"]
    output = run(tmp_path, *install, *wanted, status=1)
    assert "depends on sentry-sdk==2.75.0" in output


@teams
def test_pip_with_hashes(
    dist: Path, python: Path, tmp_path: Path, release: str, version: str
) -> None:
    """The file is uv's; and pip refuses a wheel that has one byte more."""
    (tmp_path / "dist").mkdir()
    for wheel in dist.glob("*.whl"):
        shutil.copy(wheel, tmp_path / "dist")
    (tmp_path / "requirements.in").write_text(f"sentry-sdk=={release}\nvendored-integration\n")
    lock = ["pip", "compile", "--generate-hashes", "--find-links", "dist", "requirements.in"]
    run(tmp_path, UV, *lock, "-o", "requirements.txt")
    text = (tmp_path / "requirements.txt").read_text()
    assert f"vendored-integration=={version} \\\n    --hash=sha256:" in text
    install = [*PIP, "--python", str(python), "install", "--require-hashes"]
    install += ["--find-links", "dist", "-r", "requirements.txt"]
    run(tmp_path, *install)
    check(tmp_path, release, version)

    wheel = tmp_path / "dist" / f"vendored_integration-{version}-py3-none-any.whl"
    with wheel.open("ab") as file:
        file.write(b"\0")
    output = run(tmp_path, *install, "--force-reinstall", status=1)
    assert "DO NOT MATCH THE HASHES" in output
    assert wheel.name in output or "vendored-integration" in output


@teams
def test_uv_pip(dist: Path, python: Path, tmp_path: Path, release: str, version: str) -> None:
    wanted = [f"sentry-sdk=={release}", "vendored-integration"]
    install = ["pip", "install", "--python", str(python), "--find-links", str(dist)]
    run(tmp_path, UV, *install, *wanted)
    check(tmp_path, release, version)


@teams
def test_uv_project(dist: Path, tmp_path: Path, release: str, version: str) -> None:
    """The lock has the hash, and installs the same again."""
    links = ["--find-links", str(dist)]
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    run(tmp_path, UV, "add", *links, f"sentry-sdk=={release}", "vendored-integration")
    text = (tmp_path / "uv.lock").read_text()
    assert f'name = "vendored-integration"\nversion = "{version}"' in text
    shutil.rmtree(tmp_path / ".venv")
    run(tmp_path, UV, "sync", "--locked", *links)
    check(tmp_path, release, version)


@pytest.fixture(scope="session")
def index(dist: Path) -> Iterator[str]:
    """The URL of the same wheels, a directory a project: all that an index needs."""
    root = dist.parent / "index"
    for wheel in dist.glob("*.whl"):
        name = wheel.name.split("-")[0].lower().replace("_", "-").replace(".", "-")
        (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, root / name)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@teams
def test_pip_from_an_index(
    index: str, python: Path, tmp_path: Path, release: str, version: str
) -> None:
    install = [*PIP, "--python", str(python), "install", "--index-url", index]
    wanted = [f"sentry-sdk=={release}", "vendored-integration"]
    run(tmp_path, *install, *wanted, PIP_NO_INDEX="0")
    check(tmp_path, release, version)


@teams
def test_poetry_from_an_index(index: str, tmp_path: Path, release: str, version: str) -> None:
    """Everything else comes from what stands for the public index."""
    (tmp_path / "pyproject.toml").write_text(f"{PROJECT}\n[tool.poetry]\npackage-mode = false\n")
    run(tmp_path, POETRY, "source", "add", "--priority", "primary", "public", index)
    run(tmp_path, POETRY, "source", "add", "--priority", "explicit", "wheels", index)
    run(tmp_path, POETRY, "add", f"sentry-sdk=={release}")
    run(tmp_path, POETRY, "add", "--source", "wheels", f"vendored-integration=={release}.*")
    check(tmp_path, release, version)
    assert f"vendored_integration-{version}" in (tmp_path / "poetry.lock").read_text()


def test_poetry_from_a_file(dist: Path, index: str, tmp_path: Path) -> None:
    """Without an index for the wheel; poetry refuses the build for another SDK."""
    (tmp_path / "pyproject.toml").write_text(f"{PROJECT}\n[tool.poetry]\npackage-mode = false\n")
    run(tmp_path, POETRY, "source", "add", "--priority", "primary", "public", index)
    run(tmp_path, POETRY, "add", "sentry-sdk==2.29.1")
    other = dist / "vendored_integration-2.75.0.1-py3-none-any.whl"
    assert "sentry-sdk (2.75.0)" in run(tmp_path, POETRY, "add", str(other), status=1)
    wheel = str(dist / "vendored_integration-2.29.1.1-py3-none-any.whl")
    run(tmp_path, POETRY, "add", wheel)
    check(tmp_path, "2.29.1", "2.29.1.1")
