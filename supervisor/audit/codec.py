"""Values of a call ⇄ the JSON of an entry's body. Pure."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor.call.events import (
    Denied,
    Finished,
    Flow,
    Lost,
    MoreArgv,
    ProcessEnded,
    Processes,
    ProcessEvent,
    ProgramStarted,
    Timeline,
    Verdict,
    Wall,
    Watched,
)
from supervisor.call.outcome import KINDS, LimitKind, Outcome, kind
from supervisor.call.types import (
    Caller,
    Correlation,
    Digest,
    Json,
    OutputFile,
    SkippedFile,
    Stream,
    StreamSummary,
    Usage,
    as_list,
    as_map,
    text,
    untext,
)

ARGV_PREVIEW_BYTES = 4096
NAME_CHARACTERS_MAX = 256
RULE_CHARACTERS_MAX = 512
TEXT_CHARACTERS_MAX = 2048
"""Texts in a denial, a flow or a loss are cut to these: a character takes up to twelve bytes in
JSON, and the entry has to fit into 64 KiB. A rule can be named by a host and its ports."""

AROUND_BYTES = 240
"""Of what a process does: names, numbers and punctuation take no more than this in JSON."""

_OUTCOMES: dict[str, type[Any]] = {name: cls for cls, name in KINDS.items()}


def fields_to_json(value: Any) -> dict[str, Json]:
    """Give the fields of a flat dataclass: numbers, strings, enums."""
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _plain(value: Any) -> Json:
    if isinstance(value, enum.StrEnum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"not a plain value: {value!r}")


def outcome_to_json(outcome: Outcome) -> dict[str, Json]:
    """Give an outcome with its kind."""
    return {"kind": kind(outcome), **fields_to_json(outcome)}


def outcome_from_json(data: Mapping[str, Json]) -> Outcome:
    """Undo `outcome_to_json`."""
    fields: dict[str, Any] = dict(data)
    cls = _OUTCOMES[str(fields.pop("kind"))]
    if "limit" in fields:
        fields["limit"] = LimitKind(fields["limit"])
    outcome: Outcome = cls(**fields)
    return outcome


def finished_to_json(finished: Finished) -> dict[str, Json]:
    """Give everything of Finished but the record, which only comes with the entry itself."""
    return {
        "outcome": outcome_to_json(finished.outcome),
        "timeline": fields_to_json(finished.timeline),
        "usage": fields_to_json(finished.usage),
        "denials": finished.denials,
        "streams": [_stream_to_json(summary) for summary in finished.streams],
        "outputs": [output_to_json(output) for output in finished.outputs],
        "skipped": [
            {"path": text(skipped.path), "reason": skipped.reason} for skipped in finished.skipped
        ],
    }


def finished_from_json(data: Mapping[str, Json], *, record: str, record_bytes: int) -> Finished:
    """Undo `finished_to_json`."""
    return Finished(
        outcome=outcome_from_json(as_map(data["outcome"])),
        timeline=Timeline(**_numbers(data["timeline"])),
        usage=Usage(**_numbers(data["usage"])),
        denials=_int(data["denials"]),
        streams=tuple(_stream_from_json(as_map(item)) for item in as_list(data["streams"])),
        outputs=tuple(output_from_json(as_map(item)) for item in as_list(data["outputs"])),
        skipped=tuple(
            SkippedFile(path=untext(as_map(item)["path"]), reason=str(as_map(item)["reason"]))
            for item in as_list(data["skipped"])
        ),
        record=record,
        record_bytes=record_bytes,
    )


def output_to_json(output: OutputFile) -> dict[str, Json]:
    """Give an output file."""
    return {
        "path": text(output.path),
        "sha256": output.digest.sha256,
        "size_bytes": output.digest.size_bytes,
        "mode": output.mode,
    }


def output_from_json(data: Mapping[str, Json]) -> OutputFile:
    """Undo `output_to_json`."""
    return OutputFile(path=untext(data["path"]), digest=_digest(data), mode=_int(data["mode"]))


def _stream_to_json(summary: StreamSummary) -> dict[str, Json]:
    more = {"redactions": summary.redactions, "tail_bytes": summary.tail_bytes}
    return {
        **{name: count for name, count in more.items() if count},
        "stream": summary.stream.value,
        "sha256": summary.digest.sha256,
        "size_bytes": summary.digest.size_bytes,
        "stored_bytes": summary.stored_bytes,
    }


def _stream_from_json(data: Mapping[str, Json]) -> StreamSummary:
    return StreamSummary(
        stream=Stream(str(data["stream"])),
        digest=_digest(data),
        stored_bytes=_int(data["stored_bytes"]),
        redactions=_int(data.get("redactions", 0)),
        tail_bytes=_int(data.get("tail_bytes", 0)),
    )


def denied_to_json(denied: Denied) -> dict[str, Json]:
    """Give a denial, its texts cut to a bounded length."""
    return {
        "wall": denied.wall.value,
        "name": denied.name[:NAME_CHARACTERS_MAX],
        "arguments": list(denied.arguments[:16]),
        "detail": denied.detail[:TEXT_CHARACTERS_MAX],
        "pid": denied.pid,
        "program": text(denied.program[:256]),
        "count": denied.count,
        "rule": denied.rule[:RULE_CHARACTERS_MAX],
        "used": denied.used,
        "allowed": denied.allowed,
    }


def denied_from_json(data: Mapping[str, Json]) -> Denied:
    """Undo `denied_to_json`."""
    return Denied(
        wall=Wall(str(data["wall"])),
        name=str(data["name"]),
        arguments=tuple(_int(item) for item in as_list(data["arguments"])),
        detail=str(data["detail"]),
        pid=_int(data["pid"]),
        program=untext(data["program"]),
        count=_int(data["count"]),
        rule=str(data["rule"]),
        used=_int(data["used"]),
        allowed=_int(data["allowed"]),
    )


def denials_in(data: Mapping[str, Json]) -> int:
    """Give how many denials the body of one tells."""
    return _int(data["count"])


def watched_to_json(watched: Watched) -> dict[str, Json]:
    """Give a watched system call, its texts cut to a bounded length."""
    return {
        "name": watched.name[:NAME_CHARACTERS_MAX],
        "arguments": list(watched.arguments[:16]),
        "detail": watched.detail[:TEXT_CHARACTERS_MAX],
        "pid": watched.pid,
        "program": text(watched.program[:256]),
        "count": watched.count,
        "rule": watched.rule[:RULE_CHARACTERS_MAX],
        "killed": watched.killed,
    }


def watched_from_json(data: Mapping[str, Json]) -> Watched:
    """Undo `watched_to_json`."""
    return Watched(
        name=str(data["name"]),
        arguments=tuple(_int(item) for item in as_list(data["arguments"])),
        detail=str(data["detail"]),
        pid=_int(data["pid"]),
        program=untext(data["program"]),
        count=_int(data["count"]),
        rule=str(data["rule"]),
        killed=data["killed"] is True,
    )


def flow_to_json(flow: Flow) -> dict[str, Json]:
    """Give a connection that has ended, its texts cut to a bounded length."""
    return {
        "name": flow.name[:NAME_CHARACTERS_MAX],
        "address": flow.address[:NAME_CHARACTERS_MAX],
        "port": flow.port,
        "rule": flow.rule[:RULE_CHARACTERS_MAX],
        "verdict": flow.verdict.value,
        "reason": flow.reason[:TEXT_CHARACTERS_MAX],
        "sent": flow.sent,
        "received": flow.received,
        "started_ns": flow.started_ns,
        "duration_s": flow.duration_s,
        "pid": flow.pid,
        "program": text(flow.program[:256]),
    }


def flow_from_json(data: Mapping[str, Json]) -> Flow:
    """Undo `flow_to_json`."""
    return Flow(
        name=str(data["name"]),
        address=str(data["address"]),
        port=_int(data["port"]),
        rule=str(data["rule"]),
        verdict=Verdict(str(data["verdict"])),
        reason=str(data["reason"]),
        sent=_int(data["sent"]),
        received=_int(data["received"]),
        started_ns=_int(data["started_ns"]),
        duration_s=_float(data["duration_s"]),
        pid=_int(data["pid"]),
        program=untext(data["program"]),
    )


def processes_to_json(processes: Processes) -> dict[str, Json]:
    """Give what processes did; whoever makes it keeps it below an entry's size."""
    return {"events": [_process_to_json(event) for event in processes.events]}


def processes_from_json(data: Mapping[str, Json]) -> Processes:
    """Undo `processes_to_json`."""
    return Processes(
        events=tuple(_process_from_json(as_map(item)) for item in as_list(data["events"]))
    )


def _process_to_json(event: ProcessEvent) -> dict[str, Json]:
    match event:
        case ProgramStarted():
            return {
                "what": "started",
                "time_ns": event.time_ns,
                "pid": event.pid,
                "parent_pid": event.parent_pid,
                "uid": event.uid,
                "gid": event.gid,
                "path": text(event.path),
                "directory": text(event.directory),
                "argv": [text(argument) for argument in event.argv],
                "argv_bytes": event.argv_bytes,
                "cut": list(event.cut),
            }
        case MoreArgv():
            return {
                "what": "argv",
                "time_ns": event.time_ns,
                "pid": event.pid,
                "offset": event.offset,
                "data": text(event.data),
            }
        case ProcessEnded():
            return {"what": "ended", **fields_to_json(event)}


def process_bytes(event: ProcessEvent) -> int:
    """Give how many bytes of a `processes` entry an event takes at most: what a sandbox chooses
    is measured as it will be written, all else is of a bounded length."""
    match event:
        case ProgramStarted():
            argv = sum(map(_text_bytes, event.argv)) + len(event.argv)
            return AROUND_BYTES + _text_bytes(event.path) + _text_bytes(event.directory) + argv
        case MoreArgv():
            return AROUND_BYTES + _text_bytes(event.data)
        case ProcessEnded():
            return AROUND_BYTES


def _text_bytes(data: bytes) -> int:
    return len(json.dumps(text(data)))


def process_kind(event: ProcessEvent) -> str:
    """Give what an event is called where it is lost."""
    match event:
        case ProgramStarted():
            return "exec"
        case MoreArgv():
            return "argv"
        case ProcessEnded():
            return "exit"


def _process_from_json(data: Mapping[str, Json]) -> ProcessEvent:
    match data["what"]:
        case "started":
            return ProgramStarted(
                time_ns=_int(data["time_ns"]),
                pid=_int(data["pid"]),
                parent_pid=_int(data["parent_pid"]),
                uid=_int(data["uid"]),
                gid=_int(data["gid"]),
                path=untext(data["path"]),
                directory=untext(data["directory"]),
                argv=tuple(untext(item) for item in as_list(data["argv"])),
                argv_bytes=_int(data["argv_bytes"]),
                cut=tuple(str(item) for item in as_list(data["cut"])),
            )
        case "argv":
            return MoreArgv(
                time_ns=_int(data["time_ns"]),
                pid=_int(data["pid"]),
                offset=_int(data["offset"]),
                data=untext(data["data"]),
            )
        case "ended":
            fields = {name: value for name, value in data.items() if name != "what"}
            return ProcessEnded(**_numbers(fields))
    raise TypeError(f"not what a process does: {data['what']!r}")


def lost_to_json(lost: Lost) -> dict[str, Json]:
    """Give a loss."""
    return {
        "what": lost.what[:NAME_CHARACTERS_MAX],
        "count": lost.count,
        "reason": lost.reason[:TEXT_CHARACTERS_MAX],
    }


def lost_from_json(data: Mapping[str, Json]) -> Lost:
    """Undo `lost_to_json`."""
    return Lost(what=str(data["what"]), count=_int(data["count"]), reason=str(data["reason"]))


def caller_to_json(caller: Caller) -> dict[str, Json]:
    """Give a caller."""
    return fields_to_json(caller)


def caller_from_json(data: Mapping[str, Json]) -> Caller:
    """Undo `caller_to_json`."""
    fields: dict[str, Any] = dict(data)
    return Caller(**fields)


def correlation_from_json(data: Mapping[str, Json]) -> Correlation:
    """Read a correlation as `CallRequest.canonical` writes it."""
    return Correlation(**{name: str(value) for name, value in data.items()})


def clip_argv(argv: Sequence[bytes]) -> tuple[bytes, ...]:
    """Give the beginning of the arguments, at most 4 KiB together."""
    room, clipped = ARGV_PREVIEW_BYTES, []
    for argument in argv:
        if room <= 0:
            break
        clipped.append(argument[:room])
        room -= len(argument) + 1
    return tuple(clipped)


def _digest(data: Mapping[str, Json]) -> Digest:
    return Digest(sha256=str(data["sha256"]), size_bytes=_int(data["size_bytes"]))


def _int(value: Json) -> int:
    if not isinstance(value, int):
        raise TypeError(f"not a whole number: {value!r}")
    return value


def _float(value: Json) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"not a number: {value!r}")
    return float(value)


def _numbers(value: Json) -> dict[str, Any]:
    return dict(as_map(value))
