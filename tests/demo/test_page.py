"""The page that the demo writes: what stands on it, and what a browser makes of it."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sentry_sdk
from browser import Browser, find
from stages import SECOND_STAGE, finish, needs_installed, start

from sink import EnvelopeSink
from traces import traces

pytestmark = needs_installed

VOID = {"meta", "link", "br", "wbr"}
HOSTILE = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 }}{% now %} &amp; \N{SNOWMAN}"
    + 200 * "w"
)


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag = tag
        self.attributes = attributes
        self.parent = parent
        self.children = []
        self.pieces = []

    @property
    def text(self):
        """As a reader sees it: with the white space of a line."""
        return " ".join("".join(self._texts()).split())

    def _texts(self):
        for piece in self.pieces:
            if isinstance(piece, Element):
                yield from piece._texts()
            else:
                yield piece

    def all(self, tag="", cls=""):
        """The elements below this one, in their order."""
        for child in self.children:
            classes = (child.attributes.get("class") or "").split()
            if tag in ("", child.tag) and (not cls or cls in classes):
                yield child
            yield from child.all(tag, cls)


class Document(HTMLParser):
    """A tree of elements. Errors: `AssertionError` for a tag that does not fit."""

    def __init__(self, text):
        super().__init__()
        self.root = self._open = Element("", {}, None)
        self.feed(text)
        self.close()
        assert self._open is self.root, f"<{self._open.tag}> is not closed"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        element = Element(tag, dict(attrs), self._open)
        self._open.children.append(element)
        self._open.pieces.append(element)
        if tag not in VOID:
            self._open = element

    def handle_endtag(self, tag):
        assert tag == self._open.tag, f"</{tag}> where <{self._open.tag}> is open"
        self._open = self._open.parent

    def handle_data(self, data):
        self._open.pieces.append(data)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the second stage prints, and the page that it writes."""
    directory = tmp_path_factory.mktemp("page")
    page = directory / "demo.html"
    status, out, err = finish(start(SECOND_STAGE, directory, "--width", "100", f"--html={page}"))
    assert (status, err) == (0, "")
    assert list(directory.iterdir()) == [page]
    return out, page


@pytest.fixture(scope="module")
def root(shown):
    return Document(shown[1].read_text(encoding="utf-8")).root


def lines_of(out):
    return [" ".join(line.split()) for line in out.splitlines()]


# -- what stands on it


def test_terminal_names_the_page(shown):
    out, page = shown
    assert out.splitlines()[-1].endswith(f" {page}")


def test_structure(root):
    """What a screen reader, a phone and a search in the page need."""
    (html,) = root.all("html")
    assert html.attributes["lang"] == "en"
    names = [element.attributes.get("name") for element in root.all("meta")]
    assert "viewport" in names
    assert [len(list(root.all(tag))) for tag in ("h1", "h2", "h3")] == [1, 2 + 5, 5 * 2]
    ids = [one.attributes["id"] for one in root.all() if "id" in one.attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    for element in root.all():
        for name in ("aria-labelledby", "href"):
            target = element.attributes.get(name, "").lstrip("#")
            assert target in ["", "data:,", *ids], f"{name} names {target}"


def test_page_needs_nothing_but_itself(shown, root):
    """No script, and no address that a browser would fetch."""
    assert list(root.all("script")) == []
    for element in root.all():
        for name in ("src", "srcset", "action", "background", "data", "poster"):
            assert name not in element.attributes
        if "href" in element.attributes:
            assert element.attributes["href"].startswith(("#", "data:"))
    text = shown[1].read_text(encoding="utf-8")
    assert re.findall(r"https?:|@import|url\(|@font-face", text) == []


def test_sums_are_the_terminals(shown, root):
    printed = lines_of(shown[0])
    (table,) = root.all("table")
    rows = [[cell.text for cell in row.children] for row in table.all("tr")]
    assert rows[0] == ["Counted", "stock", "vendored_integration"]
    assert len(rows) == 8
    for row in rows[1:]:
        assert " ".join(row) in printed
    (verdicts,) = root.all(cls="verdicts")
    assert [item.text in printed for item in verdicts.all("li")] == [True, True]
    assert printed[0] in next(root.all("footer")).text  # the versions


def test_streams_are_the_terminals(shown, root):
    """Each stream has both sides, and on each side what the terminal says of it."""
    out = shown[0]
    sections = [one for one in root.all("section") if "stream" in one.attributes["class"]]
    assert len(sections) == 5
    for section in sections:
        heading = next(section.all("h2"))
        title, target = heading.pieces[0].strip(), heading.children[0].text
        assert f"{title}  {target}" in out
        frame = out.split(f"{title}  {target}\n")[1].split("\n\n")[0].splitlines()
        middle = frame[0].index("┬")
        halves = [line[1:middle] for line in frame], [line[middle + 1 : -1] for line in frame]
        sides = list(section.all("article"))
        assert [next(side.all("h3")).text for side in sides] == ["stock", "vendored_integration"]
        for side, half in zip(sides, halves):
            assert_side_is_the_terminals(side, lines_of("\n".join(half)))


def assert_side_is_the_terminals(side, printed):
    rows = [row for row in side.all(cls="row") if "axis" not in row.attributes["class"]]

    def of_kind(*kinds):
        return [row for row in rows if row.attributes["class"].split()[1] in kinds]

    def value(row):
        return next(row.all(cls="value")).pieces[-1].strip()

    (client,) = of_kind("client")
    received = next(client.all(cls="note")).text.split(";")[0]
    assert f"client: {received} {value(client)}" in printed
    (request,) = of_kind("root")
    status = re.split(", though", next(side.all("dd")).text)[0]
    assert f"{next(request.all(cls='label')).text} {status} {value(request)}" in printed
    # Spans below each other: the tree's lines, as many, as long, in the same order.
    tree = [line for line in printed if re.match(r"[│├└ ]*[├└]── (?!!)", line)]
    spans = of_kind("app", "db")
    assert [value(row) for row in spans] == [" ".join(line.split()[-2:]) for line in tree]
    errors = " ".join(re.sub(r"^└── ! ", "", line) for line in printed)
    for row in of_kind("error"):
        label = next(row.all(cls="label")).text
        assert f"{label}: {next(row.all(cls='note')).text.split(';')[0]}" in errors
    assert len(of_kind("error")) == sum("── ! " in line for line in printed)
    counted = [line for line in printed if "spans of the body" in line]
    assert [one.text for one in side.children if one.tag == "p"] == counted
    missing = [int(line.split()[0]) for line in counted if "missing" in line]
    assert len(of_kind("missing")) == sum(missing)


def test_time_axis(project):
    """A time's place is its share of the axis; ticks are round numbers of milliseconds."""
    axis = project("page").Axis(zero=1000.0, length=0.4)
    assert [axis.at(time) for time in (1000.1, 999.0, 1001.0)] == ["25.00%", "0.00%", "100.00%"]
    assert axis.bar("app", 1000.1, 1000.3) == {"kind": "app", "left": "25.00%", "width": "50.00%"}
    assert axis.since(1000.1) == "100 ms"
    assert [(tick["text"], tick["left"]) for tick in axis.ticks] == [
        ("0", "0.00%"),
        ("100", "25.00%"),
        ("200", "50.00%"),
        ("300", "75.00%"),
        ("400", "100.00%"),
    ]
    assert axis.grid == "25.000%"


def test_places_on_the_time_axis(root):
    """Ours spans what its client sees; stock's transaction ends before the first that is missing."""
    export = next(one for one in root.all("section") if one.attributes.get("id") == "export")
    stock, ours = export.all("article")

    def bars(side, kind):
        """Where they begin and end, in percent."""
        found = []
        for bar in side.all("i", cls=kind):
            left, width = re.findall(r"[\d.]+", bar.attributes["style"])
            found.append((float(left), float(left) + float(width)))
        return found

    (request,) = bars(ours, "root")
    for span in bars(ours, "app") + bars(ours, "db"):
        assert request[0] - 0.02 <= span[0] <= span[1] <= request[1] + 0.02
    (short,) = bars(stock, "root")
    missing = bars(stock, "missing")
    assert len(missing) == 9
    assert missing[0][1] == max(end for _, end in missing)  # the one around the others
    assert short[1] < max(end for _, end in missing) <= 100


def test_log_lines(root):
    """Each with its request_id, or without, as the summary counts them."""
    counts = Counter()
    for side in root.all("article"):
        details = list(side.all("details"))
        for item in [item for one in details for item in one.all("li")]:
            name = next(side.all("h3")).text
            counts[name, "request_id=" in item.text, "no request_id" in item.text] += 1
    ((_, stock), (_, ours)) = sorted(counts.items(), key=lambda item: item[0][1])
    assert set(counts) == {("stock", False, True), ("vendored_integration", True, False)}
    (row,) = [row for row in root.all("tr") if row.text.startswith("log lines")]
    assert [cell.text for cell in row.children[1:]] == [f"0 of {stock}", f"{ours} of {ours}"]


# -- what others have named


def hostile_page(project, path):
    """A page about a request whose every text is HOSTILE, as Sentry has received it."""
    run, findings, page = project("run"), project("findings"), project("page")
    with EnvelopeSink() as sink:
        sentry_sdk.init(dsn=sink.dsn, traces_sample_rate=1.0, default_integrations=False)
        try:
            with sentry_sdk.start_transaction(op=HOSTILE, name=HOSTILE) as transaction:
                transaction.set_data("http.response.stream.outcome", HOSTILE)
                with sentry_sdk.start_span(op=HOSTILE) as span:
                    span.description = HOSTILE
                    sentry_sdk.capture_exception(type(HOSTILE, (Exception,), {})(HOSTILE))
                transaction.set_status(HOSTILE)
            sentry_sdk.flush()
        finally:
            sentry_sdk.init()
        zero = traces(sink)[0].start
        journal = [
            {"event": "span", "op": HOSTILE, "name": HOSTILE, "depth": 0, "seconds": 0.1},
            {"event": "span", "op": HOSTILE, "name": HOSTILE, "depth": 1, "seconds": 0.1},
            {"event": "query", "sql": HOSTILE, "depth": 2, "seconds": 0.1},
            {"event": "error", "type": HOSTILE, "value": HOSTILE},
            {"event": "end", "request_id": HOSTILE},
        ]
        served = run.Served(
            stream=run.Stream("hostile", HOSTILE, "/" + HOSTILE),
            trace_id=transaction.trace_id,
            status=200,
            size=1,
            started=zero,
            arrivals=[0.1],
            seconds=0.2,
            ending=HOSTILE + "\ud800",  # which UTF-8 has no bytes for
            journal=[{**entry, "time": zero + 0.15} for entry in journal],
        )
        sides = findings.compare(
            {"stock": [served], "ours": [served]}, {"stock": sink, "ours": sink}
        )
    page.write(path, sides, dict.fromkeys(["versions", "lifecycle", "made"], HOSTILE))
    return path.read_text(encoding="utf-8")


def test_names_are_text(project, tmp_path):
    """Names of spans, errors and all else that an application chooses make no elements."""
    text = hostile_page(project, tmp_path / "demo.html")
    root = Document(text).root
    assert list(root.all("script")) == list(root.all("img")) == []
    assert not any(name.startswith("on") for one in root.all() for name in one.attributes)
    assert root.text.count("<script>alert(1)</script>") > 20
    assert root.text.count("{{ 7 }}{% now %} &amp;") > 20
    for side in root.all("article"):
        kinds = Counter(row.attributes["class"].split()[1] for row in side.all(cls="row"))
        # One of the two spans is known to Sentry.
        assert kinds == Counter(axis=1, client=1, root=1, app=1, error=1, missing=2, log=1)


# -- how it is written


def test_page_that_cannot_be_written_leaves_the_old_one(project, tmp_path, monkeypatch):
    page = project("page")
    path = tmp_path / "demo.html"
    path.write_text("the old one")

    def replace(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="No space"):
        page.write(path, [], {})
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


# -- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    executable = find()
    if executable is None:
        pytest.skip("no Chromium on PATH; on Debian: apt install chromium")
    with Browser(executable, tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def boxes(tab, selector):
    """Left and top of each element, in CSS pixels."""
    return tab.evaluate(
        f"[...document.querySelectorAll({selector!r})]"
        ".map(one => one.getBoundingClientRect()).map(box => [box.left, box.top])"
    )


def assert_fits(tab, url, width):
    """Nothing sticks out to the right, the console is empty, and nothing else was fetched."""
    assert tab.evaluate("innerWidth") == width
    for state in ("closed", "open"):
        if state == "open":
            tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        wide = tab.evaluate("document.scrollingElement.scrollWidth")
        assert wide <= width, f"{wide} pixels wide with the log lines {state}"
    assert tab.complaints() == []
    assert tab.requests() == [url]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_page_in_chromium(browser, shown, width, dark):
    """It fits a phone, where stock stands above ours, and a screen, where it stands beside."""
    url = shown[1].as_uri()
    tab = browser.open(url, width, dark=dark)
    assert_fits(tab, url, width)
    for stock, ours in zip(boxes(tab, ".side.stock"), boxes(tab, ".side.ours")):
        if width == 360:
            assert (stock[0], stock[1] < ours[1]) == (ours[0], True)
        else:
            assert (stock[0] < ours[0], stock[1]) == (True, ours[1])
    color = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", color)[:3]))
    assert (brightness < 3 * 128) == dark


@pytest.mark.parametrize("width", [360, 1280])
def test_hostile_names_in_chromium(browser, project, tmp_path, width):
    """Long names without a space stick out nowhere, and run nothing."""
    path = tmp_path / "demo.html"
    hostile_page(project, path)
    tab = browser.open(path.as_uri(), width)
    assert_fits(tab, path.as_uri(), width)
    assert tab.evaluate("document.querySelectorAll('script, img').length") == 0
