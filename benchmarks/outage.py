#!/usr/bin/env python3
"""What an outage of the ingest costs: requests, memory, events.

    python3 benchmarks/outage.py                    100,000 events a case: five minutes
    python3 benchmarks/outage.py --events 20000 --rounds 3 --transport bounded
    python3 benchmarks/outage.py --write            keep the result in the repository

Builds this checkout, and installs it in .cache/outage. A Django view logs ten errors, with the
stock transport and with bounded_transport, while the ingest is healthy, refuses connections, or
takes requests and never answers. Each case is a process of its own; the ingest is one, too.
Times are those of a request, in milliseconds:

    CPU      of the process, with the thread that sends: the mean
    thread   CPU of the thread that serves: the median
    wall     until the response: the median. It also waits for the thread that sends, and
             for whatever else the machine does

and the median of the rounds. With bounded_transport each event must be delivered, counted
as dropped, or still in the queue, and there must be no other.

Needs a Unix, and Python 3.8 or newer with venv.

Exit status: 0 all right, 1 events are not accounted for, or a step has failed, 2 this
machine or the command line lacks something.
"""

# Only the standard library here: what is installed is for the second stage.

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any, Dict

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "soak_project")]

import section  # noqa: E402
from command_line import at_least  # noqa: E402

import supported  # noqa: E402
from demo import (  # noqa: E402
    ROOT,
    Failed,
    Runner,
    Signals,
    check_machine,
    environment,
    exit_status,
    install,
)

CACHE = ROOT / ".cache" / "outage"

EVENTS_A_REQUEST = 10
QUEUE_SIZE = 100
CLOCKS = ("CPU", "thread", "wall")
WARM_UP = 50  # requests: the queue is full after them, if it ever is
INGESTS = ("healthy", "refuses", "stalls")
TRANSPORTS = ("stock", "bounded")

Json = Dict[str, Any]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--events",
        type=at_least(EVENTS_A_REQUEST),
        default=100_000,
        metavar="N",
        help="a case, besides those of the warm-up (default: 100000)",
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=1, metavar="N", help="of each case (default: 1)"
    )
    parser.add_argument("--transport", choices=TRANSPORTS, action="append", help="default: both")
    parser.add_argument("--ingest", choices=INGESTS, action="append", help="default: all")
    parser.add_argument(
        "--write", action="store_true", help="keep the result in benchmarks/results/outage.json"
    )
    supported.add_option(parser)
    # The second stage, in the environment that the first has made, and a case of it.
    parser.add_argument("--installed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write and (options.transport or options.ingest):
        parser.error("--write is for all cases: without --transport and --ingest")
    options.dsn = None  # see environment()
    return options


def main() -> int:
    options = parse()
    if options.case:
        print(json.dumps(measure(*options.case, options.events)))
        return 0

    def work(signals: Signals) -> int:
        if options.installed:
            return compare(options)
        check_machine()
        CACHE.mkdir(parents=True, exist_ok=True)
        runner = Runner(signals, CACHE, environment(options, CACHE))
        python = install(runner, CACHE, options.sdk, [])
        return runner.show([python, __file__, "--installed", *sys.argv[1:]])

    return exit_status(work)


def compare(options: argparse.Namespace) -> int:
    """Measure the cases, and say what was found."""
    transports, ingests = options.transport or TRANSPORTS, options.ingest or INGESTS
    results: dict[tuple[str, str], list[Json]] = {}
    for _ in range(options.rounds):
        for ingest in ingests:
            for transport in transports:
                print(f"{ingest}, {transport} ...", flush=True)
                case = run_case(transport, ingest, options.events)
                results.setdefault((transport, ingest), []).append(case)
    cases = [summary(transport, ingest, results) for transport, ingest in sorted(results)]
    columns = ["transport", "ingest", *CLOCKS, "memory (MB)", "events", "delivered", "queued"]
    print("".join(f"{column:14}" for column in columns) + "dropped")
    for case in cases:
        cells = [case["transport"], case["ingest"]]
        cells += [f"{case[clock]:.2f} ({case[clock + '_ratio']:.2f})" for clock in CLOCKS]
        cells += [f"{case['memory']:.1f}"]
        cells += [f"{case[name]:,}" for name in ("events", "delivered", "queued")]
        print("".join(f"{cell:14}" for cell in cells) + str(case["dropped"]))
    wrong = [case for case in cases if case["missing"]]
    for case in wrong:
        print(f"wrong: {case['ingest']}: {case['missing']} events are not accounted for")
    if options.write and not wrong:
        section.write_json(section.OUTAGE, {"about": about(), "cases": cases})
        print(f"Written: {section.OUTAGE}\nNext: python3 scripts/soak.py --docs")
    return 1 if wrong else 0


def summary(transport: str, ingest: str, results: dict[tuple[str, str], list[Json]]) -> Json:
    """The rounds of a case in one: its ratios are to the healthy ingest of the same transport."""
    rounds = results[transport, ingest]
    healthy = results.get((transport, "healthy"), rounds)
    case: Json = {"transport": transport, "ingest": ingest, **rounds[-1]}
    for clock in CLOCKS:
        case[clock] = round(statistics.median(one[clock] for one in rounds), 3)
        ratio = case[clock] / statistics.median(one[clock] for one in healthy)
        case[clock + "_ratio"] = round(ratio, 3)
    case["memory"] = round(max(one["memory"] for one in rounds), 1)
    case["missing"] = 0
    if transport == "bounded":
        case["missing"] = max((abs(missing(one)) for one in rounds), default=0)
    return case


def missing(case: Json) -> int:
    """Events that are neither delivered nor dropped nor queued; below 0: too many are."""
    return int(case["events"] - case["delivered"] - case["queued"] - sum(case["dropped"].values()))


def about() -> Json:
    from importlib import metadata

    versions = {name: metadata.version(name) for name in ("sentry-sdk", "Django")}
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "versions": versions,
    }


def run_case(transport: str, ingest: str, events: int) -> Json:
    command = [sys.executable, __file__, "--events", str(events), "--case", transport]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port, served = taken.getsockname()[1], None
        if ingest == "stalls":
            taken.listen(1000)
        elif ingest == "healthy":
            sink = [sys.executable, str(SCRIPTS / "sink.py")]
            served = subprocess.Popen(sink, stdout=subprocess.PIPE, text=True)
            assert served.stdout is not None
            port = int(served.stdout.readline().split(":")[2].split("/")[0])
            lines: list[str] = []
            reader = threading.Thread(target=lambda: lines.extend(served.stdout))
            reader.start()
        try:
            done = subprocess.run(
                [*command, f"http://public@127.0.0.1:{port}/1"], stdout=subprocess.PIPE
            )
        finally:
            if served is not None:
                served.terminate()
                reader.join()
    if done.returncode != 0:
        raise Failed(f"{ingest}, {transport}: exit status {done.returncode}, see above")
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
        # Envelopes too, but no events.
        send_client_reports=False,
        auto_session_tracking=False,
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

    for _ in range(WARM_UP):
        request()
    memory = peak()
    thread, wall = [], []
    process = time.process_time()
    for _ in range(events // EVENTS_A_REQUEST):
        thread_start, wall_start = time.thread_time(), time.perf_counter()
        request()
        thread.append((time.thread_time() - thread_start) * 1000)
        wall.append((time.perf_counter() - wall_start) * 1000)
    process = (time.process_time() - process) * 1000 / len(wall)
    memory = peak() - memory
    # Long enough for all that is delivered or refused at once.
    sentry_sdk.flush(timeout=5)
    sending = sentry_sdk.get_client().transport
    return {
        "CPU": process,
        # Not the mean: a machine that does something else now and then would show there.
        "thread": statistics.median(thread),
        "wall": statistics.median(wall),
        "memory": memory,
        "events": (WARM_UP + len(wall)) * EVENTS_A_REQUEST,
        "queued": sending._worker._queue.unfinished_tasks,
        "dropped": getattr(sending, "dropped", "not counted"),
    }


def peak() -> float:
    """The most memory that the process has had, in MB."""
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    sys.exit(main())
