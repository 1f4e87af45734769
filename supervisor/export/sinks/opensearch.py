"""The bulk API of OpenSearch and Elasticsearch: into a data stream, or an index.

Each event is a `create` under its uid, so one that is there already is answered with 409, which
counts as taken: nothing is there twice. A data stream takes no other action. Items are in the
order of the batch; where some are put off (429) and those after them taken, these come first.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import orjson

from supervisor.export.event import Event
from supervisor.export.sink import Rejected, SinkError
from supervisor.export.sinks.http import (
    AGAIN,
    CONFIGURATION,
    Answer,
    Endpoint,
    Poster,
    Taken,
    clean,
    judge,
    parts,
)

THERE = 409
SAID_CHARS_MAX = 3200
"""Of what an item says, before what is secret in it is taken out and it is cut."""

_Item = Mapping[str, Mapping[str, object]]
_TARGET = re.compile(r"[a-z0-9][a-z0-9._-]{0,254}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicAuth:
    """A user and the password."""

    user: str
    password: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if ":" in self.user:
            raise ValueError("a user of basic authentication has no colon in it")

    @property
    def header(self) -> bytes:
        """Give the header's value."""
        return b"Basic " + base64.b64encode(self.user.encode() + b":" + self.password)

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """Give what nobody is told."""
        return (self.password, self.header.partition(b" ")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as the server gives it, encoded."""

    key: bytes = field(repr=False)

    @property
    def header(self) -> bytes:
        """Give the header's value."""
        return b"ApiKey " + self.key

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """Give what nobody is told."""
        return (self.key,)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSearchOptions:
    """`endpoint` is the server's address, `target` the data stream or index. Events have to be JSON
    objects; for a data stream each gets `@timestamp`, where `stamp` says so."""

    endpoint: Endpoint
    auth: BasicAuth | ApiKey | None
    target: str
    stamp: bool
    body_bytes_max: int = 5 << 20
    packed: bool = False

    def __post_init__(self) -> None:
        if not _TARGET.fullmatch(self.target):
            raise ValueError(f"{self.target!r} is no name of an index")


class OpenSearchSink:
    """The sink. Errors are those of `Sink`."""

    def __init__(self, options: OpenSearchOptions) -> None:
        self._options = options
        self._headers: dict[str, str] = {"content-type": "application/x-ndjson"}
        if options.auth is not None:
            self._headers["authorization"] = options.auth.header.decode()
        self._secrets = options.auth.secrets if options.auth else ()
        self._poster = Poster(options.endpoint, self._secrets)
        self._taken = Taken()

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Send a batch; return once each item has its yes or never. Those that were taken are
        left out when the batch comes again.

        Raises:
            SinkError: items, or all, may be taken later.
            Refused: the batch never will be.
        """
        waiting = self._taken.missing(batch)
        lines = [self._lines(batch[at]) for at in waiting]
        rejected: list[Rejected] = []
        put_off: list[str] = []
        for begin, end in parts(map(len, lines), self._options.body_bytes_max):
            answer = await self._poster.post(
                f"/{self._options.target}/_bulk", b"".join(lines[begin:end]), self._headers,
                packed=self._options.packed,
            )  # fmt: skip
            judge(answer)
            for at, (status, said) in zip(
                waiting[begin:end], items(answer, end - begin), strict=True
            ):
                why = clean(said, self._secrets)
                if 200 <= status < 300 or status == THERE:
                    self._taken.add(batch[at])
                elif status in AGAIN or status >= 500 or status in CONFIGURATION:
                    put_off.append(f"{status}: {why}")
                else:
                    rejected.append(Rejected(at, f"{status}: {why}"))
            if put_off:  # what comes after must not be there first
                break
        if put_off:
            raise SinkError(f"it puts off {len(put_off)} events: {put_off[0]}")
        self._taken.forget(batch)
        return rejected

    def trails(self) -> int:
        """Give none: each has its answer."""
        return 0

    async def close(self) -> None:
        """Part."""
        await self._poster.close()

    def _lines(self, event: Event) -> bytes:
        data = event.data
        if self._options.stamp:
            ms = event.time_ns // 10**6
            data = b'{"@timestamp":%d%b%b' % (ms, b"" if data[1:2] == b"}" else b",", data[1:])
        return b'{"create":{"_id":"%b"}}\n%b\n' % (event.uid.encode(), data)


def items(answer: Answer, count: int) -> list[tuple[int, str]]:
    """Read the answer to `count` items: status and why of each, in their order.

    Raises:
        SinkError: that is no such answer.
    """
    if not answer.whole:
        raise SinkError("what it answers is longer than is read")
    try:
        said = cast("dict[str, list[_Item]]", orjson.loads(answer.body))
        found = [(_status(item["create"]), _why(item["create"])) for item in said["items"]]
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        raise SinkError(f"what it answers is nothing of the bulk API: {answer.said}") from None
    if len(found) != count:
        raise SinkError(f"it answers {len(found)} items of {count}")
    return found


def _status(item: Mapping[str, object]) -> int:
    status = item["status"]
    if type(status) is not int:
        raise TypeError("a status is a number")
    return status


def _why(item: Mapping[str, object]) -> str:
    error = item.get("error")
    if not isinstance(error, dict):
        return str(error or "")[:SAID_CHARS_MAX]
    return f"{error.get('type', '')}: {error.get('reason', '')}"[:SAID_CHARS_MAX]
