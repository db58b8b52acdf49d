"""Instructions, counted by callgrind: the same on a busy machine and on an idle one.

Counted is every instruction that the process executes in user space, on all its threads,
from one mark to the next. A mark is a call of getpgid(2), which no system makes by itself;
callgrind writes a dump at each one. Two run lengths are counted, and the difference is
divided by the difference in requests: start-up, the loop and the marks cancel out.
PYTHONHASHSEED is 0, and what is alive when a run begins is left out of garbage collection
(gc.freeze), which is otherwise on.
"""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

from environments import WORKER, Environment
from errors import BenchmarkError
from stats import per_unit

MISSING = "valgrind is not installed: instructions are left out (apt install valgrind)"

_TOTALS = re.compile(r"(?m)^totals: (\d+)")
_DUMP = re.compile(r"\.(\d+)$")


class Counted(NamedTuple):
    """Instructions a request, one number a round, and what the exporter was handed."""

    values: "List[float]"
    #: Of the requests, how many made a trace that reached the exporter: 0 to 1.
    share: float
    #: Spans of one request's trace, besides its root.
    spans: int


def available() -> bool:
    """Whether there is a callgrind."""
    return shutil.which("valgrind") is not None


def count(
    environment: Environment,
    system: str,
    works: "List[Tuple[str, int, int]]",
    rate: float = 0.0,
    lifecycle: str = "static",
    kind: str = "wsgi",
    rounds: int = 3,
) -> "Dict[str, Counted]":
    """Count the instructions of requests; the key is the path.

    :param works: path, and the requests of the short and of the long run.
    :raises BenchmarkError: the worker has failed, or its dumps are not what is expected.
    """
    job = {
        "system": system,
        "rate": rate,
        "lifecycle": lifecycle,
        "kind": kind,
        "works": [[*work, rounds] for work in works],
    }
    with tempfile.TemporaryDirectory(prefix="vendored-integration-benchmark-") as directory:
        out = Path(directory) / "callgrind"
        command = ["valgrind", "--quiet", "--tool=callgrind", "--dump-before=getpgid"]
        command += [f"--callgrind-out-file={out}", str(environment.python)]
        command += [str(WORKER / "instructions.py"), json.dumps(job)]
        done = subprocess.run(
            command,
            env={**environment.variables(), "TMPDIR": directory},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            errors="replace",
        )
        if done.returncode != 0:
            lines = "\n  ".join(done.stderr.splitlines()[-25:])
            raise BenchmarkError(
                f"{system}: exit status {done.returncode} under callgrind:\n  {lines}"
            )
        report = json.loads(done.stdout.splitlines()[-1])
        # Every second dump is what lies between two runs.
        counts = _totals(Path(directory))[1::2]
    if len(counts) != len(report["runs"]):
        raise BenchmarkError(
            f"{system}: expected {len(report['runs'])} dumps of callgrind, found {len(counts)}\n"
            "  next: see whether `valgrind --tool=callgrind --dump-before=getpgid python3 -c\n"
            "        'import os; os.getpgid(0)'` writes two files"
        )
    return evaluate(report, counts)


def _totals(directory: Path) -> "List[int]":
    """Instructions of each dump, in their order."""
    dumps = [(_DUMP.search(path.name), path) for path in directory.iterdir()]
    found = sorted((int(match[1]), path) for match, path in dumps if match)
    totals = []
    for _, path in found:
        match = _TOTALS.search(path.read_text("utf-8", "replace"))
        if match is None:
            raise BenchmarkError(f"{path.name}: no totals in this dump of callgrind")
        totals.append(int(match[1]))
    return totals


def evaluate(report: "Dict[str, Any]", counts: "List[int]") -> "Dict[str, Counted]":
    """From what the worker has done and what callgrind has counted for each run."""
    values: "Dict[str, List[float]]" = {}
    traces: "Dict[str, int]" = {}
    requests: "Dict[str, int]" = {}
    runs = list(zip(report["runs"], counts))
    for (few, short), (many, long) in zip(runs[::2], runs[1::2]):
        path = many["path"]
        cost = per_unit(short, long, few["requests"], many["requests"])
        values.setdefault(path, []).append(cost)
        # The difference is counted, so it is the difference whose share matters.
        traces[path] = traces.get(path, 0) + many["traces"] - few["traces"]
        requests[path] = requests.get(path, 0) + many["requests"] - few["requests"]
    return {
        path: Counted(found, traces[path] / requests[path], report["spans"].get(path, 0))
        for path, found in values.items()
    }
