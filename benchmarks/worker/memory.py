"""Open responses: what each takes, and what is left. Prints JSON lines.

    memory.py SYSTEM RATE N...

For each number of open responses, in ascending order: traced bytes and threads.
The last line is after all have been closed.
"""

import gc
import json
import os
import sys
import threading
import tracemalloc

from serve import Server, begin
from systems import exported, install

system, rate = sys.argv[1], float(sys.argv[2])
numbers = [int(number) for number in sys.argv[3:]]
application = install(system, rate)
opened = []


def threads():
    """Of the kernel's, where it says: extensions have some that Python does not know."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def report():
    exported.flush()
    gc.collect()
    gc.collect()
    line = {"open": len(opened), "bytes": tracemalloc.get_traced_memory()[0]}
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
open_up_to(100)
close_all()
report()
for number in numbers:
    open_up_to(number)
    report()
close_all()
report()
os._exit(0)
