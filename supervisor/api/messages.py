"""Turn values into wire messages: the other half of `translate`."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from supervisor.audit.entry import StoredEntry
from supervisor.audit.index import CallSummary
from supervisor.audit.retention import Plan
from supervisor.audit.vault import Erasure, Removal
from supervisor.call.events import (
    Accepted,
    CallEvent,
    Denied,
    Finished,
    Flow,
    KeepAlive,
    Lost,
    MoreArgv,
    Output,
    ProcessEnded,
    Processes,
    ProcessEvent,
    ProgramStarted,
    Resized,
    Started,
    Timeline,
    Verdict,
    Watched,
)
from supervisor.call.outcome import (
    Exited,
    Failed,
    Interrupted,
    LimitExceeded,
    LimitKind,
    Outcome,
    OutOfMemory,
    Signaled,
    Stopped,
    TimedOut,
)
from supervisor.call.state import State
from supervisor.call.types import (
    Caller,
    Correlation,
    Digest,
    Stream,
    StreamSummary,
    Usage,
    canonical_json,
)
from supervisor.profile.explain import Finding
from supervisor.profile.model import EffectiveProfile, ProfileLine
from supervisor.v1 import audit_pb2, profile_pb2, tool_pb2, types_pb2

NANOS = 10**9
GOING_MAX = 1000

STREAMS = {
    Stream.STDIN: types_pb2.STD_STREAM_STDIN,
    Stream.STDOUT: types_pb2.STD_STREAM_STDOUT,
    Stream.STDERR: types_pb2.STD_STREAM_STDERR,
}
STATES = {
    State.PENDING: types_pb2.CALL_STATE_PENDING,
    State.PREPARING: types_pb2.CALL_STATE_PREPARING,
    State.ARMED: types_pb2.CALL_STATE_ARMED,
    State.RUNNING: types_pb2.CALL_STATE_RUNNING,
    State.DRAINING: types_pb2.CALL_STATE_DRAINING,
    State.CLOSED: types_pb2.CALL_STATE_CLOSED,
}
LIMITS = {
    LimitKind.WALL: types_pb2.LIMIT_KIND_WALL,
    LimitKind.CPU: types_pb2.LIMIT_KIND_CPU,
    LimitKind.MEMORY: types_pb2.LIMIT_KIND_MEMORY,
    LimitKind.PIDS: types_pb2.LIMIT_KIND_PIDS,
    LimitKind.OUTPUT: types_pb2.LIMIT_KIND_OUTPUT,
    LimitKind.DISK: types_pb2.LIMIT_KIND_DISK,
    LimitKind.INODES: types_pb2.LIMIT_KIND_INODES,
    LimitKind.EGRESS: types_pb2.LIMIT_KIND_EGRESS,
}
VERDICTS = {
    Verdict.CLOSED: types_pb2.VERDICT_CLOSED,
    Verdict.RESET: types_pb2.VERDICT_RESET,
    Verdict.FAILED: types_pb2.VERDICT_FAILED,
    Verdict.DENIED: types_pb2.VERDICT_DENIED,
    Verdict.BUDGET: types_pb2.VERDICT_BUDGET,
    Verdict.STOPPED: types_pb2.VERDICT_STOPPED,
}
EXPOSURES = {
    "closed": profile_pb2.EXPOSURE_CLOSED,
    "narrow": profile_pb2.EXPOSURE_NARROW,
    "wide": profile_pb2.EXPOSURE_WIDE,
}


def timestamp(time_ns: int) -> Timestamp | None:
    """Give nanoseconds since the epoch as a timestamp, and 0 as one that is not set."""
    return Timestamp(seconds=time_ns // NANOS, nanos=time_ns % NANOS) if time_ns else None


def duration(duration_s: float) -> Duration:
    """Give seconds as a duration."""
    total = round(duration_s * NANOS)
    return Duration(seconds=total // NANOS, nanos=total % NANOS)


def digest(value: Digest) -> types_pb2.Digest:
    """Give a digest."""
    return types_pb2.Digest(sha256=value.sha256, size_bytes=value.size_bytes)


def caller(value: Caller) -> types_pb2.Caller:
    """Give who asked for a call."""
    return types_pb2.Caller(
        name=value.name,
        transport=value.transport,
        uid=value.uid,
        gid=value.gid,
        pid=value.pid,
        certificate_name=value.certificate_name,
    )


def correlation(value: Correlation) -> types_pb2.Correlation:
    """Give how the caller knows a call."""
    return types_pb2.Correlation(
        agent=value.agent,
        session=value.session,
        workflow=value.workflow,
        traceparent=value.traceparent,
    )


def call_event(value: CallEvent) -> tool_pb2.CallEvent:
    """Give an event with its place in the call."""
    message = tool_pb2.CallEvent(
        call_id=value.call_id, sequence=value.sequence, time=timestamp(value.time_ns)
    )
    match value.event:
        case Output() as event:
            message.output.stream = STREAMS[event.stream]
            message.output.data = event.data
            message.output.offset = event.offset
            message.output.truncated = event.truncated
            message.output.covered = event.covered
        case Accepted() as event:
            message.accepted.CopyFrom(
                tool_pb2.Accepted(
                    profile=event.profile,
                    profile_digest=event.profile_digest,
                    mode=event.mode,
                    attached=event.attached,
                )
            )
        case Started() as event:
            message.started.CopyFrom(tool_pb2.Started(preparation=duration(event.preparation_s)))
        case Denied() as event:
            message.denied.CopyFrom(denied(event))
        case Processes() as event:
            message.processes.events.extend(process_event(one) for one in event.events)
        case Watched() as event:
            message.watched.CopyFrom(watched(event))
        case Flow() as event:
            message.flow.CopyFrom(flow(event))
        case Resized() as event:
            message.resized.CopyFrom(tool_pb2.Resized(rows=event.rows, columns=event.columns))
        case Lost() as event:
            message.lost.CopyFrom(
                tool_pb2.Lost(what=event.what, count=event.count, reason=event.reason)
            )
        case KeepAlive():
            message.keep_alive.SetInParent()
        case Finished() as event:
            message.finished.CopyFrom(finished(event))
    return message


def watched(value: Watched) -> tool_pb2.Watched:
    """Give a watched system call."""
    return tool_pb2.Watched(
        name=value.name,
        arguments=value.arguments,
        detail=value.detail,
        pid=value.pid,
        program=value.program,
        count=value.count,
        rule=value.rule,
        killed=value.killed,
    )


def flow(value: Flow) -> tool_pb2.Flow:
    """Give a connection through the broker that has ended."""
    return tool_pb2.Flow(
        name=value.name,
        address=value.address,
        port=value.port,
        rule=value.rule,
        verdict=VERDICTS[value.verdict],
        reason=value.reason,
        sent=value.sent,
        received=value.received,
        started=timestamp(value.started_ns),
        duration=duration(value.duration_s),
        pid=value.pid,
        program=value.program,
    )


def denied(value: Denied) -> tool_pb2.Denied:
    """Give a denial."""
    return tool_pb2.Denied(
        wall=value.wall.value,
        name=value.name,
        arguments=[argument & 0xFFFF_FFFF_FFFF_FFFF for argument in value.arguments],
        detail=value.detail,
        pid=value.pid,
        program=value.program,
        count=value.count,
        rule=value.rule,
        used=value.used,
        allowed=value.allowed,
    )


def process_event(value: ProcessEvent) -> tool_pb2.ProcessEvent:
    """Give what one process did."""
    message = tool_pb2.ProcessEvent(time=timestamp(value.time_ns), pid=value.pid)
    match value:
        case ProgramStarted():
            message.started.CopyFrom(
                tool_pb2.ProgramStarted(
                    path=value.path,
                    directory=value.directory,
                    argv=value.argv,
                    argv_bytes=value.argv_bytes,
                    parent_pid=value.parent_pid,
                    uid=value.uid,
                    gid=value.gid,
                    cut=value.cut,
                )
            )
        case MoreArgv():
            message.argv.CopyFrom(tool_pb2.MoreArgv(offset=value.offset, data=value.data))
        case ProcessEnded():
            message.ended.CopyFrom(
                tool_pb2.ProcessEnded(
                    code=value.code,
                    signal=value.signal,
                    cpu_user=duration(value.cpu_user_s),
                    cpu_system=duration(value.cpu_system_s),
                    memory_peak_bytes=value.memory_peak_bytes,
                    parent_pid=value.parent_pid,
                )
            )
    return message


def finished(value: Finished) -> tool_pb2.Finished:
    """Give how a call ended and what it left behind."""
    message = tool_pb2.Finished(
        timeline=timeline(value.timeline),
        streams=[stream_summary(stream) for stream in value.streams],
        outputs=[
            types_pb2.OutputFile(path=file.path, digest=digest(file.digest), mode=file.mode)
            for file in value.outputs
        ],
        skipped=[
            types_pb2.SkippedFile(path=file.path, reason=file.reason) for file in value.skipped
        ],
        usage=usage(value.usage),
        denials=value.denials,
    )
    if value.record:
        message.record.sha256 = value.record
        message.record.size_bytes = value.record_bytes
    message.receipt = value.receipt
    _set_outcome(message, value.outcome)
    return message


def _set_outcome(message: tool_pb2.Finished, value: Outcome) -> None:
    match value:
        case Exited(code=code):
            message.exited.CopyFrom(types_pb2.Exited(code=code))
        case Signaled(signal=signal, core_dumped=core_dumped):
            message.signaled.CopyFrom(types_pb2.Signaled(signal=signal, core_dumped=core_dumped))
        case TimedOut(limit_s=limit_s):
            message.timed_out.CopyFrom(types_pb2.TimedOut(limit=duration(limit_s)))
        case OutOfMemory(limit_bytes=limit_bytes, peak_bytes=peak_bytes, kills=kills):
            message.out_of_memory.CopyFrom(
                types_pb2.OutOfMemory(limit_bytes=limit_bytes, peak_bytes=peak_bytes, kills=kills)
            )
        case LimitExceeded(limit=limit, used=used, allowed=allowed, subject=subject):
            message.limit_exceeded.CopyFrom(
                types_pb2.LimitExceeded(
                    limit=LIMITS[limit], used=used, allowed=allowed, subject=subject
                )
            )
        case Stopped(by=by, reason=reason, signal=signal):
            message.stopped.CopyFrom(types_pb2.Stopped(by=by, reason=reason, signal=signal))
        case Failed(reason=reason, message=text):
            message.failed.CopyFrom(types_pb2.Failed(reason=reason, message=text))
        case Interrupted(message=text):
            message.interrupted.CopyFrom(types_pb2.Interrupted(message=text))


def timeline(value: Timeline) -> types_pb2.Timeline:
    """Give when each phase was entered."""
    return types_pb2.Timeline(
        accepted=timestamp(value.accepted_ns),
        preparing=timestamp(value.preparing_ns),
        armed=timestamp(value.armed_ns),
        started=timestamp(value.started_ns),
        ended=timestamp(value.ended_ns),
        destroyed=timestamp(value.destroyed_ns),
    )


def stream_summary(value: StreamSummary) -> types_pb2.StreamSummary:
    """Give what went through a stream."""
    return types_pb2.StreamSummary(
        stream=STREAMS[value.stream],
        digest=digest(value.digest),
        stored_bytes=value.stored_bytes,
        truncated=value.truncated,
        redactions=value.redactions,
        tail_bytes=value.tail_bytes,
    )


def usage(value: Usage) -> types_pb2.ResourceUsage:
    """Give what the processes used."""
    return types_pb2.ResourceUsage(
        cpu_user=duration(value.cpu_user_s),
        cpu_system=duration(value.cpu_system_s),
        memory_peak_bytes=value.memory_peak_bytes,
        pids_peak=value.pids_peak,
        pids_start=value.pids_start,
    )


def call(summary: CallSummary, state: State, removal: Removal | None = None) -> tool_pb2.Call:
    """Give a call in short; `removal` says that its contents are gone."""
    return tool_pb2.Call(
        call_id=summary.call_id,
        request_id=summary.request_id,
        caller=caller(summary.caller),
        profile=summary.profile,
        profile_digest=summary.profile_digest,
        state=STATES[state],
        argv=summary.argv,
        accepted=timestamp(summary.accepted_ns),
        correlation=correlation(summary.correlation),
        finished=finished(summary.finished) if summary.finished is not None else None,
        last_sequence=summary.last_sequence,
        denials=summary.denials,
        removed=types_pb2.ContentsRemoved(time=timestamp(removal.time_ns), why=removal.why)
        if removal is not None
        else None,
        erased=erased(summary.erased) if summary.erased is not None else None,
        encrypted=summary.encrypted,
        holds=summary.holds,
    )


def retention(plan: Plan) -> audit_pb2.GetRetentionResponse:
    """Give what retention would remove now, with the first of it."""
    return audit_pb2.GetRetentionResponse(
        going=[
            audit_pb2.Going(
                call_id=one.holder.call_id,
                index=one.holder.last_index,
                why=one.why,
                files=len(one.files),
                bytes=one.bytes_,
            )
            for one in plan.going[:GOING_MAX]
        ],
        count=len(plan.going),
        bytes=sum(one.bytes_ for one in plan.going),
        contents_bytes=plan.contents_bytes,
        rest=plan.rest,
        problem=plan.problem,
        held=plan.held,
        in_use=plan.in_use,
        now=timestamp(plan.believed_ns),
    )


def erased(value: Erasure) -> types_pb2.Erased:
    """Give by whom, when and why the content of a call was erased."""
    return types_pb2.Erased(by=value.by, time=timestamp(value.time_ns), why=value.why)


def record_entry(value: StoredEntry) -> audit_pb2.RecordEntry:
    """Give one entry of the log, as its exact bytes."""
    return audit_pb2.RecordEntry(
        index=value.index,
        sequence=value.sequence,
        time=timestamp(value.time_ns),
        kind=value.kind,
        json=value.json,
        leaf=types_pb2.Digest(sha256=value.leaf, size_bytes=len(value.json) + 1),
    )


def profile_summary(value: EffectiveProfile) -> profile_pb2.ProfileSummary:
    """Give a profile in short."""
    return profile_pb2.ProfileSummary(
        name=value.name, why=value.why, digest=value.digest, mode=value.mode
    )


def profile_lines(values: Iterable[ProfileLine]) -> list[profile_pb2.ProfileLine]:
    """Give each value of a profile with its origin."""
    return [
        profile_pb2.ProfileLine(
            path=value.path,
            value_json=canonical_json(value.value).decode(),
            file=value.file,
            line=value.line,
        )
        for value in values
    ]


def finding(value: Finding) -> profile_pb2.ProfileFinding:
    """Give one wall of an explanation."""
    return profile_pb2.ProfileFinding(
        wall=value.wall,
        setting=value.setting,
        exposure=EXPOSURES[value.exposure],
        verdict=value.verdict,
        advice=value.advice,
        host=value.host,
    )
