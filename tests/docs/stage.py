"""Runs what a page has made of a Django project; see django_project.py. One process a page.

    python stage.py JOB

JOB is a file of JSON: the snippets of the page, in their order, and what the test wants to be
done after them. The working directory is the project's.
"""

import functools
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path[0] = str(Path.cwd())
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"

    import django
    import sentry_sdk

    django.setup()
    from django.core.management import call_command

    call_command("migrate", run_syncdb=True, verbosity=0)
    from shop.models import Order

    Order.objects.bulk_create(Order(number=number, cents=100 * number) for number in (1, 2, 3))

    for module in job["modules"]:
        importlib.import_module(module)
    wsgi = importlib.import_module("shop.wsgi").application
    asgi = importlib.import_module("shop.asgi").application
    namespace: Dict[str, Any] = {"app": wsgi}
    for name, line, text in job["snippets"]:
        exec(compile("\n" * (line - 1) + text, name, "exec"), namespace)
    namespace.update(
        call=call,
        acall=acall,
        get=functools.partial(call, wsgi),
        aget=functools.partial(acall, asgi),
        get_all=lambda: [call(wsgi, path) for path in _paths()],
    )
    exec(compile(job["then"], "then", "exec"), namespace)
    sentry_sdk.flush(timeout=10)


def call(
    application: Callable[..., Any], path: str, chunks: int = sys.maxsize, **environ: str
) -> Tuple[str, str]:
    """Do what a WSGI server does for a request; hang up after so many chunks."""
    from django.test import RequestFactory

    status: List[str] = []
    response = application(
        RequestFactory().get(path, **environ).environ, lambda line, *rest: status.append(line)
    )
    try:
        body = b"".join(chunk for _, chunk in zip(range(chunks), response))
    finally:
        if hasattr(response, "close"):
            response.close()
    return status[0], body.decode()


def acall(application: Callable[..., Any], path: str) -> Tuple[int, str]:
    """Do what an ASGI server does for a request."""
    import asyncio

    from asgiref.testing import ApplicationCommunicator

    async def talk() -> Tuple[int, str]:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"testserver")],
            "client": ("127.0.0.1", 1),
            "server": ("testserver", 80),
        }
        communicator = ApplicationCommunicator(application, scope)
        await communicator.send_input({"type": "http.request", "body": b"", "more_body": False})
        start = await communicator.receive_output(10)
        body = b""
        more = True
        while more:
            message = await communicator.receive_output(10)
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await communicator.wait(10)
        return start["status"], body.decode()

    return asyncio.run(talk())


def _paths() -> List[str]:
    from django.urls import get_resolver

    return [f"/{pattern.pattern}?n=2&until=1" for pattern in get_resolver().url_patterns]


if __name__ == "__main__":
    main()
