"""Put the finished directory in its place: all of it or nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path


def write(files: dict[str, bytes], directory: Path) -> None:
    """Make the directory hold exactly these files, whatever it held before."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    # On the same file system, or the renames would be copies.
    with tempfile.TemporaryDirectory(prefix=".vendor-", dir=directory.parent) as name:
        new, old = Path(name, "new"), Path(name, "old")
        for path, data in files.items():
            target = new / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        if directory.exists():
            directory.rename(old)
        try:
            new.rename(directory)
        except OSError:
            if old.exists():
                old.rename(directory)
            raise


def read(directory: Path) -> dict[str, bytes]:
    """The files of the directory, without what running them leaves there."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.parent.name != "__pycache__"
    }
