"""What an outage of the ingest costs: requests, memory, events.

    python benchmarks/outage.py                       # 20,000 events a case
    python benchmarks/outage.py --events 100000 --rounds 1 --transport bounded

A Django view logs ten errors, with the stock transport and with bounded_transport, while
the ingest is healthy, refuses connections, or takes requests and never answers. Each case
is a process of its own; the ingest is one, too. Times are the median of the requests', and
of the rounds': of the thread that serves (CPU), and until the response (wall), which also
waits for the thread that sends, and for whatever else the machine does.

Needs the installed package and Django.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any, Dict

EVENTS_A_REQUEST = 10
QUEUE_SIZE = 100
INGESTS = ("healthy", "refuses", "stalls")
TRANSPORTS = ("stock", "bounded")

Json = Dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000, help="a case (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each case (%(default)s)")
    parser.add_argument("--transport", choices=TRANSPORTS, action="append", help="default: both")
    parser.add_argument("--ingest", choices=INGESTS, action="append", help="default: all")
    parser.add_argument("--case", nargs=2, metavar=("TRANSPORT", "DSN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(*options.case, options.events)))
        return 0
    transports, ingests = options.transport or TRANSPORTS, options.ingest or INGESTS
    results: dict[tuple[str, str], list[Json]] = {}
    for _ in range(options.rounds):
        for ingest in ingests:
            for transport in transports:
                case = run_case(transport, ingest, options.events)
                results.setdefault((transport, ingest), []).append(case)
    print("transport  ingest    CPU (ms) ratio  wall (ms) ratio  memory (MB)  delivered  dropped")
    for transport in transports:
        healthy: Json = {}
        for ingest in ingests:
            rounds = results[transport, ingest]
            times = {
                clock: statistics.median(case[clock] for case in rounds)
                for clock in ("cpu", "wall")
            }
            healthy = healthy or times
            memory = max(case["memory"] for case in rounds)
            last = rounds[-1]
            print(
                f"{transport:9}  {ingest:8}"
                f" {times['cpu']:9.2f} {times['cpu'] / healthy['cpu']:5.2f}"
                f" {times['wall']:10.2f} {times['wall'] / healthy['wall']:5.2f}"
                f" {memory:12.1f} {last['delivered']:10,}  {last['dropped']}"
            )
    return 0


def run_case(transport: str, ingest: str, events: int) -> Json:
    command = [sys.executable, __file__, "--events", str(events), "--case", transport]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port, served = taken.getsockname()[1], None
        if ingest == "stalls":
            taken.listen(1000)
        elif ingest == "healthy":
            sink = Path(__file__).resolve().parents[1] / "scripts" / "sink.py"
            served = subprocess.Popen([sys.executable, sink], stdout=subprocess.PIPE, text=True)
            assert served.stdout is not None
            port = int(served.stdout.readline().split(":")[2].split("/")[0])
            lines: list[str] = []
            reader = threading.Thread(target=lambda: lines.extend(served.stdout))
            reader.start()
        try:
            done = subprocess.run(
                [*command, f"http://public@127.0.0.1:{port}/1"],
                stdout=subprocess.PIPE,
                check=True,
            )
        finally:
            if served is not None:
                served.terminate()
                reader.join()
    result: Json = json.loads(done.stdout)
    result["delivered"] = 0
    if served is not None:
        result["delivered"] = sum(line.startswith("event") for line in lines)
    return result


def measure(transport: str, dsn: str, events: int) -> Json:
    """One case, in this process: median milliseconds a request, and MB that were added."""
    import django
    import sentry_sdk
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path

    from vendored_integration import DjangoIntegration, bounded_transport

    def view(request: Any) -> Any:
        for number in range(EVENTS_A_REQUEST):
            logging.getLogger("benchmark").error("error %s", number)
        return HttpResponse(b"ok")

    logging.getLogger("benchmark").propagate = False
    logging.getLogger("benchmark").addHandler(logging.NullHandler())
    logging.getLogger("vendored_integration").addHandler(logging.NullHandler())
    settings.configure(
        ALLOWED_HOSTS=["*"], ROOT_URLCONF=type("urls", (), {"urlpatterns": [path("", view)]})
    )
    django.setup()
    sentry_sdk.init(
        dsn=dsn,
        transport=bounded_transport(queue_size=QUEUE_SIZE) if transport == "bounded" else None,
        integrations=[DjangoIntegration()],
        transport_queue_size=QUEUE_SIZE,
    )
    app = get_wsgi_application()

    def request() -> None:
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(),
            "wsgi.errors": sys.stderr,
        }
        response = app(environ, lambda status, headers, exc_info=None: print)
        b"".join(response)
        response.close()

    for _ in range(50):  # the queue is full by then, if it ever is
        request()
    memory = peak()
    cpu, wall = [], []
    for _ in range(events // EVENTS_A_REQUEST):
        cpu_start, wall_start = time.thread_time(), time.perf_counter()
        request()
        cpu.append((time.thread_time() - cpu_start) * 1000)
        wall.append((time.perf_counter() - wall_start) * 1000)
    dropped = getattr(sentry_sdk.get_client().transport, "dropped", "not counted")
    # Not the mean: a machine that does something else now and then would show there.
    return {
        "cpu": statistics.median(cpu),
        "wall": statistics.median(wall),
        "memory": peak() - memory,
        "dropped": dropped,
    }


def peak() -> float:
    """The most memory that the process has had, in MB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    sys.exit(main())
