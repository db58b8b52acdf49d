"""Streaming responses of Django applications, fully traced in Sentry.

``DjangoIntegration`` takes the place of ``sentry_sdk.integrations.django``'s::

    import sentry_sdk
    from vendored_integration import DjangoIntegration

    sentry_sdk.init(dsn="...", integrations=[DjangoIntegration()])
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._release import __version__ as __version__
    from .django import DjangoIntegration as DjangoIntegration
    from .django import StreamAwareDjangoIntegration as StreamAwareDjangoIntegration
    from .filters import exclude_events as exclude_events
    from .runtime.stats import stats as stats
    from .runtime.trace_stream import trace_stream as trace_stream
    from .transport import bounded_transport as bounded_transport

#: Where the public names are. They are not imported above: a Flask application that uses
#: only .wsgi need not import Django.
_MODULES = {
    "DjangoIntegration": ".django",
    "StreamAwareDjangoIntegration": ".django",
    "__version__": "._release",
    "bounded_transport": ".transport",
    "exclude_events": ".filters",
    "stats": ".runtime.stats",
    "trace_stream": ".runtime.trace_stream",
}

__all__ = list(_MODULES)


def _to_report() -> bool:
    """Whether this is the import that `python -m vendored_integration` begins with.

    The report has to say what is wrong, so it must not be refused for just that.
    Python's runpy imports the package before it runs __main__; whatever else imports
    it is another module.
    """
    frame = sys._getframe(2)
    while frame.f_back and frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame.f_globals.get("__name__") == "runpy"


if not _to_report():
    from ._release import check_sdk

    check_sdk()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
