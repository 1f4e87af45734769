"""A conformance stub of Splunk's HTTP Event Collector: no Splunk can be had here.

Written from Splunk's pages "Format events for HTTP Event Collector", "HTTP Event Collector
examples", "About HTTP Event Collector Indexer Acknowledgment" and "Troubleshoot HTTP Event
Collector" (its table of codes), which say what the fields of an event are, that an answer has
`text` and `code`, names the first invalid event by `invalid-event-number`, and gives `ackId` where
a token acknowledges; that a channel is needed then; that an id is told true once; and that one
that is not known is false. They do not say whether events before an invalid one are kept: the stub
does either, as `keeps_before` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.posts import Post, Reply


def said(status: int, code: int, what: str, **more: object) -> Reply:
    """Give an answer as HEC writes it."""
    return Reply(status=status, body=json.dumps({"text": what, "code": code, **more}).encode())


class Hec:
    """The collector. `received` are the uids that count as taken: with `acks`, once indexed.

    `polls` is how often an ackId is false first, `loses` how many of them are never true.
    """

    def __init__(
        self, token: str, *, acks: bool = False, polls: int = 0, loses: int = 0,
        keeps_before: bool = True, body_bytes_max: int = 1 << 20,
    ) -> None:  # fmt: skip
        self.token = token
        self.received: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.asked = 0
        self._acks, self._polls, self._loses = acks, polls, loses
        self._keeps_before = keeps_before
        self._body_bytes_max = body_bytes_max
        self._waiting: dict[tuple[str, int], tuple[int, list[str]]] = {}
        self._next = 0

    def __call__(self, post: Post) -> Reply:
        """Answer a request."""
        scheme, _, token = post.headers.get("authorization", "").partition(" ")
        if scheme != "Splunk":
            return said(401, 3, "Invalid authorization")
        if token != self.token:
            return said(403, 4, "Invalid token")
        where = urlsplit(post.path)
        if where.path == "/services/collector/ack":
            channel = parse_qs(where.query).get("channel", [""])[0]
            return self._ack(channel, post)
        if where.path != "/services/collector/event":
            return Reply(status=404, body=b"not found")
        if len(post.body) > self._body_bytes_max:
            return Reply(status=413, body=b"too large")
        return self._take(post.headers.get("x-splunk-request-channel", ""), post.body)

    def restart(self) -> None:
        """Forget what is not indexed, and every ackId."""
        self._waiting.clear()
        self._next = 0

    def _take(self, channel: str, body: bytes) -> Reply:
        if self._acks and not channel:
            return said(400, 10, "Data channel is missing")
        taken: list[dict[str, Any]] = []
        for number, row in enumerate(_rows(body)):
            wrong = _wrong(row)
            if wrong is not None:
                if self._keeps_before:
                    self._index([one["fields"]["uid"] for one in taken])
                code, what = wrong
                named: dict[str, object] = {"invalid-event-number": number}
                return said(400, code, what, **named)
            taken.append(row)
        if not taken:
            return said(400, 5, "No data")
        self.rows += taken
        uids = [row["fields"]["uid"] for row in taken]
        if not self._acks:
            self._index(uids)
            return said(200, 0, "Success")
        number, self._next = self._next, self._next + 1
        self._waiting[channel, number] = (self._polls, uids)
        return said(200, 0, "Success", ackId=number)

    def _ack(self, channel: str, post: Post) -> Reply:
        if not self._acks:
            return said(400, 14, "ACK is disabled")
        self.asked += 1
        states = {}
        for number in json.loads(post.body)["acks"]:
            left, uids = self._waiting.get((channel, number), (-1, []))
            states[str(number)] = left == 0 and not self._loses
            if left > 0:
                self._waiting[channel, number] = (left - 1, uids)
            elif left == 0:
                del self._waiting[channel, number]
                if self._loses:
                    self._loses -= 1
                else:
                    self._index(uids)
        return Reply(body=json.dumps({"acks": states}).encode())

    def _index(self, uids: list[str]) -> None:
        self.received += uids


def _rows(body: bytes) -> Iterator[Any]:
    """Read objects one after the other; one that cannot be read is None, and ends it."""
    text, at, decoder = body.decode(), 0, json.JSONDecoder()
    while at < len(text):
        try:
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            yield None
            return
        yield row
        while at < len(text) and text[at].isspace():
            at += 1


def _wrong(row: Any) -> tuple[int, str] | None:
    if not isinstance(row, dict) or not isinstance(row.get("fields"), dict):
        return 6, "Invalid data format"
    if "event" not in row:
        return 12, "Event field is required"
    if row["event"] == "":
        return 13, "Event field cannot be blank"
    if row.get("index") == "forbidden":
        return 7, "Incorrect index"
    if any(isinstance(value, dict) for value in row["fields"].values()):
        return 15, "Error in handling indexed fields"
    return None
