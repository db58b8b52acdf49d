"""Refuse a port that would be silently wrong: what an edit cannot see by itself."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from typing import Iterator, Mapping

from .edits import ASSIGNMENT, Source, called, target
from .edits.close_aware import APPLIED, MIDDLEWARE
from .errors import DamagedError, RefusedError
from .releases import ROOT, numbers
from .upstream import Upstream

# The files below integrations/ that are vendored, and the first release that has each.
# A file that is not listed may do what nobody has looked at: its spans, its middleware.
FILES = {
    "wsgi.py": "2.0.0",
    "django/__init__.py": "2.0.0",
    "django/asgi.py": "2.0.0",
    "django/caching.py": "2.0.0",
    "django/middleware.py": "2.0.0",
    "django/signals_handlers.py": "2.0.0",
    "django/tasks.py": "2.48.0",
    "django/templates.py": "2.0.0",
    "django/transactions.py": "2.0.0",
    "django/views.py": "2.0.0",
}
# What the licence has to be: another one may not allow to copy, or ask for more.
_LICENSE = b"MIT License\n"

_PACKAGE = "vendored_integration"
_STOCK = tuple(f"sentry_sdk.integrations.{name}." for name in ("django", "wsgi", "asgi"))
# What the edit takes from a stock module on purpose.
_SHARED = f"sentry_sdk.integrations.wsgi.{APPLIED}"
_OURS = {
    "django/__init__.py": f"{_PACKAGE}._vendor.wsgi.SentryWsgiMiddleware",
    "django/asgi.py": f"{_PACKAGE}.runtime.asgi.SentryAsgiMiddleware",
}

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Statements whose body is entered in any case.
_ALWAYS = (ast.With, ast.Try, *ASSIGNMENT)


def check_files(source: Upstream) -> None:
    """The release has the files that are listed, and they are text as the edits expect.

    :raises RefusedError: upstream has added or removed one, or ends lines otherwise.
    :raises DamagedError: one is not UTF-8, or the licence is not the known one.
    """
    release, files = numbers(source.release), source.files
    listed = {name for name, first in FILES.items() if numbers(first) <= release}
    found = [f"{name} added" for name in sorted({*files} - listed)]
    found += [f"{name} removed" for name in sorted(listed - {*files})]
    if found:
        raise RefusedError(
            "upstream has added or removed files of what is vendored",
            expected=", ".join(sorted(listed)),
            found="; ".join(found),
            next="read them, then list them in FILES of scripts/pipeline/verify.py",
        )
    for name, data in files.items():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DamagedError(f"{name}: not UTF-8", found=str(error)) from error
        if b"\r" in data or data[-1:] not in (b"\n", b""):
            raise RefusedError(
                f"{name}: lines do not end as in a patch",
                expected="LF at the end of each line",
                found="CR LF" if b"\r" in data else "none at the end of the file",
                next="let scripts/pipeline/patch.py keep these line ends",
            )
    if not source.license.startswith(_LICENSE):
        raise DamagedError(
            f"sentry-sdk {source.release}: no licence, or another one",
            expected="a file LICENSE that begins with MIT License",
            found=source.license[:80].decode("utf-8", "replace").split("\n")[0] or "none",
            next="read it; do not go on before it is clear that it allows this",
        )


def verify(source: Upstream, texts: Mapping[str, str]) -> None:
    """Look at the edited files of a release.

    An import of a module that there is, but not what is imported from it, is left to the drive.

    :raises RefusedError: it says what is wrong, and in which line.
    """
    own = [path.relative_to(ROOT).as_posix() for path in (ROOT / _PACKAGE).rglob("*.py")]
    paths = [*source.contents, *(path for path in own if "/_vendor/" not in path)]
    paths += [f"{_PACKAGE}/_vendor/{name}" for name in ("__init__.py", *texts)]
    modules = {re.sub(r"(/__init__)?\.py$", "", path).replace("/", ".") for path in paths}
    problems = []
    for name, text in texts.items():
        found = [*_unbound(name, text)]
        imports = [*_imports(name, text)]
        if name in _OURS and _OURS[name] not in [full for _, full in imports]:
            problems.append(f"{name}: does not import {_OURS[name]}: Django would use stock's")
        for line, full in imports:
            if f"{full}.".startswith(_STOCK) and full != _SHARED:
                found.append((line, f"imports stock's {full}"))
            is_known = {full, full.rpartition(".")[0]} & modules
            if full.startswith((_PACKAGE, "sentry_sdk")) and not is_known:
                found.append((line, f"imports {full}, which does not exist"))
        if name == "wsgi.py":
            found += _application(Source(name, text))
        # Nobody has the edited file before it is written: its line, and not the number.
        lines = text.split("\n")
        problems += [f"{name}: {lines[line - 1].strip()}: {problem}" for line, problem in found]
    if problems:
        raise RefusedError(
            "the edited files are not right",
            found="".join(f"\n    {problem}" for problem in problems),
            next='see "When a port is refused" in CONTRIBUTING.md',
        )


def _application(wsgi: Source) -> Iterator[tuple[int, str]]:
    """How SentryWsgiMiddleware calls the application: once, where it can wait."""
    middleware = next(n for n in wsgi.walk(ast.ClassDef) if n.name == MIDDLEWARE)
    method = next(n for n in middleware.body if getattr(n, "name", "") == "__call__")
    waits = list(wsgi.walk(ast.Yield, ast.YieldFrom, ast.Await, below=method))
    if len(waits) != 1:
        yield waits[0].lineno, "__call__ is a generator or a coroutine already"
        return
    wait = waits[0]
    inside = [node for node in wsgi.above(wait) if method in wsgi.above(node)]

    # A nested middleware leaves the request to the outer one; the runtime asks first.
    guards = [
        node.body[0]
        for node in method.body
        if isinstance(node, ast.If) and called(node.test) == f"{APPLIED}.get"
    ]
    for node in wsgi.walk(ast.Attribute, below=middleware):
        around = [*wsgi.above(node)]
        if called(node) == "self.app" and isinstance(node.ctx, ast.Load):
            function = next(n for n in around if isinstance(n, _FUNCTIONS))
            if wait not in around and not any(guard in around for guard in guards):
                twin = "async def" if isinstance(function, ast.AsyncFunctionDef) else "def"
                yield node.lineno, f"{twin} {function.name} uses the application, too"
    for node in wsgi.walk(ast.Return, below=method):
        function = next(n for n in wsgi.above(node) if isinstance(n, _FUNCTIONS))
        if function is method and node.lineno < wait.lineno and node not in guards:
            yield node.lineno, "returns before the application is called"
    for node in inside:
        if isinstance(node, (ast.stmt, ast.ExceptHandler)) and not isinstance(node, _ALWAYS):
            yield node.lineno, "not every request reaches the call of the application"

    spans = [called(target(n)) for n in wsgi.walk(*ASSIGNMENT, below=method) if _starts(wsgi, n)]
    blocks = [item.context_expr for n in inside if isinstance(n, ast.With) for item in n.items]
    if not any(_starts(wsgi, block) or called(block) in spans for block in blocks):
        stack = any("ExitStack" in called(node) for node in wsgi.walk(ast.Call, below=method))
        instead = "an ExitStack" if stack else "other code"
        yield wait.lineno, f"{instead} ends the span, not a `with` around this"

    response = next(n for n in inside if isinstance(n, ASSIGNMENT))
    for node in wsgi.walk(ast.Name, below=method):
        again = node.id == called(target(response)) and node is not target(response)
        if again and isinstance(node.ctx, ast.Store):
            yield node.lineno, "exchanges the response after the call"


def _starts(wsgi: Source, node: ast.AST) -> bool:
    """Whether the code starts a span."""
    names = [called(call) for call in wsgi.walk(ast.Call, below=node)]
    return any(name.endswith((".start_span", ".start_transaction")) for name in names)


@lru_cache(maxsize=None)
def _unbound(name: str, text: str) -> list[tuple[int, str]]:
    """Names that nothing has bound: what an edit uses, or what it has taken away."""
    # Only here: what reads no edits needs nothing but the standard library.
    from pyflakes.checker import Checker
    from pyflakes.messages import UndefinedLocal, UndefinedName

    return [
        (message.lineno, message.message % message.message_args)
        for message in Checker(ast.parse(text), name).messages
        if isinstance(message, (UndefinedName, UndefinedLocal))
    ]


def _imports(name: str, text: str) -> Iterator[tuple[int, str]]:
    """The line and the full name of all that a vendored file imports."""
    package = [_PACKAGE, "_vendor", *name.split("/")[:-1]]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
