"""The checkout itself, built by pip with the real SDK. Needs the package index."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Dict, List

import pytest
from conftest import CHECKOUT

pytestmark = pytest.mark.network

RELEASES = ["2.0.0", "2.29.1", "2.75.0"]
WHAT = (
    "import vendored_integration._vendor as v, os, sys;"
    "print(v.SENTRY_SDK_RELEASE, os.path.dirname(v.__file__), sys.prefix)"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy as a fresh clone has it: with nothing that is generated."""
    generated = (".*", "__pycache__", "_vendor", "build", "dist", "*.egg-info", "*.sentry-sdk")
    copy = tmp_path / "checkout"
    shutil.copytree(CHECKOUT, copy, ignore=shutil.ignore_patterns(*generated))
    return copy


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of a virtual environment with nothing but pip."""
    venv.create(tmp_path / "venv", with_pip=True)
    return tmp_path / "venv" / "bin" / "python"


def run(cwd: Path, *command: str, status: int = 0, **env: str) -> str:
    """Run without git, patch, or any other program in reach."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ("SENTRY_SDK_VERSION", "SOURCE_DATE_EPOCH", "PYTHONPATH")
    }
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**clean, "PATH": os.fspath(cwd), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    assert result.returncode == status, result.stdout
    return result.stdout


def versions(python: Path, cwd: Path) -> Dict[str, str]:
    lines: List[str] = run(cwd, str(python), "-m", "pip", "freeze", "--all").split("\n")
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("release", RELEASES)
def test_pip_install(release: str, checkout: Path, python: Path, tmp_path: Path) -> None:
    run(checkout, str(python), "-m", "pip", "install", ".", SENTRY_SDK_VERSION=release)
    assert versions(python, tmp_path)["sentry-sdk"] == release
    found, where, prefix = run(tmp_path, str(python), "-c", WHAT).split()
    assert found == release
    assert where.startswith(prefix)
    run(tmp_path, str(python), "-W", "error", "-c", "import vendored_integration")
    assert not (checkout / "vendored_integration" / "_vendor").exists()


def test_types(checkout: Path, python: Path, tmp_path: Path) -> None:
    """mypy knows the public names from the installed package, and finds what is wrong."""
    run(checkout, str(python), "-m", "pip", "install", ".")
    user = tmp_path / "user.py"
    shutil.copy(str(CHECKOUT / "tests" / "pipeline" / "typed_user.py"), str(user))
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    output = run(tmp_path, *mypy, f"--python-executable={python}", user.name, status=1)
    found = {int(line.split(":")[1]) for line in output.splitlines() if ": error: " in line}
    lines = user.read_text().splitlines()
    assert found == {n for n, line in enumerate(lines, 1) if line.endswith("  # wrong")}, output


def test_pip_install_editable(checkout: Path, python: Path, tmp_path: Path) -> None:
    run(checkout, str(python), "-m", "pip", "install", "-e", ".")
    found, where, _ = run(tmp_path, str(python), "-c", WHAT).split()
    assert found == RELEASES[-1]
    assert where == str(checkout / "vendored_integration" / "_vendor")


def test_port_of_a_new_release(checkout: Path, tmp_path: Path) -> None:
    """From a local wheel of a release that is like the newest, by the commands of CONTRIBUTING."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(tmp_path / "sdk")]
    run(checkout, *pip, "sentry-sdk==2.75.0")
    old = next((tmp_path / "sdk").iterdir())
    (tmp_path / "links").mkdir()
    with zipfile.ZipFile(old) as before, zipfile.ZipFile(
        tmp_path / "links" / old.name.replace("75", "76"), "w"
    ) as after:
        for name in before.namelist():
            data = before.read(name).replace(b"2.75.0", b"2.76.0")
            if name.endswith("integrations/wsgi.py"):
                data = b"# One line more.\n" + data
            after.writestr(name.replace("2.75.0", "2.76.0"), data)
    vendor = [sys.executable, "scripts/vendor.py"]
    output = run(checkout, *vendor, "port", "2.76.0", "--find-links", str(tmp_path / "links"))
    assert output == (
        "sentry-sdk 2.76.0, since 2.75.0:\n  wsgi.py: changed\n"
        "patches/2.76.0: written\n1 of 1 releases ported\n"
    )
    run(checkout, *vendor, "check", "2.76.0")
    assert "1 of 1 wheels" in run(checkout, *vendor, "wheels", "2.76.0")
    assert (checkout / "dist" / "vendored_integration-2.76.0.1-py3-none-any.whl").is_file()


def test_pip_shows_the_error(checkout: Path, python: Path) -> None:
    """The message must reach the user through pip's output."""
    install = [str(python), "-m", "pip", "install", "."]
    output = run(checkout, *install, status=1, SENTRY_SDK_VERSION="2.2.3")
    assert "error: sentry-sdk 2.2.3: there are no patches for it" in output
    assert f"to {RELEASES[-1]}" in output


def test_sdist_has_what_its_pages_show(checkout: Path, tmp_path: Path) -> None:
    """Pictures and results too, of which the tables are made."""
    run(checkout, sys.executable, "-m", "build", "--sdist", "-o", str(tmp_path / "sdist"))
    shutil.unpack_archive(str(next((tmp_path / "sdist").iterdir())), str(tmp_path / "unpacked"))
    unpacked = next((tmp_path / "unpacked").iterdir())
    for name in "benchmarks", "docs":
        paths = [path for path in (checkout / name).rglob("*") if path.is_file()]
        for path in paths:
            assert (unpacked / path.relative_to(checkout)).is_file(), path
    run(unpacked, sys.executable, "scripts/sections.py", "--check")


def test_wheel_is_reproducible(checkout: Path, tmp_path: Path) -> None:
    """Through pip, from two copies, and from the sdist as well."""
    shutil.copytree(checkout, tmp_path / "other" / "place")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w"]
    run(checkout, *pip, str(tmp_path / "a"), ".")
    run(tmp_path / "other" / "place", *pip, str(tmp_path / "b"), ".")
    run(checkout, sys.executable, "-m", "build", "--sdist", "-o", str(tmp_path / "sdist"))
    sdist = next((tmp_path / "sdist").iterdir())
    run(checkout, *pip, str(tmp_path / "c"), str(sdist))
    wheels = [next((tmp_path / name).iterdir()) for name in "abc"]
    assert len({wheel.name for wheel in wheels}) == 1
    assert len({wheel.read_bytes() for wheel in wheels}) == 1
