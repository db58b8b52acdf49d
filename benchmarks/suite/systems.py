"""What is compared, and what is compared with what."""

from typing import Dict, NamedTuple, Optional


class System(NamedTuple):
    """A system: where it lives, and what it is a ratio of."""

    label: str
    #: Of environments.py.
    environment: str
    #: The name that worker/systems.py knows it by.
    worker: str
    #: The stock integration on the same SDK.
    stock: "Optional[str]" = None
    lifecycles: bool = False
    asgi: bool = True
    #: What it is measured with; None: everything.
    works: "Optional[tuple[str, ...]]" = None


SYSTEMS: "Dict[str, System]" = {
    "bare": System("bare Django", "sentry", "bare"),
    "stock": System("stock", "sentry", "stock", lifecycles=True),
    "ours": System("ours", "sentry", "ours", stock="stock", lifecycles=True),
    # A plain response ends at its close(), too.
    "ours-close": System(
        'ours, finish_on="close"', "sentry", "ours-close", stock="stock", works=("plain",)
    ),
    "older": System("shr_span_recorder", "sentry", "older", stock="stock", asgi=False),
    "otel": System("OpenTelemetry", "otel", "otel", stock="stock"),
    "ddtrace": System("ddtrace", "ddtrace", "ddtrace", stock="stock"),
}


class Work(NamedTuple):
    """A kind of request, and how often it is made."""

    label: str
    kind: str
    path: str
    #: Requests of the two runs whose instructions are counted.
    few: int
    many: int
    #: Requests of one timed run.
    timed: int


WORKS: "Dict[str, Work]" = {
    "plain": Work("plain request", "wsgi", "/plain", 20, 60, 100),
    "stream-1": Work("stream of 1 chunk", "wsgi", "/stream/1", 10, 30, 100),
    "stream-100": Work("stream of 100 chunks", "wsgi", "/stream/100", 3, 9, 30),
    "stream-10000": Work("stream of 10,000 chunks", "wsgi", "/stream/10000", 1, 2, 1),
    "error": Work("error", "wsgi", "/error", 5, 15, 20),
    "file": Work("file of 64 KiB", "wsgi", "/file", 5, 15, 50),
    "asgi-100": Work("ASGI stream of 100 chunks", "asgi", "/astream/100", 3, 9, 20),
    "asgi-10000": Work("ASGI stream of 10,000 chunks", "asgi", "/astream/10000", 1, 2, 1),
}


class Run(NamedTuple):
    """A process: one system in one configuration, for several kinds of work."""

    system: str
    rate: float
    lifecycle: str
    kind: str
    works: "tuple[str, ...]"


def runs(
    systems: "list[str]", works: "list[str]", rates: "list[float]", lifecycles: "list[str]"
) -> "list[Run]":
    """All that has to be measured; bare Django has no rate and no lifecycle."""
    found = []
    for name in systems:
        system = SYSTEMS[name]
        for lifecycle in lifecycles if system.lifecycles else ["static"]:
            for rate in rates if name != "bare" else [0.0]:
                for kind in ("wsgi", "asgi"):
                    if kind == "asgi" and not system.asgi:
                        continue
                    chosen = tuple(
                        work
                        for work in works
                        if WORKS[work].kind == kind
                        and (system.works is None or work in system.works)
                        # A rate in between is a mixture of the two others.
                        and (rate in (0.0, 1.0) or work == "plain")
                    )
                    if chosen:
                        found.append(Run(name, rate, lifecycle, kind, chosen))
    return found
