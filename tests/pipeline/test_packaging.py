"""The checkout itself, built by pip with the real SDK. Needs the package index."""

import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Dict

import conftest
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


def run(cwd: Path, *command: str, status: int = 0, **env: str) -> str:
    """Run without git, patch, or any other program in reach."""
    return conftest.run(cwd, *command, status=status, env={"PATH": os.fspath(cwd), **env})


def venv(directory: Path) -> str:
    """The interpreter of a virtual environment with nothing but pip."""
    run(directory, sys.executable, "-m", "venv", "venv")
    return str(directory / "venv" / "bin" / "python")


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_pages_name_the_final_releases(page: str) -> None:
    """`port` of a new one does not write them."""
    listed = "from scripts.pipeline import releases; print(*releases.finals())"
    finals = conftest.run(CHECKOUT, sys.executable, "-c", listed, env={}).split()
    text = " ".join((CHECKOUT / page).read_text().split())
    ranges = re.findall(
        r"very final release(?: of sentry-sdk)? from (\S+) to (\d+\.\d+\.\d+)", text
    )
    assert {*ranges} == {(finals[0], finals[-1])}


@pytest.mark.parametrize("release", RELEASES)
def test_pip_install(release: str, checkout: Path, tmp_path: Path) -> None:
    python = venv(tmp_path)
    run(checkout, python, "-m", "pip", "install", ".", SENTRY_SDK_VERSION=release)
    assert f"\nsentry-sdk=={release}\n" in run(tmp_path, python, "-m", "pip", "freeze")
    found, where, prefix = run(tmp_path, python, "-c", WHAT).split()
    assert found == release
    assert where.startswith(prefix)
    run(tmp_path, python, "-W", "error", "-c", "import vendored_integration")
    assert not (checkout / "vendored_integration" / "_vendor").exists()


def test_pip_install_editable(checkout: Path, tmp_path: Path) -> None:
    python = venv(tmp_path)
    run(checkout, python, "-m", "pip", "install", "-e", ".")
    found, where, _ = run(tmp_path, python, "-c", WHAT).split()
    assert found == RELEASES[-1]
    assert where == str(checkout / "vendored_integration" / "_vendor")


def test_types(checkout: Path, tmp_path: Path) -> None:
    """mypy knows the public names from the installed package, and finds what is wrong."""
    python = venv(tmp_path)
    run(checkout, python, "-m", "pip", "install", ".")
    text = (CHECKOUT / "tests" / "pipeline" / "typed_user.py").read_text()
    (tmp_path / "user.py").write_text(text)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    output = run(tmp_path, *mypy, f"--python-executable={python}", "user.py", status=1)
    found = {int(line.split(":")[1]) for line in output.splitlines() if ": error: " in line}
    lines = enumerate(text.splitlines(), 1)
    assert found == {number for number, line in lines if line.endswith("  # wrong")}, output


def test_pip_shows_the_error(checkout: Path, tmp_path: Path) -> None:
    """The message must reach the user through pip's output."""
    install = [venv(tmp_path), "-m", "pip", "install", "."]
    output = run(checkout, *install, status=1, SENTRY_SDK_VERSION="2.2.3")
    assert "error: sentry-sdk 2.2.3: there are no patches for it" in output
    assert f"to {RELEASES[-1]}" in output


def test_port_of_a_new_release(checkout: Path, tmp_path: Path) -> None:
    """From a local wheel of a release that is like the newest, by the commands of CONTRIBUTING."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(tmp_path / "sdk")]
    run(checkout, *pip, "sentry-sdk==2.75.0")
    old = next((tmp_path / "sdk").iterdir())
    (tmp_path / "links").mkdir()
    new = tmp_path / "links" / old.name.replace("75", "76")
    with zipfile.ZipFile(old) as before, zipfile.ZipFile(new, "w") as after:
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
    assert "1 of 1 wheels" in run(checkout, *vendor, "wheels", "2.76.0")
    assert (checkout / "dist" / "vendored_integration-2.76.0.1-py3-none-any.whl").is_file()


def test_sdist(checkout: Path, tmp_path: Path) -> None:
    """It has what its pages show; and its wheel is that of two checkouts, byte for byte."""
    shutil.copytree(checkout, tmp_path / "other" / "place")
    run(checkout, sys.executable, "-m", "build", "--sdist", "-o", str(tmp_path / "sdist"))
    sdist = next((tmp_path / "sdist").iterdir())
    shutil.unpack_archive(str(sdist), str(tmp_path / "unpacked"))
    unpacked = next((tmp_path / "unpacked").iterdir())
    for name in "benchmarks", "docs":
        paths = [path for path in (checkout / name).rglob("*") if path.is_file()]
        for path in paths:
            assert (unpacked / path.relative_to(checkout)).is_file(), path
    run(unpacked, sys.executable, "scripts/sections.py", "--check")

    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w"]
    run(checkout, *pip, str(tmp_path / "a"), ".")
    run(tmp_path / "other" / "place", *pip, str(tmp_path / "b"), ".")
    run(checkout, *pip, str(tmp_path / "c"), str(sdist))
    wheels: Dict[str, bytes] = {}
    for directory in "abc":
        for path in (tmp_path / directory).iterdir():
            assert wheels.setdefault(path.name, path.read_bytes()) == path.read_bytes()
    assert len(wheels) == 1
