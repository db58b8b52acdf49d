"""What has been asked of the server and what Sentry has heard, request by request."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Dict, List, Tuple

from kinds import KINDS, Kind, kind_of

from sink import Item

# Requests that may be under way or waiting to be heard of; the client waits at more.
BEHIND = 200
SHOWN = 10  # problems; the rest is counted


class Stalled(Exception):
    """What should arrive does not."""


class Problems:
    """The first few in words, all of them counted."""

    def __init__(self) -> None:
        self.count = 0
        self.shown: List[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(text)


class Ledger:
    """Each request has a number, from 0 on: a byte for its transactions, one for its errors."""

    def __init__(self, count: int) -> None:
        self.problems = Problems()
        self.sent = 0
        self.events = 0
        self._transactions = bytearray(count)
        self._errors = bytearray(count)
        self._heard = 0
        self._errors_due = 0
        # Trace ids of what came first, the error or the transaction, until the other comes.
        self._trace_ids: Dict[int, str] = {}
        self._news = asyncio.Event()
        #: By kind and what was heard: (name, status, outcome).
        self.heard: Counter[Tuple[str, str, str]] = Counter()

    # -- the client's side

    async def begin(self, number: int) -> Kind:
        """A request is about to be sent. Waits while Sentry has not heard of too many."""
        while self.sent - self._heard >= BEHIND:
            await self._wait()
        self.sent += 1
        kind = kind_of(number)
        self._errors_due += kind.fails
        return kind

    async def settle(self) -> None:
        """Wait until Sentry has heard of every request."""
        while self._heard < self.sent or self._errors_due:
            await self._wait()

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()

    def missing(self) -> str:
        """What Sentry has not heard of."""
        return (
            f"and of {self.sent:,} sent {self.sent - self._heard:,} have no transaction, "
            f"{self._errors_due:,} no error"
        )

    # -- the sink's side

    def take(self, item: Item) -> None:
        """An item of an envelope has arrived."""
        self.events += 1
        if item.type == "transaction":
            self._take_transaction(item.json)
        elif item.type == "event":
            self._take_error(item.json)
        elif item.type == "client_report":
            self._take_report(item.json)
        else:
            self.problems.add(f"an item of type {item.type}, which nobody has asked for")
        if self.sent - self._heard < BEHIND // 2:
            self._news.set()

    def _take_transaction(self, event: Dict[str, Any]) -> None:
        number, path = self._number(event)
        if number < 0:
            return
        if self._transactions[number]:
            self.problems.add(f"{path}: its transaction has come again")
            self._transactions[number] = 2
            return
        self._transactions[number] = 1
        self._heard += 1
        kind = kind_of(number)
        trace = event["contexts"]["trace"]
        # Up to 2.11 the SDK sends no data of a transaction.
        data = event["contexts"].get("http.response.stream") or trace.get("data") or {}
        status, outcome = trace.get("status"), data.get("http.response.stream.outcome")
        spans = sum(span.get("op") == "soak" for span in event["spans"])
        self.heard[kind.name, status, outcome or ""] += 1
        found, expected = (status, outcome, spans), (kind.status, kind.outcome, kind.spans)
        if found != expected:
            self.problems.add(f"{path}: (status, outcome, spans) {found}, expected {expected}")
        if kind.fails:
            self._pair(number, path, trace["trace_id"])

    def _take_error(self, event: Dict[str, Any]) -> None:
        number, path = self._number(event)
        if number < 0:
            return
        kind = kind_of(number)
        value = (event.get("exception") or {}).get("values", [{}])[-1]
        if not kind.fails or (value.get("type"), value.get("value")) != ("Soaked", str(number)):
            self.problems.add(f"{path}: an error that is not its own: {value.get('value')}")
            return
        if self._errors[number]:
            self.problems.add(f"{path}: its error has come again")
            self._errors[number] = 2
            return
        self._errors[number] = 1
        self._errors_due -= 1
        self._pair(number, path, event["contexts"]["trace"]["trace_id"])

    def _take_report(self, report: Dict[str, Any]) -> None:
        for lost in report["discarded_events"]:
            # A server logs the error of a stream, and the SDK knows it already.
            if (lost["reason"], lost["category"]) != ("event_processor", "error"):
                self.problems.add(f"the SDK reports a loss: {lost}")

    def _number(self, event: Dict[str, Any]) -> Tuple[int, str]:
        """The request that an event is about; -1: none that was sent."""
        url = (event.get("request") or {}).get("url") or ""
        path = url[url.find("/", len("http://")) :]
        try:
            _, name, digits = path.split("/")
            number = int(digits)
            if 0 <= number < len(self._transactions) and kind_of(number).name == name:
                return number, path
        except ValueError:
            pass
        self.problems.add(f"an event about {url!r}, which nobody has requested")
        return -1, path

    def _pair(self, number: int, path: str, trace_id: str) -> None:
        if self._trace_ids.setdefault(number, trace_id) != trace_id:
            self.problems.add(f"{path}: the error is in another trace than the transaction")
        if self._transactions[number] and self._errors[number]:
            self._trace_ids.pop(number, None)

    # -- the end

    def lost(self) -> int:
        """Transactions and errors that have not come."""
        numbers = range(self.sent)
        return self._transactions[: self.sent].count(0) + sum(
            kind_of(number).fails and not self._errors[number] for number in numbers
        )

    def double(self) -> int:
        """Requests whose transaction, or error, has come more than once."""
        return self._transactions.count(2) + self._errors.count(2)

    def table(self) -> List[Dict[str, Any]]:
        """By kind: transactions, and errors."""
        found = {kind.name: {"transactions": 0, "errors": 0} for kind in KINDS}
        for number in range(self.sent):
            row = found[kind_of(number).name]
            row["transactions"] += self._transactions[number]
            row["errors"] += self._errors[number]
        return [{"kind": name, **row} for name, row in found.items()]
