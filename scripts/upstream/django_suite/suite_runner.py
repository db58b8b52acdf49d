"""A runner for Django's own tests: their test clients go through the WSGI and ASGI handlers.

Django's test clients call ``get_response`` themselves, past ``WSGIHandler.__call__`` and
``ASGIHandler.__call__``, which is what the SDK wraps. Here they call the application as a
server does, iterate what it returns, and close it. The tests still get Django's response.
"""

import asyncio
import contextlib
import copy
import json
import unittest
from pathlib import Path
from typing import Any, AsyncIterator, Dict, Iterator, List
from unittest import mock

from django.conf import settings
from django.core.handlers import asgi
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import client
from django.test.runner import DiscoverRunner
from sent import RecordingTransport, comparable


class Result(unittest.TextTestResult):
    """Remembers which tests were run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.started: List[str] = []

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self.started.append(test.id())
        RecordingTransport.test = test.id()


class Runner(DiscoverRunner):
    """Writes how each test ended."""

    def get_resultclass(self) -> type:
        return Result

    def setup_test_environment(self, **kwargs: Any) -> None:
        super().setup_test_environment(**kwargs)
        client.ClientHandler = RoutedHandler
        client.AsyncClientHandler = RoutedAsyncHandler

    def suite_result(self, suite: Any, result: Any, **kwargs: Any) -> Any:
        outcomes = {test: ["passed", ""] for test in result.started}
        outcomes.update((test.id(), ["skipped", ""]) for test, _ in result.skipped)
        for test, text in [*result.failures, *result.errors]:
            # One for a subtest, too: with the id of its test.
            outcomes[getattr(test, "test_case", test).id()] = ["failed", _error_line(text)]
        for test in result.unexpectedSuccesses:
            outcomes[test.id()] = ["failed", "unexpected success"]
        sent = {test: comparable(items) for test, items in RecordingTransport.sent.items()}
        results = {"traced": RecordingTransport.traced, "outcomes": outcomes, "sent": sent}
        Path(settings.RUN["results"]).write_text(json.dumps(results))
        return super().suite_result(suite, result, **kwargs)


def _error_line(traceback: str) -> str:
    """The first line that is not indented after the last frame."""
    after = traceback.rpartition('  File "')[2].splitlines()[1:]
    return next((line for line in after if line and not line[0].isspace()), "")


@contextlib.contextmanager
def _connections_left_open() -> "Iterator[None]":
    """As Django's own test clients: a test's transaction must outlive its requests."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in (request_started, request_finished):
            signal.connect(close_old_connections)


def _refill(response: Any, chunks: List[bytes], request: Any) -> Any:
    """The test's response, with the body that the server got: it has been read, and is closed."""
    if not response.streaming:
        response.content = b"".join(chunks)
    else:
        response._iterator = _async_iterator(chunks) if response.is_async else iter(chunks)
    return client.conditional_content_removal(request, response)


async def _async_iterator(chunks: "List[bytes]") -> "AsyncIterator[bytes]":
    for chunk in chunks:
        yield chunk


class RoutedHandler(client.ClientHandler):
    """Makes a test client's request through the WSGI handler."""

    request_class = WSGIRequest

    def __call__(self, environ: "Dict[str, Any]") -> Any:
        if self._middleware_chain is None:
            self.load_middleware()
        call = copy.copy(self)  # which keeps the response of this call
        with _connections_left_open():
            body = WSGIHandler.__call__(call, environ, lambda status, headers: None)
            with contextlib.closing(body):
                chunks = list(body)
        return _refill(call.response, chunks, call.response.wsgi_request)

    def get_response(self, request: Any) -> Any:
        request._dont_enforce_csrf_checks = not self.enforce_csrf_checks
        self.response = super().get_response(request)
        self.response.wsgi_request = request
        return self.response


class RoutedAsyncHandler(asgi.ASGIHandler):
    """Makes an async test client's request through the ASGI handler."""

    def __init__(self, enforce_csrf_checks: bool = True) -> None:
        # Not ASGIHandler's, which loads the middlewares before the test has set them.
        self.enforce_csrf_checks = enforce_csrf_checks

    async def __call__(self, scope: "Dict[str, Any]") -> Any:
        if self._middleware_chain is None:
            self.load_middleware(is_async=True)
        body_file = scope.pop("_body_file", None)
        body = body_file.read() if body_file is not None else b""
        requests = [{"type": "http.request", "body": body}]
        chunks: List[bytes] = []

        async def receive() -> Any:
            return requests.pop() if requests else await asyncio.Event().wait()

        async def send(message: "Dict[str, Any]") -> None:
            chunks.append(message.get("body", b""))

        call = copy.copy(self)
        # A database in memory belongs to the test's thread.
        same_thread = mock.patch.object(asgi, "ThreadSensitiveContext", contextlib.nullcontext)
        with _connections_left_open(), same_thread:
            await asgi.ASGIHandler.__call__(call, scope, receive, send)
        return _refill(call.response, chunks, call.response.asgi_request)

    async def get_response_async(self, request: Any) -> Any:
        request._dont_enforce_csrf_checks = not self.enforce_csrf_checks
        self.response = await super().get_response_async(request)
        self.response.asgi_request = request
        return self.response
