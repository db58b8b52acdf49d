"""A stream of 100,000 spans arrives complete, in parts, and the worker does not grow."""

import re
from collections import Counter
from pathlib import Path

import pytest
from client import Gate
from running import INTEGRATION, Running
from servers import SERVERS

PARTS = 20
SPANS = 5000  # in a part: the SDK's limit, set so by MAX_SPANS

SERVER = SERVERS["gunicorn-gthread"]

pytestmark = [
    pytest.mark.skipif(INTEGRATION != "ours", reason="stock has no parts"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here"),
]


@pytest.fixture
def running(tmp_path):
    with Running(
        SERVER, tmp_path, OPTIONS='{"on_timeout": "continue"}', MAX_SPANS=str(SPANS)
    ) as running:
        yield running


def resident(pid):
    """The memory of a process in KiB, as far as it is in RAM (VmRSS)."""
    (found,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found)


def test_100_000_spans(running, request_id):
    """All of them arrive, in 20 transactions of one trace; memory is flat after the first part.

    Flat: while the later parts are open and full, the worker has never more memory than
    after the first, plus what the spans of one part take. So much may be between parts:
    spans that the SDK is about to send, or that the allocator has not given back. A
    worker that kept what it has sent would be beyond that in the third part.
    """
    path = "/stream-many-spans/"
    idle = resident(int(running.fetch(f"{path}?n=1&spans=1", "warm up").body))
    running.flush()
    running.sink.clear()
    full = []
    with Gate() as gate, running.open(
        f"{path}?n={PARTS}&spans={SPANS}&gate={gate.port}", request_id
    ) as response:
        pid = int(response.read_headers().readline())
        for part in range(PARTS):
            gate.wait_until_reached()
            # The spans of this part are all there; those before it have been sent.
            running.flush()
            assert len(running.sink.transactions()) == part
            full.append(resident(pid))
            gate.open()
        assert response.read().complete
    running.sink.wait_for(lambda sink: len(sink.transactions()) == PARTS, what="the last part")
    found = running.transactions(request_id)
    assert len({trace.trace_id for trace in found}) == 1
    counted = Counter(span.name for trace in found for span in trace.spans)
    assert counted == {f"span {part}.{n}": 1 for part in range(PARTS) for n in range(SPANS)}
    assert Counter(trace.outcome for trace in found) == {"continued": PARTS - 1, "completed": 1}
    spans_of_a_part = full[0] - idle
    assert max(full[2:]) - full[1] <= spans_of_a_part, (idle, full)
    running.check()
