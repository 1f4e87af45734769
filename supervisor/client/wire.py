"""Turn messages of `supervisor.v1` into values of `supervisor.call` and of this room.

Pure. An event, an outcome or an enum value that this client does not know is an error that says
so, never a guess.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from supervisor.call import events, outcome
from supervisor.call.state import State
from supervisor.call.types import (
    Caller,
    Correlation,
    Digest,
    OutputFile,
    SkippedFile,
    Stream,
    StreamSummary,
    Usage,
)
from supervisor.client import values
from supervisor.errors import AuditCorrupt, InvariantError
from supervisor.v1 import audit_pb2, profile_pb2, tool_pb2, types_pb2

_STREAMS = {
    types_pb2.STD_STREAM_STDIN: Stream.STDIN,
    types_pb2.STD_STREAM_STDOUT: Stream.STDOUT,
    types_pb2.STD_STREAM_STDERR: Stream.STDERR,
}
STREAM_NUMBERS = {stream: number for number, stream in _STREAMS.items()}


def event(message: tool_pb2.CallEvent) -> events.CallEvent:
    """Give a CallEvent as a value.

    Raises:
        InvariantError: `EVENT_UNKNOWN`, `OUTCOME_UNKNOWN`, `ENUM_UNKNOWN`.
    """
    kind = message.WhichOneof("event")
    if kind not in _EVENTS:
        raise InvariantError(
            "EVENT_UNKNOWN",
            f"the daemon sent an event that this client does not know: {kind}",
            hint="is this client as new as the daemon?",
        )
    return events.CallEvent(
        call_id=message.call_id,
        sequence=message.sequence,
        time_ns=_ns(message.time),
        event=_EVENTS[kind](getattr(message, kind)),
    )


def not_given(message: audit_pb2.ReadOutputResponse, done: int) -> tuple[bytes, int]:
    """Give what of a piece of a stream was not given before, where it was up to `done`, and up to
    where it is then."""
    end = message.offset + (message.covered or len(message.data))
    if message.covered:
        return (message.data if end > done else b""), max(done, end)
    return message.data[max(0, done - message.offset) :], max(done, end)


def finished(message: tool_pb2.Finished) -> events.Finished:
    """Give a Finished as a value."""
    line = message.timeline
    return events.Finished(
        outcome=_outcome(message),
        timeline=events.Timeline(
            accepted_ns=_ns(line.accepted),
            preparing_ns=_ns(line.preparing),
            armed_ns=_ns(line.armed),
            started_ns=_ns(line.started),
            ended_ns=_ns(line.ended),
            destroyed_ns=_ns(line.destroyed),
        ),
        streams=tuple(
            StreamSummary(
                stream=stream(summary.stream),
                digest=digest(summary.digest),
                stored_bytes=summary.stored_bytes,
                redactions=summary.redactions,
                tail_bytes=summary.tail_bytes,
            )
            for summary in message.streams
        ),
        outputs=tuple(
            OutputFile(path=file.path, digest=digest(file.digest), mode=file.mode)
            for file in message.outputs
        ),
        skipped=tuple(SkippedFile(path=file.path, reason=file.reason) for file in message.skipped),
        usage=Usage(
            cpu_user_s=_seconds(message.usage.cpu_user),
            cpu_system_s=_seconds(message.usage.cpu_system),
            memory_peak_bytes=message.usage.memory_peak_bytes,
            pids_peak=message.usage.pids_peak,
            pids_start=message.usage.pids_start,
        ),
        denials=message.denials,
        record=message.record.sha256,
        record_bytes=message.record.size_bytes,
        receipt=message.receipt,
    )


def recorded_profile(message: audit_pb2.GetRecordResponse) -> bytes:
    """Give the profile in the account of a call.

    Raises:
        AuditCorrupt: `DIGEST_MISMATCH`, also where a daemon gives none.
    """
    profile, digest = message.profile_json, message.call.profile_digest
    if Digest.of(profile).sha256 != digest:
        raise AuditCorrupt("DIGEST_MISMATCH", f"this is not the profile sha256:{digest}")
    return profile


def call(message: tool_pb2.Call) -> values.Call:
    """Give a Call as a value."""
    caller = message.caller
    return values.Call(
        call_id=message.call_id,
        request_id=message.request_id,
        caller=Caller(
            name=caller.name,
            transport=caller.transport,
            uid=caller.uid if caller.HasField("uid") else None,
            gid=caller.gid if caller.HasField("gid") else None,
            pid=caller.pid if caller.HasField("pid") else None,
            certificate_name=caller.certificate_name,
        ),
        profile=message.profile,
        profile_digest=message.profile_digest,
        state=State(_enum(types_pb2.CallState, message.state, "CALL_STATE_")),
        argv=tuple(message.argv),
        accepted_ns=_ns(message.accepted),
        correlation=Correlation(
            agent=message.correlation.agent,
            session=message.correlation.session,
            workflow=message.correlation.workflow,
            traceparent=message.correlation.traceparent,
        ),
        finished=finished(message.finished) if message.HasField("finished") else None,
        last_sequence=message.last_sequence,
        denials=message.denials,
        removed=values.Removed(time_ns=_ns(message.removed.time), why=message.removed.why)
        if message.HasField("removed")
        else None,
        erased=erased(message.erased) if message.HasField("erased") else None,
        encrypted=message.encrypted,
        holds=message.holds,
    )


def retention(message: audit_pb2.GetRetentionResponse) -> values.Retention:
    """Give what would be removed as a value."""
    return values.Retention(
        going=tuple(
            values.Going(
                call_id=one.call_id, index=one.index, why=one.why, files=one.files, bytes=one.bytes
            )
            for one in message.going
        ),
        count=message.count,
        bytes=message.bytes,
        contents_bytes=message.contents_bytes,
        rest=message.rest,
        problem=message.problem,
        held=message.held,
        in_use=message.in_use,
        now_ns=_ns(message.now),
    )


def erased(message: types_pb2.Erased) -> values.Erased:
    """Give an erasure as a value."""
    return values.Erased(by=message.by, time_ns=_ns(message.time), why=message.why)


def profile_summary(message: profile_pb2.ProfileSummary) -> values.ProfileSummary:
    """Give a ProfileSummary as a value."""
    return values.ProfileSummary(
        name=message.name, why=message.why, digest=message.digest, mode=message.mode
    )


def profile(message: profile_pb2.GetProfileResponse) -> values.Profile:
    """Give an effective profile as a value."""
    return values.Profile(
        summary=profile_summary(message.summary),
        canonical=message.canonical_json,
        lines=tuple(
            values.ProfileLine(
                path=line.path, value=json.loads(line.value_json), file=line.file, line=line.line
            )
            for line in message.lines
        ),
    )


def finding(message: profile_pb2.ProfileFinding) -> values.Finding:
    """Give a finding as a value."""
    return values.Finding(
        wall=message.wall,
        setting=message.setting,
        exposure=_enum(profile_pb2.Exposure, message.exposure, "EXPOSURE_"),
        verdict=message.verdict,
        advice=message.advice,
        host=message.host,
    )


def entry(message: audit_pb2.RecordEntry) -> values.RecordEntry:
    """Give an entry of the log as a value."""
    return values.RecordEntry(
        index=message.index,
        sequence=message.sequence,
        time_ns=_ns(message.time),
        kind=message.kind,
        json=message.json,
        leaf=digest(message.leaf),
    )


def digest(message: types_pb2.Digest) -> Digest:
    """Give a digest as a value."""
    return Digest(sha256=message.sha256, size_bytes=message.size_bytes)


def digest_message(value: Digest) -> types_pb2.Digest:
    """Give a digest as a message."""
    return types_pb2.Digest(sha256=value.sha256, size_bytes=value.size_bytes)


def stream(number: int) -> Stream:
    """Give a standard stream by its number on the wire."""
    return Stream(_enum(types_pb2.StdStream, number, "STD_STREAM_"))


def _outcome(message: tool_pb2.Finished) -> outcome.Outcome:
    kind = message.WhichOneof("outcome")
    if kind not in _OUTCOMES:
        raise InvariantError(
            "OUTCOME_UNKNOWN",
            f"the daemon sent an outcome that this client does not know: {kind}",
            hint="is this client as new as the daemon?",
        )
    result: outcome.Outcome = _OUTCOMES[kind](getattr(message, kind))
    return result


def _enum(kind: Any, number: int, prefix: str) -> str:
    """Give the lower-case name of an enum's value, without its prefix."""
    if not number or number not in kind.values():
        raise InvariantError(
            "ENUM_UNKNOWN",
            f"{kind.DESCRIPTOR.name} {number} is not known to this client",
            hint="is this client as new as the daemon?",
        )
    return str(kind.Name(number)).removeprefix(prefix).lower()


def _denied(message: tool_pb2.Denied) -> events.Denied:
    return events.Denied(
        wall=_wall(message.wall),
        name=message.name,
        arguments=tuple(message.arguments),
        detail=message.detail,
        pid=message.pid,
        program=message.program,
        count=message.count,
        rule=message.rule,
        used=message.used,
        allowed=message.allowed,
    )


def _process(message: tool_pb2.ProcessEvent) -> events.ProcessEvent:
    common = {"time_ns": _ns(message.time), "pid": message.pid}
    match message.WhichOneof("what"):
        case "started":
            started = message.started
            return events.ProgramStarted(
                **common,
                parent_pid=started.parent_pid,
                uid=started.uid,
                gid=started.gid,
                path=started.path,
                directory=started.directory,
                argv=tuple(started.argv),
                argv_bytes=started.argv_bytes,
                cut=tuple(started.cut),
            )
        case "argv":
            return events.MoreArgv(**common, offset=message.argv.offset, data=message.argv.data)
        case "ended":
            ended = message.ended
            return events.ProcessEnded(
                **common,
                parent_pid=ended.parent_pid,
                code=ended.code,
                signal=ended.signal,
                cpu_user_s=_seconds(ended.cpu_user),
                cpu_system_s=_seconds(ended.cpu_system),
                memory_peak_bytes=ended.memory_peak_bytes,
            )
    raise InvariantError(
        "EVENT_UNKNOWN",
        "the daemon sent an event of a process that this client does not know",
        hint="is this client as new as the daemon?",
    )


def _wall(name: str) -> events.Wall:
    try:
        return events.Wall(name)
    except ValueError:
        raise InvariantError("ENUM_UNKNOWN", f"the wall {name!r} is not known here") from None


def _ns(stamp: Timestamp) -> int:
    return stamp.seconds * 1_000_000_000 + stamp.nanos


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


_EVENTS: dict[str | None, Any] = {
    "accepted": lambda m: events.Accepted(
        profile=m.profile, profile_digest=m.profile_digest, mode=m.mode, attached=m.attached
    ),
    "started": lambda m: events.Started(preparation_s=_seconds(m.preparation)),
    "output": lambda m: events.Output(
        stream=stream(m.stream),
        data=m.data,
        offset=m.offset,
        truncated=m.truncated,
        covered=m.covered,
    ),
    "resized": lambda m: events.Resized(rows=m.rows, columns=m.columns),
    "denied": _denied,
    "processes": lambda m: events.Processes(events=tuple(_process(e) for e in m.events)),
    "watched": lambda m: events.Watched(
        name=m.name,
        arguments=tuple(m.arguments),
        detail=m.detail,
        pid=m.pid,
        program=m.program,
        count=m.count,
        rule=m.rule,
        killed=m.killed,
    ),
    "flow": lambda m: events.Flow(
        name=m.name,
        address=m.address,
        port=m.port,
        rule=m.rule,
        verdict=events.Verdict(_enum(types_pb2.Verdict, m.verdict, "VERDICT_")),
        reason=m.reason,
        sent=m.sent,
        received=m.received,
        started_ns=_ns(m.started),
        duration_s=_seconds(m.duration),
        pid=m.pid,
        program=m.program,
    ),
    "lost": lambda m: events.Lost(what=m.what, count=m.count, reason=m.reason),
    "keep_alive": lambda _: events.KeepAlive(),
    "finished": finished,
}

_OUTCOMES: dict[str | None, Any] = {
    "exited": lambda m: outcome.Exited(code=m.code),
    "signaled": lambda m: outcome.Signaled(signal=m.signal, core_dumped=m.core_dumped),
    "timed_out": lambda m: outcome.TimedOut(limit_s=_seconds(m.limit)),
    "out_of_memory": lambda m: outcome.OutOfMemory(
        limit_bytes=m.limit_bytes, peak_bytes=m.peak_bytes, kills=m.kills
    ),
    "limit_exceeded": lambda m: outcome.LimitExceeded(
        limit=outcome.LimitKind(_enum(types_pb2.LimitKind, m.limit, "LIMIT_KIND_")),
        used=m.used,
        allowed=m.allowed,
        subject=m.subject,
    ),
    "stopped": lambda m: outcome.Stopped(by=m.by, reason=m.reason, signal=m.signal),
    "failed": lambda m: outcome.Failed(reason=m.reason, message=m.message),
    "interrupted": lambda m: outcome.Interrupted(message=m.message),
}
