"""Nine WSGI and four ASGI servers, each in a process of its own, on a port of its own."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Callable, List, Mapping, NamedTuple

HERE = Path(__file__).resolve().parent


class Server(NamedTuple):
    """How to start a server, and what can be expected of it."""

    needs: str  # the modules that have to be installed, with spaces between
    command: Callable[[], List[str]]
    # Answers a second request while a response is open.
    concurrent: bool
    # Runs threads that the application starts, also while it waits for a request.
    threads: bool = True
    interface: str = "wsgi"
    # A write waits until the client has read; without, all of a response is buffered.
    backpressure: bool = True
    # Runs requests in threads, or in one event loop. Greenlets share their thread's one loop:
    # of two requests at the same time only one can be in async code, nor may that use sync_to_async.
    asyncio: bool = True
    # Async code gets an answer from a thread: asyncio.to_thread(), sync_to_async().
    asyncio_threads: bool = True
    # Ends by a signal while a stream is open.
    ends_with_streams: bool = True
    # Closes the connection when the application has failed in mid-stream; without, the client
    # waits for ever. And logs each such error: daphne looks for them once a second, and no
    # more after the first one that it has found while the client was still waiting.
    ends_failed: bool = True
    # For the test app.
    environment: Mapping[str, str] = MappingProxyType({})

    def serving(self, module, *arguments):
        """The same server, with the applications of another module than app.py."""
        command = [word.replace("app:", f"{module}:") for word in self.command()]
        return self._replace(command=lambda: [*command, *arguments])


def _gunicorn(*arguments):
    return lambda: [
        *(sys.executable, "-m", "gunicorn", "app:application", "--bind", "127.0.0.1:0"),
        *("--workers", "1", "--graceful-timeout", "5", "--timeout", "60"),
        # No test talks to it, and its path is shared by all of them. gunicorn 23, which an older
        # Python gets, has none.
        *(["--no-control-socket"] if sys.version_info >= (3, 10) else []),
        *arguments,
    ]


def _uwsgi(*arguments):
    return lambda: [
        _find("uwsgi") or "uwsgi",
        *("--http-socket", "127.0.0.1:0", "--module", "app:application", "--need-app"),
        # uWSGI has Python inside it: this is how it finds the environment's packages.
        *("--virtualenv", sys.prefix, "--pythonpath", str(HERE)),
        *("--die-on-term", "--buffer-size", "16384"),
        *arguments,
    ]


def _runner(name):
    return lambda: [sys.executable, str(HERE / "serve.py"), name]


def _module(name, *arguments):
    return lambda: [sys.executable, "-m", name, *arguments]


def _uvicorn(http):
    return _module(
        *("uvicorn", "app:asgi_application", "--host", "127.0.0.1", "--port", "0"),
        *("--http", http, "--loop", "asyncio", "--timeout-graceful-shutdown", "1"),
    )


def _find(program):
    """Next to the interpreter first: the environment need not be activated."""
    beside = Path(sys.executable).parent / program
    return str(beside) if beside.exists() else shutil.which(program)


SERVERS = {
    "gunicorn-sync": Server("gunicorn", _gunicorn(), concurrent=False),
    "gunicorn-gthread": Server("gunicorn", _gunicorn("--threads", "4"), concurrent=True),
    "gunicorn-gevent": Server(
        "gevent",
        _gunicorn("--worker-class", "gevent"),
        concurrent=True,
        asyncio=False,
        asyncio_threads=sys.version_info < (3, 14),  # gevent 26.9
    ),
    "gunicorn-preload": Server(
        "gunicorn", _gunicorn("--threads", "4", "--preload"), concurrent=True
    ),
    "uwsgi-threads": Server(
        "uwsgi", _uwsgi("--enable-threads", "--py-call-uwsgi-fork-hooks"), concurrent=False
    ),
    "uwsgi-no-threads": Server("uwsgi", _uwsgi(), concurrent=False, threads=False),
    "waitress": Server("waitress", _runner("waitress"), concurrent=True),
    "cheroot": Server("cheroot", _runner("cheroot"), concurrent=True),
    "wsgiref": Server("wsgiref", _runner("wsgiref"), concurrent=False),
    "uvicorn-h11": Server("uvicorn h11", _uvicorn("h11"), concurrent=True, interface="asgi"),
    "uvicorn-httptools": Server(
        "uvicorn httptools", _uvicorn("httptools"), concurrent=True, interface="asgi"
    ),
    "hypercorn": Server(
        "hypercorn",
        _module(
            *("hypercorn", "app:asgi_application", "--bind", "127.0.0.1:0"),
            *("--worker-class", "asyncio", "--graceful-timeout", "1"),
        ),
        concurrent=True,
        interface="asgi",
        # hypercorn 0.18
        ends_with_streams=sys.version_info < (3, 12),
        environment=MappingProxyType({"MIDDLEWARE": "sync"}),
    ),
    "daphne": Server(
        "daphne channels",
        _module("daphne", "-b", "127.0.0.1", "-p", "0", "app:asgi_application"),
        concurrent=True,
        interface="asgi",
        backpressure=False,
        ends_failed=False,
        environment=MappingProxyType({"ROUTER": "channels"}),
    ),
}

# Not among these: for the tests of what uWSGI does with files.
UWSGI_OFFLOAD = Server(
    "uwsgi", _uwsgi("--enable-threads", "--offload-threads", "1"), concurrent=False
)


def missing(server):
    """Why this server cannot run here, or nothing."""
    if server.needs == "uwsgi":
        return None if _find("uwsgi") else "no uwsgi here"
    for module in server.needs.split():
        if not importlib.util.find_spec(module):
            return f"no {module} here"
    return None


_LISTENING = (
    r"(?:Listening at: http://127\.0\.0\.1:"  # gunicorn
    r"|bound to TCP address 127\.0\.0\.1:"  # uWSGI
    r"|listening on port "  # serve.py
    r"|unning on http://127\.0\.0\.1:"  # uvicorn, hypercorn
    r"|Listening on TCP address 127\.0\.0\.1:)(\d+)"  # daphne
)


class Process:
    """A running server. Its output, stdout and stderr, is in `output`.

    `before` is put before its command line: strace and its arguments.
    """

    def __init__(self, server, environment, cwd, before=()):
        self._lines = []
        self._changed = threading.Condition()
        self._ended = False
        self._traced = bool(before)
        self._process = subprocess.Popen(
            [*before, *server.command()],
            # Not the checkout: the installed package is what the tests are about.
            cwd=str(cwd),
            env={
                **{name: text for name, text in os.environ.items() if "SENTRY_" not in name},
                "PYTHONPATH": str(HERE),
                "PYTHONUNBUFFERED": "1",
                **server.environment,
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A process group of its own: what the server forks can be ended with it, and a Ctrl-C
            # in the terminal reaches the tests only.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.port = int(self.wait_for_output(_LISTENING, timeout=30).group(1))
        except BaseException:
            self.stop()
            raise

    def _read(self):
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line.decode("utf-8", "replace"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def output(self):
        with self._changed:
            return "".join(self._lines)

    def wait_for_output(self, pattern, timeout=10):
        """The first match in the output; an error if there is none."""
        with self._changed:
            self._changed.wait_for(lambda: re.search(pattern, self.output) or self._ended, timeout)
            found = re.search(pattern, self.output)
        assert found, f"expected {pattern!r} in the server's output:\n{self.output}"
        return found

    def send_signal(self, number):
        self._process.send_signal(number)

    def wait(self, timeout=20):
        """Wait for its end, and for the end of its output; return its exit status."""
        status = self._process.wait(timeout)
        self._reader.join(timeout)
        return status

    def stop(self, by=signal.SIGTERM):
        """End it as an operator would, and fail if it does not."""
        if self._process.poll() is None:
            # strace does not pass the signal on, so the group gets it where there is one.
            send = os.killpg if self._traced else os.kill
            send(self._process.pid, by)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end within 10 s of signal {by}:\n{self.output}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                # What is left of the group: workers of a server that had to be killed.
                os.killpg(self._process.pid, signal.SIGKILL)
            self.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
