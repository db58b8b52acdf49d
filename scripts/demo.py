#!/usr/bin/env python3
"""See what the package does: five streams, traced by the stock integration and by ours.

Makes a virtual environment in a temporary directory, builds this checkout and installs
it there together with Django, gunicorn and a client, serves a small Django project once
with sentry_sdk's own DjangoIntegration and once with vendored_integration's, and shows
side by side what a Sentry on loopback has received: as text here, and as waterfalls on a
page of HTML, which needs no network. No Sentry account is needed, and nothing but the page
is left behind: the temporary directory and all processes are gone at the end, also after
Ctrl-C.

Needs Python 3.8 or newer with venv, a Unix (for gunicorn), and pip's package index.

Exit status: 0 all right, 1 ours has lost something, or a step has failed, 2 this
machine or the command line lacks something.
"""

# Only the standard library here, and no syntax newer than Python 3.6: what is too old has
# to get as far as the message about it.

import argparse
import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Callable, Dict, List, Optional
from urllib.parse import urlsplit

import supported

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = (3, 8)

# Beside the package itself, which brings Django and the SDK.
REQUIREMENTS = ["gunicorn", "requests", "rich", "structlog"]

# Of sentry-sdk: the first whose Django integration knows trace_lifecycle="stream".
FIRST_STREAMING = "2.61.0"

# Where Spotlight's sidecar listens, if nobody says otherwise.
SPOTLIGHT = "http://localhost:8969/stream"

# Where the page goes, if nobody says otherwise.
PAGE = ROOT / ".cache" / "demo.html"

# What a build needs of the checkout; files at its top are needed as well.
DIRECTORIES = ["patches", "scripts", "vendored_integration"]

# Of the user's, not the demo's: other packages, other targets, another Sentry.
NOT_INHERITED = [
    "DJANGO_SETTINGS_MODULE",
    "GUNICORN_CMD_ARGS",
    "PIP_PREFIX",
    "PIP_TARGET",
    "PYTHONHOME",
    "PYTHONPATH",
    "SENTRY_DSN",
    "SENTRY_ENVIRONMENT",
    "SENTRY_RELEASE",
    "SENTRY_SAMPLE_RATE",
    "SENTRY_SPOTLIGHT",
    "SENTRY_TRACES_SAMPLE_RATE",
    "WEB_CONCURRENCY",
]

SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):
    SIGNALS.append(signal.SIGHUP)

LEAST_WIDTH = 40  # columns
SHOWN_LINES = 25  # of a failed step's output


class Refused(Exception):
    """Something is missing here that the user can mend."""


class Failed(Exception):
    """A step has failed; the message has the step's last lines."""


class Interrupted(Exception):
    """A signal asks for the end."""


class Signals:
    """Notes which signal has come.

    The handler raises nothing: what it would interrupt could be the clean-up, or the
    instant between making the temporary directory and knowing its name. Everything
    that takes long here is a child process, and whoever waits for it looks here.
    """

    def __init__(self) -> None:
        self.received = None  # type: Optional[int]
        for signum in SIGNALS:
            # nohup and background jobs of a shell ignore some: that is left alone.
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._note)

    def _note(self, signum: int, frame: Optional[FrameType]) -> None:
        self.received = self.received or signum

    def check(self) -> None:
        if self.received is not None:
            raise Interrupted


class Step:
    """A line about a step: a spinner with the seconds on a terminal, plain lines elsewhere."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._started = time.monotonic()
        self._said = self._started
        self._turns = 0
        if not self._terminal:
            print(f"{title} ...", flush=True)

    def tick(self, log: Path) -> None:
        """Show that it goes on, with the last line of the step's output."""
        now = time.monotonic()
        if self._terminal:
            self._turns += 1
            spinner = "|/-\\"[self._turns % 4]
            text = f"{spinner} {self.title}  {now - self._started:.0f} s"
            last = "".join(_last_lines(log, 1)).strip()
            self._overwrite(f"{text}  {last}" if last else text)
        elif now - self._said > 15:
            self._said = now
            print(f"  {now - self._started:.0f} s", flush=True)

    def end(self, word: str = "done") -> None:
        seconds = time.monotonic() - self._started
        if self._terminal:
            self._overwrite(f"{self.title}: {word}, {seconds:.1f} s")
            print(flush=True)
        else:
            print(f"  {word}, {seconds:.1f} s", flush=True)

    def _overwrite(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        printable = "".join(one if " " <= one <= "~" else "?" for one in text)
        print("\r" + printable[:width].ljust(width), end="", flush=True)


def _last_lines(path: Path, count: int) -> List[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


class Runner:
    """Runs child processes, each in a process group of its own, and leaves none behind."""

    def __init__(self, signals: Signals, directory: Path, environment: Dict[str, str]) -> None:
        self._signals = signals
        self._log = directory / "step.log"
        self._environment = environment

    def step(self, title: str, command: List[str], advice: str = "") -> None:
        """Run a command quietly, and show its last lines if it fails."""
        step = Step(title)
        word = "stopped"
        try:
            with self._log.open("wb") as log:
                status = self._run(command, step, stdout=log, stderr=subprocess.STDOUT)
            word = "failed" if status else "done"
        finally:
            step.end(word)
        if status:
            lines = [f"{title}: failed (exit status {status}), the last lines are:", ""]
            lines += ["  " + line for line in _last_lines(self._log, SHOWN_LINES)]
            raise Failed("\n".join(lines + (["", advice] if advice else [])))

    def show(self, command: List[str]) -> int:
        """Run a command whose output is for the user; its exit status."""
        return self._run(command)

    def _run(self, command: List[str], step: Optional[Step] = None, **streams: object) -> int:
        self._signals.check()
        process = subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            # A Ctrl-C in the terminal is for this process, which then ends the group:
            # pip's build processes and gunicorn's workers too.
            start_new_session=True,
            **streams,  # type: ignore[call-overload,unused-ignore]
        )  # type: subprocess.Popen[bytes]
        try:
            while process.poll() is None:
                self._signals.check()
                if step is not None:
                    step.tick(self._log)
                time.sleep(0.1)
        finally:
            _end(process)
        return process.returncode


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and what is left of its group."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: "subprocess.Popen[bytes]", signum: int) -> None:
    # No one may be left in it (macOS says so with EPERM).
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signum)


def check_machine() -> None:
    """Refuse what cannot work, before anything has been done."""
    if sys.version_info < OLDEST_PYTHON:
        raise Refused(
            "Python {}.{} or newer is needed, this is {} ({}).\n"
            "Next: run this with a newer one, e.g. python3.11 {}".format(
                OLDEST_PYTHON[0],
                OLDEST_PYTHON[1],
                platform.python_version(),
                sys.executable,
                sys.argv[0],
            )
        )
    if os.name != "posix":
        raise Refused("gunicorn needs a Unix.\nNext: run this in WSL, or in a container.")
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise Refused(
                f"this Python ({sys.executable}) has no module {module}, so it cannot make "
                "a virtual environment.\n"
                "Next, on Debian and Ubuntu: apt install python3-venv"
            )


def check_page(options: argparse.Namespace) -> None:
    """Find out where the page goes, before anything that takes long."""
    if options.dsn:
        if options.html:
            raise Refused(
                "--html with --dsn: what another Sentry receives cannot be seen from here.\n"
                "Next: leave one of them out"
            )
        return
    page = Path(os.path.abspath(options.html or PAGE))
    problem = ""
    if page.is_dir():
        problem = "it is a directory"
    elif not options.html:
        try:
            page.parent.mkdir(exist_ok=True)
        except OSError as error:
            problem = str(error)
    if not problem and not page.parent.is_dir():
        problem = f"there is no directory {page.parent}"
    if not problem and not os.access(str(page.parent), os.W_OK | os.X_OK):
        problem = f"{page.parent} may not be written to"
    if problem:
        raise Refused(
            f"cannot write the page {page}: {problem}.\n"
            "Next: name a file in a directory of yours with --html FILE"
        )
    options.html = str(page)


def check_spotlight(options: argparse.Namespace) -> None:
    """Refuse a Spotlight that does not answer, before anything that takes long."""
    if options.spotlight is None:
        return
    if options.dsn:
        raise Refused(
            "--spotlight with --dsn: what another Sentry receives cannot be seen from here.\n"
            "Next: leave one of them out"
        )
    url = options.spotlight.rstrip("/")
    parts = urlsplit(url)
    if not (parts.scheme in ("http", "https") and parts.hostname):
        raise Refused(f"--spotlight {options.spotlight}: expected {SPOTLIGHT} or the like")
    if not parts.path:
        url += "/stream"  # where it listens, as the SDK's own option has it
    problem = _unhealthy(url.rpartition("/")[0] + "/health")
    if problem:
        command = "spotlight" if shutil.which("spotlight") else "npx @spotlightjs/spotlight"
        lines = [f"no Spotlight answers at {url}: {problem}"]
        lines.append(f"Next: start it in another terminal, with {command}, then run this again")
        if command.startswith("npx") and not shutil.which("npx"):
            lines.append("(npx comes with Node.js, https://nodejs.org)")
        raise Refused("\n".join(lines))
    options.spotlight = url


def _unhealthy(url: str) -> str:
    """Why a GET of this is not answered with 200; empty if it is."""
    import http.client
    import urllib.error
    import urllib.request

    # The user's proxy is not for it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"{url} says {error.code} {error.reason}, its own output may say why"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def check_options(options: argparse.Namespace) -> None:
    if options.width is not None and options.width < LEAST_WIDTH:
        raise Refused(f"--width {options.width}: expected at least {LEAST_WIDTH} columns")
    if options.dsn:
        parts = urlsplit(options.dsn)
        if not (parts.scheme in ("http", "https") and parts.username and parts.hostname):
            raise Refused(
                f"--dsn {options.dsn}: expected https://KEY@HOST/PROJECT "
                "(in Sentry: Settings, Projects, Client Keys)"
            )
    sdk = supported.numbers(options.sdk or FIRST_STREAMING)
    if options.lifecycle == "stream" and sdk < supported.numbers(FIRST_STREAMING):
        raise Refused(
            f"--lifecycle stream with sentry-sdk {options.sdk}: needs {FIRST_STREAMING} or later\n"
            "Next: choose a later one with --sdk, or leave --lifecycle out"
        )
    check_page(options)
    check_spotlight(options)
    if options.port:
        # Looked at again when it is used, which is after the installation.
        import socket

        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", options.port))
            except (OSError, OverflowError) as error:
                raise Refused(
                    f"--port {options.port}: {error}\n"
                    "Next: choose another, or leave --port out for a free one"
                ) from None


def environment(options: argparse.Namespace, directory: Path) -> Dict[str, str]:
    """What the steps inherit."""
    inherited = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    inherited.update(
        TMPDIR=str(directory),  # what a killed step leaves there is removed, too
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_NO_INPUT="1",
        PIP_USER="0",
        PYTHONDONTWRITEBYTECODE="1",
    )
    if options.sdk:
        inherited["SENTRY_SDK_VERSION"] = options.sdk
    if not options.dsn:
        # The SDK would send through a proxy what is for loopback.
        inherited["NO_PROXY"] = inherited["no_proxy"] = ",".join(
            filter(None, ["127.0.0.1", inherited.get("no_proxy") or inherited.get("NO_PROXY")])
        )
    return inherited


def copy_checkout(target: Path) -> None:
    """A build leaves files beside its sources: build in a copy."""
    target.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(str(path), str(target / path.name))
    ignored = shutil.ignore_patterns("__pycache__", "_vendor", "*.egg-info")
    for name in DIRECTORIES:
        shutil.copytree(str(ROOT / name), str(target / name), ignore=ignored)


def install(runner: Runner, directory: Path, sdk: Optional[str], requirements: List[str]) -> str:
    """Install this checkout, and more, in a new environment of the directory; its Python."""
    source, venv = directory / "source", directory / "venv"
    python = str(venv / "bin" / "python")
    for made_before in (source, venv):
        shutil.rmtree(str(made_before), ignore_errors=True)
    copy_checkout(source)
    runner.step(
        f"Make a virtual environment (Python {platform.python_version()})",
        [sys.executable, "-m", "venv", str(venv)],
        "Next, on Debian and Ubuntu: apt install python3-venv",
    )
    runner.step(
        f"Install this checkout, built for {f'sentry-sdk {sdk}' if sdk else 'the newest SDK'}",
        [python, "-m", "pip", "install", "--progress-bar=off", str(source), *requirements],
    )
    return python


def demo(options: argparse.Namespace, signals: Signals, directory: Path) -> int:
    runner = Runner(signals, directory, environment(options, directory))
    python = install(runner, directory, options.sdk, REQUIREMENTS)
    command = [python, str(directory / "source" / "scripts" / "demo_project" / "run.py")]
    command += [f"--lifecycle={options.lifecycle}", f"--port={options.port}"]
    if options.dsn:
        command.append(f"--dsn={options.dsn}")
    else:
        command.append(f"--html={options.html}")
    if options.spotlight:
        command.append(f"--spotlight={options.spotlight}")
    if options.width:
        command.append(f"--width={options.width}")
    if options.no_color:
        command.append("--no-color")
    sys.stdout.flush()
    return runner.show(command)


def parse(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    supported.add_option(parser)
    parser.add_argument(
        "--lifecycle",
        choices=("static", "stream"),
        default="static",
        help="the SDK's trace_lifecycle (default: static; stream needs sentry-sdk "
        f"{FIRST_STREAMING} or later)",
    )
    parser.add_argument(
        "--dsn",
        help="send to this Sentry, and print which traces to look for, instead of comparing "
        "on loopback",
    )
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="where the page goes (default: .cache/demo.html in this checkout)",
    )
    parser.add_argument(
        "--spotlight",
        nargs="?",
        const=SPOTLIGHT,
        metavar="URL",
        help="show the same in Sentry's Spotlight, which has to be running: "
        f"npx @spotlightjs/spotlight (default: {SPOTLIGHT})",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        help="of the Django project, on 127.0.0.1 (default: 0, a free one)",
    )
    parser.add_argument(
        "--width",
        type=int,
        metavar="COLUMNS",
        help="of the report (default: the terminal's, or 100 if there is none; below 80 the "
        "two sides stand below each other)",
    )
    parser.add_argument("--no-color", action="store_true", help="no colours (as with NO_COLOR set)")
    return parser.parse_args(argv)


def exit_status(work: Callable[[Signals], int]) -> int:
    """Of some work; why it cannot be done is said on stderr."""
    signals = Signals()
    try:
        return work(signals)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted:
        print("stopped", file=sys.stderr)
        return 128 + (signals.received or 0)
    except BrokenPipeError:
        # Whoever read the output has gone; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def main(argv: Optional[List[str]] = None) -> int:
    options = parse(argv)

    def work(signals: Signals) -> int:
        check_machine()
        check_options(options)
        directory = Path(tempfile.mkdtemp(prefix="vendored-integration-demo-"))
        try:
            return demo(options, signals, directory)
        finally:
            shutil.rmtree(str(directory), ignore_errors=True)
            if directory.exists():
                print(f"warning: could not remove {directory}", file=sys.stderr)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
