"""Hold responses open, all at once, in one process: python hold.py 500

Prints, as JSON, the threads of the process after one request, and with all of them open.
Their `X-Request-Id` is their number, from 0 on.
"""

import io
import json
import sys
from pathlib import Path

import sentry_sdk
from app import application


def threads():
    # All of them: those that Python does not know of as well.
    return len(list(Path("/proc/self/task").iterdir()))


def start(number):
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
        "HTTP_X_REQUEST_ID": str(number),
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


finish(*start("first"))
after_one = threads()
held = [start(number) for number in range(int(sys.argv[1]))]
with_all = threads()
for response, iterator in held:
    finish(response, iterator)
# The SDK's own flush, at exit, has 2 seconds.
sentry_sdk.flush(timeout=600)
print(json.dumps({"after_one": after_one, "with_all": with_all}))
