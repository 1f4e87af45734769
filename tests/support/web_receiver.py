"""Receivers over HTTP and gRPC as a process that can be killed.

    python -m tests.support.web_receiver KIND PORT FILE SEED

KIND is splunk, splunk-ack, opensearch, webhook, otlp-http or otlp-grpc. The uid of each event that
counts as taken is a line of FILE before it is answered for. SEED is of what goes wrong: one request
in `ODDS` is answered by an error, or not, or not well; 0 is for nothing. While there is a file
beside FILE that ends in ".poison", an event that has `POISON` in it is refused for ever.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import grpc

from tests.support.bulk import Bulk
from tests.support.hec import Hec, said
from tests.support.otlp import Collector, Served
from tests.support.posts import Fault, Post, Posts, Reply

ODDS = 12
POISON = b"p0is0n"
WHO = "9d7a8bd5-0f1c-4c1c-8a55-b1ba51fb2d4f"
GRPC_ERRORS = (
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.DEADLINE_EXCEEDED, (grpc.StatusCode.RESOURCE_EXHAUSTED, 0.05),
)  # fmt: skip
FAULTS = (
    Fault.RESET_EARLY, Fault.RESET_LATE, Fault.NOISE, Fault.CUT,
    *(Reply(status=status, body=b"not now") for status in (302, 401, 403, 429, 500, 503)),
)  # fmt: skip


class Kept(list[str]):
    """Uids in the order of their arrival; what is added is in the file, which a kill spares."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __iadd__(self, uids: object) -> Self:  # type: ignore[override,misc]
        assert isinstance(uids, list)
        data = b"".join(uid.encode() + b"\n" for uid in uids)
        assert os.write(self._fd, data) == len(data)
        return self

    def append(self, uid: str) -> None:
        self += [uid]


def hook(kept: Kept) -> Callable[[Post], Reply]:
    """Give a webhook: it takes all, and does not look at who signed."""

    def take(post: Post) -> Reply:
        kept.__iadd__([uid_in(row) for row in json.loads(post.body)])
        return Reply(status=204)

    return take


def uid_in(row: dict[str, object]) -> str:
    """Give the uid of an OCSF event."""
    metadata = row["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["uid"])


class Keeping(Collector):
    """A collector of OTLP that keeps uids alone."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self._kept = kept

    def take(self, request: object) -> object:  # type: ignore[override]
        answer = super().take(request)  # type: ignore[arg-type]
        self._kept += self.received
        self.records.clear()
        self.requests.clear()
        return answer


def particular(kind: str, path: Path, taker: Callable[[Post], Reply]) -> Callable[[Post], Reply]:
    """Give a receiver that refuses poison in the way of its kind."""
    flag = path.with_suffix(".poison")

    def take(post: Post) -> Reply:
        if not flag.exists() or POISON not in post.body:
            return taker(post)
        if kind.startswith("splunk"):
            rows = post.body.splitlines()
            number = next(n for n, row in enumerate(rows) if POISON in row)
            return said(400, 6, "Invalid data format", **{"invalid-event-number": number})
        if kind == "opensearch":
            return _some_items(post, taker)
        return Reply(status=422, body=b"never")

    return take


def _some_items(post: Post, taker: Callable[[Post], Reply]) -> Reply:
    """Take all items but those with poison."""
    lines = post.body.splitlines(keepends=True)
    pairs = [a + b for a, b in zip(lines[::2], lines[1::2], strict=True)]
    good = b"".join(pair for pair in pairs if POISON not in pair)
    taken = json.loads(taker(replace(post, body=good)).body)["items"] if good else []
    bad = {"create": {"status": 400, "error": {"type": "document_parsing_exception"}}}
    items = [bad if POISON in pair else taken.pop(0) for pair in pairs]
    return Reply(body=json.dumps({"took": 1, "errors": True, "items": items}).encode())


class Particular(Served):
    """A collector over gRPC that refuses poison."""

    def __init__(self, collector: Collector, path: Path) -> None:
        super().__init__(collector)
        self._flag = path.with_suffix(".poison")

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Take a request."""
        if self._flag.exists() and POISON in request.SerializeToString():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "never")
        return await super().Export(request, context)


def handler(kind: str, kept: Kept, path: Path) -> Callable[[Post], Reply]:
    """Give what answers to a POST."""
    if kind.startswith("splunk"):
        hec = Hec(WHO, acks=kind == "splunk-ack", polls=1)
        hec.received = kept
        hec.rows = Forgetful()  # type: ignore[assignment]
        return hec
    if kind == "opensearch":
        bulk = Bulk("")
        bulk.rows = {uid: {} for uid in path.read_text().split()}
        bulk.received = kept
        return bulk
    return Keeping(kept) if kind == "otlp-http" else hook(kept)


class Forgetful(list[object]):
    """Rows that nobody looks at."""

    def __iadd__(self, rows: object) -> Self:  # type: ignore[misc]
        return self

    def append(self, row: object) -> None:
        return


class Chance:
    """Faults by chance, where `Posts` looks for them."""

    def __init__(self, chance: random.Random, faults: tuple[object, ...]) -> None:
        self._chance, self._faults = chance, faults

    def __bool__(self) -> bool:
        return self._chance.randrange(ODDS) == 0

    def popleft(self) -> object:
        return self._chance.choice(self._faults)


async def main(kind: str, port: int, path: Path, seed: int) -> None:
    kept = Kept(path)
    chance = random.Random(seed)
    if kind == "otlp-grpc":
        served = Particular(Keeping(kept), path)
        served.port = port
        if seed:
            served.faults = Chance(chance, GRPC_ERRORS)  # type: ignore[assignment]
        await served.start()
    else:
        posts = Posts(particular(kind, path, handler(kind, kept, path)))
        posts.port = port
        posts.posts = Forgetful()  # type: ignore[assignment]
        if seed:
            posts.faults = Chance(chance, FAULTS)  # type: ignore[assignment]
        await posts.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
