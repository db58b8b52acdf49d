"""Open responses: what each takes, and what is left of them.

    memory.py SYSTEM RATE N

Prints, as JSON: the bytes that a request takes while its view is at work (an average), traced bytes
and threads with no response open, with N, and after all have been closed.
"""

import gc
import json
import os
import sys
import threading
import tracemalloc
from queue import SimpleQueue

import project
from serve import Server
from systems import exported

AT_WORK = 200

system, rate, number = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
jobs, done = SimpleQueue(), SimpleQueue()


def work():
    for job in iter(jobs.get, None):
        done.put(job())


# Before the system is set up, which may keep something for each thread.
workers = [threading.Thread(target=work) for _ in range(AT_WORK)]
for worker in workers:
    worker.start()
server = Server(system, rate)


def traced():
    exported.flush()
    gc.collect()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def at_work():
    """The bytes that the requests take whose views are at work."""
    before = traced()
    for _ in workers:
        jobs.put(lambda: server.request("/wait"))
    for _ in workers:
        project.arrived.acquire()
    during = traced()
    for _ in workers:
        project.go_on.release()
    for _ in workers:
        done.get()
    return (during - before) / AT_WORK


def threads():
    """The kernel's: extensions have some that Python does not know."""
    return len(os.listdir("/proc/self/task"))


server.serve("/stream/2", 50)
tracemalloc.start()
# Once before what counts: dictionaries and free lists grow to their size at first.
at_work()
found = {"at work": at_work()}
for _ in workers:
    jobs.put(None)
for worker in workers:
    worker.join()
server.hold(100)
server.hold(0)
found["open@0"] = traced()
server.hold(number)
found[f"open@{number}"], found[f"threads@{number}"] = traced(), threads()
server.hold(0)
found["after"] = traced()
print(json.dumps(found), flush=True)
os._exit(0)
