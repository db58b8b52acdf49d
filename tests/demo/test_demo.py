"""scripts/demo.py, as a user runs it: in a process of its own, judged by what it prints and writes."""

import importlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sink import EnvelopeSink
from traces import Span, Trace, traces

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
DEMO = SCRIPTS / "demo.py"
SECOND_STAGE = SCRIPTS / "demo_project" / "run.py"
HOSTILE = "\"'><script>alert(1)</script><img src=x>{{ 7 }}{% now %} &amp; \N{SNOWMAN}"

NEEDED = ("django", "gunicorn", "requests", "rich", "vendored_integration")
needs_installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="the demo's second stage needs " + ", ".join(NEEDED),
)


def start(script, directory, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=str(directory),
        env={**os.environ, "TMPDIR": str(directory), "PYTHONIOENCODING": "utf-8", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process, timeout=100):
    """Its exit status, and its output as text."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out.decode(), err.decode()


def words(text):
    """The lines of a text, without the spaces that align them."""
    return [" ".join(line.split()) for line in text.splitlines()]


# -- the report


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the second stage prints, and the page that it writes."""
    directory = tmp_path_factory.mktemp("page")
    page = directory / "demo.html"
    status, out, err = finish(start(SECOND_STAGE, directory, f"--html={page}"))
    assert (status, err) == (0, "")
    assert list(directory.iterdir()) == [page]
    assert out.splitlines()[-1].endswith(f" {page}")
    return out, page.read_text(encoding="utf-8")


@needs_installed
def test_report(shown):
    """Ours has every span and every error at its place, and stock none; each line fits."""
    out = shown[0].rpartition("\n\n")[0]
    assert "\033" not in out
    assert max(map(len, out.splitlines())) <= 100
    total = int(re.search(r"(?m)^stock: (\d+) of \1 spans lost, 1 of 1 errors", out)[1])
    assert total > 20
    assert f"vendored_integration: 0 of {total} spans lost, 0 of 1 errors" in out
    assert {"completed", "failed", "cancelled"} <= set(re.findall(r"stream (\w+)", out))


@needs_installed
def test_stream_lifecycle_for_an_ascii_terminal(tmp_path):
    """Spans that stock sends in traces of their own are counted as such; nothing becomes "?"."""
    arguments = {"PYTHONIOENCODING": "ascii"}
    status, out, err = finish(start(SECOND_STAGE, tmp_path, "--lifecycle=stream", **arguments))
    assert (status, err) == (0, "")
    out.encode("ascii")
    assert "`--" in out
    assert "?" not in out.replace("/prices?n=", "")
    assert re.search(r"stock: 0 of (\d+) spans lost, \1 in traces of their own", out)


@needs_installed
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_sigterm_ends_the_server(tmp_path):
    process = start(SECOND_STAGE, tmp_path)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("demo-*/journal-stock.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert (status, err) == (128 + signal.SIGTERM, "")
    assert list(tmp_path.iterdir()) == []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            assert str(tmp_path).encode() not in (directory / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended


@needs_installed
def test_spotlight(tmp_path):
    """It gets the transactions that the terminal names, stock's and ours."""
    with EnvelopeSink() as spotlight:
        url = f"http://127.0.0.1:{spotlight.port}/api/1/envelope/"
        status, out, err = finish(start(SECOND_STAGE, tmp_path, f"--spotlight={url}"))
        assert (status, err) == (0, "")
        named = set(re.findall(r"\b[0-9a-f]{32}\b", out))
        assert len(named) == 10
        assert named <= {trace.trace_id for trace in traces(spotlight)}


# -- the page


class Page(HTMLParser):
    """Its elements with their attributes, and its texts. Errors: a tag that does not fit."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts += words(data)

    def count(self, css):
        return sum(css in (one.get("class") or "").split() for _, one in self.elements)


@needs_installed
def test_page_needs_nothing_but_itself(shown):
    """No script, and no address that a browser would fetch; links lead to their targets."""
    page = Page(shown[1])
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    for tag, attributes in page.elements:
        assert tag not in ("script", "img")
        assert not {"src", "srcset", "action", "background", "data", "poster"} & set(attributes)
        for name in "href", "aria-labelledby":
            assert attributes.get(name, "").lstrip("#") in ("", "data:,", *ids)
    assert re.findall(r"https?:|@import|url\(|@font-face", shown[1]) == []


@needs_installed
def test_page_shows_what_the_terminal_does(shown):
    out, text = shown
    page = Page(text)
    for line in words(out.partition("All streams")[2].partition("\n\n")[0])[2:]:
        title, _stock, _ours = re.match(r"(\D+?) (\d.*?) (\d.*)", f"{line}").groups()
        assert title in page.texts
    verdicts = re.findall(r"(?:all \d+|\d+ of \d+) spans of the body are \w+", out)
    assert Counter(verdicts) == Counter(one for one in page.texts if "spans of the body" in one)
    assert page.count("root") == 2 * 10 + 2  # a row and a bar each, and two in the legend
    assert page.count("missing") == 2 * int(re.search(r"of (\d+) spans lost", out)[1]) + 1
    assert {"ok, though the body failed", "ok, though the client hung up"} <= set(page.texts)


@needs_installed
def test_places_on_the_time_axis(shown):
    """A span of ours lies within its request, and stock's request ends before what is missing."""
    export = shown[1].partition('id="export"')[2].partition("</section>")[0]
    stock, ours = export.split("</article>")[:2]

    def bars(side, *kinds):
        """Where they begin and end, in percent."""
        pattern = rf'class="bar (?:{"|".join(kinds)})" style="left: (.*?)%; width: (.*?)%'
        found = [tuple(map(float, one)) for one in re.findall(pattern, side)]
        return [(left, left + width) for left, width in found]

    (request,) = bars(ours, "root")
    spans = bars(ours, "app", "db")
    assert len(spans) == 11
    assert all(request[0] - 0.02 <= left <= right <= request[1] + 0.02 for left, right in spans)
    (short,) = bars(stock, "root")
    assert short[1] < max(right for _, right in bars(stock, "missing")) <= 100


@pytest.fixture
def project(monkeypatch):
    monkeypatch.syspath_prepend(str(SECOND_STAGE.parent))
    yield importlib.import_module
    for path in SECOND_STAGE.parent.glob("*.py"):
        sys.modules.pop(path.stem, None)


@needs_installed
def test_time_axis(project):
    """A time's place is its share of the axis; ticks are round numbers of milliseconds."""
    axis = project("page").Axis(zero=1000.0, length=0.4)
    assert [axis.at(time) for time in (1000.1, 999.0, 1001.0)] == ["25.00%", "0.00%", "100.00%"]
    assert axis.bar("app", 1000.1, 1000.3) == {"kind": "app", "left": "25.00%", "width": "50.00%"}
    assert [tick["text"] for tick in axis.ticks()] == ["0", "100", "200", "300", "400"]


@needs_installed
def test_names_are_text(project):
    """Names of spans, errors and all else that an application chooses make no elements."""
    run, findings, page = project("run"), project("findings"), project("page")
    stream = run.Stream("hostile", HOSTILE, "/" + HOSTILE)
    served = run.Served(stream, "t", 200, 1, 1000.0, [0.1], 0.2, HOSTILE + "\ud800", [])
    span = Span(HOSTILE, HOSTILE, "s", "r", 1000.0, 1000.1, "ok", {})
    request = Trace(HOSTILE, HOSTILE, "r", None, 1000.0, 1000.2, "t", HOSTILE, {}, {}, [span])
    error = findings.Node("error", HOSTILE, HOSTILE, 1000.1, 1000.1)
    missing = findings.Node("missing", HOSTILE, HOSTILE, 1000.1, 1000.2)
    tree = findings._grow(request, request, {"s": [error]})
    finding = findings.Finding(served, request, tree, 1, [error], HOSTILE, [missing], [missing])
    sides = [findings.Side(name, [finding], 0) for name in findings.NAMES]
    found = Page(page.render(sides, dict.fromkeys(["versions", "lifecycle", "made"], HOSTILE)))
    assert {tag for tag, _ in found.elements} & {"script", "img"} == set()
    assert sum(HOSTILE in text for text in found.texts) > 10


# -- what is refused: exit status 2, a message, nothing begun


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
    status, out, err = finish(start(DEMO, tmp_path, *arguments))
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# -- all of it


@pytest.mark.network
def test_whole_run(tmp_path):
    page = tmp_path / "demo.html"
    status, out, err = finish(start(DEMO, tmp_path, f"--html={page}"), timeout=500)
    assert (status, err) == (0, "")
    assert "vendored_integration: 0 of " in out
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert list(tmp_path.iterdir()) == [page]
