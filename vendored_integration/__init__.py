"""Streaming responses of Django applications, fully traced in Sentry.

``DjangoIntegration`` takes the place of ``sentry_sdk.integrations.django``'s::

    import sentry_sdk
    from vendored_integration import DjangoIntegration

    sentry_sdk.init(dsn="...", integrations=[DjangoIntegration()])
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .django import DjangoIntegration, StreamAwareDjangoIntegration
    from .filters import exclude_events
    from .runtime.stats import stats
    from .runtime.trace_stream import trace_stream
    from .transport import bounded_transport

__all__ = [
    "DjangoIntegration",
    "StreamAwareDjangoIntegration",
    "__version__",
    "bounded_transport",
    "exclude_events",
    "stats",
    "trace_stream",
]


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
    from ._release import __version__, check_sdk

    check_sdk()


def __getattr__(name: str) -> Any:
    # Not imported above: a Flask application that uses only .wsgi need not
    # import Django.
    if name in ("DjangoIntegration", "StreamAwareDjangoIntegration"):
        from . import django

        return getattr(django, name)
    if name == "stats":
        from .runtime.stats import stats

        return stats
    if name == "trace_stream":
        from .runtime.process import hide_frames
        from .runtime.trace_stream import trace_stream

        hide_frames()
        return trace_stream
    if name == "bounded_transport":
        from .transport import bounded_transport

        return bounded_transport
    if name == "exclude_events":
        from .filters import exclude_events

        return exclude_events
    if name == "__version__":  # here only in the process of the report
        from ._release import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
