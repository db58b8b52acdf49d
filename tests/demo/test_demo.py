"""scripts/demo.py, as a user runs it: in a process of its own, judged by what it prints and writes."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sink import EnvelopeSink
from traces import traces

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
DEMO = SCRIPTS / "demo.py"
HOSTILE = "\"'><script>alert(1)</script><img src=x>{{ 7 }}{% now %} &amp; \N{SNOWMAN}"

SPANS = "spans of the bodies in their request's transaction"
ERRORS = "errors of the bodies at a span of that transaction"
STRAYS = "spans of the bodies in traces of their own"

for needed in "django", "gunicorn", "requests", "rich", "vendored_integration":
    pytest.importorskip(needed)


def start(directory, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(DEMO), *arguments],
        cwd=str(directory),
        env={**os.environ, "TMPDIR": str(directory), "PYTHONIOENCODING": "utf-8", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        encoding="utf-8",
    )


def finish(process, timeout=100):
    """Its exit status, and its output."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def sums(out):
    """The table of all streams, as a dictionary for each side."""
    lines = out.partition("All streams")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [re.split(r" +\| +| {2,}", line.strip()) for line in lines]
    return {title: stock for title, stock, _ in cells}, {title: ours for title, _, ours in cells}


class Page(HTMLParser):
    """The page's elements with their attributes, and its texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)
        self.close()
        # Nothing that a browser would run or fetch.
        assert {tag for tag, _ in self.elements} & {"script", "img", "link"} == set()
        names = {name for _, attributes in self.elements for name in attributes}
        assert names & {"src", "srcset", "href", "action", "background", "data", "poster"} == set()
        assert re.findall(r"https?:|@import|url\(|@font-face", text) == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the second stage prints, and the page that it writes."""
    directory = tmp_path_factory.mktemp("page")
    page = directory / "demo.html"
    status, out, err = finish(start(directory, "--installed", f"--html={page}"))
    assert (status, err) == (0, "")
    assert list(directory.iterdir()) == [page]
    assert out.splitlines()[-1].endswith(f" {page}")
    return out, page.read_text(encoding="utf-8")


def test_report(shown):
    """Ours has every span and every error at its place, and stock none; each line fits."""
    out = shown[0].rpartition("\n\n")[0]
    assert "\033" not in out
    assert max(map(len, out.splitlines()[1:])) <= 100
    stock, ours = sums(out)
    total = int(stock[SPANS].rpartition(" ")[2])
    assert total > 20
    assert (stock[SPANS], ours[SPANS]) == (f"0 of {total}", f"{total} of {total}")
    assert (stock[ERRORS], ours[ERRORS]) == ("0 of 1", "1 of 1")
    assert {"completed", "failed", "cancelled"} <= set(re.findall(r"stream (\w+)", out))


def test_stream_lifecycle_for_an_ascii_terminal(tmp_path):
    """Spans that stock sends in traces of their own are counted as such; nothing becomes "?"."""
    arguments = ["--installed", "--lifecycle=stream", f"--html={tmp_path / 'demo.html'}"]
    status, out, err = finish(start(tmp_path, *arguments, PYTHONIOENCODING="ascii"))
    assert (status, err) == (0, "")
    assert out.isascii()
    assert "`--" in out
    assert "?" not in out.replace("/prices?n=", "")
    stock, ours = sums(out)
    total = ours[SPANS].rpartition(" ")[2]
    assert (stock[STRAYS], ours[STRAYS]) == (total, "0")
    assert (ours[SPANS], ours[ERRORS]) == (f"{total} of {total}", "1 of 1")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_sigterm_ends_the_server(tmp_path):
    process = start(tmp_path, "--installed")
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("demo-*/journal")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert (status, err) == (128 + signal.SIGTERM, "")
    assert list(tmp_path.iterdir()) == []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            assert not os.readlink(str(directory / "cwd")).startswith(str(tmp_path))
        except OSError:
            continue  # it has ended


def test_dsn(tmp_path):
    """That Sentry gets the transactions that the terminal names, stock's and ours."""
    with EnvelopeSink() as sentry:
        status, out, err = finish(start(tmp_path, "--installed", f"--dsn={sentry.dsn}"))
        assert (status, err) == (0, "")
        named = set(re.findall(r"\b[0-9a-f]{32}\b", out))
        assert len(named) == 10
        assert named <= {trace.trace_id for trace in traces(sentry)}


def test_page_shows_what_the_terminal_does(shown):
    """The sums, and a bar for each span, within the request's if the body is ours to trace."""
    out, text = shown
    page = Page(text)
    for side in sums(out):
        assert {*side, *side.values()} <= set(page.texts)
    export = text.partition("/export.csv</code>")[2].partition("</section>")[0]

    def bars(side, kinds):
        """Where they begin and end, in percent."""
        rows = re.findall(rf'class="row (?:{kinds})".*?left: (.*?)%; width: (.*?)%', side, re.S)
        return [(float(left), float(left) + float(width)) for left, width in rows]

    stock, ours = export.split("</article>")[:2]
    (client,), (request,), (short,) = bars(ours, "client"), bars(ours, "root"), bars(stock, "root")
    spans = bars(ours, "app|db")
    assert len(spans) == 11
    assert all(request[0] - 0.02 <= left <= right <= request[1] + 0.02 for left, right in spans)
    assert client[0] == 0 <= request[0] < request[1] <= 100.01
    assert short[1] < bars(stock, "client")[0][1] <= 100.01


def test_names_are_text(monkeypatch):
    """Names of spans, errors and all else that an application chooses make no elements."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(SCRIPTS / "demo_project"))
    streams, findings, report = map(importlib.import_module, ["streams", "findings", "report"])
    stream = streams.Stream("hostile", HOSTILE, "/" + HOSTILE)
    served = streams.Served(stream, "t", 200, 1, 1000.0, 1000.2, HOSTILE)
    rows = [
        findings.Row(1, kind, HOSTILE, HOSTILE, 1000.0, 1000.1)
        for kind in ("client", "root", "app", "db", "error", "bad")
    ]
    finding = findings.Finding(served, rows, {}, 0.1)
    sides = [findings.Side(HOSTILE, [finding], rows)] * 2
    page = Page(report.page(sides, HOSTILE))
    assert sum(HOSTILE in text for text in page.texts) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dsn", "sentry.example"], "expected https://KEY@HOST"),
        (["--html", "missing/demo.html"], "expected a file in a directory"),
        (["--html", "."], "expected a file in a directory"),
        (["--sdk", "9.9.9"], "sentry-sdk 9.9.9"),
        (["--sdk", "2.60.0", "--lifecycle", "stream"], "needs sentry-sdk 2.61.0"),
    ],
)
def test_refused(tmp_path, arguments, message):
    """Exit status 2, a message, nothing begun."""
    status, out, err = finish(start(tmp_path, *arguments))
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.network
def test_whole_run(tmp_path):
    page = tmp_path / "demo.html"
    status, out, err = finish(start(tmp_path, f"--html={page}"), timeout=500)
    assert (status, err) == (0, "")
    assert sums(out)[1][ERRORS] == "1 of 1"
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
