"""The processes of a call as a tree: who started whom, with what, and how each ended.

The kernel told of programs that were started and of processes that ended; of a process that was
only forked nothing is known before its end, and its place in the tree is found then. Numbers of
processes are used again: one that starts after its end is another process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from supervisor.call.safe import ELLIPSIS, shorten, word
from supervisor.call.safe import command as shown
from supervisor.call.types import untext
from supervisor.cli import output as out
from supervisor.cli.sections import Section

if TYPE_CHECKING:
    from supervisor.client import RecordEntry

PROCESSES_MAX = 10_000
ROWS_MAX = 200
DEPTH_MAX = 12
"""What stands deeper is shown as if it stood here, behind its depth."""

COMMAND_WIDTH = 100
PATH_WIDTH = 60
OTHERS = ("output", "flow")
"""What can be lost without a process being lost with it."""

BRANCH, LAST, LINE, NOTHING = "├─ ", "└─ ", "│  ", "   "


@dataclass(slots=True, kw_only=True, eq=False)
class Process:
    """One process, with each program that it was given; none where it was only forked."""

    pid: int
    at_ns: int = 0
    programs: list[str] = field(default_factory=list)
    end: Mapping[str, Any] | None = None
    parent: Process | None = None
    children: list[Process] = field(default_factory=list)

    def adopt(self, child: Process) -> None:
        """Take a process as started by this one, unless that would be a circle."""
        above = self if child.children else None
        while above is not None:
            if above is child:
                return
            above = above.parent
        child.parent = self
        self.children.append(child)


def section(entries: Iterable[RecordEntry], start_ns: int) -> Section | None:
    """Give the tree, None where there is nothing in it; times are after `start_ns`."""
    bodies = [(entry.kind, _map(entry.body().get("body"))) for entry in entries]
    events = (
        _map(event)
        for kind, body in bodies
        if kind == "processes"
        for event in body.get("events") or ()
    )
    roots, left_out = grow(events)
    if not roots:
        return None
    rows, notes = list(_rows(roots, start_ns)), []
    if left_out:
        notes.append(f"and {left_out} processes past the first {PROCESSES_MAX}; --json has all")
    if len(rows) > ROWS_MAX:
        notes.append(f"and {len(rows) - ROWS_MAX} more lines; --json has all")
    if any(ELLIPSIS in str(row[-1]) for row in rows[:ROWS_MAX]):
        notes.append(f"{ELLIPSIS} is where something was cut; --json has what is on record")
    if any(kind == "lost" and body.get("what") not in OTHERS for kind, body in bodies):
        notes.append("something was lost, as told above: there may be more processes")
    columns = ("AT", "TOOK", "CPU", "MEMORY", "END", "PROCESS")
    return Section(title="processes", columns=columns, rows=rows[:ROWS_MAX], notes=notes)


def grow(events: Iterable[Mapping[str, Any]]) -> tuple[list[Process], int]:
    """Give the processes that nobody else of the call is known to have started, in order, and how
    many programs of other processes were left out: past PROCESSES_MAX none is added."""
    living: dict[int, Process] = {}
    every: list[Process] = []
    left_out = 0

    def process(pid: int) -> Process:
        if pid not in living:
            living[pid] = Process(pid=pid)
            every.append(living[pid])
        return living[pid]

    for event in events:
        pid, parent_pid = _number(event, "pid"), _number(event, "parent_pid")
        if pid not in living and len(every) >= PROCESSES_MAX:
            left_out += event.get("what") == "started"
            continue
        found = process(pid)
        if found.parent is None and parent_pid not in (0, pid):
            process(parent_pid).adopt(found)
        match event.get("what"):
            case "started":
                found.at_ns = found.at_ns or _number(event, "time_ns")
                found.programs.append(_program(event))
            case "ended":
                found.end = event
                del living[pid]
    # One that is known by its number alone is not the call's: the runtime, which began it all.
    roots = [one for one in every if _known(one) and not (one.parent and _known(one.parent))]
    return roots, left_out


def _known(process: Process) -> bool:
    return bool(process.programs) or process.end is not None


def _program(event: Mapping[str, Any]) -> str:
    """Name a program with its arguments: the first of these is whatever its caller liked."""
    argv = [untext(argument) for argument in event.get("argv") or ()]
    whole = shown(argv)
    given = sum(len(argument) + 1 for argument in argv)
    if event.get("cut") or given < _number(event, "argv_bytes"):
        whole += ELLIPSIS
    path = word(untext(event.get("path", "")), PATH_WIDTH)
    return f"{path}: {shorten(whole, COMMAND_WIDTH)}"


def _rows(roots: Sequence[Process], start_ns: int) -> Iterator[Sequence[object]]:
    """Give the lines of the table, each process before those that it started."""
    waiting = [(root, "", "", 0) for root in reversed(roots)]
    while waiting:
        process, branch, below, depth = waiting.pop()
        first, *others = process.programs or ["was forked, and ran no other program"]
        mark = f"({depth}) " if depth > DEPTH_MAX else ""
        yield (*_measures(process, start_ns), f"{branch}{mark}{process.pid} {first}")
        children = process.children
        for program in others:
            bar = LINE if children else NOTHING
            yield ("", "", "", "", "", f"{below}{bar}then {program}")
        for position, child in reversed(list(enumerate(children))):
            last = position + 1 == len(children)
            if depth < DEPTH_MAX:
                lead = below + (NOTHING if last else LINE)
                waiting.append((child, below + (LAST if last else BRANCH), lead, depth + 1))
            else:
                waiting.append((child, branch, below, depth + 1))


def _measures(process: Process, start_ns: int) -> tuple[str, str, str, str, str]:
    """Give when it began, how long it took, what it used, and how it ended."""
    at_ns, end = process.at_ns, process.end
    at = f"+{out.duration(max(0, at_ns - start_ns) / 1e9)}" if at_ns else ""
    if end is None:
        return at, "", "", "", "not on record"
    ended_ns = _number(end, "time_ns")
    took = out.duration(max(0, ended_ns - at_ns) / 1e9) if at_ns and ended_ns else ""
    used_s = float(end.get("cpu_user_s") or 0) + float(end.get("cpu_system_s") or 0)
    how = f"signal {end['signal']}" if end.get("signal") else f"exits with {end.get('code')}"
    return at, took, out.duration(used_s), out.size(_number(end, "memory_peak_bytes")), how


def _number(body: Mapping[str, Any], name: str) -> int:
    return int(body.get(name) or 0)


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
