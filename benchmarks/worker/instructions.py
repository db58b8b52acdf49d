"""Run under callgrind: serve requests, with a mark before and after each counted run.

    valgrind --tool=callgrind --dump-before=getpgid ... instructions.py JOB

JOB (JSON): system, rate, lifecycle, and works, a list of [work, few, many, rounds]. A work is a
path, or `path@N`: with N responses open, or N deadlines pending. Prints, as JSON, the spans that one
request of each work makes.
"""

import gc
import json
import os
import sys

from serve import Server
from systems import exported

job = json.loads(sys.argv[1])
server = Server(job["system"], job["rate"], job["lifecycle"])
spans = {}


def run(path, count):
    # What is alive now is never looked at again: the collections that are counted are those of
    # the garbage that the requests make.
    gc.collect()
    gc.freeze()
    os.getpgid(0)  # a mark
    server.serve(path, count)
    # Some of the work is left to other threads: it belongs to these requests.
    exported.flush()
    os.getpgid(0)


for work, few, many, rounds in job["works"]:
    path, _, number = work.partition("@")
    if path == "deadline":
        server.hold(0)
        server.pend(int(number))
    else:
        server.hold(int(number or 0))
    # What is made at a first use, and what is specialised for it (PEP 659).
    server.serve(path, few)
    exported.flush()
    before = exported.spans
    server.serve(path, 1)
    exported.flush()
    spans[work] = exported.spans - before
    for _ in range(rounds):
        run(path, few)
        run(path, many)
print(json.dumps(spans), flush=True)
# Nothing of the exit is measured, and threads may hold it up.
os._exit(0)
