"""The live tests: one body of scenarios for thirteen real servers, WSGI and ASGI, in both
span lifecycles.

Nothing is looked up inside a server: what counts is what Sentry (the sink) and the client received.

    pytest tests/live -k gthread              one server
    LIVE_INTEGRATION=stock pytest tests/live  the SDK's own integration: the tests can fail
"""

import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running import Live
from servers import SERVERS, missing
from support.sdk import LIFECYCLES

# The lifecycles differ in the SDK's own code, not in the server's: one server of each kind.
STREAM_LIFECYCLE = [
    "gunicorn-gthread",
    "uwsgi-threads",
    "wsgiref",
    "uvicorn-httptools",
    "hypercorn",
    "daphne",
]

PARAMETERS = [(name, LIFECYCLES[0]) for name in SERVERS]
PARAMETERS += [(name, other) for other in LIFECYCLES[1:] for name in STREAM_LIFECYCLE]


@pytest.fixture(scope="session", params=PARAMETERS, ids="-".join)
def _live(request, tmp_path_factory):
    name, lifecycle = request.param
    reason = missing(SERVERS[name])
    if reason:
        pytest.skip(reason)
    with Live(SERVERS[name], lifecycle, tmp_path_factory) as live:
        yield live


@pytest.fixture
def live(_live):
    for running in _live.running.values():
        running.sink.clear()
    yield _live
    for running in _live.running.values():
        running.check()


@pytest.fixture
def request_id():
    """Sent as `X-Request-Id`, by which a transaction is found."""
    return uuid.uuid4().hex


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Show what the servers wrote, and what Sentry received, below a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    live = getattr(item, "funcargs", {}).get("_live")
    if report.failed and isinstance(live, Live):
        for name, running in live.running.items():
            report.sections += [
                (f"output of the server ({name})", running.process.output[-8000:]),
                (f"received by Sentry ({name})", running.sink.describe()),
            ]
