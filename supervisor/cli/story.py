"""A record as a story for people: who asked for what, what happened when, and how it ended.

It reads the record and nothing else; what it does not know it shows as it stands, so that a newer
daemon's entries are never left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from supervisor.call import outcome
from supervisor.call.events import Denied, Finished, Timeline, Wall
from supervisor.call.types import Json, untext
from supervisor.cli import output as out
from supervisor.cli.safe import command as shown
from supervisor.cli.safe import safe, shorten
from supervisor.cli.streaming import describe_denial

if TYPE_CHECKING:
    from supervisor.client import Call, Record, RecordEntry

TEXT_WIDTH = 160
ARGV_WIDTH = 4000
PHASES = (
    ("accepted", "accepted_ns"),
    ("preparing", "preparing_ns"),
    ("armed", "armed_ns"),
    ("started", "started_ns"),
    ("ended", "ended_ns"),
    ("destroyed", "destroyed_ns"),
)


def tell(record: Record) -> None:
    """Print a record."""
    call = record.call
    intent = next((e.body().get("body") for e in record.entries if e.kind == "intent"), None)
    request = _map(_map(intent).get("request") or _map(intent).get("request_preview"))
    out.heading(f"call {call.call_id}: {_state(call)}")
    _tell_head(call, request, _map(intent))
    if call.finished is not None:
        _tell_phases(call.finished.timeline)
    _tell_events(record)
    _tell_denials(record)
    if call.finished is not None:
        _tell_end(call.finished)


def happening(kind: str, body: Mapping[str, Any]) -> str:
    """Say what one entry means."""
    match kind:
        case "intent":
            return "on record, before anything ran"
        case "started":
            return f"the walls stood after {out.duration(float(body.get('preparation_s', 0)))}"
        case "output":
            return f"{body.get('stream')} {out.size(int(body.get('length', 0)))}"
        case "truncated":
            why = body.get("why")
            return f"{body.get('stream')} from byte {body.get('offset')} on is not stored ({why})"
        case "denied":
            return denial(body)
        case "lost":
            return f"lost {body.get('count')} of {body.get('what')}: {body.get('reason')}"
        case "signal":
            why = f": {body.get('why')}" if body.get("why") else ""
            return f"{body.get('by')} sent signal {body.get('signal')}{why}"
        case "outcome":
            return _outcome(_map(body.get("outcome")))
        case _:
            return ", ".join(f"{name}={value}" for name, value in body.items())


def denial(body: Mapping[str, Any]) -> str:
    """Name one denial from its entry, as `unshare(0x10000000) x3`."""
    denied = Denied(
        wall=Wall.LIMIT if body.get("wall") == Wall.LIMIT else Wall.SYSCALL,
        name=str(body.get("name", "?")),
        arguments=tuple(n for n in body.get("arguments") or () if isinstance(n, int)),
        detail=str(body.get("detail") or ""),
        used=int(body.get("used") or 0),
        allowed=int(body.get("allowed") or 0),
    )
    return f"{describe_denial(denied)} x{body.get('count', 1)}"


def _state(call: Call) -> str:
    return outcome.describe(call.finished.outcome) if call.finished else str(call.state)


def _tell_head(call: Call, request: Mapping[str, Any], intent: Mapping[str, Any]) -> None:
    caller = call.caller
    identity = [f"{name} {value}" for name, value in (
        ("uid", caller.uid), ("gid", caller.gid), ("pid", caller.pid),
        ("certificate", caller.certificate_name or None),
    ) if value is not None]  # fmt: skip
    argv = [untext(argument) for argument in request.get("argv") or ()] or list(call.argv)
    out.field("command", shown(argv, ARGV_WIDTH))
    out.field("caller", f"{caller.name} ({', '.join([caller.transport, *identity])})")
    for name in ("agent", "session", "workflow", "traceparent"):
        out.field(name, getattr(call.correlation, name))
    mode = _map(intent.get("profile")).get("mode", "")
    out.field("profile", f"{call.profile} sha256:{call.profile_digest} {mode}".rstrip())
    out.field("accepted", out.timestamp(call.accepted_ns))
    out.field("request", call.request_id)
    out.field("in", _text(request.get("working_directory", "")))
    env = _map(request.get("env"))
    out.field("env", " ".join(f"{name}={shorten(_text(env[name]), 80)}" for name in sorted(env)))
    timeout_s = request.get("timeout_s")
    out.field("timeout", out.duration(timeout_s) if timeout_s is not None else "")
    for file in request.get("files") or ():
        out.field("input", f"{_text(file['path'])} {out.size(file['size_bytes'])} "
                           f"sha256:{file['sha256']}")  # fmt: skip
    out.field("outputs", " ".join(map(str, request.get("outputs") or ())))
    host = _map(intent.get("host"))
    out.field("host", ", ".join(f"{name} {_text(value)}" for name, value in host.items()))


def _tell_phases(timeline: Timeline) -> None:
    reached = [(name, getattr(timeline, key)) for name, key in PHASES]
    reached = [(name, time_ns) for name, time_ns in reached if time_ns]
    rows = []
    for position, (name, time_ns) in enumerate(reached):
        following = reached[position + 1][1] if position + 1 < len(reached) else None
        took = out.duration((following - time_ns) / 1e9) if following else ""
        rows.append((name, f"+{out.duration((time_ns - reached[0][1]) / 1e9)}", took))
    _section("phases")
    out.table(("PHASE", "AT", "TOOK"), rows)


def _tell_events(record: Record) -> None:
    start_ns = record.call.accepted_ns or (record.entries[0].time_ns if record.entries else 0)
    rows = []
    for first, last, kind, what in _folded(record.entries):
        at = f"+{out.duration(max(0, first.time_ns - start_ns) / 1e9)}"
        numbers = str(first.sequence)
        if last is not first:
            numbers += f"-{last.sequence}"
        rows.append((numbers, at, kind, shorten(what, TEXT_WIDTH)))
    _section("what happened")
    out.table(("SEQUENCE", "AT", "KIND", ""), rows)


def _folded(
    entries: tuple[RecordEntry, ...],
) -> Iterator[tuple[RecordEntry, RecordEntry, str, str]]:
    """Give entries with their meaning; pieces of one stream in a row become one line."""
    run: list[RecordEntry] = []
    stream, size_bytes = "", 0

    def flush() -> Iterator[tuple[RecordEntry, RecordEntry, str, str]]:
        if run:
            pieces = f" in {len(run)} pieces" if len(run) > 1 else ""
            yield run[0], run[-1], "output", f"{stream} {out.size(size_bytes)}{pieces}"
            run.clear()

    for entry in entries:
        body = _map(entry.body().get("body"))
        if entry.kind == "output":
            if run and body.get("stream") != stream:
                yield from flush()
            stream = str(body.get("stream"))
            size_bytes = int(body.get("length") or 0) + (size_bytes if run else 0)
            run.append(entry)
        else:
            yield from flush()
            yield entry, entry, entry.kind, happening(entry.kind, body)
    yield from flush()


def _tell_denials(record: Record) -> None:
    rows = []
    for entry in record.entries:
        if entry.kind != "denied":
            continue
        body = _map(entry.body().get("body"))
        program = _text(body.get("program", ""))
        pid = body.get("pid")
        rows.append((body.get("wall"), denial(body), f"{program} {pid}" if pid else program,
                     body.get("rule")))  # fmt: skip
    if rows:
        _section("denied")
        out.table(("WALL", "WHAT", "WHO", "RULE"), rows)


def _tell_end(finished: Finished) -> None:
    _section("streams")
    out.table(
        ("STREAM", "SIZE", "ON RECORD", "SHA-256"),
        [
            (
                summary.stream,
                out.size(summary.digest.size_bytes),
                out.size(summary.stored_bytes) + (" (truncated)" if summary.truncated else ""),
                summary.digest.sha256,
            )
            for summary in finished.streams
        ],
    )
    if finished.outputs or finished.skipped:
        _section("files")
        rows = [
            (safe(file.path), out.size(file.digest.size_bytes), file.digest.sha256)
            for file in finished.outputs
        ]
        rows += [(safe(file.path), f"not taken: {file.reason}", "") for file in finished.skipped]
        out.table(("FILE", "SIZE", "SHA-256"), rows)
    usage = finished.usage
    _section("outcome")
    out.field("outcome", f"the call {outcome.describe(finished.outcome)}")
    out.field("exit code", outcome.exit_code(finished.outcome))
    out.field("cpu", f"{out.duration(usage.cpu_user_s)} user, "
                     f"{out.duration(usage.cpu_system_s)} system")  # fmt: skip
    out.field("memory", f"{out.size(usage.memory_peak_bytes)} at most")
    out.field("processes", f"{usage.pids_peak} at most" if usage.pids_peak else "")
    out.field("denials", finished.denials)
    out.field("record", f"sha256:{finished.record}" if finished.record else "")


def _section(title: str) -> None:
    out.heading("")
    out.heading(title)


def _outcome(body: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{name} {value}" for name, value in body.items() if name != "kind")
    return f"{body.get('kind', '?')} ({fields})" if fields else str(body.get("kind", "?"))


def _text(value: Json) -> str:
    """Give text that the record keeps as a string or as base64."""
    try:
        return untext(value).decode(errors="surrogateescape")
    except ValueError:
        return str(value)


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
