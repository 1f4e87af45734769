"""What a recorded call would have met under another profile than its own.

What the record tells is judged: denials that would be none, and connections, programs, watched
system calls and amounts that would be denied. What a profile takes away and the record says
nothing of cannot be told. A call that had been denied something, or had not, may have gone on
differently: nobody can know. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisor.call.events import CELL_PATH, Verdict, Wall
from supervisor.call.outcome import LimitKind, amount
from supervisor.call.types import untext
from supervisor.errors import InvalidRequest
from supervisor.profile.addresses import special
from supervisor.profile.model import EgressRule, Inspect
from supervisor.profile.places import parse_target
from supervisor.profile.schema import OBSERVE, TERMINAL_ALLOW
from supervisor.profile.why import Judge, distinct

Entry = tuple[str, Mapping[str, Any]]
WORK = "/work"
NAMED_MAX = 8
"""How many names a finding lists."""

LIMITS = {
    LimitKind.WALL: ("wall_s", 1000),
    LimitKind.CPU: ("cpu_s", 1000),
    LimitKind.MEMORY: ("memory_bytes", 1),
    LimitKind.PIDS: ("pids", 1),
    LimitKind.OUTPUT: ("output_bytes", 1),
    LimitKind.EGRESS: ("egress_bytes", 1),
}
"""Limit → its key in a canonical profile, and how many of its units one of that is."""

LOST = {"denial": "denials", "exec": "programs", "flow": "connections", "probe events": "programs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing of a call: `what` is its sort, `of` which one, and `why` what decides."""

    what: str
    of: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What would be otherwise for a call, and what cannot be told from its record."""

    let_through: tuple[Finding, ...] = ()
    denied: tuple[Finding, ...] = ()
    unknown: tuple[Finding, ...] = ()

    @property
    def as_before(self) -> bool:
        """Say whether all is known, and would be as it was."""
        return not (self.let_through or self.denied or self.unknown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A profile: its canonical JSON and who answers for it."""

    canonical: Mapping[str, Any]
    judge: Judge

    @property
    def watched(self) -> frozenset[str]:
        """Give the system calls that are told when they are let through."""
        ruled = self.canonical["syscalls"]
        return frozenset(ruled["allow" if self.canonical["mode"] == OBSERVE else "watch"])

    def limit(self, kind: LimitKind) -> int:
        """Give a limit in the units of its kind."""
        key, factor = LIMITS[kind]
        value: float = self.canonical["limits"][key]
        return round(value * factor)

    def mounts(self) -> dict[str, Mapping[str, Any]]:
        """Give the writable mounts by path."""
        return {str(mount["path"]): mount for mount in self.canonical["files"]["write"]}


@dataclass(slots=True, kw_only=True)
class _Found:
    """What is gathered; each thing once."""

    let_through: dict[Finding, None] = field(default_factory=dict)
    denied: dict[Finding, None] = field(default_factory=dict)
    unknown: dict[Finding, None] = field(default_factory=dict)


def judge(old: Side, new: Side, entries: Sequence[Entry]) -> Change:
    """Judge a call by the kinds and bodies of its entries: it ran under `old`."""
    found = _Found()
    bodies: dict[str, list[Mapping[str, Any]]] = {}
    for kind, body in entries:
        bodies.setdefault(kind, []).append(body)
    for check in (
        _denials, _request, _connections, _programs, _system_calls, _used, _host, _mounts, _lost,
    ):  # fmt: skip
        check(old, new, bodies, found)
    return Change(
        let_through=tuple(found.let_through),
        denied=tuple(found.denied),
        unknown=tuple(found.unknown),
    )


Bodies = Mapping[str, list[Mapping[str, Any]]]


def _note(into: dict[Finding, None], what: str, of: str, why: str) -> None:
    into[Finding(what=what, of=of, why=why)] = None


def _denials(old: Side, new: Side, bodies: Bodies, found: _Found) -> None:
    for body, count in distinct(bodies.get("denied", ())):
        wall, name = str(body["wall"]), str(body["name"])
        detail = str(body["detail"])
        of = detail if detail.startswith(f"{name}(") else f"{name} {detail}".strip()
        of += f" x{count}"
        if wall == Wall.LIMIT:
            _more(old, new, name, detail, found)
            continue
        answer = new.judge.denial(body)
        if not answer.allowed:
            continue
        if old.judge.denial(body).allowed:
            why = "its own profile allows it as well: what denied it is not in a profile"
            _note(found.unknown, wall, of, why)
        else:
            _note(found.let_through, wall, of, answer.rule or answer.why)
    for body in bodies.get("outcome", ()):
        ended = body["outcome"]
        # Less than the profile's: its caller had asked for so little.
        if ended["kind"] == "timed_out" and ended["limit_s"] >= old.canonical["limits"]["wall_s"]:
            _more(old, new, LimitKind.WALL, "", found)


def _more(old: Side, new: Side, name: str, subject: str, found: _Found) -> None:
    """Note a limit that was reached and would be larger."""
    if name in LIMITS:
        was, now = (side.limit(LimitKind(name)) for side in (old, new))
    elif name == LimitKind.DISK:
        nothing = {"size_bytes": 0}
        was, now = (side.mounts().get(subject, nothing)["size_bytes"] for side in (old, new))
    else:
        return  # no profile sets it
    if now > was:
        why = f"{amount(name, now)} instead of {amount(name, was)}, which may not be enough"
        _note(found.let_through, "limit", f"{name} {subject}".strip(), why)


def _request(old: Side, new: Side, bodies: Bodies, found: _Found) -> None:
    for intent in bodies.get("intent", ()):
        request = intent.get("request")
        if request is None:
            why = "it is too long for an entry, and was not read"
            _note(found.unknown, "request", "files, variables", why)
            return
        size = sum(int(file["size_bytes"]) for file in request["files"])
        mount = new.mounts().get(WORK)
        room = int(mount["size_bytes"]) if mount else 0
        if size > room:
            _note(found.denied, "request", "files", f"{size} bytes, and {WORK} holds {room}")
        for name in request["env"]:
            if name in new.canonical["env"] and name not in old.canonical["env"]:
                _note(found.denied, "request", f"variable {name}", "the profile sets it")
        if request.get("terminal") and new.canonical.get("terminal") != TERMINAL_ALLOW:
            _note(found.denied, "request", "terminal", "the profile says terminal: deny")
        timeout_s, wall_s = request["timeout_s"], new.canonical["limits"]["wall_s"]
        if timeout_s is not None and timeout_s > wall_s:
            why = f"{timeout_s:g} s, and limits.wall is {wall_s:g} s"
            _note(found.denied, "request", "timeout", why)
        typed = int(request["stdin"]["size_bytes"])
        if typed > new.limit(LimitKind.OUTPUT):
            _note(found.denied, "request", "standard input", "it is longer than limits.output")


def _connections(old: Side, new: Side, bodies: Bodies, found: _Found) -> None:
    flows = [body for body in bodies.get("flow", ()) if body["verdict"] != Verdict.DENIED]
    for body in flows:
        name, port = str(body["name"]), int(body["port"])
        of = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        try:
            place = parse_target(name)
        except InvalidRequest as error:
            _note(found.unknown, "connection", of, error.message)
            continue
        answer = new.judge.place(place, port)
        rule, before = new.judge.rule(place, port), old.judge.rule(place, port)
        if not answer.allowed or rule is None:
            _note(found.denied, "connection", of, answer.why)
        elif (kind := _special(str(body["address"]))) and rule.host and not rule.private:
            why = f"{body['address']} is {kind}, and {rule.name} is not private: true"
            _note(found.denied, "connection", of, why)
        elif before is None or not _as_open(before, rule, port):
            why = f"what was said on it is not on record, and {rule.name} checks it otherwise"
            _note(found.unknown, "connection", of, why)
    for secret in _missing(old, new, "secrets", "name") if flows else ():
        why = "it would not have it, and whether it used it is not on record"
        _note(found.unknown, "secret", secret, why)


def _special(address: str) -> str:
    return special(ipaddress.ip_address(address)) if address else ""


def _as_open(before: EgressRule, after: EgressRule, port: int) -> bool:
    """Say whether what one rule let through on a connection is let through by another."""
    checks = after.inspect_at(port)
    if checks not in (Inspect.NONE, before.inspect_at(port)):
        return False
    return all(
        not now or (was and set(was) <= set(now))
        for was, now in ((before.methods, after.methods), (before.paths, after.paths))
    )


def _programs(old: Side, new: Side, bodies: Bodies, found: _Found) -> None:
    if old.canonical["image"] != new.canonical["image"]:
        why = f"it would find those of {new.canonical['image']}"
        _note(found.unknown, "program", "all", why)
        return
    for body in bodies.get("processes", ()):
        for event in body["events"]:
            path = untext(event["path"]) if event["what"] == "started" else CELL_PATH.encode()
            if path == CELL_PATH.encode():
                continue
            name = path.decode(errors="surrogateescape")
            answer = new.judge.program(name)
            if not answer.allowed and old.judge.program(name).allowed:
                _note(found.denied, "program", name, answer.why)


def _system_calls(old: Side, new: Side, bodies: Bodies, found: _Found) -> None:
    for body in bodies.get("watched", ()):
        if body["killed"]:
            continue
        try:
            answer = new.judge.made(str(body["name"]), body["arguments"])
        except InvalidRequest as error:
            _note(found.unknown, Wall.SYSCALL, str(body["name"]), error.message)
            continue
        if not answer.allowed:
            _note(found.denied, Wall.SYSCALL, str(body["detail"] or body["name"]), answer.why)
    was, now = old.canonical["syscalls"], new.canonical["syscalls"]
    gone = (set(was["allow"]) - set(was["kill"])) - (set(now["allow"]) - set(now["kill"]))
    untold = sorted(gone - old.watched)
    if untold:
        why = "it may have made them: they are not on record, and would be denied"
        _note(found.unknown, Wall.SYSCALL, _listed(untold), why)
    fewer = sorted(set(was["sets"]) - set(now["sets"]))
    if fewer and "socket" not in gone and "socket" not in old.watched and _sockets(fewer):
        why = "it may have made them: they are not on record, and would be denied"
        _note(found.unknown, Wall.SYSCALL, f"sockets of {_listed(fewer)}", why)


def _sockets(sets: Iterable[str]) -> bool:
    from supervisor.profile.syscalls import SOCKETS_OF_SET

    return any(name in SOCKETS_OF_SET for name in sets)


def _used(old: Side, new: Side, bodies: Bodies, found: _Found) -> None:
    lower = [kind for kind in LIMITS if new.limit(kind) < old.limit(kind)]
    if new.canonical["limits"]["files"] < old.canonical["limits"]["files"]:
        why = "how many descriptors a process had open is not on record"
        _note(found.unknown, "limit", "files", why)
    ended = bodies.get("outcome", ())
    if not ended:
        why = "it has not ended: what it does yet is not known"
        _note(found.unknown, "call", "the rest", why)
        return
    if ended[0]["outcome"]["kind"] == "interrupted" and lower:
        _note(found.unknown, "limit", _listed(lower), "its daemon died: nobody read the counters")
        return
    used, usage = _amounts(ended[0], bodies), ended[0]["usage"]
    for kind in lower:
        allowed = new.limit(kind)
        if used[kind] <= allowed:
            continue
        told = f"{amount(kind, used[kind])} used, {amount(kind, allowed)} allowed"
        if kind is LimitKind.PIDS and not 0 < int(usage.get("pids_start") or 0) < used[kind]:
            told = f"{amount(kind, used[kind])} at most, with what starts a sandbox, which no "
            told += f"limit is about; {amount(kind, allowed)} allowed"
            _note(found.unknown, "limit", kind, told)
        elif kind is LimitKind.MEMORY:
            told += "; a part may have been cache, which is let go before anything is killed"
            _note(found.unknown, "limit", kind, told)
        else:
            _note(found.denied, "limit", kind, told)


def _amounts(ended: Mapping[str, Any], bodies: Bodies) -> dict[LimitKind, int]:
    line, usage = ended["timeline"], ended["usage"]
    ran_ns = int(line["ended_ns"]) - int(line["started_ns"]) if line["started_ns"] else 0
    wrote = (one for one in ended["streams"] if one["stream"] != "stdin")
    flows = bodies.get("flow", ())
    return {
        LimitKind.WALL: max(0, ran_ns) // 1_000_000,
        LimitKind.CPU: round((usage["cpu_user_s"] + usage["cpu_system_s"]) * 1000),
        LimitKind.MEMORY: int(usage["memory_peak_bytes"]),
        LimitKind.PIDS: int(usage["pids_peak"]),
        LimitKind.OUTPUT: sum(int(one["size_bytes"]) for one in wrote),
        LimitKind.EGRESS: sum(int(one["sent"]) + int(one["received"]) for one in flows),
    }


def _host(old: Side, new: Side, bodies: Bodies, found: _Found) -> None:
    for wall in sorted(set(new.canonical["require"]) - set(old.canonical["require"])):
        _note(found.unknown, "require", wall, "whether its host had this wall is not on record")
    runtime = str(new.canonical["runtime"])
    if runtime != old.canonical["runtime"]:
        _note(found.unknown, "runtime", runtime, "whether its host has it is not on record")


def _mounts(old: Side, new: Side, bodies: Bodies, found: _Found) -> None:
    now = new.mounts()
    for path, mount in old.mounts().items():
        if path not in now:
            why = "it would not be there; what was written is not on record"
            _note(found.unknown, "files.write", path, why)
        elif now[path]["size_bytes"] < mount["size_bytes"]:
            why = "it would be smaller; how much was written is not on record"
            _note(found.unknown, "files.write", path, why)
    kept = {str(entry["path"]) for entry in new.canonical["files"]["read"]}
    for entry in old.canonical["files"]["read"]:
        if entry["path"] not in kept:
            why = "it would not be shown; what was read is not on record"
            _note(found.unknown, "files.read", str(entry["path"]), why)


def _lost(old: Side, new: Side, bodies: Bodies, found: _Found) -> None:
    for body in bodies.get("lost", ()):
        if sort := LOST.get(str(body["what"])):
            count = body["count"] or "an unknown number"
            _note(found.unknown, sort, f"{count} lost", str(body["reason"]))


def _missing(old: Side, new: Side, section: str, key: str) -> Iterator[str]:
    kept = {str(one[key]) for one in new.canonical.get(section, ())}  # older records have none
    yield from (str(one[key]) for one in old.canonical.get(section, ()) if one[key] not in kept)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
