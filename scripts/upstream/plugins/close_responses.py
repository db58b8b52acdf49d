"""pytest plugin: Werkzeug's test client closes every response, as a WSGI server must.

PEP 3333: "If the iterable returned by the application has a close() method, the server
or gateway must call that method upon completion of the current request". Werkzeug's
client leaves that to the test, and upstream's tests do not do it. Read to its end and
closed is what its option ``buffered`` gives.

Used for the stock integration and for ours alike.
"""

import functools
from typing import Any

from werkzeug.test import Client

_open = Client.open


@functools.wraps(_open)
def _open_and_close(self: Any, *args: Any, **kwargs: Any) -> Any:
    kwargs.setdefault("buffered", True)
    return _open(self, *args, **kwargs)


Client.open = _open_and_close
