"""The record as events: what a caller that attaches later gets to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from supervisor.audit.account import finished_of
from supervisor.audit.blobs import BlobStore
from supervisor.audit.codec import (
    denied_from_json,
    flow_from_json,
    lost_from_json,
    processes_from_json,
    watched_from_json,
)
from supervisor.audit.entry import Kind, StoredEntry
from supervisor.audit.recording import FrameRef
from supervisor.call.events import Accepted, CallEvent, Event, Output, Started
from supervisor.call.types import Json, Stream


def event_of(
    entry: StoredEntry, read: Callable[[FrameRef], bytes], blobs: BlobStore
) -> CallEvent | None:
    """Give the event that an entry stands for; None where it stands for none.

    Standard input and signals are on record, and no events.
    """
    event = _event(entry, read, blobs)
    if event is None:
        return None
    return CallEvent(
        call_id=entry.call_id, sequence=entry.sequence, time_ns=entry.time_ns, event=event
    )


def _event(entry: StoredEntry, read: Callable[[FrameRef], bytes], blobs: BlobStore) -> Event | None:
    body = entry.body()
    match entry.kind:
        case Kind.INTENT:
            return _accepted(body)
        case Kind.STARTED:
            return Started(preparation_s=_seconds(body["preparation_s"]))
        case Kind.OUTPUT if body["stream"] != Stream.STDIN:
            ref = FrameRef.from_json(body)
            return Output(stream=ref.stream, data=read(ref), offset=ref.offset)
        case Kind.TRUNCATED if body["stream"] != Stream.STDIN:
            stream, offset = Stream(str(body["stream"])), int(_seconds(body["offset"]))
            return Output(stream=stream, data=b"", offset=offset, truncated=True)
        case Kind.DENIED:
            return denied_from_json(body)
        case Kind.PROCESSES:
            return processes_from_json(body)
        case Kind.WATCHED:
            return watched_from_json(body)
        case Kind.FLOW:
            return flow_from_json(body)
        case Kind.LOST:
            return lost_from_json(body)
        case Kind.OUTCOME:
            return finished_of(entry, blobs)
    return None


def _accepted(body: Mapping[str, Json]) -> Accepted:
    profile = body["profile"]
    if not isinstance(profile, dict):
        raise TypeError("the profile of an intent is an object")
    return Accepted(
        profile=str(profile["name"]),
        profile_digest=str(profile["digest"]),
        mode=str(profile["mode"]),
    )


def _seconds(value: Json) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"not a number: {value!r}")
    return value
