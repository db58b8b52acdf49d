"""Run under callgrind: serve requests, with a mark before and after each counted run.

    valgrind --tool=callgrind --dump-before=getpgid ... instructions.py JOB

JOB (JSON): system, rate, lifecycle, kind, and works, a list of [path, few, many, repeats].
callgrind writes a dump at each mark. Prints, as JSON, for each mark-to-mark run which work
and how many requests it was, and how many traces the exporter was handed.
"""

import gc
import json
import os
import sys

from serve import Server
from systems import exported, install

job = json.loads(sys.argv[1])
server = Server(install(job["system"], job["rate"], job["lifecycle"], job["kind"]), job["kind"])


def mark():
    os.getpgid(0)


def run(path, count):
    # What is alive now is never looked at again: the collections that are counted are
    # those of the garbage that the requests make.
    gc.collect()
    gc.freeze()
    before = exported.traces
    mark()
    server.requests(path, count)
    mark()
    return exported.traces - before


def spans_of(path):
    """Spans of the last trace that one request makes, whatever thread sends them."""
    exported.inspect, exported.spans = True, 0
    server.requests(path, 1)
    if "sentry_sdk" in sys.modules:
        sys.modules["sentry_sdk"].flush()
    exported.inspect = False
    return exported.spans


runs = []
spans = {}
for path, few, many, repeats in job["works"]:
    # Twice: what is made at a first use, and what is specialised for it (PEP 659).
    server.requests(path, few)
    spans[path] = spans_of(path)
    server.requests(path, few)
    for _ in range(repeats):
        for count in (few, many):
            traces = run(path, count)
            runs.append({"path": path, "requests": count, "traces": traces})
server.close()
print(json.dumps({"runs": runs, "spans": spans}))
sys.stdout.flush()
# Nothing of the exit is measured, and threads may hold it up.
os._exit(0)
