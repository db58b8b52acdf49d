"""A server that runs the test app, the Sentry that it reports to, and what a test asks of both."""

import contextlib
import http.client
import os
import re
import uuid
from pathlib import Path
from typing import Dict, Iterator, List, Optional

import pytest
from client import TIMEOUT, Open, Response, fetch
from seen import Trace, transactions
from servers import Process, Server, missing
from support.relay import complaints

from sink import EnvelopeSink

INTEGRATION = os.environ.get("LIVE_INTEGRATION", "ours")

# Large enough that no socket buffer holds it: the server is not done before the client reads.
FILE_CONTENT = os.urandom(64 * 1024) * 512 + b"the end"


class Running:
    """A server that runs the test app, and the Sentry that the app reports to.

    A context manager; its test is skipped if the server is not installed here.
    """

    def __init__(
        self,
        server: Server,
        directory: Path,
        integration: str = INTEGRATION,
        lifecycle: str = "static",
        before: Optional[List[str]] = None,
        **environment: str,
    ) -> None:
        reason = missing(server)
        if reason:
            pytest.skip(reason)
        self.server = server
        self.lifecycle = lifecycle
        self.directory = directory
        self.sink = EnvelopeSink().start()
        try:
            self.process = Process(
                server,
                {
                    "DSN": self.sink.dsn,
                    "INTEGRATION": integration,
                    "LIFECYCLE": lifecycle,
                    "DATABASE": str(directory / "live.sqlite3"),
                    "FILE": str(directory / "file"),
                    **environment,
                },
                cwd=directory,
                before=before,
            )
        except BaseException:
            self.sink.stop()
            raise
        self.port = self.process.port

    def stop(self) -> None:
        try:
            self.process.stop()
        finally:
            self.sink.stop()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # -- requests

    def open(
        self,
        path: str,
        request_id: str,
        method: str = "GET",
        headers: Optional[Dict[str, str]] = None,
        body: bytes = b"",
    ) -> Open:
        return Open(self.port, path, {"X-Request-Id": request_id, **(headers or {})}, method, body)

    def fetch(
        self,
        path: str,
        request_id: str,
        method: str = "GET",
        headers: Optional[Dict[str, str]] = None,
        body: bytes = b"",
    ) -> Response:
        with self.open(path, request_id, method, headers, body) as response:
            return response.read()

    def fetch_failing(
        self, path: str, request_id: str, method: str = "GET", body: bytes = b""
    ) -> bytes:
        """What there is of the body of a stream that fails after its first chunk."""
        with self.open(path, request_id, method, body=body) as response:
            if self.server.ends_failed:
                return response.read().body
            self.wait_for_transaction(request_id)
            return b""

    def fetch_failing_until_logged(self, path: str, request_id: str, logged: str) -> None:
        """The same; it is over when the server has logged the error. `logged` is its last line."""
        with self.open(path, request_id) as response:
            if self.server.ends_failed:
                response.read()
            self.process.wait_for_output([re.compile(re.escape(logged))])

    def fetch_on_one_connection(self, path: str, request_ids: List[str]) -> List[bytes]:
        """The bodies of requests that are made one after the other."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            bodies = []
            for request_id in request_ids:
                connection.request("GET", path, headers={"X-Request-Id": request_id})
                bodies.append(connection.getresponse().read())
            return bodies

    def flush(self) -> None:
        """Let the SDK send all it has.

        While a response is open, a server that is not concurrent cannot answer this.
        """
        assert fetch(self.port, "/-/flush").status == 204

    # -- what Sentry has seen

    def wait_for_transaction(self, request_id: str) -> Trace:
        """The request's transaction as soon as it is there. Nothing is asked of the server."""
        return self.sink.wait_for(
            lambda sink: transactions(sink, request_id),
            what="the transaction of request " + request_id,
        )[0]

    def the_transaction(self, request_id: str) -> Trace:
        """The one transaction of a request that is over; there must not be a second one."""
        if not self.server.threads:
            # The SDK's threads run only while a request does. The first of these requests is also
            # the later request at which expired and lost responses are found.
            self.fetch("/plain/", uuid.uuid4().hex)
            self.flush()
        self.wait_for_transaction(request_id)
        # What the server does after the response (its log) has been sent as well after this.
        self.flush()
        found = transactions(self.sink, request_id)
        assert len(found) == 1, "%d transactions for one request:\n%s" % (
            len(found),
            self.sink.describe(),
        )
        return found[0]

    def check(self) -> None:
        """All that has arrived is well-formed, and Relay has nothing to say against it."""
        assert not self.sink.rejected
        for event in self.sink.transactions() + self.sink.errors():
            assert complaints(event) == [], event


class Live:
    """One server in one lifecycle: several configurations, each started when it is first used."""

    def __init__(
        self, server: Server, lifecycle: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        self.server = server
        self.lifecycle = lifecycle
        self._tmp_path_factory = tmp_path_factory
        self._running: Dict[str, Running] = {}

    def _get(self, name: str, **options: str) -> Running:
        if name not in self._running:
            directory = self._tmp_path_factory.mktemp(name)
            (directory / "file").write_bytes(FILE_CONTENT)
            self._running[name] = Running(
                self.server, directory, lifecycle=self.lifecycle, **options
            )
        return self._running[name]

    @property
    def main(self) -> Running:
        return self._get("main")

    @property
    def impatient(self) -> Running:
        """`response_timeout` is 0.3 seconds."""
        return self._get("impatient", RESPONSE_TIMEOUT="0.3")

    @property
    def crowded(self) -> Running:
        """`max_open_responses` is 1."""
        return self._get("crowded", MAX_OPEN="1")

    @property
    def channels(self) -> Running:
        """Django beside consumers of Channels."""
        return self._get("channels", ROUTER="channels")

    def other(self, integration: str) -> Running:
        """The same with another integration: stock, or none."""
        return self._get(integration, integration=integration)

    def fresh(self, **environment: str) -> Running:
        """One that has just been started."""
        directory = self._tmp_path_factory.mktemp("fresh")
        return Running(self.server, directory, lifecycle=self.lifecycle, **environment)

    @contextlib.contextmanager
    def logging(self) -> Iterator[Running]:
        """One that logs an application's error; see Server.ends_failed."""
        if self.server.ends_failed:
            yield self.main
        else:
            with self.fresh() as running:
                yield running

    @property
    def running(self) -> Dict[str, Running]:
        return dict(self._running)

    def stop(self) -> None:
        failed: List[BaseException] = []
        for running in self._running.values():
            try:
                running.stop()
            except AssertionError as error:
                failed.append(error)
        if failed:
            raise failed[0]
