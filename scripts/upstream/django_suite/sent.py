"""What the SDK sends while a test runs, without what differs from run to run."""

import json
import re
from typing import Any, Dict, Iterator, List, Optional

from sentry_sdk.transport import Transport

#: Ids, addresses, times, ports, signatures; names of temporary files and databases.
_VARIES = re.compile(
    r"0x[0-9a-f]+|[\w-]{15,}|\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d|\d+\.\d{4,}|\d{5,}|tmp\w{8}"
    r"|memorydb_\w+|messages\": \"[^\"]*"
)
_KEYS = ("type", "transaction", "transaction_info", "level", "logger", "request", "user", "tags")
_SPAN_KEYS = ("op", "description", "origin", "status", "data")


class RecordingTransport(Transport):
    """Sends nothing; keeps the errors and transactions, by the test that was running."""

    #: The test that is running.
    test = ""
    sent: "Dict[str, List[Any]]" = {}
    #: How many transactions, or spans in the stream lifecycle, there were.
    traced = 0

    def capture_envelope(self, envelope: Any) -> None:
        """Keep what is in an envelope."""
        for item in envelope.items:
            RecordingTransport.traced += item.type in ("transaction", "span")
            if item.type in ("transaction", "event"):
                self.sent.setdefault(self.test, []).append(item.payload.json)


def comparable(sent: "List[Any]") -> "Optional[List[str]]":
    """Return a text for each transaction and error.

    ``None`` if one is of a streaming response: there the integration sends more than stock.
    """
    if any("http.response.stream.outcome" in _trace(one).get("data", {}) for one in sent):
        return None
    return [_text(one) for one in sent]


def _trace(sent: Any) -> "Dict[str, Any]":
    found: "Dict[str, Any]" = sent.get("contexts", {}).get("trace", {})
    return found


def _text(sent: Any) -> str:
    found = {key: sent.get(key) for key in _KEYS}
    found["trace"] = [_trace(sent).get(key) for key in _SPAN_KEYS]
    found["spans"] = [[span.get(key) for key in _SPAN_KEYS] for span in sent.get("spans", ())]
    found["errors"] = list(_errors(sent))
    text = json.dumps(found, sort_keys=True, default=repr)
    # A receiver of the integration's has its module in the name of its span.
    text = text.replace("vendored_integration._vendor", "sentry_sdk.integrations")
    return _VARIES.sub("*", text)


def _errors(sent: Any) -> "Iterator[Any]":
    for error in sent.get("exception", {}).get("values", ()):
        frames = (error.get("stacktrace") or {}).get("frames", ())
        functions = [(frame.get("function"), frame.get("in_app")) for frame in frames]
        yield error["type"], error["value"], error.get("mechanism"), functions
