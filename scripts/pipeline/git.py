"""A temporary git repository, where a set of files is a commit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .errors import PortError

_STATE = "vendor-port.json"

# Nobody's own settings may change what comes out.
_SETTINGS = {
    "user.name": "vendor.py",
    "user.email": "vendor.py@localhost",
    "commit.gpgsign": "false",
    "core.autocrlf": "false",
    "core.hooksPath": os.devnull,
    "core.safecrlf": "false",
    "diff.renames": "false",
    # Shows what the patch had expected, between what it wants and what is there.
    "merge.conflictStyle": "diff3",
    "merge.renames": "false",
}


class Repository:
    """A patch is a commit too, and merging it is a cherry-pick."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, prefix: str) -> Repository:
        """Make one in the system's directory for temporary files, outside any checkout."""
        repository = cls(Path(tempfile.mkdtemp(prefix=prefix)).resolve())
        try:
            repository._git("init", "--quiet")
        except PortError:
            repository.remove()
            raise
        for name, value in _SETTINGS.items():
            repository._git("config", name, value)
        return repository

    @classmethod
    def reopen(cls, path: Path) -> tuple[Repository, dict[str, Any]]:
        """The repository that a port has left, and what `save` wrote there."""
        repository = cls(path.resolve())
        try:
            return repository, json.loads((repository.path / ".git" / _STATE).read_text())
        except (OSError, ValueError) as error:
            raise PortError(
                f"{path}: not a repository that a port has left",
                expected="the directory that `vendor.py port` named after a conflict",
                found=str(error),
                next="python3 scripts/vendor.py port OLD NEW",
            ) from error

    def save(self, state: dict[str, Any]) -> None:
        (self.path / ".git" / _STATE).write_text(json.dumps(state))

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def commit(self, texts: dict[str, str], message: str) -> str:
        """Commit exactly these files on top of what is checked out."""
        self._git("rm", "-r", "--quiet", "--force", "--ignore-unmatch", ".")
        for name, text in texts.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8"))
        self._git("add", "--all", "--force")
        self._git("commit", "--quiet", "--allow-empty", "--message", message)
        return self._git("rev-parse", "HEAD").strip()

    def checkout(self, commit: str) -> None:
        self._git("checkout", "--quiet", "--force", "--detach", commit)

    def pick(self, commit: str) -> list[str]:
        """Merge the commit's change into the working tree; return the files in conflict."""
        result = self._run("cherry-pick", "--no-commit", commit)
        unmerged = self._git("diff", "--name-only", "--diff-filter=U").splitlines()
        if result.returncode != 0 and not unmerged:
            raise PortError("git cherry-pick failed", found=_words(result))
        return unmerged

    def texts(self) -> dict[str, str]:
        """The working tree."""
        files = sorted(self.path.rglob("*.py"))
        return {
            path.relative_to(self.path).as_posix(): path.read_bytes().decode("utf-8")
            for path in files
        }

    def read(self, commit: str) -> dict[str, str]:
        names = self._git("ls-tree", "-r", "--name-only", commit).splitlines()
        return {name: self._git("show", f"{commit}:{name}") for name in names}

    def diff(self, before: str, after: str) -> str:
        return self._git(
            "diff", "--no-color", "--no-ext-diff", "--no-renames", "-U0", before, after
        )

    def _git(self, *args: str) -> str:
        result = self._run(*args)
        if result.returncode != 0:
            raise PortError(f"git {args[0]} failed in {self.path}", found=_words(result))
        return result.stdout.decode("utf-8")

    def _run(self, *args: str) -> subprocess.CompletedProcess[bytes]:
        # A hook of git's runs with GIT_DIR and others set: not this repository's.
        env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        env.update(GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_GLOBAL=os.devnull, LC_ALL="C")
        try:
            return subprocess.run(
                ["git", *args],
                cwd=self.path,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except FileNotFoundError as error:
            raise PortError(
                "porting needs git", expected="git on the PATH", found=str(error)
            ) from error


def _words(result: subprocess.CompletedProcess[bytes]) -> str:
    return (result.stderr or result.stdout).decode("utf-8", "replace").strip()
