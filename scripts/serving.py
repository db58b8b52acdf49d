"""gunicorn with a project of these scripts, on a free port of loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from environment import Refused, last_lines


@contextmanager
def gunicorn(project: Path, directory: Path, options: list[str], **environ: str) -> Iterator[int]:
    """Serve a project's `app:application` by one worker, in this directory; yields the port.

    An error of the client is told with the end of gunicorn's log.
    """
    command = [sys.executable, "-m", "gunicorn", "app:application", f"--pythonpath={project}"]
    # Bound here: nobody else can take the port meanwhile, and requests that arrive before the
    # worker is up wait in the backlog.
    with socket.create_server(("127.0.0.1", 0)) as listener, (directory / "log").open("wb") as log:
        # As gunicorn does: else a first chunk waits for the acknowledgement of the headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port: int = listener.getsockname()[1]
        server = subprocess.Popen(
            [*command, f"--bind=fd://{listener.fileno()}", *options],
            cwd=str(directory),
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
        )
    try:
        yield port
    except Exception as error:
        lines = last_lines((directory / "log").read_text("utf-8", "replace"))
        raise Refused(f"{error!r}; gunicorn's last lines:\n{lines}") from error
    finally:
        # An ordinary end: what the SDK has not sent yet, it sends now.
        server.terminate()
        server.wait()
