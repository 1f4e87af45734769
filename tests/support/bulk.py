"""A conformance stub of the bulk API of OpenSearch and Elasticsearch: no server can be had here.

Written from the pages "Bulk" of OpenSearch's and "Bulk API" of Elasticsearch's documentation: pairs
of lines, `create` with an `_id`; an answer of 200 with `errors` and an item for each, in their
order, under the name of its action; 201 for what was made, 409 (version_conflict_engine_exception)
where the id is there, 400 (document_parsing_exception) for what does not fit the mapping, 429
(es_rejected_execution_exception) where the queue is full; other actions into a data stream are 400.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.support.posts import Post, Reply


class Bulk:
    """One data stream. `put_off` says of an id whether it is put off now; `bad` indexes are never
    taken. `received` are the ids in the order of their arrival, `again` how often one was there."""

    def __init__(
        self, auth: str, *, put_off: Callable[[str], bool] = lambda _: False,
        bad: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        self.auth = auth
        self.received: list[str] = []
        self.rows: dict[str, dict[str, object]] = {}
        self.again = 0
        self._put_off = put_off
        self._bad = bad

    def __call__(self, post: Post) -> Reply:
        """Answer a request."""
        if post.headers.get("authorization", "") != self.auth:
            return Reply(status=401, body=b'{"error":{"type":"security_exception"}}')
        if post.path != "/logs-stockade/_bulk":
            return Reply(status=405, body=b'{"error":"no such place"}')
        if post.headers.get("content-type") != "application/x-ndjson":
            return Reply(status=406, body=b'{"error":"content type"}')
        if not post.body.endswith(b"\n"):
            return Reply(status=400, body=b'{"error":"must be terminated by a newline"}')
        lines = post.body.split(b"\n")[:-1]
        items = [
            self._item(json.loads(action), json.loads(source))
            for action, source in zip(lines[::2], lines[1::2], strict=True)
        ]
        wrong = any("error" in item["create"] for item in items)
        return Reply(body=json.dumps({"took": 1, "errors": wrong, "items": items}).encode())

    def _item(
        self, action: dict[str, dict[str, str]], row: dict[str, object]
    ) -> dict[str, dict[str, object]]:
        assert list(action) == ["create"], "a data stream takes nothing else"
        uid = action["create"]["_id"]
        if self._put_off(uid):
            return _error(uid, 429, "es_rejected_execution_exception", "the queue is full")
        if row.get("index") in self._bad:
            return _error(uid, 400, "document_parsing_exception", "failed to parse field [text]")
        if uid in self.rows:
            self.again += 1
            return _error(uid, 409, "version_conflict_engine_exception", "document already exists")
        self.rows[uid] = row
        self.received.append(uid)
        return {"create": {"_id": uid, "status": 201, "result": "created"}}


def _error(uid: str, status: int, kind: str, reason: str) -> dict[str, dict[str, object]]:
    return {"create": {"_id": uid, "status": status, "error": {"type": kind, "reason": reason}}}
