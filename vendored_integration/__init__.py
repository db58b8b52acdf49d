"""Streaming responses of Django applications, fully traced in Sentry.

``DjangoIntegration`` takes the place of ``sentry_sdk.integrations.django``'s::

    import sentry_sdk
    from vendored_integration import DjangoIntegration

    sentry_sdk.init(dsn="...", integrations=[DjangoIntegration()])
"""

from typing import TYPE_CHECKING, Any

from ._release import __version__, check_sdk

if TYPE_CHECKING:
    from .django import DjangoIntegration, StreamAwareDjangoIntegration

__all__ = ["DjangoIntegration", "StreamAwareDjangoIntegration", "__version__"]

check_sdk()


def __getattr__(name: str) -> Any:
    # Not imported above: a Flask application that uses only .wsgi need not
    # import Django.
    if name in ("DjangoIntegration", "StreamAwareDjangoIntegration"):
        from .django import DjangoIntegration

        return DjangoIntegration
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
