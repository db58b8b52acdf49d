"""The integration for Django: ``DjangoIntegration``."""

import sys
from typing import Any, List, Optional, Tuple

import sentry_sdk.integrations
from django.core import checks

from ._vendor import django as _upstream
from .runtime.asgi_handler import patch_asgi_handler
from .runtime.bindings import patch_streaming_response
from .runtime.django_response import patch_get_response
from .runtime.options import DEFAULT_OPTIONS, Options
from .runtime.process import hide_frames, logger
from .runtime.request_data import patch_request_data
from .runtime.sigterm import watch

__all__ = ["DjangoIntegration", "StreamAwareDjangoIntegration"]


_set_up = False
_stock_reported = False


class DjangoIntegration(_upstream.DjangoIntegration):
    """Auto instrument a Django application, streaming responses included.

    Takes every argument of :class:`sentry_sdk.integrations.django.DjangoIntegration`
    of the same SDK release, and:

    :param response_timeout: Seconds from the response's return after which the
        transaction of an unclosed response is finished anyway. ``None``: never.
    :param max_open_responses: At more open responses than this, the transaction
        of the oldest is finished at once.
    :param finish_on: ``"return"``: the transaction of a response that is not
        streaming ends when the application returns, as in stock. ``"close"``: every
        response's transaction ends when the server closes the response.
    :param on_timeout: ``"finish"``: ``response_timeout`` ends the transaction, and what
        is traced later is lost. ``"continue"``: for streams that live for hours: the
        transaction of a streaming response is sent at each ``response_timeout``, and
        whenever the SDK's limit of spans is reached, and the next one begins in the
        same trace.
    :param stream_op: The op of a streaming response's transaction, in place of
        ``"http.server"``: no percentile of requests then contains the life of a stream.

    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *args: Any,
        response_timeout: Optional[float] = DEFAULT_OPTIONS.response_timeout,
        max_open_responses: int = DEFAULT_OPTIONS.max_open_responses,
        finish_on: str = DEFAULT_OPTIONS.finish_on,
        on_timeout: str = DEFAULT_OPTIONS.on_timeout,
        stream_op: Optional[str] = DEFAULT_OPTIONS.stream_op,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        caller = sys._getframe(1)
        while caller.f_code.co_filename == __file__ and caller.f_back:
            caller = caller.f_back
        #: File and line of the call, for :mod:`.checks`.
        self.made_at: Tuple[str, int] = (caller.f_code.co_filename, caller.f_lineno)
        self.stream_options = Options(
            response_timeout, max_open_responses, finish_on, on_timeout, stream_op
        ).checked()
        _report_stock()

    @staticmethod
    def setup_once() -> None:
        """Patch Django. Called by ``sentry_sdk.init``, once a process."""
        global _set_up
        super(DjangoIntegration, DjangoIntegration).setup_once()
        patch_request_data(_upstream)
        patch_get_response()
        patch_streaming_response()
        patch_asgi_handler()
        watch()  # requests may run in threads
        hide_frames()
        _set_up = True


@checks.register("sentry")  # type: ignore[untyped-decorator]
def _check(app_configs: Any, **kwargs: Any) -> "List[Any]":
    """Django's system check, ``manage.py check --tag sentry``.

    Registered by the import and not by ``setup_once``, which is never called where the
    stock integration was set up first. Its module is imported when it is first run.
    """
    from .checks import django_messages

    return django_messages()


class StreamAwareDjangoIntegration(DjangoIntegration):
    """:class:`DjangoIntegration` with ``finish_on="close"`` as its default.

    The name and the behaviour of an older package's (``shr_span_recorder``) integration.
    """

    def __init__(self, *args: Any, finish_on: str = "close", **kwargs: Any) -> None:
        super().__init__(*args, finish_on=finish_on, **kwargs)


def _report_stock() -> None:
    """Say so, once, if the stock integration has been set up in this process.

    The SDK sets up one integration for each identifier, the first that comes; a
    later ``init()`` with ours changes nothing then.
    """
    global _stock_reported
    if _stock_reported or _set_up:
        return
    if "django" in sentry_sdk.integrations._processed_integrations:
        _stock_reported = True
        logger.error(
            "The stock DjangoIntegration was set up earlier in this process, and "
            "the SDK does not replace it: streaming responses are NOT traced. Pass "
            "vendored_integration.DjangoIntegration() to the first sentry_sdk.init() "
            "of the process (an init() without it enables the stock integration by "
            "itself as soon as Django is installed)."
        )
