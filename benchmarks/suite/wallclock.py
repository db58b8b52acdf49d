"""Seconds, measured by pyperf: each value in a process of its own."""

import json
import os
import subprocess
import tempfile
from typing import Any, Dict, List, Tuple

from environments import WORKER, Environment
from errors import BenchmarkError


def measure(
    environment: Environment,
    works: "List[Tuple[str, int]]",
    values: int = 3,
    **job: Any,
) -> "Dict[str, float]":
    """One round: seconds a request, the least of ``values`` in one process; key: path.

    The least, since a busy machine only ever adds.

    :param works: path, and the requests of one value.
    """
    variables = environment.variables()
    variables["BENCHMARK_JOB"] = json.dumps({**job, "works": works})
    with tempfile.TemporaryDirectory(prefix="vendored-integration-benchmark-") as directory:
        variables["TMPDIR"] = directory
        out = os.path.join(directory, "out.json")
        command = [str(environment.python), str(WORKER / "wallclock.py"), "--quiet"]
        command += ["--processes=1", "--loops=1", "--warmups=1", f"--values={values}"]
        command += ["--inherit-environ=" + ",".join(variables), f"--output={out}"]
        done = subprocess.run(
            command,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            errors="replace",
        )
        if done.returncode != 0:
            lines = "\n  ".join(done.stdout.splitlines()[-25:])
            raise BenchmarkError(f"pyperf: exit status {done.returncode}:\n  {lines}")
        with open(out, encoding="utf-8") as file:
            return least(json.load(file))


def least(report: "Dict[str, Any]") -> "Dict[str, float]":
    """The smallest value of each benchmark in a pyperf file, in seconds."""
    found = {}
    common = report.get("metadata", {})
    for benchmark in report["benchmarks"]:
        # pyperf moves what all benchmarks share to the top.
        name = benchmark.get("metadata", {}).get("name") or common["name"]
        found[name] = min(value for run in benchmark["runs"] for value in run.get("values", ()))
    return found
