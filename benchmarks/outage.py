#!/usr/bin/env python3
"""What an outage of the ingest costs: requests, memory, events.

    python3 benchmarks/outage.py                    100,000 events a case: five minutes
    python3 benchmarks/outage.py --events 20000
    python3 benchmarks/outage.py --write            keep the result in the repository

Builds this checkout, and installs it in .cache. A Django view logs ten errors, with the stock
transport and with bounded_transport, while the ingest is healthy, refuses connections, or takes
requests and never answers. Each case is a process of its own, and so is the ingest. Compared with
a healthy ingest are the CPU time of the process for a request (mean), and the time until the
response (median). With bounded_transport each event must be delivered, counted as dropped, or
still in the queue, and there must be no other.

Exit status: 0 all right, 1 events are not accounted for, or a step has failed, 2 the command line.
"""

from __future__ import annotations

import logging
import multiprocessing
import socket
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Dict
from wsgiref.util import setup_testing_defaults

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import sections
from environment import go_inside
from sink import EnvelopeSink

EVENTS_A_REQUEST = 10
QUEUE_SIZE = 100
WARM_UP = 50  # requests: the queue is full after them, if it ever is

Json = Dict[str, Any]


def run_case(transport: str, ingest: str, events: int) -> Json:
    """Measure one case in a process of its own; this one is the ingest."""
    print(f"{ingest}, {transport} ...", flush=True)
    # Not forked: the process must not have the sink's thread and memory.
    processes = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with processes, EnvelopeSink() as sink, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dsn = f"http://public@127.0.0.1:{taken.getsockname()[1]}/1"
        if ingest == "stalls":
            taken.listen(1000)
        elif ingest == "healthy":
            dsn = sink.dsn
        case = processes.submit(measure, transport, dsn, events).result()
        case.update(transport=transport, ingest=ingest, delivered=len(sink.errors()))
    return case


def measure(transport: str, dsn: str, events: int) -> Json:
    """One case, in this process; times in milliseconds, memory in MB."""
    import django
    import sentry_sdk
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path

    from vendored_integration import DjangoIntegration, bounded_transport

    logger = logging.getLogger("outage")
    logger.propagate = False
    for name in ("outage", "vendored_integration"):
        logging.getLogger(name).addHandler(logging.NullHandler())

    def view(request: Any) -> Any:
        for number in range(EVENTS_A_REQUEST):
            logger.error("error %s", number)
        return HttpResponse(b"ok")

    settings.configure(
        ALLOWED_HOSTS=["*"], ROOT_URLCONF=type("urls", (), {"urlpatterns": [path("", view)]})
    )
    django.setup()
    sentry_sdk.init(
        dsn=dsn,
        transport=bounded_transport(queue_size=QUEUE_SIZE) if transport == "bounded" else None,
        integrations=[DjangoIntegration()],
        transport_queue_size=QUEUE_SIZE,
        # Envelopes too, but no events.
        send_client_reports=False,
        auto_session_tracking=False,
    )
    application = get_wsgi_application()

    def request() -> float:
        environ: Json = {}
        setup_testing_defaults(environ)
        start = time.perf_counter()
        response = application(environ, lambda status, headers, exc_info=None: print)
        b"".join(response)
        response.close()
        return time.perf_counter() - start

    for _ in range(WARM_UP):
        request()
    memory, process = peak(), time.process_time()
    times = [request() for _ in range(events // EVENTS_A_REQUEST)]
    process, memory = time.process_time() - process, peak() - memory
    # Long enough for all that is delivered or refused at once.
    sentry_sdk.flush(timeout=5)
    sending: Any = sentry_sdk.get_client().transport
    return {
        "CPU": process * 1000 / len(times),
        # Not the mean, in which whatever else the machine does would show.
        "wall": statistics.median(times) * 1000,
        "memory": round(memory, 1),
        "events": (WARM_UP + len(times)) * EVENTS_A_REQUEST,
        "queued": sending._worker._queue.unfinished_tasks,
        "dropped": getattr(sending, "dropped", "not counted"),
    }


def peak() -> float:
    """The most memory that the process has had, in MB."""
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1e6 if sys.platform == "darwin" else 1e3)


def missing(case: Json) -> int:
    """Events that are neither delivered nor dropped nor queued; below 0: too many are."""
    if case["transport"] != "bounded":
        return 0  # The stock transport does not count what it drops.
    found = case["delivered"] + case["queued"] + sum(case["dropped"].values())
    return int(case["events"] - found)


def section(outage: Json) -> str:
    """The table in docs/reliability.md, which is printed, too."""
    columns = ["ingest, transport", "events", "delivered", "dropped", "queued at the end"]
    columns += ["CPU, and time, of a request: times those with a healthy ingest", "memory, MB more"]
    rows = []
    for case in outage["cases"]:
        dropped = case["dropped"]
        if isinstance(dropped, dict):
            named = [f"{reason} {count:,}" for reason, count in sorted(dropped.items())]
            dropped = ", ".join(named) or "0"
        cells = [f"{case['ingest']}, {case['transport']}"]
        cells += [f"{case['events']:,}", f"{case['delivered']:,}", dropped, f"{case['queued']:,}"]
        cells += [f"{case['CPU_ratio']:.2f}, {case['wall_ratio']:.2f}", f"{case['memory']:.1f}"]
        rows.append(cells)
    return sections.table(columns, rows) + sections.measured(outage["about"])


def main() -> int:
    parser = sections.parser_of(__doc__)
    parser.add_argument("--events", type=int, default=100_000, metavar="N", help="a case")
    options = parser.parse_args()
    if options.events < EVENTS_A_REQUEST:
        parser.error(f"--events {options.events}: expected at least {EVENTS_A_REQUEST}")
    go_inside(options, __file__, "outage", ["Django>=4.2,<5.3"])
    cases = []
    for transport in ("bounded", "stock"):
        ingests = ("healthy", "refuses", "stalls")
        healthy, *others = (run_case(transport, ingest, options.events) for ingest in ingests)
        for case in (healthy, *others):
            for clock in ("CPU", "wall"):
                case[clock + "_ratio"] = round(case[clock] / healthy[clock], 3)
            cases.append(case)
    found = {"about": sections.about("Django", "sentry-sdk"), "cases": cases}
    print(section(found))
    wrong = [
        f"{case['ingest']}: {missing(case)} events are not accounted for"
        for case in cases
        if missing(case)
    ]
    return sections.conclude("outage.json", found, wrong, options.write)


if __name__ == "__main__":
    sys.exit(main())
