"""A server that runs the test app, the Sentry that it reports to, and what a test asks of both."""

import contextlib
import http.client
import json
import os
import uuid
from types import MappingProxyType

import pytest
from client import TIMEOUT, Gate, Open, fetch
from servers import Process, missing
from support.sdk import LIFECYCLES, assert_accepted, status_of

from sink import EnvelopeSink
from traces import traces

INTEGRATION = os.environ.get("LIVE_INTEGRATION", "ours")
STREAM_OP = "http.server.stream"

# Large enough that no socket buffer holds it: the server is not done before the client reads.
FILE_CONTENT = os.urandom(64 * 1024) * 512 + b"the end"


class Running(contextlib.ExitStack):
    """A server that runs the test app, and the Sentry that the app reports to.

    Its test is skipped if the server is not installed here.
    """

    def __init__(
        self,
        server,
        directory,
        integration=INTEGRATION,
        lifecycle=LIFECYCLES[0],
        before=(),
        **environment,
    ):
        super().__init__()
        reason = missing(server)
        if reason:
            pytest.skip(reason)
        self.server = server
        self.lifecycle = lifecycle
        (directory / "file").write_bytes(FILE_CONTENT)
        self.sink = EnvelopeSink().start()
        # A test may put another one in its place.
        self.callback(lambda: self.sink.stop())
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
            self.close()
            raise
        self.callback(self.process.stop)
        self.port = self.process.port

    # -- requests

    def open(self, path, request_id, method="GET", headers=None, body=b""):
        return Open(self.port, path, {"X-Request-Id": request_id, **(headers or {})}, method, body)

    @contextlib.contextmanager
    def held(self, path, request_id, **more):
        """A response whose body has got to its gate."""
        query = "&" if "?" in path else "?"
        with Gate() as gate, self.open(
            f"{path}{query}gate={gate.port}", request_id, **more
        ) as response:
            gate.wait_until_reached()
            yield response, gate

    def fetch(self, path, request_id, **more):
        with self.open(path, request_id, **more) as response:
            return response.read()

    def fetch_failing(self, path, request_id, **more):
        """Fetch a stream that fails after its first chunk."""
        with self.open(path, request_id, **more) as response:
            if self.server.ends_failed:
                response.read()
            else:
                self.wait_for_transaction(request_id)

    def fetch_on_one_connection(self, path, request_ids):
        """The bodies of requests that are made one after the other."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            bodies = []
            for request_id in request_ids:
                connection.request("GET", path, headers={"X-Request-Id": request_id})
                bodies.append(connection.getresponse().read())
            return bodies

    def flush(self):
        """Let the SDK send all it has.

        While a response is open, a server that is not concurrent cannot answer this.
        """
        assert fetch(self.port, "/-/flush").status == 204

    # -- what Sentry has seen

    def transactions(self, request_id):
        """Those of the request with this `X-Request-Id`, in either lifecycle."""
        return [t for t in traces(self.sink) if t.headers.get("x-request-id") == request_id]

    def wait_for_transaction(self, request_id):
        """The request's transaction as soon as it is there. Nothing is asked of the server."""
        return self.sink.wait_for(
            lambda sink: self.transactions(request_id),
            what="the transaction of request " + request_id,
        )[0]

    def the_transaction(self, request_id):
        """The one transaction of a request that is over; there must not be a second one."""
        if not self.server.threads:
            # The SDK's threads run only while a request does. The first of these requests is also
            # the later request at which expired and lost responses are found.
            self.fetch("/plain/", uuid.uuid4().hex)
            self.flush()
        self.wait_for_transaction(request_id)
        # What the server does after the response (its log) has been sent as well after this.
        self.flush()
        found = self.transactions(request_id)
        assert len(found) == 1, self.sink.describe()
        return found[0]

    def check_outcome(self, trace, outcome, status):
        """Its status is the static lifecycle's; the stream lifecycle knows only two."""
        assert (trace.outcome, trace.status) == (outcome, status_of(self.lifecycle, status))

    def check_one_error(self, trace, kind, message):
        """One event, with the exception, in the trace; none from the server's log."""
        (event,) = self.sink.errors()
        value = event["exception"]["values"][-1]
        assert (value["type"], value["value"]) == (kind, message)
        context = event["contexts"]["trace"]
        assert context["trace_id"] == trace.trace_id
        assert context["span_id"] in trace.span_ids
        assert event["transaction"] == trace.name
        return event

    def check(self):
        """All that has arrived is well-formed, and Relay has nothing to say against it."""
        assert not self.sink.rejected
        for event in self.sink.transactions() + self.sink.errors():
            assert_accepted(event)


class Live(contextlib.ExitStack):
    """One server in one lifecycle: several configurations, each started when it is first used."""

    #: By name: arguments of our integration.
    OPTIONS = MappingProxyType(
        {
            "main": {"stream_op": STREAM_OP},
            "impatient": {"response_timeout": 0.3},
            "crowded": {"max_open_responses": 1},
        }
    )

    def __init__(self, server, lifecycle, tmp_path_factory):
        super().__init__()
        self.server = server
        self.lifecycle = lifecycle
        self._tmp_path_factory = tmp_path_factory
        self.running = {}

    def get(self, name, integration=INTEGRATION, **environment):
        """The one that has this name."""
        if name not in self.running:
            options = json.dumps(self.OPTIONS.get(name, {}))
            running = self.fresh(integration, OPTIONS=options, **environment)
            self.running[name] = self.enter_context(running)
        return self.running[name]

    @property
    def main(self):
        return self.get("main")

    def fresh(self, integration=INTEGRATION, **environment):
        """One that has just been started."""
        directory = self._tmp_path_factory.mktemp("live")
        return Running(self.server, directory, integration, self.lifecycle, **environment)
