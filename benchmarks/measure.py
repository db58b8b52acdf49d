"""The measurements: instructions and memory by processes of their own, seconds by pyperf."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Iterator, NamedTuple, Sequence

import tables

import environment
from environment import Refused

WORKER = Path(__file__).resolve().parent / "worker"

COMMON = ["Django>=4.2,<5.3", "pyperf"]
# The older package traces requests on every SDK so far, and asks for none in particular.
SENTRY = [*COMMON, "shr_span_recorder==0.1.0"]
OTHERS = {
    "otel": [
        "opentelemetry-sdk",
        *(f"opentelemetry-instrumentation-{name}" for name in ("asgi", "django", "wsgi")),
    ],
    "ddtrace": ["ddtrace"],
}

STREAMS = ["/stream/100", "/stream/10000", "/astream/100", "/astream/10000"]
LENGTHS = ["/stream/10", "/stream/1000", "/stream/100000", "/stream/1000000"]
MEANWHILE = [f"/plain@{number}" for number in (0, 10, 100, 1_000, 10_000)]
MEANWHILE += [f"deadline@{number}" for number in (0, 100, 10_000, 100_000)]


# The system and the rate; a quick run has the first three.
MEMORY = [("bare", 0), ("stock", 1), ("ours", 1), ("stock", 0), ("ours", 0)]


class Job(NamedTuple):
    """A process under callgrind: one system in one configuration, and several works."""

    system: str
    rate: int
    lifecycle: str
    works: list[tuple[str, int, int, int]]


def jobs(systems: list[str], quick: bool) -> Iterator[Job]:
    """Yield what is counted; bare Django has no rate and no lifecycle."""
    for system in systems:
        for lifecycle in ("static", "stream") if system in ("stock", "ours") else ("static",):
            for rate in (0, 1) if system != "bare" else (0,):
                works = ["/plain"]
                targeted = system == "bare" or (rate == 1 and lifecycle == "static")
                if system != "ours-close" and (targeted or not quick):
                    works += [work for work in STREAMS if system != "older" or work[1] != "a"]
                if system != "ours-close" and not quick:
                    works += ["/stream/1", "/error", "/file"]
                    if targeted and system in ("bare", "ours"):
                        works += LENGTHS
                    if (system, rate, lifecycle) == ("ours", 0, "static"):
                        works += MEANWHILE
                rounds = 1 if quick else 3
                yield Job(system, rate, lifecycle, [counts(work, rounds) for work in works])


def counts(work: str, rounds: int) -> tuple[str, int, int, int]:
    """Requests of the two runs whose difference is taken: start-up cancels out. And the rounds."""
    chunks = int("0" + work.partition("stream/")[2])
    if work.startswith("deadline"):
        return work, 100, 1_100, rounds
    if chunks <= 100:
        return (work, 3, 9, rounds) if chunks == 100 else (work, 20, 60, rounds)
    return work, 0, 1, rounds if chunks <= 10_000 else 1


class Machine:
    """Runs the workers, each system in its environment."""

    def __init__(self, systems: list[str]) -> None:
        self._pythons = {
            system: str(environment.make(f"benchmarks-{system}", [*COMMON, *OTHERS[system]]))
            for system in systems
            if system in OTHERS
        }
        self.variables = {**environment.clean_environ(), "PYTHONHASHSEED": "0"}

    def packages(self) -> list[str]:
        """Where the others' distributions are."""
        roots = [Path(python).parents[1] for python in self._pythons.values()]
        return [str(path) for root in roots for path in root.glob("lib/*/site-packages")]

    def output(
        self, system: str, script: str, *arguments: str, before: Sequence[str] = (), **env: str
    ) -> str:
        """What a worker prints. Errors: `Refused`"""
        python = self._pythons.get(system, sys.executable)
        done = subprocess.run(
            [*before, python, str(WORKER / script), *arguments],
            env={**self.variables, **env},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode:
            raise Refused(f"{system}: {script} has failed\n{environment.last_lines(done.stderr)}")
        return done.stdout

    def instructions(self, job: Job) -> dict[str, float]:
        """Count instructions and spans, for each work of a request."""
        with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
            valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--dump-before=getpgid"]
            valgrind.append(f"--callgrind-out-file={directory}/out")
            asked = json.dumps(job._asdict())
            spans = json.loads(self.output(job.system, "instructions.py", asked, before=valgrind))
            # Every second dump is what lies between two runs.
            totals = _totals(Path(directory))[1::2]
        values: dict[str, float] = {}
        for work, few, many, rounds in job.works:
            name = f"{job.system} {work} {job.rate} {job.lifecycle}"
            costs = []
            for _ in range(rounds):
                short, long = totals.pop(0), totals.pop(0)
                costs.append((long - short) / (many - few))
            values[f"instructions {name}"] = round(statistics.median(costs))
            values[f"spans {name}"] = spans[work]
        return values

    def memory(self, system: str, rate: int) -> dict[str, float]:
        out = self.output(system, "memory.py", system, str(rate), str(tables.OPEN))
        return {f"memory {system} {what} {rate}": value for what, value in json.loads(out).items()}

    def seconds(self, file: Path, system: str, rate: int, works: list[str], *options: str) -> None:
        """Add to a file of pyperf's."""
        job = json.dumps({"system": system, "rate": rate, "works": works})
        names = ",".join([*self.variables, "BENCHMARK"])
        common = [f"--append={file}", f"--inherit-environ={names}", "--quiet", "--loops=1"]
        self.output(system, "seconds.py", *common, *options, BENCHMARK=job)


def _totals(directory: Path) -> list[int]:
    """Instructions of each dump, in their order."""
    numbered = {path.suffix[1:]: path.read_text("utf-8", "replace") for path in directory.iterdir()}
    texts = [numbered[number] for number in sorted(filter(str.isdigit, numbered), key=int)]
    return [int(total) for text in texts for total in re.findall(r"(?m)^totals: (\d+)", text)]


def count(machine: Machine, systems: list[str], quick: bool) -> dict[str, float]:
    """Instructions and memory: processes side by side, since nothing here depends on time."""
    values: dict[str, float] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        works: dict[str, tuple[str, Future[dict[str, float]]]] = {}
        for job in jobs(systems, quick):
            title = f"{job.system}, rate {job.rate}, {job.lifecycle}"
            works[title] = job.system, pool.submit(machine.instructions, job)
        for system, rate in MEMORY[: 3 if quick else None]:
            work = pool.submit(machine.memory, system, rate)
            works[f"memory of {system}, rate {rate}"] = system, work
        for title, (system, work) in works.items():
            try:
                values.update(work.result())
                print(f"{time.strftime('%H:%M:%S')} {title}", flush=True)
            except Refused as error:
                # valgrind does not know every instruction of others' binaries.
                if system not in ("older", *OTHERS):
                    raise
                print(f"left out: {error}")
    return values


def clock(machine: Machine, systems: list[str], values: dict[str, float]) -> str:
    """Add seconds to the values; pyperf's table of the systems."""
    import pyperf

    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        files = {system: Path(directory, f"{system}.json") for system in systems}
        parts = Path(directory, "parts.json")
        # All systems in each round: what is compared is measured at about the same time.
        for number in range(3):
            print(f"{time.strftime('%H:%M:%S')} seconds, round {number + 1} of 3", flush=True)
            for system, file in files.items():
                for rate in (0, 1):
                    machine.seconds(file, system, rate, ["/plain", "/stream/100"], "--processes=2")
            machine.seconds(parts, "ours", 0, ["deadline", "timer"], "--processes=2")
            # sentry_sdk.init() imports the stock integration in any case: ours comes on top.
            stock, ours = "import sentry_sdk.integrations.django", "vendored_integration.django"
            once = ["--processes=10", "--values=1", "--warmups=0"]
            machine.seconds(parts, "stock", 0, [stock, f"{stock} {ours}"], *once)
        for found in pyperf.BenchmarkSuite.load(str(parts)):
            name = found.get_name().split()
            title = name[0] if len(name) == 1 else f"import {'ours' if len(name) > 2 else 'stock'}"
            values[f"seconds {title}"] = min(found.get_values())
        command = [sys.executable, "-m", "pyperf", "compare_to", "--table", "--table-format=md"]
        order = ["bare", *(system for system in systems if system != "bare")]
        return subprocess.check_output(
            [*command, *(str(files[system]) for system in order)], universal_newlines=True
        )
