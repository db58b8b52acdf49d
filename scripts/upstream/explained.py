"""The tests of the SDK that pass for stock and fail for ours, on purpose.

Django sends `request_finished` in the response's `close()`. In stock the transaction is
over by then, whoever calls it. Here `close()` is its last act, so the spans of the
receivers (Django itself has two or three) are its children, and whatever finds a span
by its position, or knows the tree of all spans by heart, sees them.

So each of these has to pass with ``finish_on="return"``, with which a response that is
not streaming ends as in stock. scripts/upstream_tests.py makes sure of it, and reports
an entry that no longer occurs.
"""

from .compare import Explanation

EXPLAINED = (
    Explanation(
        "compares the whole tree of the transaction's spans, which now has those of "
        "the receivers of request_finished",
        first="2.63.0",
        last="",
        tests=(
            "django/test_basic.py::test_signals_spans[True]",
            "django/test_basic.py::test_signals_spans[False]",
            "django/test_basic.py::test_signals_spans_filtering[True]",
            "django/test_basic.py::test_signals_spans_filtering[False]",
        ),
    ),
    Explanation(
        "takes the segment by its position among the spans in the order of their ends, "
        "where those of the receivers of request_finished now come before it",
        first="2.63.0",
        last="",
        tests=(
            "django/test_basic.py::test_has_trace_if_performance_enabled[True]",
            "django/test_basic.py::test_trace_from_headers_if_performance_enabled[True]",
            "django/test_basic.py::test_transaction_style[True-function_name-/message-"
            "tests.integrations.django.myapp.views.message-component-ok]",
            "django/test_basic.py::test_transaction_style[True-url-/message-/message-route-ok]",
            "django/test_basic.py::test_transaction_style[True-url-/404-/404-url-404]",
            "django/test_basic.py::test_custom_urlconf_middleware[True-False]",
            "django/test_basic.py::test_custom_urlconf_middleware[True-True]",
            "django/test_basic.py::test_transaction_http_method_default[True]",
            "django/test_basic.py::test_transaction_http_method_custom[True]",
            # These two need PostgreSQL.
            "django/test_db_transactions.py::test_db_transaction_spans_disabled_atomic[True]",
            "django/test_db_transactions.py::"
            "test_db_transaction_spans_disabled_no_autocommit[True]",
        ),
    ),
)
