"""Keeps the frames of this project out of what the SDK reports.

The SDK leaves its own frames out of stack traces, and never names them as the
source of a query. It knows them by the name of their module
(``frame.f_globals["__name__"]``): ``sentry_sdk.`` and whatever follows. Frames
of this project stand where the SDK's would have stood, so a module whose
functions can be on the stack of an application ends with::

    __name__ = hidden(__name__)

``__traceback_hide__`` would do for stack traces, but not for a query's source.
Everything that looks at the module rather than at a frame (imports, pickling,
``__module__`` of classes and functions) has taken the real name by then.

Source: ``should_hide_frame`` in ``sentry_sdk/utils.py`` and
``add_query_source`` in ``sentry_sdk/tracing_utils.py``.
"""


def hidden(module_name: str) -> str:
    """Return the name under which the SDK takes a module's frames for its own."""
    return "sentry_sdk." + module_name
