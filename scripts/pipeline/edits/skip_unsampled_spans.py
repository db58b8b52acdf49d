"""Do no work for what nobody will see

In the static lifecycle a transaction that is not sampled is thrown away with its
spans. The SDK makes these all the same, at about 60,000 instructions each. With
this patch the integration asks first: before it starts a span, and before it wraps
signal receivers, views and middlewares to start one.

In the stream lifecycle an unsampled segment takes no attributes. They are not put
together for it, and no receiver is wrapped: 180,000 instructions of a plain request.

What describes a request is put together when there is an event, and not before: most
requests that are not sampled have none. The serializer asks about each value of an
event whether it is a QuerySet, and the URL resolver for an attribute that Django has
renamed; both ask in a way that costs less. Together that is 110,000 instructions of
a plain request that is not sampled, and 100,000 of one that is.

What is sent does not change.

Author: The vendored-integration authors
Origin: vendor
Forwarded: no
 Upstream would do it in start_span itself, for all integrations.
Last-Update: 2026-11-27
"""

from __future__ import annotations

import ast
from typing import Mapping

from ..errors import RefusedError
from . import ASSIGNMENT, Source, called, target

IMPORT = "import vendored_integration.runtime.spared as _spared"
ATTRIBUTES = "_get_request_attributes"
PROCESSOR = "_make_wsgi_event_processor"
REGISTER = "add_global_repr_processor"


def edit(files: Mapping[str, Source]) -> None:
    calls = [
        (source, node.func)
        for name, source in files.items()
        for node in source.walk(ast.Call)
        if name.startswith("django/") and called(node) == "sentry_sdk.start_span"
    ]
    for source, function in calls:
        source.replace(function, "_spared.start_span")
    if not calls:
        raise RefusedError("django/: no call of sentry_sdk.start_span")

    _if_wanted(files["django/signals_handlers.py"], "Signal._live_receivers")
    _if_wanted(files["django/views.py"], "BaseHandler.make_view_atomic")

    middleware = files["django/middleware.py"]
    test = middleware.one(
        "`not integration.middleware_spans`",
        (ast.UnaryOp,),
        lambda node: called(node.operand) == "integration.middleware_spans",
    )
    middleware.replace(test.operand, "(integration.middleware_spans and _spared.wanted())")

    wsgi = files["wsgi.py"]
    call = wsgi.one(f"call of {PROCESSOR}", (ast.Call,), lambda node: called(node) == PROCESSOR)
    wsgi.replace(call.func, "_spared.EventProcessor")
    wsgi.insert_before(call.args[0], f"{PROCESSOR}, ")

    for node in wsgi.walk(ast.Call):
        if called(node) == ATTRIBUTES:  # since 2.59
            wsgi.replace(node.func, "_spared.attributes")
            wsgi.insert_before(node.args[0], f"{ATTRIBUTES}, ")

    transactions = files["django/transactions.py"]
    old = "resolver_or_pattern.regex"
    regex = transactions.one(old, (ast.Attribute,), lambda node: called(node) == old)
    transactions.replace(regex, "resolver_or_pattern.pattern.regex")

    django = files["django/__init__.py"]
    function = django.one(
        f"function decorated with {REGISTER} alone",
        (ast.FunctionDef,),
        lambda node: [called(decorator) for decorator in node.decorator_list] == [REGISTER],
    )
    django.replace(function.decorator_list[0], f"_spared.for_query_sets({REGISTER})")

    for source in files.values():
        if "_spared." in source.changed():
            source.insert_line_above(_first_statement(source), IMPORT)


def _if_wanted(source: Source, method: str) -> None:
    """Call upstream's replacement of the method only for a span that is wanted."""
    saved = source.one(f"`... = {method}`", ASSIGNMENT, lambda node: called(node.value) == method)
    patched = source.one(
        f"`{method} = ...`", ASSIGNMENT, lambda node: called(target(node)) == method
    )
    arguments = f"{source.code(patched.value)}, {source.code(target(saved))}"
    source.replace(patched.value, f"_spared.if_wanted({arguments})")


def _first_statement(source: Source) -> ast.stmt:
    """The first that an import may stand above: after the docstring and `__future__`."""
    return next(
        node
        for node in source.tree.body
        if not isinstance(node, ast.Expr) and getattr(node, "module", "") != "__future__"
    )
