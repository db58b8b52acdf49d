"""Run under callgrind: serve requests, with a mark before and after each counted run.

    valgrind --tool=callgrind --dump-before=getpgid ... instructions.py JOB

JOB (JSON): system, rate, lifecycle, kind, and works, a list of [path, few, many, rounds].
A path may end in `@N`: with N responses open, or N deadlines pending; these come in
ascending order. Prints, as JSON, for each mark-to-mark run which work and how many requests
it was, and how many traces the exporter was handed.
"""

import gc
import json
import os
import sys

from serve import Deadlines, Server, begin
from systems import exported, install

job = json.loads(sys.argv[1])
if job["kind"] == "scheduler":
    server = Deadlines()
else:
    server = Server(install(job["system"], job["rate"], job["lifecycle"], job["kind"]), job["kind"])
opened = []


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
    # Some of the work is put off to other threads: it belongs to these requests.
    exported.flush()
    mark()
    return exported.traces - before


def spans_of(path):
    """Spans of the trace that one request makes."""
    exported.flush()
    before = exported.spans
    server.requests(path, 1)
    exported.flush()
    return exported.spans - before


def hold(count):
    """Have so many responses open, or deadlines pending."""
    if job["kind"] == "scheduler":
        server.pend(count)
        return
    while len(opened) < count:
        response = begin(server.application, "/stream/2")
        chunks = iter(response)
        next(chunks)
        opened.append((response, chunks))


runs = []
spans = {}
for work, few, many, rounds in job["works"]:
    path, _, held = work.partition("@")
    hold(int(held or 0))
    # Twice: what is made at a first use, and what is specialised for it (PEP 659).
    server.requests(path, few)
    spans[work] = spans_of(path)
    for _ in range(rounds):
        for count in (few, many):
            traces = run(path, count)
            runs.append({"path": work, "requests": count, "traces": traces})
server.close()
print(json.dumps({"runs": runs, "spans": spans}))
sys.stdout.flush()
# Nothing of the exit is measured, and threads may hold it up.
os._exit(0)
