"""A headless Chromium, asked over its DevTools protocol.

    with Browser(find(), tmp_path) as browser:
        page = browser.open("file:///tmp/page.html", width=360, dark=True)
        page.evaluate("document.title")

Commands and events go through two pipes, as JSON with a NUL behind each, so that no
WebSocket library is needed: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT = 60.0  # seconds, for everything that is waited for here

# Chromium reads file descriptor 3 and writes to 4. Either may be one of the pipes' ends.
LAUNCH = """
import fcntl, os, sys
to_browser, from_browser = (fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3])
os.dup2(to_browser, 3)
os.dup2(from_browser, 4)
os.closerange(5, 256)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find():
    """The path of a Chromium, or `None`."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    def __init__(self, executable, directory):
        self._replies = {}
        self.events = []
        self._buffer = b""
        self._number = 0
        to_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()
        options = [
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={directory / 'chromium'}",
            "--no-first-run",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
        ]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # which is not to be had for root
        ends = [str(to_browser), str(from_browser)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *ends, executable, *options, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[to_browser, from_browser],
        )
        os.close(to_browser)
        os.close(from_browser)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        try:
            with contextlib.suppress(OSError, RuntimeError):
                self.command("Browser.close")
                self._process.wait(TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._commands)
            os.close(self._answers)

    def command(self, method, session=None, **parameters):
        """Its result. Errors: `RuntimeError` with the browser's message."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._write(json.dumps(message).encode() + b"\0")
        number = self._number
        self.read_until(lambda: number in self._replies, method)
        reply = self._replies.pop(number)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']['message']}")
        return reply["result"]

    def _write(self, data):
        while data:
            data = data[os.write(self._commands, data) :]

    def read_until(self, condition, what):
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            ready, _, _ = select.select([self._answers], [], [], deadline - time.monotonic())
            data = os.read(self._answers, 1 << 16) if ready else b""
            if not data:
                raise RuntimeError(f"{what}: no answer of the browser")
            *messages, self._buffer = (self._buffer + data).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._replies[message["id"]] = message
                else:
                    self.events.append(message)

    def open(self, url, width, height=800, dark=False):
        """A new tab with a page of this width in CSS pixels, once it has been loaded."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        tab = Tab(self, attached["sessionId"])
        for domain in "Page", "Log", "Runtime", "Network":
            tab.command(f"{domain}.enable")
        tab.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        tab.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        tab.command("Page.navigate", url=url)
        self.read_until(lambda: tab.events("Page.loadEventFired"), url)
        return tab


class Tab:
    def __init__(self, browser, session):
        self._browser = browser
        self._session = session

    def command(self, method, **parameters):
        return self._browser.command(method, self._session, **parameters)

    def events(self, method):
        """The parameters of the events of this kind so far."""
        return [
            event["params"]
            for event in self._browser.events
            if event["method"] == method and event.get("sessionId") == self._session
        ]

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def complaints(self):
        """What the browser's console shows."""
        return (
            [event["entry"]["text"] for event in self.events("Log.entryAdded")]
            + [event["args"] for event in self.events("Runtime.consoleAPICalled")]
            + [
                event["exceptionDetails"]["text"]
                for event in self.events("Runtime.exceptionThrown")
            ]
        )

    def requests(self):
        """The addresses that have been asked for."""
        return [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]

    def screenshot(self, path, whole=True):
        data = self.command("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
