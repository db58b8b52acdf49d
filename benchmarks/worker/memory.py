"""Open responses: what each takes, and what is left. Prints JSON lines.

    memory.py SYSTEM RATE N...

First the bytes that a request takes while its view is at work, as an average of many.
Then, for each number of open responses, in ascending order: traced bytes and threads.
The last line is after all have been closed.
"""

import gc
import json
import os
import sys
import threading
import tracemalloc
from queue import SimpleQueue

import project
from serve import Server, begin, request
from systems import exported, install

system, rate = sys.argv[1], float(sys.argv[2])
numbers = [int(number) for number in sys.argv[3:]]
AT_WORK = 200
jobs = SimpleQueue()
done = SimpleQueue()


def work():
    for job in iter(jobs.get, None):
        job()
        done.put(None)


# Before the system is set up, which may keep something for each thread.
workers = [threading.Thread(target=work) for _ in range(AT_WORK)]
for worker in workers:
    worker.start()
application = install(system, rate)
opened = []


def traced():
    exported.flush()
    gc.collect()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def at_work():
    """What the requests take whose views are at work."""
    before = traced()
    for _ in workers:
        jobs.put(lambda: request(application, "/wait"))
    for _ in workers:
        project.arrived.acquire()
    during = traced()
    for _ in workers:
        project.go_on.release()
    for _ in workers:
        done.get()
    return during - before


def threads():
    """Of the kernel's, where it says: extensions have some that Python does not know."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def report():
    line = {"open": len(opened), "bytes": traced()}
    line["threads"] = threads()
    print(json.dumps(line), flush=True)


def open_up_to(count):
    while len(opened) < count:
        response = begin(application, "/stream/2")
        chunks = iter(response)
        next(chunks)
        opened.append((response, chunks))


def close_all():
    for response, chunks in opened:
        for _ in chunks:
            pass
        response.close()
    opened.clear()


Server(application, "wsgi").requests("/stream/2", 50)
tracemalloc.start()
# Once before what counts: dictionaries and free lists grow to their size at first.
at_work()
print(json.dumps({"at_work": at_work() / AT_WORK}), flush=True)
for _ in workers:
    jobs.put(None)
for worker in workers:
    worker.join()
open_up_to(100)
close_all()
report()
for number in numbers:
    open_up_to(number)
    report()
close_all()
report()
os._exit(0)
