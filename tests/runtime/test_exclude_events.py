"""exclude_events, judged by the events that are sent."""

import logging

import pytest
import sentry_sdk
from django.core.exceptions import ObjectDoesNotExist, SuspiciousOperation, ValidationError

import vendored_integration
from vendored_integration import exclude_events
from vendored_integration import filters as filters_module

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
        (["app.tasks.print"], lambda: logged("app.tasks"), True),
        # Classes
        ([OutOfPaper], lambda: raised(OutOfPaper()), False),
        ([OutOfPaper], lambda: raised(OutOfGlossyPaper()), False),
        ([OutOfPaper], lambda: logged("app", OutOfPaper()), False),
        ([OutOfGlossyPaper], lambda: raised(OutOfPaper()), True),
        ([KeyError, OutOfPaper], lambda: raised(OutOfPaper()), False),
        ([KeyboardInterrupt], lambda: raised(KeyboardInterrupt()), False),
        # Names of classes
        (["OutOfPaper"], lambda: raised(OutOfPaper()), False),
        (["ValueError"], lambda: raised(ValueError()), False),
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
        (["django.core.exceptions"], lambda: raised(ValidationError("no")), False),
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
        ([HERE], lambda: sentry_sdk.capture_event({"exception": {"values": []}}), True),
    ],
)
def test_what_is_dropped(init, excluded, capture, sent):
    """Loggers and modules with what is below them; classes with what is derived from them."""
    sentry = init(before_send=exclude_events(excluded))
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


def test_chained_with_itself(init):
    """What exclude_events has made is a before_send like any other."""
    inner = exclude_events([KeyError])
    sentry = init(before_send=exclude_events([OutOfPaper], before_send=inner))
    for error in (OutOfPaper(), KeyError(), ValueError()):
        raised(error)
    assert [event["exception"]["values"][-1]["type"] for event in sentry.errors()] == ["ValueError"]


def test_an_error_of_before_send_is_the_users():
    """It is raised on to the SDK, as without us."""

    def broken(event, hint):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        exclude_events([KeyError], before_send=broken)({}, {})


def test_transactions_are_sent(init):
    """The SDK asks before_send about errors alone."""
    sentry = init(before_send=exclude_events([HERE, "app"]))
    with sentry_sdk.start_transaction(name="app"):
        pass
    assert len(sentry.transactions()) == 1


@pytest.mark.parametrize(
    ("excluded", "error", "names"),
    [
        ("django.security", TypeError, r"write \['django.security'\]"),
        (KeyError, TypeError, "KeyError"),
        (None, TypeError, "None"),
        ([""], ValueError, "empty"),
        ([" "], ValueError, "empty"),
        ([KeyError()], TypeError, "KeyError()"),
        ([int], TypeError, "int"),
        ([None], TypeError, "None"),
        ([b"app"], TypeError, "b'app'"),
        ([logging.getLogger("app")], TypeError, "app"),
    ],
)
def test_refused(excluded, error, names):
    """A wrong entry is refused at once, and shown."""
    with pytest.raises(error, match=names):
        exclude_events(excluded)


def test_refused_before_send():
    """So is a before_send that cannot be called."""
    with pytest.raises(TypeError, match="before_send must be callable or None, got 1"):
        exclude_events([], before_send=1)


def test_an_iterator_is_read_once(init):
    """Any iterable will do: it is read when the filter is made."""
    sentry = init(before_send=exclude_events(name for name in ["OutOfPaper"]))
    raised(OutOfPaper())
    raised(OutOfPaper())
    assert sentry.errors() == []


def test_names_of_the_package():
    """Both names lead to the same function."""
    assert vendored_integration.exclude_events is filters_module.exclude_events
    assert "exclude_events" in vendored_integration.__all__
