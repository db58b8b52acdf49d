"""A pyperf script: the time of a request, of a deadline, of an import.

The environment has BENCHMARK (JSON): system, rate, works. A work is a path of the project, what
`serve.Server` takes besides, or `import MODULE...`: CPU seconds of that, once Django is there.
"""

import gc
import json
import os
import time

import pyperf

job = json.loads(os.environ["BENCHMARK"])


def timed(loops, path, count):
    """Seconds that `loops` times `count` requests take."""
    gc.collect()
    began = time.perf_counter()
    server.serve(path, loops * count)
    exported.flush()
    return time.perf_counter() - began


def imported(loops, modules):
    """Possible once in a process: with one loop, one value and no warm-up."""
    import project

    project.configure()
    project.applications()
    # Django alone is most of a full collection: what is counted is what is imported now.
    gc.collect()
    gc.freeze()
    began = time.process_time()
    for module in modules:
        __import__(module)
    return time.process_time() - began


runner = pyperf.Runner()
# Not in the process that only starts the others.
if runner.parse_args().worker and not job["works"][0].startswith("import "):
    from serve import Server
    from systems import exported

    server = Server(job["system"], job["rate"])
for work in job["works"]:
    kind, *modules = work.split()
    if kind == "import":
        runner.bench_time_func(work, imported, modules)
    else:
        count = 1000 if work == "deadline" else 20
        name = f"{work}, rate {job['rate']:g}" if work.startswith("/") else work
        runner.bench_time_func(name, timed, work, count, inner_loops=count)
