"""exclude_events, judged by the events that are sent."""

import logging

import pytest
import sentry_sdk
from django.core.exceptions import ObjectDoesNotExist, SuspiciousOperation
from sentry_sdk.integrations.logging import LoggingIntegration

from vendored_integration import exclude_events

HERE = __name__


class OutOfPaper(Exception):
    """An exception of the application."""


class OutOfGlossyPaper(OutOfPaper):
    """One that is derived from it."""


class Order:
    """A model."""

    class DoesNotExist(ObjectDoesNotExist):
        """Its name in the source has a dot."""


def raised(error):
    try:
        raise error
    except BaseException:
        sentry_sdk.capture_exception()


def logged(name, error=None):
    try:
        if error is not None:
            raise error
        logging.getLogger(name).error("something")
    except BaseException:
        logging.getLogger(name).exception("something")


@pytest.mark.parametrize(
    ("excluded", "capture", "sent"),
    [
        # Loggers
        (["app.tasks"], lambda: logged("app.tasks"), False),
        (["app"], lambda: logged("app.tasks"), False),
        (["app"], lambda: logged("app.tasks", OutOfPaper()), False),
        (["app.tas"], lambda: logged("app.tasks"), True),
        # Classes
        ([OutOfPaper], lambda: raised(OutOfPaper()), False),
        ([OutOfPaper], lambda: raised(OutOfGlossyPaper()), False),
        ([OutOfPaper], lambda: logged("app", OutOfPaper()), False),
        ([OutOfGlossyPaper], lambda: raised(OutOfPaper()), True),
        # Names of classes
        (["OutOfPaper"], lambda: raised(OutOfPaper()), False),
        (["OutOfPaper"], lambda: raised(OutOfGlossyPaper()), True),
        # module.Exception
        ([f"{HERE}.OutOfPaper"], lambda: raised(OutOfPaper()), False),
        ([f"{HERE}.OutOfPaper"], lambda: raised(OutOfGlossyPaper()), False),
        (["other.OutOfPaper"], lambda: raised(OutOfPaper()), True),
        (["builtins.LookupError"], lambda: raised(KeyError()), False),
        ([f"{HERE}.Order.DoesNotExist"], lambda: raised(Order.DoesNotExist()), False),
        ([f"{HERE}.DoesNotExist"], lambda: raised(Order.DoesNotExist()), False),
        # Modules
        ([HERE], lambda: raised(OutOfPaper()), False),
        (["django.core"], lambda: raised(SuspiciousOperation()), False),
        (["django.cor"], lambda: raised(SuspiciousOperation()), True),
        # An application's own are not Django's, whatever they are derived from.
        (["django"], lambda: raised(Order.DoesNotExist()), True),
        # The rest
        ([], lambda: raised(OutOfPaper()), True),
        (["hello"], lambda: sentry_sdk.capture_message("hello"), True),
        (
            [f"{HERE}.Made"],
            lambda: sentry_sdk.capture_event(
                {"exception": {"values": [{"type": "Made", "module": HERE, "value": ""}]}}
            ),
            False,
        ),
    ],
)
def test_what_is_dropped(init, excluded, capture, sent):
    """Loggers and modules with what is below them; classes with what is derived from them."""
    # From SDK 3.0 on a logged error is no event by default.
    events = LoggingIntegration(event_level=logging.ERROR)
    sentry = init(integration=events, before_send=exclude_events(excluded))
    capture()
    assert len(sentry.errors()) == sent


def test_chained(init):
    """The user's own before_send sees what is left, with its hint, and has the last word."""
    seen = []

    def mine(event, hint):
        seen.append(hint["exc_info"][0])
        if isinstance(hint["exc_info"][1], KeyError):
            return None
        event["tags"] = {"mine": "yes"}
        return event

    sentry = init(before_send=exclude_events([OutOfPaper], before_send=mine))
    for error in (OutOfPaper(), KeyError(), ValueError()):
        raised(error)
    assert seen == [KeyError, ValueError]
    (event,) = sentry.errors()
    assert event["tags"] == {"mine": "yes"}


@pytest.mark.parametrize(
    ("excluded", "names"),
    [
        ("django.security", r"write \['django.security'\]"),
        (KeyError, "KeyError"),
        (["app", ""], "''"),
        ([KeyError()], "KeyError()"),
        ([logging.getLogger("app")], "app"),
    ],
)
def test_refused(excluded, names):
    """A wrong entry is refused at once, and shown: an empty name would drop every event."""
    with pytest.raises(TypeError, match=names):
        exclude_events(excluded)
