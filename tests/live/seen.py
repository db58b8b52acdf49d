"""What Sentry has been told about one request."""

from typing import Any, Dict, List

from sink import EnvelopeSink
from traces import Trace, traces


def transactions(sink: EnvelopeSink, request_id: str) -> List[Trace]:
    """Those of the request with this `X-Request-Id`, in either lifecycle."""
    return [trace for trace in traces(sink) if trace.headers.get("x-request-id") == request_id]


def errors(sink: EnvelopeSink, message: str) -> List[Dict[str, Any]]:
    """The error events of exceptions with this message, whichever request they name."""
    return [
        event
        for event in sink.errors()
        if any(
            value.get("value") == message
            for value in (event.get("exception") or {}).get("values", [])
        )
    ]
