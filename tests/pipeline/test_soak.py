"""scripts/soak.py: what its ledger notices, its slope, and the page made of it.

Nothing is soaked here: see tests/live/test_soak.py.
"""

import asyncio
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT = CHECKOUT / "scripts" / "soak_project"
MODULES = [path.stem for path in PROJECT.glob("*.py")]


@pytest.fixture(autouse=True)
def _project_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The project's modules have short names: they are gone again after each test."""
    before = dict(sys.modules)
    monkeypatch.syspath_prepend(str(PROJECT))
    yield
    for name in set(sys.modules) - set(before):
        if name in MODULES:
            del sys.modules[name]


def module(name: str) -> Any:
    return importlib.import_module(name)


COUNT = 200


def items(number: int) -> "List[Any]":
    """What Sentry hears of a request when all is well: the error first."""
    kind = module("kinds").kind_of(number)
    request = {"url": f"http://127.0.0.1:8000/{kind.name}/{number}"}
    trace: "Dict[str, Any]" = {"trace_id": f"{number:032x}", "status": kind.status}
    found = []
    if kind.fails:
        values = [{"type": "Soaked", "value": str(number)}]
        found.append(
            item("event", request=request, contexts={"trace": trace}, exception={"values": values})
        )
    if kind.outcome:
        trace["data"] = {"http.response.stream.outcome": kind.outcome}
    spans = [{"op": "soak"}] * kind.spans
    found.append(item("transaction", request=request, contexts={"trace": trace}, spans=spans))
    return found


def item(kind: str, **payload: Any) -> Any:
    return module("sink").Item({"type": kind}, json.dumps(payload).encode())


def changed(one: Any, change: "Callable[[Any], object]") -> Any:
    payload = one.json
    change(payload)
    return item(one.type, **payload)


def first(name: str) -> int:
    """The number of the first request of a kind."""
    kind_of = module("kinds").kind_of
    return next(number for number in range(COUNT) if kind_of(number).name == name)


def ledger_of(heard: "List[Any]") -> Any:
    """A ledger of `COUNT` requests, and these items."""

    async def fill() -> Any:
        ledger = module("ledger").Ledger(COUNT)
        # Without waiting for Sentry.
        module("ledger").BEHIND = COUNT + 1
        for number in range(COUNT):
            await ledger.begin(number)
        for one in heard:
            ledger.take(one)
        return ledger

    return asyncio.run(fill())


def all_items() -> "List[Any]":
    return [one for number in range(COUNT) for one in items(number)]


def test_all_is_well() -> None:
    ledger = ledger_of(all_items())
    assert (ledger.lost(), ledger.double(), ledger.problems.shown) == (0, 0, [])
    assert sum(row["transactions"] for row in ledger.table()) == COUNT
    assert sum(row["errors"] for row in ledger.table()) == COUNT // 10


@pytest.mark.parametrize("position", [0, 1])
def test_a_lost_and_a_double_one_do_not_make_up_for_each_other(position: int) -> None:
    """In total the number would be right."""
    heard = all_items()
    number = first("error")
    one = items(number)[position]
    heard.remove(one)
    other = items(first("stream-error"))[position]
    heard.append(other)
    ledger = ledger_of(heard)
    assert (ledger.lost(), ledger.double()) == (1, 1)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("hang-up", lambda event: event["contexts"]["trace"].update(status="ok"), "cancelled"),
        ("stream", lambda event: event["spans"].pop(), "expected"),
        ("stream", lambda event: event["contexts"]["trace"].pop("data"), "completed"),
        (
            "error",
            lambda event: event["contexts"]["trace"].update(trace_id="f" * 32),
            "another trace",
        ),
        ("plain", lambda event: event["request"].update(url="http://h/plain/999"), "requested"),
    ],
)
def test_what_is_wrong_with_a_transaction_is_said(
    name: str, change: "Callable[[Any], object]", said: str
) -> None:
    heard = all_items()
    one = items(first(name))[-1]
    heard[heard.index(one)] = changed(one, change)
    ledger = ledger_of(heard)
    assert ledger.problems.count == 1
    assert said in ledger.problems.shown[0]


def test_a_loss_that_the_sdk_reports_is_said() -> None:
    """Not that the second report of a stream's error, by the server's log, was dropped."""

    def report(reason: str) -> Any:
        lost = {"reason": reason, "category": "error", "quantity": 1}
        return item("client_report", discarded_events=[lost])

    assert ledger_of([report("event_processor")]).problems.count == 0
    assert "queue_overflow" in ledger_of([report("queue_overflow")]).problems.shown[0]


def test_the_client_waits_while_sentry_has_not_heard_of_too_many() -> None:
    """Otherwise the SDK's queue would drop what the soak then calls lost."""

    async def main() -> None:
        ledger = module("ledger").Ledger(COUNT)
        module("ledger").BEHIND = 10
        for number in range(10):
            await ledger.begin(number)
        waiting = asyncio.ensure_future(ledger.begin(10))
        await asyncio.sleep(0)
        assert not waiting.done()
        for number in range(10):
            for one in items(number):
                ledger.take(one)
        await waiting

    asyncio.run(main())


def test_the_mix_is_exact() -> None:
    kinds = module("kinds")
    for count in (1, 99, 100, 12_345):
        wanted = [kinds.kind_of(number) for number in range(count)]
        for kind in kinds.KINDS:
            assert kinds.requests_of(kind, count) == wanted.count(kind)


def test_the_slope_and_its_interval() -> None:
    """Of a line, that line; of noise around a constant, an interval around 0."""
    slope = module("growth").slope
    line = slope([(number, 1000 + 3 * number) for number in range(0, 4000, 10)])
    assert [round(value, 6) for value in line] == [3000.0] * 3
    noise = slope([(number, 1000 + 50 * (number * 7919 % 13)) for number in range(400)])
    assert noise.low < 0 < noise.high
    with pytest.raises(ValueError, match="39 samples"):
        slope([(number, 0) for number in range(39)])


RESULT = {
    "requests": 1000,
    "seconds": 2.0,
    "rate": 500.0,
    "kinds": [{"kind": "plain", "transactions": 1000, "errors": 100}],
    "lost": 0,
    "double": 0,
    "open": 0,
    "deadlines": 0,
    "threads": [5, 5],
    "resident": [50_000_000, 51_000_000],
    "slope": [12.0, -30.0, 54.0],
    "blocks": [10, 11],
}
ABOUT = {"date": "2026-01-01", "python": "3.11.7", "cores": 2, "versions": {"Django": "5.2"}}
CASE = {
    "ingest": "refuses",
    "transport": "bounded",
    "events": 100_000,
    "delivered": 0,
    "dropped": {"full_queue": 99_000, "network": 1000},
    "queued": 0,
    "CPU_ratio": 0.9,
    "wall_ratio": 0.8,
    "memory": 1.5,
}


def soak(*arguments: str, root: Path = CHECKOUT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(root / "scripts" / "soak.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )


def test_release_without_patches_is_refused() -> None:
    """Before anything is installed."""
    done = soak("--sdk", "9.9.9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "sentry-sdk 9.9.9: there are no patches for it" in done.stderr


def test_the_page_is_written_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--check fails before --docs and passes after it; what is around stays."""
    section = module("section")
    monkeypatch.setattr(section, "SOAK", tmp_path / "soak.json")
    monkeypatch.setattr(section, "OUTAGE", tmp_path / "outage.json")
    monkeypatch.setattr(section, "PAGE", tmp_path / "page.md")
    section.PAGE.write_text("before\n<!-- soak -->\n<!-- /soak -->\nafter\n", "utf-8")
    section.write_json(section.OUTAGE, {"about": ABOUT, "cases": [CASE]})
    section.keep({"about": ABOUT, "servers": {"gthread": RESULT}})
    assert section.update(section.PAGE, check=True) is None
    section.write_json(section.SOAK, {"about": ABOUT, "servers": {"gevent": RESULT}})
    assert "next: python3 scripts/soak.py --docs" in section.update(section.PAGE, check=True)
    section.keep({"about": ABOUT, "servers": {"gthread": RESULT}})
    text = section.PAGE.read_text("utf-8")
    assert text.startswith("before\n<!-- soak -->\n|")
    assert text.endswith("<!-- /soak -->\nafter\n")
    for said in ("gunicorn gevent | 1,000 | 1,000, 100 | 0 | 0 | 0 | 5 → 5", "network 1,000"):
        assert said in text
    section.PAGE.write_text("no markers", "utf-8")
    assert "<!-- soak -->" in section.update(section.PAGE, check=False)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("benchmarks/results", "patches", "scripts"):
        shutil.copytree(CHECKOUT / name, tmp_path / name)
    (tmp_path / "docs").mkdir()
    shutil.copy(CHECKOUT / "docs" / "reliability.md", tmp_path / "docs")
    return tmp_path


@pytest.mark.parametrize("damage", [None, "", "{", "[]", "{}", "empty"])
@pytest.mark.parametrize("name", ["soak.json", "outage.json"])
def test_a_table_without_its_results_is_an_error(
    clone: Path, name: str, damage: Optional[str]
) -> None:
    """And the page keeps the table that it has."""
    path, page = clone / "benchmarks" / "results" / name, clone / "docs" / "reliability.md"
    before = page.read_bytes()
    content = json.loads(path.read_text("utf-8"))
    path.unlink()
    if damage == "empty":
        kept = "servers" if name == "soak.json" else "cases"
        path.write_text(json.dumps({**content, kept: type(content[kept])()}))
    elif damage is not None:
        path.write_text(damage)
    for arguments in ("--docs", "--check"), ("--docs",):
        done = soak(*arguments, root=clone)
        assert done.returncode == 1
        assert f"{path}: missing or damaged" in done.stderr
        assert f"next: git checkout -- {path}" in done.stderr
        assert "Traceback" not in done.stderr
    assert page.read_bytes() == before


def test_a_page_that_is_not_there(clone: Path) -> None:
    page = clone / "docs" / "reliability.md"
    page.unlink()
    done = soak("--docs", root=clone)
    assert done.returncode == 1
    assert f"next: git checkout -- {page}" in done.stderr
    assert not page.exists()


def test_results_that_cannot_be_read_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the other server are in there."""
    section = module("section")
    monkeypatch.setattr(section, "SOAK", tmp_path / "soak.json")
    section.SOAK.write_text("{")
    with pytest.raises(section.Damaged):
        section.keep({"about": ABOUT, "servers": {"gthread": RESULT}})
    assert section.SOAK.read_text() == "{"
