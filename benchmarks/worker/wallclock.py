"""A pyperf script: the time of a request. JOB (JSON) stands in the environment.

JOB: system, rate, lifecycle, kind, works: [path, requests a run]. A path may end in `@N`:
with N responses open, or N deadlines pending. As kind `timer`: threading.Timer's start and
cancel.
"""

import gc
import json
import os
import threading
import time

import pyperf

from serve import Deadlines, Server, begin
from systems import exported, install

job = json.loads(os.environ["BENCHMARK_JOB"])


class Timers:
    """What the SDK's own attempt did for each request."""

    def requests(self, path, count):
        for _ in range(count):
            timer = threading.Timer(300.0, print)
            timer.daemon = True
            timer.start()
            timer.cancel()


def make():
    if job["kind"] == "timer":
        return Timers()
    if job["kind"] == "scheduler":
        return Deadlines()
    return Server(install(job["system"], job["rate"], job["lifecycle"], job["kind"]), job["kind"])


def timed(loops, path, count):
    """Seconds that `loops` times `count` requests take."""
    path, _, held = path.partition("@")
    opened = hold(int(held or 0))
    gc.collect()
    began = time.perf_counter()
    for _ in range(loops):
        server.requests(path, count)
    exported.flush()
    took = time.perf_counter() - began
    for response, _ in opened:
        response.close()
    return took


def hold(count):
    if job["kind"] == "scheduler":
        server.pend(count)
        return []
    opened = []
    for _ in range(count):
        response = begin(server.application, "/stream/2")
        chunks = iter(response)
        next(chunks)
        opened.append((response, chunks))
    return opened


runner = pyperf.Runner()
# Not in the process that only starts the others.
server = make() if runner.parse_args().worker else None
for path, count in job["works"]:
    runner.bench_time_func(path, timed, path, count, inner_loops=count)
