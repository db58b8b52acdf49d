"""A checkout of its own for each test, with the made-up SDK instead of the real one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, Mapping

import django
import pytest
import sdk

CHECKOUT = Path(__file__).resolve().parents[2]


class Project:
    """A copy of the checkout's build, its own cache of wheels, and what pip's index has."""

    def __init__(self, root: Path, wheels: Path) -> None:
        self.root = root
        self.wheels = wheels
        self.index = wheels.parent / "index"
        self.env = {
            key: value
            for key, value in os.environ.items()
            if key not in ("SENTRY_SDK_VERSION", "SOURCE_DATE_EPOCH", "PYTHONPATH")
        }
        self.env.update(VENDOR_CACHE=str(wheels), PIP_NO_INDEX="1")
        self.env.update(PIP_FIND_LINKS=str(self.index), SENTRY_NOT_TO_BE_IMPORTED="1")

    def vendor(self, *args: str, status: int = 0, **env: str) -> str:
        """Run vendor.py; return what it printed, both streams together."""
        command = [sys.executable, "-W", "error", "scripts/vendor.py", *args]
        return self.run(*command, status=status, **env)

    def run(self, *command: str, status: int = 0, **env: str) -> str:
        result = subprocess.run(
            command,
            cwd=self.root,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=300,
        )
        assert result.returncode == status, result.stdout
        return result.stdout

    def refused(self, *args: str, status: int = 2, **env: str) -> str:
        """Run vendor.py, which must fail, say so properly, and change nothing."""
        before = self.snapshot()
        output = self.vendor(*args, status=status, **env)
        assert not re.search(r"(?m)^Traceback", output), output
        assert self.snapshot() == before
        return output

    def snapshot(self) -> Dict[str, bytes]:
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
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
        return sdk.wheel(self.index, release, files, **kwargs)

    def vendored(self, name: str) -> str:
        return self.text(f"vendored_integration/_vendor/{name}")


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases, each with its directory, locked."""
    directory = tmp_path_factory.mktemp("template")
    root = directory / "project"
    shutil.copytree(
        CHECKOUT / "scripts",
        root / "scripts",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE"):
        shutil.copy(CHECKOUT / name, root / name)
    project = Project(root, directory / "wheels")
    project.write("README.md", "# A project\n")
    for name, text in sdk.OURS.items():
        project.write(f"vendored_integration/{name}", text)
    for release, files in sdk.RELEASES.items():
        project.release(release, files)
    # Nothing is downloaded but the SDK: the environment that runs the tests has the rest.
    libraries = str(Path(django.__file__).parents[1])
    project.replace("scripts/pipeline/drive.py", "_libraries(python, [", "Path(*[")
    project.replace(
        "scripts/pipeline/drive.py", 'DJANGO, "packaging", *requires]', f"{libraries!r}]"
    )
    project.vendor("port", "--all")
    return directory


@pytest.fixture
def project(_template: Path, tmp_path: Path) -> Project:
    shutil.copytree(_template, tmp_path / "work")
    return Project(tmp_path / "work" / "project", tmp_path / "work" / "wheels")
