"""The hand-written half of the integration, the same for every SDK release.

The generated half (``vendored_integration._vendor``) is upstream's code with a
few lines changed; those lines call in here as early as they can:

* :mod:`.middleware` suspends upstream's middleware while the response is open;
* :mod:`.response` is what the server gets: it counts, and notices ``close()``;
* :mod:`.record` measures one open response, and ends its transaction, once;
* :mod:`.suspended` is the record of a WSGI response: it resumes the middleware;
* :mod:`.parts` sends a transaction early, or in parts, while its request goes on;
* :mod:`.registry` knows all open responses: eviction, process exit, fork;
* :mod:`.scheduler` runs deadlines: one timer thread, a few workers;
* :mod:`.body` lets a Django body run in the context that it was created in;
* :mod:`.context` holds the rules for entering and copying contexts;
* :mod:`.trace_stream` gives a generator a span, on request of the user;
* :mod:`.sdk` is all that depends on the SDK's two trace lifecycles;
* :mod:`.options` checks what the user passed;
* :mod:`.counters` counts what happens, and :mod:`.stats` tells it.
"""

from .middleware import close_aware, is_disposal
from .response import _ScopedResponse

__all__ = ["_ScopedResponse", "close_aware", "is_disposal"]
