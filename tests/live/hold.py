"""Hold responses open, all at once, in one process: python hold.py 500

Prints, as JSON, the threads of the process after one request, and with all of them open.
"""

import io
import json
import sys
from pathlib import Path

from app import application


def threads():
    # All of them: those that Python does not know of as well.
    return len(list(Path("/proc/self/task").iterdir()))


def start():
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/stream/",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
    }
    response = application(environ, lambda status, headers, exc_info=None: None)
    iterator = iter(response)
    next(iterator)
    return response, iterator


def finish(response, iterator):
    try:
        assert len(list(iterator)) == 2
    finally:
        response.close()


finish(*start())
after_one = threads()
held = [start() for _ in range(int(sys.argv[1]))]
with_all = threads()
for response, iterator in held:
    finish(response, iterator)
print(json.dumps({"after_one": after_one, "with_all": with_all}))
