"""The measurements: each adds its rows to the results."""

import contextlib
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set

import callgrind
import environments
import load
import wallclock
from environments import Environment
from errors import BenchmarkError
from results import Results, Row
from systems import SYSTEMS, WORKS, Run, runs

Say = Callable[[str], None]


class Plan(NamedTuple):
    """What is to be measured, and how long."""

    systems: "List[str]"
    works: "List[str]"
    rates: "List[float]"
    lifecycles: "List[str]"
    quick: bool
    environments: "Dict[str, Environment]"
    say: Say

    def environment(self, system: str) -> Environment:
        """Where a system lives."""
        return self.environments[SYSTEMS[system].environment]

    def runs(self) -> "List[Run]":
        """A process for each."""
        return runs(self.systems, self.works, self.rates, self.lifecycles)

    def sentry(self) -> Environment:
        """Where stock and ours live."""
        return self.environments["sentry"]


@contextlib.contextmanager
def _left_out_if_it_fails(system: str, left_out: "Set[str]", say: Say) -> "Iterator[None]":
    """A failure of others' systems is said, and the rest is measured without it.

    valgrind does not know every instruction that their binaries are made of, and not each
    of their releases has what the worker uses.
    """
    try:
        yield
    except BenchmarkError as error:
        if system in ("bare", "stock", "ours", "ours-close"):
            raise
        left_out.add(system)
        say(f"left out from here on: {error}")


def instructions(plan: Plan, results: Results) -> None:
    """Instructions a request, for each system, rate, lifecycle and kind of work."""
    if not callgrind.available():
        plan.say(callgrind.MISSING)
        return
    left_out: "Set[str]" = set()

    def count(run: Run) -> "List[Row]":
        system, rate, lifecycle, kind, names = run
        if system in left_out:
            return []
        plan.say(f"instructions: {SYSTEMS[system].label}, rate {rate:g}, {lifecycle}, {kind}")
        # A share of sampled requests needs many.
        factor = 1 if rate in (0.0, 1.0) else 3
        works = [
            (WORKS[name].path, WORKS[name].few * factor, WORKS[name].many * factor)
            for name in names
        ]
        rows: "List[Row]" = []
        with _left_out_if_it_fails(system, left_out, plan.say):
            counted = callgrind.count(
                plan.environment(system),
                SYSTEMS[system].worker,
                works,
                rate,
                lifecycle,
                kind,
                rounds=1 if plan.quick else 2,
            )
            for name in names:
                values, share, spans = counted[WORKS[name].path]
                rows.append(
                    Row("instructions", system, name, rate, lifecycle, values, share, spans)
                )
        return rows

    _side_by_side(count, plan.runs(), results)


def _side_by_side(
    count: "Callable[[Any], List[Row]]", arguments: "List[Any]", results: Results
) -> None:
    """Add what processes count that run side by side: it does not depend on time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for rows in pool.map(count, arguments):
            for row in rows:
                results.add(row)


def seconds(plan: Plan, results: Results) -> None:
    """Seconds a request, for the same; round by round, all systems in each."""
    found: "Dict[tuple[Run, str], List[float]]" = {}
    rounds = 2 if plan.quick else 3
    left_out: "Set[str]" = set()
    for number in range(rounds):
        for run in plan.runs():
            if run.system in left_out:
                continue
            plan.say(
                f"wallclock: round {number + 1} of {rounds}, {SYSTEMS[run.system].label}, "
                f"rate {run.rate:g}, {run.lifecycle}, {run.kind}"
            )
            # No share is counted here: of a rate in between many requests are made.
            factor = 1 if run.rate in (0.0, 1.0) else 10
            works = [(WORKS[name].path, WORKS[name].timed * factor) for name in run.works]
            with _left_out_if_it_fails(run.system, left_out, plan.say):
                measured = wallclock.measure(
                    plan.environment(run.system),
                    works,
                    system=SYSTEMS[run.system].worker,
                    rate=run.rate,
                    lifecycle=run.lifecycle,
                    kind=run.kind,
                )
                for name in run.works:
                    found.setdefault((run, name), []).append(measured[WORKS[name].path])
    for (run, name), values in found.items():
        results.add(Row("wallclock", run.system, name, run.rate, run.lifecycle, values))


def growth(plan: Plan, results: Results) -> None:
    """Instructions of longer and longer streams, among more and more open responses."""
    if not callgrind.available():
        plan.say(callgrind.MISSING)
        return
    lengths = [10, 100, 1_000, 10_000] + ([] if plan.quick else [100_000, 1_000_000])
    numbers = [0, 10, 100, 1_000] + ([] if plan.quick else [10_000])
    series = []
    for system, rate in (("ours", 1.0), ("stock", 1.0), ("bare", 0.0)):
        if system in plan.systems:
            # Stock's million chunks would take half an hour under callgrind.
            chosen = [length for length in lengths if system != "stock" or length <= 100_000]
            works = [
                (f"stream@{length}", f"/stream/{length}", *_lengths(length)) for length in chosen
            ]
            series.append((system, rate, "wsgi", works))
    works = [(f"open@{number}", f"/plain@{number}", 20, 60) for number in numbers]
    series.append(("ours", 0.0, "wsgi", works))
    works = [(f"pending@{number}", f"pair@{number}", 100, 1_100) for number in PENDING]
    series.append(("ours", 0.0, "scheduler", works))

    def count(one: Any) -> "List[Row]":
        system, rate, kind, works = one
        plan.say(f"growth: {system}, {works[0][0].partition('@')[0]}")
        asked = [work[1:] for work in works]
        counted = callgrind.count(plan.sentry(), system, asked, rate, kind=kind, rounds=1)
        return [
            Row("growth", system, name, rate, "static", counted[path].values)
            for name, path, _, _ in works
        ]

    _side_by_side(count, series, results)


PENDING = [0, 100, 10_000, 100_000]


def _lengths(chunks: int) -> "tuple[int, int]":
    """Requests of the two runs: many of the short streams."""
    return (10, 30) if chunks <= 100 else (1, 2)


def scheduler(plan: Plan, results: Results) -> None:
    """Seconds of a schedule and cancel, and of what threading.Timer takes for it."""
    rounds = 3 if plan.quick else 10
    ours: "Dict[int, List[float]]" = {number: [] for number in PENDING}
    timer: "List[float]" = []
    for number in range(rounds):
        plan.say(f"scheduler: round {number + 1} of {rounds}")
        works = [(f"pair@{pending}", 10_000) for pending in PENDING]
        measured = wallclock.measure(plan.sentry(), works, kind="scheduler")
        for pending in PENDING:
            ours[pending].append(measured[f"pair@{pending}"])
        measured = wallclock.measure(plan.sentry(), [("pair", 300)], kind="timer")
        timer.append(measured["pair"])
    for pending, values in ours.items():
        results.add(Row("scheduler", "ours", f"pair@{pending}", 0.0, "static", values))
    results.add(Row("scheduler", "timer", "pair", 0.0, "static", timer))


def memory(plan: Plan, results: Results) -> None:
    """Traced bytes and threads with more and more responses open, and after the last."""
    numbers = [100, 1_000, 3_000, 10_000]
    rounds = 1 if plan.quick else 3
    for rate in (0.0, 1.0):
        for system in ("bare", "stock", "ours"):
            if system == "bare" and rate:
                continue
            values: "Dict[str, List[float]]" = {}
            for number in range(rounds):
                plan.say(f"memory: {system}, rate {rate:g}, round {number + 1} of {rounds}")
                command = [str(environments.WORKER / "memory.py"), system, str(rate)]
                out = _output(plan.sentry(), command + [str(number) for number in numbers])
                lines = [json.loads(line) for line in out.splitlines()]
                values.setdefault("at-work", []).append(lines.pop(0)["at_work"])
                for line in lines[:-1]:
                    values.setdefault(f"open@{line['open']}", []).append(line["bytes"])
                    values.setdefault(f"threads@{line['open']}", []).append(line["threads"])
                values.setdefault("after", []).append(lines[-1]["bytes"])
            for work, found in values.items():
                results.add(Row("memory", system, work, rate, "static", found))


def imports(plan: Plan, results: Results) -> None:
    """Seconds that the imports take, in new processes, in turns.

    Ours comes on top of stock: sentry_sdk.init() imports all integrations that it could
    enable by itself, the stock one among them.
    """
    modules = {"stock": ["sentry_sdk.integrations.django"]}
    modules["ours"] = [*modules["stock"], "vendored_integration.django"]
    script = str(environments.WORKER / "imports.py")
    rounds, tries = (3, 3) if plan.quick else (5, 20)
    values: "Dict[str, List[float]]" = {system: [] for system in modules}
    for module in modules.values():
        _output(plan.sentry(), [script, *module])  # compiles what is not yet
    for number in range(rounds):
        plan.say(f"imports: round {number + 1} of {rounds}")
        least: "Dict[str, List[float]]" = {system: [] for system in modules}
        for _ in range(tries):
            for system, module in modules.items():
                least[system].append(float(_output(plan.sentry(), [script, *module])))
        for system in modules:
            values[system].append(min(least[system]))
    for system, found in values.items():
        results.add(Row("imports", system, "import", 0.0, "static", found))


def loads(plan: Plan, results: Results) -> None:
    """Requests a second and their 99th percentile, with streams held open."""
    if not load.available():
        plan.say(load.MISSING)
        return
    rounds, duration = (1, 2) if plan.quick else (3, 5)
    rate = 0.1
    values: "Dict[tuple[str, str], List[float]]" = {}
    chosen = [system for system in plan.systems if system != "ours-close"]
    left_out: "Set[str]" = set()
    for number in range(rounds):
        for held in (0, 100, 1_000):
            for system in chosen:
                if system in left_out:
                    continue
                plan.say(
                    f"load: round {number + 1} of {rounds}, {SYSTEMS[system].label}, "
                    f"{held} streams held open"
                )
                worker = SYSTEMS[system].worker
                with _left_out_if_it_fails(system, left_out, plan.say):
                    found = load.measure(plan.environment(system), worker, rate, held, duration)
                    values.setdefault((system, f"rps@{held}"), []).append(found.rate)
                    values.setdefault((system, f"p99@{held}"), []).append(found.p99)
    for (system, work), measured in values.items():
        asked = 0.0 if system == "bare" else rate
        results.add(Row("load", system, work, asked, "static", measured))


def _output(environment: Environment, command: "List[str]") -> str:
    done = subprocess.run(
        [str(environment.python), *command],
        env=environment.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        errors="replace",
    )
    if done.returncode != 0:
        lines = "\n  ".join(done.stderr.splitlines()[-25:])
        name = Path(command[0]).name
        raise BenchmarkError(f"{name}: exit status {done.returncode}:\n  {lines}")
    return done.stdout


PARTS: "Dict[str, Callable[[Plan, Results], None]]" = {
    "instructions": instructions,
    "growth": growth,
    "scheduler": scheduler,
    "memory": memory,
    "imports": imports,
    "wallclock": seconds,
    "load": loads,
}


def machine() -> "Dict[str, str]":
    """Where the numbers were made."""
    import platform

    # Of a kernel's version what follows says who built it, for which machine.
    kernel = ".".join(platform.release().split(".")[:2])
    found = {"system": f"{platform.system()} {kernel}", "cores": str(os.cpu_count())}
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        found["processor"] = models[0]
    except (OSError, IndexError):
        found["processor"] = platform.processor() or platform.machine()
    found["python"] = platform.python_version()
    return found
