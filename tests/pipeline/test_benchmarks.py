"""benchmarks/: the arithmetic, the verdicts and the README's section, with made-up numbers.

And what their command lines refuse. Nothing is measured here.
"""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SUITE = CHECKOUT / "benchmarks" / "suite"

MODULES = [path.stem for path in SUITE.glob("*.py")]


@pytest.fixture(autouse=True)
def _suite_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The suite's modules have short names: they are gone again after each test."""
    before = dict(sys.modules)
    monkeypatch.syspath_prepend(str(SUITE))
    yield
    for name in set(sys.modules) - set(before):
        if name in MODULES:
            del sys.modules[name]


def module(name: str) -> Any:
    return importlib.import_module(name)


def made_up(**changes: Dict[str, Any]) -> Any:
    """Results that meet every target; a change is `part__system__work__rate=[values]`."""
    results = module("results")
    about = {
        "date": "2026-01-01",
        "machine": {"processor": "P", "cores": "2", "system": "S", "python": "3.11.7"},
        "versions": {"sentry-sdk": "9.0.0"},
        "quick": False,
    }
    found = results.Results(about)
    row = results.Row

    def add(part: str, system: str, work: str, rate: float, *values: float, **more: Any) -> None:
        key = f"{part}__{system}__{work}__{rate:g}"
        found.add(row(part, system, work, rate, "static", changes.get(key, list(values)), **more))

    for work, cost in (("plain", 100), ("stream-100", 1_000), ("stream-10000", 100_000)):
        add("instructions", "bare", work, 0, cost)
    for rate, costs in ((0.0, (300, 200)), (1.0, (500, 400))):
        for (system, spans), cost in zip((("stock", 2), ("ours", 2)), costs):
            add("instructions", system, "plain", rate, cost, spans=spans)
            found.add(row("instructions", system, "plain", rate, "stream", [cost]))
        add("instructions", "ours-close", "plain", rate, costs[1], spans=5)
    for system, chunk in (("stock", 30_000), ("ours", 1_000)):
        add("instructions", system, "stream-100", 1, 1_000 + 5_000 + 100 * chunk)
        add("instructions", system, "stream-10000", 1, 100_000 + 5_000 + 10_000 * chunk)
    add("scheduler", "ours", "pair@0", 0, 0.5e-6, 0.6e-6, 0.7e-6)
    add("scheduler", "timer", "pair", 0, 60e-6, 60e-6, 60e-6)
    for system, each, threads in (("stock", 4_000, 1), ("ours", 8_000, 5)):
        add("memory", system, "open@0", 1, 1_000_000)
        add("memory", system, "open@10000", 1, 1_000_000 + 10_000 * each)
        add("memory", system, "threads@10000", 1, threads)
        add("memory", system, "after", 1, 1_000_100)
    add("memory", "bare", "open@0", 0, 1_000_000)
    add("memory", "bare", "open@10000", 0, 1_000_000 + 10_000 * 1_000)
    add("memory", "bare", "at-work", 0, 2_000)
    add("memory", "stock", "at-work", 1, 6_000)
    add("imports", "stock", "import", 0, 0.030)
    add("imports", "ours", "import", 0, 0.034)
    for length in (10, 100, 1_000):
        add("growth", "bare", f"stream@{length}", 0, 100 + 10 * length)
        add("growth", "ours", f"stream@{length}", 1, 900 + 30 * length)
    for what in ("open", "pending"):
        for number in (0, 100):
            add("growth", "ours", f"{what}@{number}", 0, 1_000 + number / 100)
    return found


def verdict(results: Any, work: str) -> Any:
    return next(one for one in module("targets").verdicts(results) if work in one.target.work)


def test_start_up_cancels_out() -> None:
    """A fixed cost in both runs must not be a part of the cost of one request."""
    report = {
        "runs": [
            {"path": "/x", "requests": 10, "traces": 1},
            {"path": "/x", "requests": 30, "traces": 6},
            {"path": "/x", "requests": 10, "traces": 2},
            {"path": "/x", "requests": 30, "traces": 7},
        ],
        "spans": {"/x": 3},
    }
    counted = module("callgrind").evaluate(report, [1_010, 1_030, 5_020, 5_080])
    assert counted["/x"].values == [1.0, 3.0]
    assert counted["/x"].share == 10 / 40
    assert counted["/x"].spans == 3


def test_a_ratio_is_of_one_round() -> None:
    """A round on a busy machine is slow for both: the ratio must not show it."""
    stats = module("stats")
    ours, stock, bare = [20.0, 200.0], [30.0, 300.0], [10.0, 100.0]
    ratios = stats.ratio(stats.over(ours, bare), stats.over(stock, bare))
    assert ratios == [0.5, 0.5]


def test_a_base_lost_in_noise_gives_no_ratio() -> None:
    """An overhead of 0 or less is no unit."""
    assert module("stats").ratio([1.0, 1.0], [0.0, 2.0]) == [0.5]


def test_chance_does_not_change_the_cost_at_a_rate_in_between() -> None:
    """Two runs with different shares of sampled requests give the same cost."""
    results, row = made_up(), module("results").Row
    for share in (0.05, 0.2):
        cost = 300 + share * 200
        results.add(row("instructions", "stock", "plain", 0.1, "static", [cost], share=share))
        assert results.values("instructions", "stock", "plain", 0.1) == [pytest.approx(320)]


def test_all_targets_can_be_met() -> None:
    """Each target is computed from what a run measures, and says so if it is met."""
    found = module("targets").verdicts(made_up())
    assert [one.word for one in found] == ["met"] * len(found)


@pytest.mark.parametrize(
    ("work", "key", "values", "word"),
    [
        ("plain request, not sampled", "instructions__ours__plain__0", [260], "short by 0.25"),
        ("request, sampled", "instructions__ours__plain__1", [500], "short by 0.1"),
        (
            "one chunk",
            "instructions__ours__stream-10000__1",
            [100_000 + 5_000 + 10_000 * 1_000 + 9_900 * 2_000],
            "short by 0.02",
        ),
        ("threads added", "memory__ours__threads@10000__1", [7], "short by 2 threads"),
        (
            "memory each",
            "memory__ours__open@10000__1",
            [1_000_000 + 10_000 * 10_096],
            "short by 1,000 bytes",
        ),
        ("import time", "imports__ours__import__0", [0.0365], "short by 1.5 ms"),
        ("per chunk", "growth__ours__stream@1000__1", [900 + 30 * 1_000 + 1_000], "short by"),
        ("per request", "growth__ours__open@100__0", [1_100], "short by 0.05"),
        ("memory left", "memory__ours__after__1", [1_000_000 + 8_000_000], "short by 0.09"),
    ],
)
def test_a_missed_target_says_by_how_much(work: str, key: str, values: Any, word: str) -> None:
    """One number that is too large misses one target, by the difference."""
    assert verdict(made_up(**{key: values}), work).word.startswith(word)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    """A run without valgrind or with --only must not look like a success."""
    results = module("results")
    empty = results.Results(made_up().about)
    found = module("targets").verdicts(empty)
    assert {one.word for one in found} == {"not measured"}
    assert not any(one.met for one in found)


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    """The README is made of the file, so that it must say all that was measured."""
    results, path = made_up(), tmp_path / "results.json"
    results.write(path)
    read = module("results").Results.read(path)
    tables = module("tables")
    assert tables.section(read) == tables.section(results)
    assert read.parts() == results.parts()


def test_the_section_is_written_once_and_checked(tmp_path: Path) -> None:
    """--check fails before --readme and passes after it; what is around stays."""
    tables, results = module("tables"), made_up()
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks -->\n<!-- /benchmarks -->\nafter\n")
    assert "next: python3 benchmarks/run.py --readme" in tables.readme(readme, results, True)
    assert tables.readme(readme, results, False) is None
    assert tables.readme(readme, results, True) is None
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- /benchmarks -->\nafter\n")
    assert "| schedule + cancel of a deadline | below 1 µs | 0.6 µs" in text


def test_a_readme_without_markers_is_refused() -> None:
    """A lost marker must not lose the text around it."""
    with pytest.raises(module("errors").BenchmarkError, match="expected the lines"):
        module("tables").with_section("nothing here", made_up())


def test_wrk_is_read_in_each_of_its_units() -> None:
    """A percentile in microseconds is not one in milliseconds; failures are counted."""
    out = """  Latency Distribution
     50%    1.20ms
     99%  {p99}
  Socket errors: connect 1, read 2, write 0, timeout 3
  Non-2xx or 3xx responses: 4
Requests/sec:   1234.50
"""
    load = module("load")
    for text, seconds in (("850.00us", 0.00085), ("2.50ms", 0.0025), ("1.20s", 1.2)):
        found = load.parse(out.format(p99=text))
        assert found.rate == 1234.5
        assert found.p99 == pytest.approx(seconds)
        assert found.failed == 10
    with pytest.raises(module("errors").BenchmarkError):
        load.parse("unable to connect")


def test_pyperf_files_are_read_with_one_and_with_more_benchmarks() -> None:
    """pyperf moves what all benchmarks share to the top: the name, if there is one only."""
    wallclock = module("wallclock")
    runs = [{"metadata": {}}, {"values": [3.0, 2.0, 4.0]}]
    assert wallclock.least({"metadata": {"name": "/a"}, "benchmarks": [{"runs": runs}]}) == {
        "/a": 2.0
    }
    more = [{"metadata": {"name": name}, "runs": runs} for name in ("/a", "/b")]
    assert wallclock.least({"benchmarks": more}) == {"/a": 2.0, "/b": 2.0}


def test_bare_django_is_measured_once() -> None:
    """It has no rate and no lifecycle; all others have every one that they know."""
    runs = module("systems").runs(
        ["bare", "stock", "older"], ["plain", "asgi-100"], [0.0, 0.1, 1.0], ["static", "stream"]
    )
    by_system = {
        name: [(run.rate, run.lifecycle, run.kind) for run in runs if run.system == name]
        for name in ("bare", "stock", "older")
    }
    assert by_system["bare"] == [(0.0, "static", "wsgi"), (0.0, "static", "asgi")]
    assert len(by_system["stock"]) == 2 * (3 + 2)
    assert by_system["older"] == [(rate, "static", "wsgi") for rate in (0.0, 0.1, 1.0)]


# -- the command lines


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a fresh clone has of the benchmarks, and nothing that has been installed for them."""
    for name in ("benchmarks", "patches", "scripts"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=ignored)
    return tmp_path


def run(clone: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, *command],
        cwd=clone,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert not (clone / ".cache").exists()
    return done


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--sdk 9.9.9", "sentry-sdk 9.9.9: there are no patches for it"),
        ("--package nowhere", "next: name the directory that has vendored_integration/ in it"),
        ("--rates x", "x: expected numbers from 0 to 1"),
        ("--rates 2", "2: expected numbers from 0 to 1"),
        ("--works x", "works: no x; expected plain"),
        ("--readme --report", "not allowed with argument"),
        ("--check", "--check goes with --readme"),
        ("--write --quick", "--write is for a whole run"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_installed(
    clone: Path, arguments: str, said: str
) -> None:
    done = run(clone, "benchmarks/run.py", *arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_help_needs_nothing_installed(clone: Path) -> None:
    done = run(clone, "-S", "benchmarks/run.py", "--help")
    assert done.returncode == 0
    assert "--only" in done.stdout


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"about": {}, "rows": [{"part": 1}]}'])
@pytest.mark.parametrize("option", ["--report", "--readme"])
def test_results_that_cannot_be_read(clone: Path, option: str, text: Optional[str]) -> None:
    path = clone / "benchmarks" / "results" / "results.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    done = run(clone, "benchmarks/suite", option)
    assert done.returncode == 1
    assert f"{path}: missing or damaged" in done.stderr
    assert "git checkout -- benchmarks/results/results.json" in done.stderr


def test_a_readme_that_is_not_there(clone: Path) -> None:
    done = run(clone, "benchmarks/suite", "--readme")
    assert done.returncode == 1
    assert "git checkout -- README.md" in done.stderr
    assert not (clone / "README.md").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--rounds 0", "0: expected a number from 1 on"),
        ("--rounds=-1", "-1: expected a number from 1 on"),
        ("--events 9", "9: expected a number from 10 on"),
        ("--events many", "many: expected a number from 10 on"),
        ("--write --ingest refuses", "--write is for all cases"),
        ("--write --transport stock", "--write is for all cases"),
        ("--sdk 9.9.9", "sentry-sdk 9.9.9: there are no patches for it"),
    ],
)
def test_a_wrong_command_line_of_the_outage_is_refused(
    clone: Path, arguments: str, said: str
) -> None:
    """Before anything is installed; and the kept results stay."""
    path = clone / "benchmarks" / "results" / "outage.json"
    before = path.read_bytes()
    done = run(clone, "-S", "benchmarks/outage.py", *arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert path.read_bytes() == before
