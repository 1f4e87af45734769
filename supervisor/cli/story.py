"""A record as a story for people: who asked for what, what happened when, and how it ended.

It reads the record and nothing else; what it does not know it shows as it stands, so that a newer
daemon's entries are never left out in silence.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from supervisor.call import outcome
from supervisor.call.events import Denied, Finished, Timeline, Wall
from supervisor.call.safe import ELLIPSIS, shorten, word
from supervisor.call.safe import command as shown
from supervisor.call.types import Json, StreamSummary, untext
from supervisor.cli import flows, lineage
from supervisor.cli import output as out
from supervisor.cli.erase import told_erased
from supervisor.cli.playback import accepted_ns
from supervisor.cli.recorded import removed_when
from supervisor.cli.sections import Section, show, show_first
from supervisor.cli.streaming import DENIAL_WIDTH, describe_denial

if TYPE_CHECKING:
    from supervisor.client import Call, Record, RecordEntry

TEXT_WIDTH = 160
PATH_WIDTH = 80
ARGV_WIDTH = 4000
DENIALS_SHOWN_MAX = 50
FILES_SHOWN_MAX = 200
PROCESSES_MAX = 20
WHO_MAX = 3
UNKNOWN = "not known"
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
    first, *others = sections(record)
    show_first(first)
    for section in others:
        show(section)


def sections(record: Record) -> list[Section]:
    """Give all that is told of a record, in order."""
    call = record.call
    intent = next((e.body().get("body") for e in record.entries if e.kind == "intent"), None)
    request = _map(_map(intent).get("request") or _map(intent).get("request_preview"))
    finished = call.finished
    found = [
        _head(call, request, _map(intent)),
        _phases(finished.timeline) if finished is not None else None,
        _events(record),
        lineage.section(record.entries, accepted_ns(record)),
        _denied(record),
        _watched_calls(record),
        _connections(record),
        _files(request, finished, _replaced(record), call.encrypted),
    ]
    if finished is not None:
        found += [_streams(finished, call.encrypted), _end(finished)]
    return [section for section in found if section is not None]


def happening(kind: str, body: Mapping[str, Any]) -> str:
    """Say what one entry means."""
    match kind:
        case "intent":
            return "on record, before anything ran"
        case "started":
            return f"the walls stood after {out.duration(float(body.get('preparation_s', 0)))}"
        case "output":
            return _output(body)
        case "truncated":
            return _truncated(body)
        case "denied":
            return denial(body)
        case "processes":
            return "; ".join(_process(_map(event)) for event in body.get("events") or ())
        case "watched":
            return _watched(body)
        case "flow":
            return flows.line(body)
        case "lost":
            count = body.get("count") or "an unknown number"
            return f"lost {count} of {body.get('what')}: {body.get('reason')}"
        case "signal":
            why = f": {body.get('why')}" if body.get("why") else ""
            return f"{body.get('by')} sent signal {body.get('signal')}{why}"
        case "resized":
            return f"the terminal has {terminal(body)} from here on"
        case "outcome":
            return _outcome(_map(body.get("outcome")))
        case _:
            return ", ".join(f"{name}={value}" for name, value in body.items())


def terminal(size: Mapping[str, Any]) -> str:
    """Give a terminal's size, as `80x24`: columns first, as everywhere."""
    return f"{size.get('columns')}x{size.get('rows')}"


def _process(event: Mapping[str, Any]) -> str:
    """Say what one process did, as `71 runs /usr/bin/env in /work: env true` or `71 exits with 0`.

    Each part is cut by itself, so that a long path hides no arguments.
    """
    pid = event.get("pid")
    match event.get("what"):
        case "started":
            argv = [untext(argument) for argument in event.get("argv") or ()]
            runs = f"{pid} runs {word(untext(event.get('path', '')), PATH_WIDTH)}"
            where = word(untext(event.get("directory", "")))
            if len(f"{runs} in {where}: {shown(argv)}") <= TEXT_WIDTH:
                runs += f" in {where}"
            return f"{runs}: {shown(argv, TEXT_WIDTH - len(runs) - 2)}"
        case "argv":
            return f"{pid} has more arguments, from byte {event.get('offset')} on"
        case _ if event.get("signal"):
            return f"{pid} is ended by signal {event.get('signal')}"
        case _:
            return f"{pid} exits with {event.get('code')}"


def _watched(body: Mapping[str, Any]) -> str:
    """Name a watched system call, as `execve(0x55d0, 0x7ffe) x1`."""
    killed = ", and its process was killed" if body.get("killed") else ""
    return f"{_called(body)} x{body.get('count', 1)}{killed}"


def _called(body: Mapping[str, Any]) -> str:
    """Name a watched system call; repeats of a socket have its family, others no arguments."""
    if not body.get("detail") and not body.get("arguments"):
        return str(body.get("name", "?"))
    return named(body)


def denial(body: Mapping[str, Any]) -> str:
    """Name one denial from its entry, as `unshare(0x10000000) x3`."""
    return f"{named(body)} x{body.get('count', 1)}"


def named(body: Mapping[str, Any]) -> str:
    """Name what was denied from its entry, as `unshare(0x10000000)`."""
    denied = Denied(
        wall=_wall(body.get("wall")),
        name=str(body.get("name", "?")),
        arguments=tuple(n for n in body.get("arguments") or () if isinstance(n, int)),
        detail=str(body.get("detail") or ""),
        rule=str(body.get("rule") or ""),
        used=int(body.get("used") or 0),
        allowed=int(body.get("allowed") or 0),
    )
    return describe_denial(denied)


def _wall(name: object) -> Wall:
    """Give a wall by its name; one that is not known here is told as most are."""
    return Wall(str(name)) if name in set(Wall) else Wall.SYSCALL


def _state(call: Call) -> str:
    return _ended(call.finished) if call.finished else str(call.state)


def _ended(finished: Finished) -> str:
    return outcome.describe(finished.outcome, started=finished.timeline.started_ns > 0)


def _head(call: Call, request: Mapping[str, Any], intent: Mapping[str, Any]) -> Section:
    caller = call.caller
    identity = [f"{name} {value}" for name, value in (
        ("uid", caller.uid), ("gid", caller.gid), ("pid", caller.pid),
        ("certificate", caller.certificate_name or None),
    ) if value is not None]  # fmt: skip
    argv = [untext(argument) for argument in request.get("argv") or ()] or list(call.argv)
    mode = _map(intent.get("profile")).get("mode", "")
    content = told_erased(call.erased) if call.erased is not None else ""
    if call.encrypted and not content:
        content = "encrypted under a key of its own"
    env = _map(request.get("env"))
    asked = _map(request.get("terminal"))
    timeout_s = request.get("timeout_s")
    host = _map(intent.get("host"))
    fields = [
        ("command", shown(argv, ARGV_WIDTH)),
        ("caller", f"{caller.name} ({', '.join([caller.transport, *identity])})"),
        *(
            (name, getattr(call.correlation, name))
            for name in ("agent", "session", "workflow", "traceparent")
        ),
        ("profile", f"{call.profile} sha256:{call.profile_digest} {mode}".rstrip()),
        ("accepted", out.timestamp(call.accepted_ns)),
        ("content", content),
        ("request", call.request_id),
        ("in", _text(request.get("working_directory", ""))),
        ("env", " ".join(f"{name}={shorten(_text(env[name]), 80)}" for name in sorted(env))),
        ("terminal", f"{terminal(asked)} {asked.get('term')}" if asked else ""),
        ("timeout", out.duration(timeout_s) if timeout_s is not None else ""),
        ("outputs", " ".join(map(str, request.get("outputs") or ()))),
        ("contents", removed_when(call)),
        ("held", out.count(call.holds, "hold") if call.holds else ""),
        ("host", ", ".join(f"{name} {_text(value)}" for name, value in host.items())),
    ]
    return Section(title=f"call {call.call_id}: {_state(call)}", fields=fields)


def reached(timeline: Timeline) -> list[tuple[str, int]]:
    """Give the phases that a call came to, and when."""
    phases = [(name, getattr(timeline, key)) for name, key in PHASES]
    return [(name, time_ns) for name, time_ns in phases if time_ns]


def _phases(timeline: Timeline) -> Section:
    phases, rows = reached(timeline), []
    for position, (name, time_ns) in enumerate(phases):
        following = phases[position + 1][1] if position + 1 < len(phases) else None
        took = out.duration((following - time_ns) / 1e9) if following else ""
        rows.append((name, f"+{out.duration((time_ns - phases[0][1]) / 1e9)}", took))
    return Section(title="phases", columns=("PHASE", "AT", "TOOK"), rows=rows)


def _events(record: Record) -> Section:
    start_ns, rows = accepted_ns(record), []
    # An entry may come after a later one: what processes did is told in batches.
    told = sorted(_folded(record.entries), key=lambda row: (row[2], row[0].sequence))
    for first, last, time_ns, kind, what in told:
        at = f"+{out.duration(max(0, time_ns - start_ns) / 1e9)}"
        numbers = str(first.sequence)
        if last is not first:
            numbers += f"-{last.sequence}"
        rows.append((numbers, at, kind, shorten(what, TEXT_WIDTH)))
    cut = any(ELLIPSIS in row[-1] for row in rows)
    return Section(
        title="what happened",
        columns=("SEQUENCE", "AT", "KIND", ""),
        rows=rows,
        notes=[f"{ELLIPSIS} is where something was cut; --json has it whole"] if cut else [],
    )


def _folded(
    entries: tuple[RecordEntry, ...],
) -> Iterator[tuple[RecordEntry, RecordEntry, int, str, str]]:
    """Give entries with when it happened and their meaning; pieces of one stream in a row become
    one line, and so do denials in a row, watched system calls, and connections."""
    run: list[tuple[RecordEntry, Mapping[str, Any]]] = []
    current: tuple[str, object] = ("", None)

    def flush() -> Iterator[tuple[RecordEntry, RecordEntry, int, str, str]]:
        if run:
            bodies = [body for _, body in run]
            yield run[0][0], run[-1][0], run[0][0].time_ns, current[0], FOLDED[current[0]](bodies)
            run.clear()

    for entry in entries:
        body = _map(entry.body().get("body"))
        kind = (entry.kind, body.get("stream"))
        if run and kind != current:
            yield from flush()
        if entry.kind in FOLDED:
            current = kind
            run.append((entry, body))
        elif entry.kind == "processes":
            for time_ns, line in _processes(body):
                yield entry, entry, time_ns or entry.time_ns, entry.kind, line
        else:
            yield entry, entry, entry.time_ns, entry.kind, happening(entry.kind, body)
    yield from flush()


def _processes(body: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Give a line for each of the first things that processes did in one entry, and when it was: an
    entry is later than that, and after a crash as late as the next daemon; 0 where it is not
    known."""
    events = [_map(event) for event in body.get("events") or ()]
    times = [int(event.get("time_ns") or 0) for event in events]
    for time_ns, event in zip(times, events[:PROCESSES_MAX], strict=False):
        yield time_ns, _process(event)
    if len(events) > PROCESSES_MAX:
        more = f"and {len(events) - PROCESSES_MAX} more; --json has them all"
        yield times[PROCESSES_MAX], more


def _pieces(bodies: list[Mapping[str, Any]]) -> str:
    pieces = f" in {len(bodies)} pieces" if len(bodies) > 1 else ""
    size_bytes = sum(int(body.get("length") or 0) for body in bodies)
    return f"{bodies[0].get('stream')} {out.size(size_bytes)}{pieces}"


def _all_watched(bodies: list[Mapping[str, Any]]) -> str:
    if len(bodies) == 1:
        return _watched(bodies[0])
    counts = _counted(bodies)
    return f"{sum(counts.values())} system calls of {len(counts)} kinds; listed below"


def _counted(bodies: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Count watched system calls by name, of sockets by family."""
    counts: Counter[str] = Counter()
    for body in bodies:
        name, arguments = str(body.get("name", "?")), body.get("arguments") or ()
        sort = f"({_family(int(arguments[0]))})" if name == "socket" and arguments else ""
        counts[f"{name}{sort}"] += int(body.get("count") or 1)
    return counts


def _family(number: int) -> str:
    try:
        return socket.AddressFamily(number).name
    except ValueError:
        return str(number)


def _watched_calls(record: Record) -> Section | None:
    bodies = [_map(entry.body().get("body")) for entry in record.entries if entry.kind == "watched"]
    if not bodies:
        return None
    firsts: dict[str, Mapping[str, Any]] = {}
    for body in bodies:
        [name] = _counted([body])
        if body.get("pid") and name not in firsts:
            firsts[name] = body
    rows = []
    for name, count in _counted(bodies).most_common():
        first = firsts.get(name, {})
        who = f"{_text(first.get('program', ''))} {first.get('pid', '')}".strip()
        rows.append((name, count, shorten(_called(first), TEXT_WIDTH) if first else "", who))
    columns = ("NAME", "TIMES", "FIRST", "WHO")
    return Section(title="watched system calls", columns=columns, rows=rows)


def _denials(bodies: list[Mapping[str, Any]]) -> str:
    grouped = _grouped(bodies)
    if len(grouped) == 1:
        (group,) = grouped
        return group.told()
    total = sum(group.count for group in grouped)
    return f"{total} denials of {len(grouped)} kinds; listed below"


@dataclass(slots=True, kw_only=True)
class _Group:
    """Denials that differ in who was denied only."""

    wall: object
    what: str
    rule: object
    count: int = 0
    who: dict[str, None] = field(default_factory=dict)

    def told(self, width: int = 0) -> str:
        """Name the denial, cut to `width` where set, and how often it was."""
        return f"{shorten(self.what, width)} x{self.count}"

    def whom(self) -> str:
        """Name the first programs."""
        more = f" and {len(self.who) - WHO_MAX} more" if len(self.who) > WHO_MAX else ""
        return ", ".join(list(self.who)[:WHO_MAX]) + more


def _grouped(bodies: Iterable[Mapping[str, Any]]) -> list[_Group]:
    """Fold denials by wall, name, detail and rule, the most frequent first."""
    groups: dict[tuple[str, ...], _Group] = {}
    for body in bodies:
        what = named(body)
        key = (str(body.get("wall")), what, str(body.get("rule")))
        group = groups.setdefault(
            key, _Group(wall=body.get("wall"), what=what, rule=body.get("rule"))
        )
        group.count += int(body.get("count") or 1)
        program, pid = _text(body.get("program", "")), body.get("pid")
        if who := f"{program} {pid}" if pid else program:
            group.who[who] = None
    return sorted(groups.values(), key=lambda group: -group.count)


FOLDED: Mapping[str, Callable[[list[Mapping[str, Any]]], str]] = {
    "output": _pieces,
    "denied": _denials,
    "watched": _all_watched,
    "flow": flows.summed,
}
"""Kinds whose entries in a row are told in one line."""


def _connections(record: Record) -> Section | None:
    bodies = [_map(entry.body().get("body")) for entry in record.entries if entry.kind == "flow"]
    return flows.section(bodies) if bodies else None


def _denied(record: Record) -> Section | None:
    groups = _grouped(
        _map(entry.body().get("body")) for entry in record.entries if entry.kind == "denied"
    )
    if not groups:
        return None
    more = len(groups) - DENIALS_SHOWN_MAX
    return Section(
        title="denied",
        columns=("WALL", "WHAT", "WHO", "RULE"),
        rows=[
            (group.wall, group.told(DENIAL_WIDTH), group.whom(), group.rule)
            for group in groups[:DENIALS_SHOWN_MAX]
        ],
        notes=[f"and {more} more; --json has all"] if more > 0 else [],
    )


def _replaced(record: Record) -> dict[str, str]:
    """Say how files were changed on record, by their SHA-256."""
    bodies = (_map(entry.body().get("body")) for entry in record.entries)
    return {
        str(sha256): f" ({count} redacted)" if stored else " (its digest alone is stored)"
        for body in bodies
        for sha256, _, stored, _, count in body.get("redacted_files") or ()
    }


def _files(
    request: Mapping[str, Any],
    finished: Finished | None,
    replaced: Mapping[str, str],
    encrypted: bool,
) -> Section | None:
    """List the files that the call was given, left behind, and was not let leave behind. Those of
    an `encrypted` call go by the digests of the encrypted files, unless their own are known."""
    sealed = " (of the encrypted file)" if encrypted else ""
    is_known = finished is not None and any(one.digest.sha256 for one in finished.streams)

    def row(
        what: str, path: bytes | str, size_bytes: int, sha256: str
    ) -> tuple[str, str, str, str]:
        return what, word(path), out.size(size_bytes) + replaced.get(sha256, ""), sha256

    rows = [
        row("in", _text(file["path"]), file["size_bytes"], str(file["sha256"]) + sealed)
        for file in request.get("files") or ()
    ]
    if finished is not None:
        rows += [
            row(
                "out",
                file.path,
                file.digest.size_bytes,
                file.digest.sha256 + ("" if is_known else sealed),
            )
            for file in finished.outputs
        ]
        rows += [("not taken", word(file.path), file.reason, "") for file in finished.skipped]
    if not rows:
        return None
    more = len(rows) - FILES_SHOWN_MAX
    return Section(
        title="files",
        columns=("", "FILE", "SIZE", "SHA-256"),
        rows=rows[:FILES_SHOWN_MAX],
        notes=[f"and {more} more; --json has all"] if more > 0 else [],
    )


def _on_record(summary: StreamSummary) -> str:
    begin, end = summary.missing
    cut = f"bytes {begin} to {end} are missing" if summary.tail_bytes else "truncated"
    text = out.size(summary.stored_bytes) + (f" ({cut})" if summary.truncated else "")
    return text + (f" ({summary.redactions} redacted)" if summary.redactions else "")


def _truncated(body: Mapping[str, Any]) -> str:
    begin, length, why = int(body.get("offset", 0)), body.get("length"), body.get("why")
    if length is None:
        return f"{body.get('stream')} from byte {begin} on is not stored ({why})"
    if not length:
        return f"{body.get('stream')} from byte {begin} on is stored after all: it was the end"
    return f"{body.get('stream')} bytes {begin} to {begin + int(length)} are not stored ({why})"


def _output(body: Mapping[str, Any]) -> str:
    length, found = int(body.get("length", 0)), _map(body.get("redacted")).get("found") or ()
    text = f"{body.get('stream')} {out.size(length)}" if length else f"{body.get('stream')}"
    if not found:
        return text if length else f"{text}: what was held back"
    return f"{text}: {len(found)} redacted: {', '.join(sorted({str(one[2]) for one in found}))}"


def _streams(finished: Finished, encrypted: bool) -> Section:
    return Section(
        title="streams",
        columns=("STREAM", "SIZE", "ON RECORD", "SHA-256"),
        rows=[
            (
                summary.stream,
                out.size(summary.digest.size_bytes),
                _on_record(summary),
                summary.digest.sha256 or ("(encrypted)" if encrypted else ""),
            )
            for summary in finished.streams
        ],
    )


def _end(finished: Finished) -> Section:
    usage = finished.usage
    # Nobody was left to read the counters of an interrupted call.
    known = not isinstance(finished.outcome, outcome.Interrupted)
    cpu = f"{out.duration(usage.cpu_user_s)} user, {out.duration(usage.cpu_system_s)} system"
    also = "" if usage.pids_told else ", with what starts a sandbox"
    return Section(
        title="outcome",
        fields=[
            ("outcome", f"the call {_ended(finished)}"),
            ("exit code", outcome.exit_code(finished.outcome)),
            ("cpu", cpu if known else UNKNOWN),
            ("memory", f"{out.size(usage.memory_peak_bytes)} at most" if known else UNKNOWN),
            ("processes", f"{usage.pids_peak} at most{also}" if usage.pids_peak else ""),
            ("denials", finished.denials),
            ("record", f"sha256:{finished.record}" if finished.record else ""),
        ],
    )


def _outcome(body: Mapping[str, Any]) -> str:
    limit = str(body.get("limit", ""))
    fields = ", ".join(
        f"{name.removesuffix('_bytes').removesuffix('_s')} {_measured(name, value, limit)}"
        for name, value in body.items()
        if name != "kind" and value != ""
    )
    return f"{body.get('kind', '?')} ({fields})" if fields else str(body.get("kind", "?"))


def _measured(name: str, value: Any, limit: str) -> str:
    """Give a field of an outcome with its unit; what is no number stays as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if name in ("used", "allowed"):
        return outcome.amount(limit, int(value))
    if name.endswith("_bytes"):
        return outcome.amount(outcome.LimitKind.MEMORY, int(value))
    return out.duration(float(value)) if name.endswith("_s") else str(value)


def _text(value: Json) -> str:
    """Give text that the record keeps as a string or as base64."""
    try:
        return untext(value).decode(errors="surrogateescape")
    except ValueError:
        return str(value)


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
