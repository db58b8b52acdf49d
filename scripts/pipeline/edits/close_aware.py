"""End a request's transaction when its response is closed

Upstream's SentryWsgiMiddleware leaves all its "with" blocks as soon as the
application has returned, when a streaming response has not begun its work.
With a "yield" of the call the method is a generator. @close_aware makes the call,
and resumes the generator with the response: at once, or when a streaming response
is closed. The response that the server gets is the runtime's; upstream's class
stays, under another name, unused.

A waiting generator that the garbage collector finds gets a GeneratorExit, which is
no error of the application: is_disposal() knows it.

The context variable that tells nested middlewares of each other is shared with
the stock module, so that a stock middleware around or inside of this one still
gives one transaction and not two.

Author: The vendored-integration authors
Origin: vendor
Forwarded: not-needed
 Upstream merged a fix of its own and took it back before it was released: it
 started one timer thread for each request.
Last-Update: 2026-11-27
"""

from __future__ import annotations

import ast
from typing import Mapping

from ..errors import RefusedError
from . import ASSIGNMENT, Source, called, target

APPLIED = "_wsgi_middleware_applied"
MIDDLEWARE = "SentryWsgiMiddleware"
RESPONSE = "_ScopedResponse"
IMPORTS = (
    f"from sentry_sdk.integrations.wsgi import {APPLIED}\n"
    f"from vendored_integration.runtime import {RESPONSE}, close_aware, is_disposal"
)


def edit(files: Mapping[str, Source]) -> None:
    wsgi = files["wsgi.py"]
    variable = wsgi.one(
        f"module variable {APPLIED}",
        ASSIGNMENT,
        lambda node: node in wsgi.tree.body and called(target(node)) == APPLIED,
    )
    wsgi.replace(variable, IMPORTS)
    for node in wsgi.walk(ast.Call):
        if called(node).endswith("ContextVar") and variable not in wsgi.above(node):
            raise RefusedError(
                f"wsgi.py:{node.lineno}: another context variable",
                expected=f"{APPLIED} alone",
                next="decide whether the stock module has to share it, and write that into "
                "scripts/pipeline/edits/close_aware.py",
            )

    middleware = wsgi.one(MIDDLEWARE, (ast.ClassDef,), lambda node: node.name == MIDDLEWARE)
    method = wsgi.one(
        f"def {MIDDLEWARE}.__call__",
        (ast.FunctionDef,),
        lambda node: node.name == "__call__",
        below=middleware,
    )
    wsgi.insert_line_above(method, "@close_aware")
    response = wsgi.one(
        f"assignment of self.app(...) in {MIDDLEWARE}.__call__",
        ASSIGNMENT,
        lambda node: isinstance(node.value, ast.Call) and called(node.value) == "self.app",
        below=method,
    )
    wsgi.replace(response.value.func, "yield partial")
    wsgi.insert_before(response.value.args[0], "self.app, ")

    skip = wsgi.one(
        "assignment of a test for SystemExit",
        ASSIGNMENT,
        lambda node: any(called(n) == "SystemExit" for n in wsgi.walk(ast.Name, below=node)),
    )
    is_exit = wsgi.one("isinstance(...) in it", (ast.Call,), lambda node: True, below=skip)
    wsgi.insert_before(skip.value, f"is_disposal({wsgi.code(is_exit.args[0])}) or ")

    scoped = wsgi.one(RESPONSE, (ast.ClassDef,), lambda node: node.name == RESPONSE)
    wsgi.rename(scoped, "_ReplacedScopedResponse")
    for node in wsgi.walk(ast.Call):
        if called(node) == RESPONSE and (len(node.args), node.keywords) != (2, []):
            raise RefusedError(
                f"wsgi.py:{node.lineno}: {RESPONSE} is called with other arguments",
                expected=f"{RESPONSE}(scope, response)",
                next="let the runtime's response take what upstream's takes",
            )
