"""A checkout of its own for each test, with the made-up SDK instead of the real one."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple

import pytest
import sdk

CHECKOUT = Path(__file__).resolve().parents[2]
HOOK = "import sys, build_backend; print(getattr(build_backend, sys.argv[1])(*sys.argv[2:]))"


def run(
    cwd: Path,
    *command: str,
    env: Mapping[str, str],
    status: int = 0,
    without: Tuple[str, ...] = (),
) -> str:
    """Run a program; return what it printed, both streams together.

    :param without: how further variables begin that it is not to have.
    """
    without += ("SENTRY_SDK_VERSION", "SOURCE_DATE_EPOCH", "PYTHONPATH")
    own = {key: text for key, text in os.environ.items() if not key.startswith(without)}
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**own, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert result.returncode == status, result.stdout
    return result.stdout


def files_of(wheel: Path) -> Dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


class Project:
    """A copy of the checkout's build, its own cache of wheels, and what pip's index has."""

    def __init__(self, root: Path, wheels: Path) -> None:
        self.root = root
        self.wheels = wheels
        self.index = wheels.parent / "index"
        self.env = {"VENDOR_CACHE": str(wheels), "SENTRY_NOT_TO_BE_IMPORTED": "1"}
        self.env.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(self.index))

    def run(self, *command: str, status: int = 0, **env: str) -> str:
        output = run(self.root, *command, status=status, env={**self.env, **env})
        assert not re.search(r"(?m)^Traceback", output), output
        return output

    def vendor(self, *args: str, status: int = 0, **env: str) -> str:
        command = [sys.executable, "-W", "error", "scripts/vendor.py", *args]
        return self.run(*command, status=status, **env)

    def refused(self, *args: str, status: int = 2, **env: str) -> str:
        """Run vendor.py, which must fail, say so properly, and change nothing."""
        before = self.snapshot()
        output = self.vendor(*args, status=status, **env)
        assert self.snapshot() == before
        return output

    def hook(
        self, name: str, *args: str, site: Optional[Path] = None, status: int = 0, **env: str
    ) -> str:
        """Call a hook of the build backend in a fresh process, with the SDK beside it."""
        path = os.pathsep.join(map(str, filter(None, [self.path("scripts"), site])))
        command = [sys.executable, "-c", HOOK, name, *args]
        return self.run(*command, status=status, PYTHONPATH=path, **env)

    def build(self, out: Path, release: str, kind: str = "wheel", **env: str) -> Path:
        """Build a wheel, with that release of the SDK beside the build; return its path."""
        out.mkdir(exist_ok=True)
        env.setdefault("SENTRY_SDK_VERSION", release)
        output = self.hook(f"build_{kind}", str(out), site=self.site(release), **env)
        return out / output.split()[-1]

    def site(self, release: str) -> Path:
        return sdk.install(self.wheels.parent / f"site-{release}", release, sdk.RELEASES[release])

    def snapshot(self) -> Dict[str, bytes]:
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and "LICENSE." not in path.name
        }

    def path(self, name: str) -> Path:
        return self.root / name

    def text(self, name: str) -> str:
        return self.path(name).read_bytes().decode()

    def write(self, name: str, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_bytes(text.encode())

    def replace(self, name: str, old: str, new: str) -> None:
        text = self.text(name)
        assert old in text
        self.write(name, text.replace(old, new, 1))

    def release(self, release: str, files: Mapping[str, str], **kwargs: object) -> Path:
        """Publish a release of the SDK."""
        return sdk.wheel(self.index, release, files, **kwargs)  # type: ignore[arg-type]

    def vendored(self, name: str) -> str:
        return self.text(f"vendored_integration/_vendor/{name}")


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases, each with its directory."""
    directory = tmp_path_factory.mktemp("template")
    root = directory / "project"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "scripts", root / "scripts", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE"):
        shutil.copy(CHECKOUT / name, root / name)
    project = Project(root, directory / "wheels")
    project.write("README.md", "# A project\n")
    for name, text in sdk.OURS.items():
        project.write(f"vendored_integration/{name}", text)
    for release, files in sdk.RELEASES.items():
        project.release(release, files)
    # Nothing is downloaded but the SDK: the environment that runs the tests has the rest.
    project.replace("scripts/pipeline/drive.py", 'DJANGO, "packaging"', '"--no-deps"')
    project.replace("scripts/pipeline/drive.py", '"-S", ', "")
    project.vendor("port", "--all")
    return directory


@pytest.fixture
def project(_template: Path, tmp_path: Path) -> Project:
    shutil.copytree(_template, tmp_path / "work")
    return Project(tmp_path / "work" / "project", tmp_path / "work" / "wheels")
