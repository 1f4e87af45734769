"""The record as events: what a caller that attaches later gets to see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from supervisor.audit.account import finished_of
from supervisor.audit.blobs import BlobStore, damaged
from supervisor.audit.codec import (
    denied_from_json,
    flow_from_json,
    lost_from_json,
    processes_from_json,
    watched_from_json,
)
from supervisor.audit.entry import Kind, StoredEntry
from supervisor.audit.recording import FrameRef
from supervisor.audit.redaction.found import Piece, pieces
from supervisor.call.events import Accepted, CallEvent, Event, Output, Resized, Started
from supervisor.call.types import Json, Stream


def events_of(
    entry: StoredEntry, take: Callable[[FrameRef], Iterable[Piece]], blobs: BlobStore
) -> Iterator[CallEvent]:
    """Give the events that an entry stands for: mostly one. `take` gives the bytes that came; there
    is an event for each secret in them, and for what is between them.

    Standard input and signals are on record, and no events.

    Raises:
        AuditCorrupt: `DIGEST_MISMATCH`.
    """
    for event in _events(entry, take, blobs):
        yield CallEvent(
            call_id=entry.call_id, sequence=entry.sequence, time_ns=entry.time_ns, event=event
        )


def pieces_of(ref: FrameRef, data: bytes) -> Iterator[Piece]:
    """Take the bytes of a frame apart: what is as it was, and the marks of secrets.

    Raises:
        AuditCorrupt: `DIGEST_MISMATCH`.
    """
    found = ref.redacted.found if ref.redacted is not None else ()
    try:
        yield from pieces(data, ref.begin, ref.end, found)
    except ValueError as error:
        raise damaged(f"the frame at offset {ref.frame_offset}: {error}") from error


def _events(
    entry: StoredEntry, take: Callable[[FrameRef], Iterable[Piece]], blobs: BlobStore
) -> Iterator[Event]:
    body = entry.body()
    match entry.kind:
        case Kind.INTENT:
            yield _accepted(body)
        case Kind.STARTED:
            yield Started(preparation_s=_number(body["preparation_s"]))
        case Kind.OUTPUT if body["stream"] != Stream.STDIN:
            ref = FrameRef.from_json(body)
            for piece in take(ref):
                covered = piece.end - piece.offset if piece.found is not None else 0
                yield Output(
                    stream=ref.stream, data=piece.data, offset=piece.offset, covered=covered
                )
        case Kind.TRUNCATED if body["stream"] != Stream.STDIN and "length" not in body:
            stream, offset = Stream(str(body["stream"])), int(_number(body["offset"]))
            yield Output(stream=stream, data=b"", offset=offset, truncated=True)
        case Kind.DENIED:
            yield denied_from_json(body)
        case Kind.PROCESSES:
            yield processes_from_json(body)
        case Kind.WATCHED:
            yield watched_from_json(body)
        case Kind.FLOW:
            yield flow_from_json(body)
        case Kind.RESIZED:
            yield Resized(rows=int(_number(body["rows"])), columns=int(_number(body["columns"])))
        case Kind.LOST:
            yield lost_from_json(body)
        case Kind.OUTCOME:
            yield finished_of(entry, blobs)


def _accepted(body: Mapping[str, Json]) -> Accepted:
    profile = body["profile"]
    if not isinstance(profile, dict):
        raise TypeError("the profile of an intent is an object")
    return Accepted(
        profile=str(profile["name"]),
        profile_digest=str(profile["digest"]),
        mode=str(profile["mode"]),
    )


def _number(value: Json) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"not a number: {value!r}")
    return value
