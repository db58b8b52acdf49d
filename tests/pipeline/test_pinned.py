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
from pathlib import Path
from typing import Iterator, List

import conftest
import pytest
from conftest import CHECKOUT

pytestmark = pytest.mark.network

SCRIPTS = Path(sysconfig.get_path("scripts"))
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
UV, POETRY = str(SCRIPTS / "uv"), str(SCRIPTS / "poetry")

# The team's SDK -> the build that it must get.
RELEASES = {"2.29.1": "2.29.1.1", "2.75.0": "2.75.0.1"}
teams = pytest.mark.parametrize("release", RELEASES)

# poetry looks for releases that are for each of the Pythons.
PROJECT = f"""\
[project]
name = "shop"
version = "1"
requires-python = ">={sys.version_info[0]}.{sys.version_info[1]}"
dependencies = []

[tool.poetry]
package-mode = false
"""


def run(cwd: Path, *command: str, status: int = 0, **env: str) -> str:
    """Run in an environment without settings of pip, uv or poetry, and without index."""
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
    without = ("PIP_", "UV_", "POETRY_", "VIRTUAL_ENV")
    return conftest.run(cwd, *command, status=status, env={**only, **env}, without=without)


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheels, and all that they and the projects need."""
    directory = tmp_path_factory.mktemp("pinned") / "dist"
    vendor = [sys.executable, "scripts/vendor.py", "wheels", *RELEASES, "--out", str(directory)]
    subprocess.run(vendor, cwd=CHECKOUT, check=True)
    for release in RELEASES:
        # Locks are for every platform, and Django wants tzdata on Windows.
        wanted = [f"sentry-sdk=={release}", "vendored-integration", "tzdata"]
        where = ["--find-links", str(directory), "--dest", str(directory)]
        command = [*PIP, "download", "--quiet", "--only-binary=:all:", *where, *wanted]
        subprocess.run(command, check=True)
    return directory


def install(directory: Path, *args: str) -> List[str]:
    """The command that installs into a new environment in the directory."""
    python = directory / ".venv" / "bin" / "python"
    if not python.exists():
        command = [sys.executable, "-m", "venv", "--without-pip", str(directory / ".venv")]
        subprocess.run(command, check=True)
    return [*PIP, "--python", str(python), "install", *args]


def check(directory: Path, release: str) -> None:
    """What the environment in the directory has, by its own words."""
    python = str(directory / ".venv" / "bin" / "python")
    found = json.loads(run(directory, python, "-m", "vendored_integration", "--json"))
    assert found["ok"], found
    assert found["installed"]["sentry-sdk"] == release
    assert found["installed"]["vendored-integration"] == RELEASES[release]


@teams
def test_pip_chooses_the_build(dist: Path, tmp_path: Path, release: str) -> None:
    """Also with the SDK pinned in a constraints file only; and it refuses another SDK."""
    command = install(tmp_path, "--find-links", str(dist))
    run(tmp_path, *command, f"sentry-sdk=={release}", "vendored-integration")
    check(tmp_path, release)
    (tmp_path / "constraints.txt").write_text(f"sentry-sdk=={release}\n")
    again = [*command, "--dry-run", "--force-reinstall", "-c", "constraints.txt"]
    output = run(tmp_path, *again, "vendored-integration")
    assert f"vendored-integration-{RELEASES[release]}" in output
    (other,) = {*RELEASES} - {release}
    output = run(tmp_path, *again, f"vendored-integration=={other}.*", status=1)
    assert f"depends on sentry-sdk=={other}" in output


def test_pip_with_hashes(dist: Path, tmp_path: Path) -> None:
    """The file is uv's; and pip refuses a wheel that has one byte more."""
    shutil.copytree(dist, tmp_path / "dist")
    (tmp_path / "requirements.in").write_text("sentry-sdk==2.29.1\nvendored-integration\n")
    lock = ["pip", "compile", "--generate-hashes", "--find-links", "dist", "requirements.in"]
    run(tmp_path, UV, *lock, "-o", "requirements.txt")
    text = (tmp_path / "requirements.txt").read_text()
    assert "vendored-integration==2.29.1.1 \\\n    --hash=sha256:" in text
    wanted = ["--require-hashes", "--find-links", "dist", "-r", "requirements.txt"]
    command = install(tmp_path, *wanted)
    run(tmp_path, *command)
    check(tmp_path, "2.29.1")
    with (tmp_path / "dist" / "vendored_integration-2.29.1.1-py3-none-any.whl").open("ab") as file:
        file.write(b"\0")
    assert "DO NOT MATCH THE HASHES" in run(tmp_path, *command, "--force-reinstall", status=1)


@teams
def test_uv(dist: Path, tmp_path: Path, release: str) -> None:
    """The project's lock has the hash, and installs the same again."""
    links = ["--find-links", str(dist)]
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    run(tmp_path, UV, "add", *links, f"sentry-sdk=={release}", "vendored-integration")
    text = (tmp_path / "uv.lock").read_text()
    assert f'name = "vendored-integration"\nversion = "{RELEASES[release]}"' in text
    shutil.rmtree(tmp_path / ".venv")
    run(tmp_path, UV, "sync", "--locked", *links)
    check(tmp_path, release)


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
def test_from_an_index(index: str, tmp_path: Path, release: str) -> None:
    """poetry, and pip into the same environment; all else comes from what stands for PyPI."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    run(tmp_path, POETRY, "source", "add", "--priority", "primary", "public", index)
    run(tmp_path, POETRY, "source", "add", "--priority", "explicit", "wheels", index)
    run(tmp_path, POETRY, "add", f"sentry-sdk=={release}")
    run(tmp_path, POETRY, "add", "--source", "wheels", f"vendored-integration=={release}.*")
    check(tmp_path, release)
    assert f"vendored_integration-{RELEASES[release]}" in (tmp_path / "poetry.lock").read_text()
    command = install(tmp_path, "--index-url", index, "--force-reinstall")
    wanted = [f"sentry-sdk=={release}", "vendored-integration"]
    run(tmp_path, *command, *wanted, PIP_NO_INDEX="0")
    check(tmp_path, release)


def test_poetry_from_a_file(dist: Path, index: str, tmp_path: Path) -> None:
    """Without an index for the wheel; poetry refuses the build for another SDK."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    run(tmp_path, POETRY, "source", "add", "--priority", "primary", "public", index)
    run(tmp_path, POETRY, "add", "sentry-sdk==2.29.1")
    name = "vendored_integration-{}-py3-none-any.whl"
    other = str(dist / name.format("2.75.0.1"))
    assert "sentry-sdk (2.75.0)" in run(tmp_path, POETRY, "add", other, status=1)
    run(tmp_path, POETRY, "add", str(dist / name.format("2.29.1.1")))
    check(tmp_path, "2.29.1")
