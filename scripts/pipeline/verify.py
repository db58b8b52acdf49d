"""Refuse a port that would be silently wrong: what an edit cannot see by itself."""

from __future__ import annotations

import ast
import symtable
from functools import lru_cache
from typing import Iterator, Mapping

from packaging.specifiers import SpecifierSet
from pyflakes.checker import Checker
from pyflakes.messages import UndefinedLocal, UndefinedName

from .edits import ASSIGNMENT, Source, called, target
from .edits.close_aware import APPLIED, MIDDLEWARE
from .errors import DamagedError, RefusedError
from .releases import ROOT
from .upstream import Upstream

# The files below integrations/ that are vendored, and the releases that have them.
# A file that is not listed may do what nobody has looked at: its spans, its middleware.
FILES = {
    "wsgi.py": ">=2.0.0",
    "django/__init__.py": ">=2.0.0",
    "django/asgi.py": ">=2.0.0",
    "django/caching.py": ">=2.0.0",
    "django/middleware.py": ">=2.0.0",
    "django/signals_handlers.py": ">=2.0.0",
    "django/tasks.py": ">=2.48.0",
    "django/templates.py": ">=2.0.0",
    "django/transactions.py": ">=2.0.0",
    "django/views.py": ">=2.0.0",
}

_SDK = "sentry_sdk"
_PACKAGE = "vendored_integration"
_STOCK = tuple(f"{_SDK}.integrations.{name}" for name in ("django", "wsgi", "asgi"))
# What the edit takes from a stock module on purpose.
_SHARED = f"{_SDK}.integrations.wsgi.{APPLIED}"
_OURS = (
    ("django/__init__.py", f"{_PACKAGE}._vendor.wsgi.SentryWsgiMiddleware"),
    ("django/asgi.py", f"{_PACKAGE}.runtime.asgi.SentryAsgiMiddleware"),
)

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Statements whose body is entered in any case.
_ALWAYS = (ast.With, ast.Try, *ASSIGNMENT)


def check_files(source: Upstream) -> None:
    """The release has the files that are listed, and they are text as the edits expect.

    :raises RefusedError: upstream has added or removed one.
    :raises DamagedError: one is not UTF-8.
    """
    listed = {
        name
        for name, releases in FILES.items()
        if SpecifierSet(releases).contains(source.release, prereleases=True)
    }
    added, removed = sorted({*source.files} - listed), sorted(listed - {*source.files})
    if added or removed:
        raise RefusedError(
            "upstream has added or removed files of what is vendored",
            expected=", ".join(sorted(listed)),
            found="; ".join(
                f"{name} {what}"
                for names, what in ((added, "added"), (removed, "removed"))
                for name in names
            ),
            next="read them, then list them in FILES of scripts/pipeline/verify.py",
        )
    for name, data in source.files.items():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DamagedError(f"{name}: not UTF-8", found=str(error)) from error
        if b"\r" in data or (data and not data.endswith(b"\n")):
            raise RefusedError(
                f"{name}: lines do not end as in a patch",
                expected="LF at the end of each line",
                found="CR LF" if b"\r" in data else "none at the end of the file",
                next="let scripts/pipeline/patch.py keep these line ends",
            )


def verify(source: Upstream, texts: Mapping[str, str]) -> None:
    """Look at the edited files of a release.

    :raises RefusedError: it says what is wrong, and in which line.
    """
    modules = _modules(source, texts)
    problems = []
    for name, text in texts.items():
        found = [*_unbound(name, text), *_unresolved(name, text, modules)]
        if name == "wsgi.py":
            found += _application(Source(name, text))
        # Nobody has the edited file before it is written: its line, and not the number.
        lines = text.split("\n")
        problems += [f"{name}: {lines[line - 1].strip()}: {problem}" for line, problem in found]
    for name, wanted in _OURS:
        if wanted not in {found for _, found in _imports(name, texts[name])}:
            problems.append(f"{name}: does not import {wanted}: Django would use stock's")
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
    return [
        (message.lineno, message.message % message.message_args)
        for message in Checker(ast.parse(text), name).messages
        if isinstance(message, (UndefinedName, UndefinedLocal))
    ]


def _unresolved(name: str, text: str, modules: Mapping[str, bytes]) -> Iterator[tuple[int, str]]:
    for line, found in _imports(name, text):
        module, _, attribute = found.rpartition(".")
        if found.split(".")[0] not in (_SDK, _PACKAGE) or found == _SHARED:
            continue
        known = modules.get(module, b"")
        if _is_stock(found) or (found.startswith(_SDK) and found.endswith("Middleware")):
            yield line, f"imports stock's {found}"
        # A star import may bring any name.
        elif not (found in modules or b"import *" in known or attribute in _bound(known)):
            yield line, f"imports {found}, which does not exist"


def _is_stock(name: str) -> bool:
    return any(f"{name}.".startswith(f"{stock}.") for stock in _STOCK)


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


def _modules(source: Upstream, texts: Mapping[str, str]) -> dict[str, bytes]:
    """What can be imported beside a vendored file, by its full name: the SDK's, and ours."""
    paths = {name: data for name, data in source.contents.items() if name.startswith(f"{_SDK}/")}
    for path in (ROOT / _PACKAGE).rglob("*.py"):
        if "_vendor" not in path.parts:
            paths[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    for name, text in texts.items():
        paths[f"{_PACKAGE}/_vendor/{name}"] = text.encode("utf-8")
    return {
        path[: -len(".py")].replace("/", ".").replace(".__init__", ""): data
        for path, data in paths.items()
        if path.endswith(".py")
    }


@lru_cache(maxsize=None)
def _bound(text: bytes) -> set[str]:
    """The names that a module's code binds."""
    symbols = symtable.symtable(text.decode("utf-8"), "module", "exec").get_symbols()
    return {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
