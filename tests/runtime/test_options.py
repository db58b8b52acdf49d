"""What DjangoIntegration and SentryWsgiMiddleware accept."""

import inspect

import pytest
from sentry_sdk.integrations import django

import vendored_integration
from vendored_integration import DjangoIntegration, StreamAwareDjangoIntegration
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.wsgi import SentryWsgiMiddleware


async def application(scope, receive, send):
    pass


MAKERS = [
    DjangoIntegration,
    StreamAwareDjangoIntegration,
    lambda **options: SentryWsgiMiddleware(print, **options),
    lambda **options: SentryMiddleware(application, **options),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("options", "error", "names"),
    [
        ({"response_timeout": 0}, ValueError, "response_timeout"),
        ({"response_timeout": -1}, ValueError, "response_timeout"),
        ({"response_timeout": float("nan")}, ValueError, "response_timeout"),
        ({"response_timeout": float("inf")}, ValueError, "response_timeout"),
        ({"response_timeout": 1e10}, ValueError, "response_timeout.*up to 1000000000"),
        ({"response_timeout": 10**400}, ValueError, "response_timeout"),
        ({"response_timeout": "300"}, TypeError, "'300'"),
        ({"response_timeout": True}, TypeError, "True"),
        ({"max_open_responses": 0}, ValueError, "max_open_responses"),
        ({"max_open_responses": 1.5}, TypeError, "1.5"),
        ({"max_open_responses": None}, TypeError, "max_open_responses"),
        ({"on_timeout": "explode"}, ValueError, "'finish', 'continue'"),
        ({"stream_op": 7}, TypeError, "stream_op"),
    ],
)
def test_refused(make, options, error, names):
    """A wrong value is refused at once, with its name and what was expected."""
    with pytest.raises(error, match=names):
        make(**options)


@pytest.mark.parametrize("make", MAKERS[:3])
def test_finish_on(make):
    """Under ASGI a response ends with its last message."""
    make(finish_on="return")
    with pytest.raises(ValueError, match="'return', 'close'"):
        make(finish_on="exit")


def test_stock_arguments_are_passed_on():
    """Every argument of the stock integration is taken, and checked as there."""
    # Its first one, by position: up to SDK 2 that is transaction_style.
    first = next(iter(inspect.signature(django.DjangoIntegration).parameters))
    assert getattr(DjangoIntegration("function_name"), first) == "function_name"
    assert DjangoIntegration(middleware_spans=True).middleware_spans is True
    if first == "transaction_style":
        with pytest.raises(ValueError, match="transaction_style"):
            DjangoIntegration(transaction_style="no")
    with pytest.raises(TypeError):
        DjangoIntegration(no_such_argument=1)


def test_unknown_attribute():
    """The lazy module attribute does not answer to everything."""
    with pytest.raises(AttributeError, match="no_such_name"):
        vendored_integration.no_such_name  # noqa: B018
