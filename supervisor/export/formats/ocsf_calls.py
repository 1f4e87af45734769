"""What happened in a call, as drafts of OCSF events: one function a kind of entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from supervisor.audit.entry import Kind
from supervisor.call.events import Verdict, Wall
from supervisor.export.event import Source
from supervisor.export.formats import ocsf_facts as facts
from supervisor.export.formats.ocsf_parts import (
    MILLISECOND_NS,
    Draft,
    Fields,
    Parts,
    command_line,
    ip,
    put,
)

PORT_DIGITS_MAX = 5
MESSAGE_CHARACTERS_MAX = 1024
"""Of a message about what has no bound but its entry's; all of it is where it belongs."""

SERVICE = {"name": "stockade"}
NOWHERE = {"name": "unknown"}

WALL_SEVERITY = {
    Wall.SYSCALL.value: facts.MEDIUM,
    Wall.NETWORK.value: facts.MEDIUM,
    Wall.PROGRAM.value: facts.MEDIUM,
    Wall.KERNEL.value: facts.HIGH,
    Wall.LIMIT.value: facts.LOW,
}
OUTCOME_SEVERITY = {
    "exited": facts.INFORMATIONAL,
    "signaled": facts.LOW,
    "stopped": facts.LOW,
    "timed_out": facts.MEDIUM,
    "out_of_memory": facts.MEDIUM,
    "limit_exceeded": facts.MEDIUM,
    "failed": facts.HIGH,
    "interrupted": facts.HIGH,
}
VERDICT_ACTIVITY = {
    Verdict.CLOSED.value: 2,
    Verdict.STOPPED.value: 2,
    Verdict.RESET.value: 3,
    Verdict.BUDGET.value: 3,
    Verdict.FAILED.value: 4,
    Verdict.DENIED.value: 5,
}
PASSED = (facts.ALLOWED, facts.ALLOWED)
HELD = (facts.DENIED, facts.BLOCKED)
SEEN = (facts.OBSERVED, facts.LOGGED)

Drafter = Callable[[Fields, Parts, Source], Sequence[Draft]]


def passed(parts: Parts) -> tuple[int, int]:
    """Give how it is told that something was let through."""
    return SEEN if parts.observes else PASSED


def api(parts: Parts, **more: Any) -> dict[str, Any]:
    """Give the attributes of what is told of a call as of a request to run it."""
    operation = {"operation": "Execute", "service": SERVICE, **more}
    return {"actor": parts.actor, "api": operation, "src_endpoint": parts.caller_endpoint}


def process_in(parts: Parts, pid: int | None, **more: Any) -> dict[str, Any] | None:
    """Give a process of the sandbox, None where nobody knows which."""
    if not pid:
        return None
    made: dict[str, Any] = {"pid": pid, **more}
    if parts.container is not None:
        made["container"] = parts.container
    return made


def actor_in(parts: Parts, process: dict[str, Any] | None) -> Any:
    """Give who did something in a sandbox: the process, for the caller."""
    return parts.actor if process is None else {**parts.who, "process": process}


def _doer(fields: Fields, parts: Parts) -> tuple[int | None, Any]:
    """Give the process that an entry is of, and it as an actor."""
    pid = fields.number("pid")
    process = process_in(parts, pid)
    if process is None:
        fields.look("program")
    elif program := fields.bytes_("program"):
        process["name"] = program
    return pid, actor_in(parts, process)


def _step(
    fields: Fields, parts: Parts, activity: str, message: str, severity: int = facts.INFORMATIONAL
) -> list[Draft]:
    """Give what is told of a call as the next step of it."""
    return [
        Draft(
            facts.API_ACTIVITY,
            facts.OTHER,
            message,
            api(parts),
            activity=activity,
            severity=severity,
            decision=SEEN if parts.observes else None,
            rest=fields.rest(),
            missing=fields.missing,
        )
    ]


def intent(fields: Fields, parts: Parts, _: Source) -> list[Draft]:
    """A call begins."""
    name = "request" if fields.has("request") else "request_preview"
    request = fields.map(name)
    uid = Fields(request).text("request_id")
    more = api(parts, request={"uid": uid or "unknown", "data": request})
    if request:
        fields.take(name)
    message = f"Call {parts.call_id} under {parts.profile or 'an unknown profile'}: {parts.command}"
    return [
        Draft(
            facts.API_ACTIVITY,
            1,
            message,
            more,
            status=facts.SUCCESS,
            decision=passed(parts),
            rest=fields.rest(),
            missing=fields.missing,
        )
    ]


def started(fields: Fields, parts: Parts, _: Source) -> list[Draft]:
    """Its program was let go."""
    return _step(fields, parts, "Start", f"Call {parts.call_id} started")


def output(fields: Fields, parts: Parts, _: Source) -> list[Draft]:
    """Bytes of a stream are on record."""
    stream = fields.look("stream") or "a stream"
    body = fields.rest()
    message = f"{body.get('length')} bytes of {stream} at {body.get('offset')}"
    return _step(fields, parts, "Output", message[:MESSAGE_CHARACTERS_MAX])


def truncated(fields: Fields, parts: Parts, _: Source) -> list[Draft]:
    """Bytes of a stream are not on record."""
    stream, why = fields.look("stream"), fields.look("why")
    severity = facts.LOW if why == "cap" else facts.MEDIUM
    message = f"Not all of {stream or 'a stream'} is on record: {why or 'unknown'}"
    return _step(fields, parts, "Truncate", message, severity)


def resized(fields: Fields, parts: Parts, _: Source) -> list[Draft]:
    """The terminal has another size."""
    return _step(fields, parts, "Resize", f"The terminal of call {parts.call_id} has another size")


def signal(fields: Fields, parts: Parts, _: Source) -> list[Draft]:
    """Somebody sent a signal."""
    by, why = fields.look("by"), fields.text("why")
    number = fields.rest().get("signal")
    message = f"Signal {number} by {by or 'nobody known'}: {why}"
    (draft,) = _step(fields, parts, "Signal", message, facts.LOW)
    draft.status_detail = why
    return [draft]


def outcome(fields: Fields, parts: Parts, _: Source) -> list[Draft]:
    """A call ended."""
    ended = fields.map("outcome")
    kind = Fields(ended).text("kind")
    code = Fields(ended).number("code")
    said = ", ".join(f"{name} {one}" for name, one in ended.items() if name != "kind")
    well = kind == "exited" and code == 0
    response = put({}, code=code, message=said, error="" if kind == "exited" else kind)
    draft = Draft(
        facts.API_ACTIVITY, facts.OTHER, f"Call {parts.call_id}: {kind or 'ended'} {said}",
        api(parts, response=response), activity="Finish",
        severity=OUTCOME_SEVERITY.get(kind, facts.MEDIUM),
        status=facts.SUCCESS if well else facts.FAILURE, status_code=kind, status_detail=said,
        decision=SEEN if parts.observes else None, rest=fields.rest(), missing=fields.missing,
    )  # fmt: skip
    times = Fields(fields.map("timeline"))
    _span(draft.more, times.time("started_ns"), times.time("ended_ns"))
    return [draft]


def _span(more: dict[str, Any], begin_ns: int, end_ns: int) -> None:
    begin, end = begin_ns // MILLISECOND_NS, end_ns // MILLISECOND_NS
    if begin:
        more["start_time"] = begin
    if end:
        more["end_time"] = end
    if begin and end >= begin:
        more["duration"] = end - begin


def denied(fields: Fields, parts: Parts, _: Source) -> list[Draft]:
    """A wall held."""
    wall, name, detail = fields.look("wall"), fields.text("name"), fields.text("detail")
    count, rule = fields.number("count"), fields.text("rule")
    pid, actor = _doer(fields, parts)
    rest = fields.rest()
    _arguments(rest)
    class_uid, activity_id, activity, more = _denied_as(wall, name, detail, actor, parts, pid, rule)
    what = f"{wall or 'a wall'} {name}{': ' if detail else ''}{detail}"
    observes = parts.observes
    return [
        Draft(
            class_uid,
            activity_id,
            f"{'Would be denied' if observes else 'Denied'}: {what}",
            more,
            activity=activity,
            status_code=name,
            status_detail=detail,
            count=count,
            rule=rule,
            severity=facts.LOW if observes else WALL_SEVERITY.get(wall, facts.MEDIUM),
            status=facts.SUCCESS if observes else facts.FAILURE,
            decision=SEEN if observes else HELD,
            finding=f"{'Would be denied' if observes else 'Denied'} by {wall or 'a wall'}: {name}",
            rest=rest,
            missing=fields.missing,
        )
    ]


def _arguments(rest: dict[str, Any]) -> None:
    """Tell arguments of system calls in hexadecimal: many receivers take 63 bits of an integer."""
    arguments = rest.get("arguments")
    if isinstance(arguments, list):
        rest["arguments"] = [hex(one) if type(one) is int else one for one in arguments]


def _denied_as(
    wall: str, name: str, detail: str, actor: Any, parts: Parts, pid: int | None, rule: str
) -> tuple[int, int, str, dict[str, Any]]:
    """Give class and activity of a denial, and what is its own there."""
    if wall == Wall.SYSCALL or wall == Wall.KERNEL:
        called = {"name": name or "unknown", "type_id": facts.SYSTEM_CALL, "type": "System Call"}
        if wall == Wall.SYSCALL:
            called["system_call"] = name
        return facts.KERNEL_ACTIVITY, 4, "", {"actor": actor, "kernel": called}
    if wall == Wall.NETWORK:
        place = detail.partition(" ")[0]
        more = {
            "actor": actor,
            "src_endpoint": parts.sandbox_endpoint,
            "dst_endpoint": endpoint(place),
        }
        if rule:
            more["firewall_rule"] = {"name": rule}
        if name == "dns":
            return facts.DNS_ACTIVITY, 1, "", {**more, "query": {"hostname": place or "unknown"}}
        if name == "http":
            asked = {"url": {"url_string": place or "unknown"}}
            return facts.HTTP_ACTIVITY, facts.OTHER, "Refuse", {**more, "http_request": asked}
        direction = {"direction_id": facts.OUTBOUND, "direction": "Outbound"}
        return facts.NETWORK_ACTIVITY, 5, "", {**more, "connection_info": direction}
    if wall == Wall.PROGRAM and (process := process_in(parts, pid)) is not None:
        if detail:
            process["file"] = file(detail)
        return facts.PROCESS_ACTIVITY, 1, "", {"actor": actor, "process": process}
    more = api(parts)
    return facts.API_ACTIVITY, facts.OTHER, "Deny", {**more, "actor": actor}


def endpoint(place: str) -> dict[str, Any]:
    """Give a place of the network: HOST, HOST:PORT, or an IPv6 address in brackets."""
    host, colon, port = place.rpartition(":")
    if ip(place) or not (
        colon and port.isascii() and port.isdecimal() and len(port) <= PORT_DIGITS_MAX
    ):
        host, port = place, ""
    made: dict[str, Any] = {}
    address = ip(host.removeprefix("[").removesuffix("]"))
    if address:
        made["ip"] = address
    elif host:
        made["hostname"] = host
    if port:
        made["port"] = int(port)
    return made if address or host else {**NOWHERE, **made}


def file(path: str) -> dict[str, Any]:
    """Give a file by its path."""
    name = path.rpartition("/")[2] or path or "unknown"
    return put({"name": name, "type_id": 0, "type": "Unknown"}, path=path)


def processes(fields: Fields, parts: Parts, source: Source) -> list[Draft]:
    """What processes did: a draft each."""
    events = fields.list("events")
    rest = fields.rest()
    rest.pop("events", None)
    drafts = [_process(event, parts) for event in events]
    if not drafts:
        return unknown(fields, parts, source)
    drafts[0].rest = {**drafts[0].rest, **rest}
    drafts[0].missing = (*drafts[0].missing, *fields.missing)
    return drafts


def _process(event: object, parts: Parts) -> Draft:
    fields = Fields(event if isinstance(event, Mapping) else {"event": event})
    what, pid, time_ns = fields.look("what"), fields.number("pid"), fields.time("time_ns")
    process = process_in(parts, pid) or {"uid": parts.call_id or "unknown"}
    match what:
        case "started":
            draft = _program(fields, parts, process)
        case "ended":
            draft = _ended(fields, parts, process)
        case _:
            draft = Draft(
                facts.PROCESS_ACTIVITY,
                facts.OTHER,
                f"Process {pid}: {what or 'something'}",
                {"actor": parts.actor, "process": process},
                activity="Arguments",
            )
    draft.time_ns, draft.decision = time_ns, passed(parts)
    draft.rest, draft.missing = fields.rest(), fields.missing
    return draft


def _program(fields: Fields, parts: Parts, process: dict[str, Any]) -> Draft:
    path, parent, uid = fields.bytes_("path"), fields.number("parent_pid"), fields.number("uid")
    line = command_line(fields.list("argv"))
    put(process, name=path.rpartition("/")[2], cmd_line=line)
    if path:
        process["file"] = file(path)
    if uid is not None:
        process["user"] = {"uid": str(uid)}
    if parent:
        process["parent_process"] = {"pid": parent}
    if not parts.old:
        put(process, working_directory=fields.bytes_("directory"))
    message = f"Started: {line or path}"[:MESSAGE_CHARACTERS_MAX]
    more = {"actor": actor_in(parts, process_in(parts, parent)), "process": process}
    return Draft(facts.PROCESS_ACTIVITY, 1, message, more, status=facts.SUCCESS)


def _ended(fields: Fields, parts: Parts, process: dict[str, Any]) -> Draft:
    pid = process.get("pid")
    parent, code, number = (fields.number(name) for name in ("parent_pid", "code", "signal"))
    if parent:
        process["parent_process"] = {"pid": parent}
    more: dict[str, Any] = {"actor": actor_in(parts, process_in(parts, pid)), "process": process}
    if code is not None:
        more["exit_code"] = code
    how = f"by signal {number}" if number else f"with {code}"
    draft = Draft(facts.PROCESS_ACTIVITY, 2, f"Process {pid} ended {how}", more)
    draft.status = facts.SUCCESS if not number and not code else facts.FAILURE
    draft.status_detail = f"signal {number}" if number else ""
    return draft


def watched(fields: Fields, parts: Parts, _: Source) -> list[Draft]:
    """A system call was let through that the profile watches."""
    name, detail, rule = fields.text("name"), fields.text("detail"), fields.text("rule")
    count = fields.number("count")
    actor = _doer(fields, parts)[1]
    rest = fields.rest()
    _arguments(rest)
    killed = rest.get("killed") is True
    called = put(
        {"name": name or "unknown", "type_id": facts.SYSTEM_CALL, "type": "System Call"},
        system_call=name,
    )
    draft = Draft(
        facts.KERNEL_ACTIVITY, 4, f"Let through and watched: {detail or name}",
        {"actor": actor, "kernel": called}, status=facts.SUCCESS,
        status_detail=detail, count=count, rule=rule, rest=rest, missing=fields.missing,
        decision=passed(parts),
    )  # fmt: skip
    if killed:
        draft.severity, draft.finding = facts.HIGH, f"A system call that ends the call: {name}"
    return [draft]


def flow(fields: Fields, parts: Parts, _: Source) -> list[Draft]:
    """A connection through the broker ended."""
    name, address, port = fields.text("name"), fields.look("address"), fields.number("port")
    if address and ip(address) == address:
        fields.take("address")
    verdict, reason, rule = fields.text("verdict"), fields.text("reason"), fields.text("rule")
    actor = _doer(fields, parts)[1]
    sent, received = fields.number("sent"), fields.number("received")
    begin, lasted = fields.time("started_ns"), fields.rest().get("duration_s")
    far = put({}, hostname="" if ip(name) else name, ip=ip(address) or ip(name), port=port)
    if not far.keys() & {"hostname", "ip"}:
        far |= NOWHERE
    more: dict[str, Any] = {
        "actor": actor,
        "src_endpoint": parts.sandbox_endpoint,
        "dst_endpoint": far,
        "connection_info": {
            "direction_id": facts.OUTBOUND, "direction": "Outbound", "protocol_num": 6,
            "protocol_name": "tcp",
        },
    }  # fmt: skip
    traffic = put({}, bytes_out=sent, bytes_in=received)
    if sent is not None and received is not None and 0 <= sent + received <= facts.INT64_MAX:
        traffic["bytes"] = sent + received
    put(more, traffic=traffic, firewall_rule={"name": rule} if rule else None)
    end = int(lasted * 1e9) if isinstance(lasted, int | float) and 0 <= lasted < 1e9 else 0
    _span(more, begin, begin + end)
    held = verdict in (Verdict.DENIED, Verdict.BUDGET) and not parts.observes
    denied_here = verdict == Verdict.DENIED
    place = f"{name or address or 'unknown'}:{port}"
    return [
        Draft(
            facts.NETWORK_ACTIVITY,
            VERDICT_ACTIVITY.get(verdict, facts.OTHER),
            f"Connection to {place}: {verdict}{' ' if reason else ''}{reason}",
            more,
            activity="" if verdict in VERDICT_ACTIVITY else verdict or "End",
            severity=facts.MEDIUM if held else facts.INFORMATIONAL,
            status_code=verdict,
            status=facts.SUCCESS if verdict == Verdict.CLOSED else facts.FAILURE,
            status_detail=reason,
            decision=HELD if held else passed(parts),
            rule=rule,
            finding=f"Denied connection to {place}" if denied_here else "",
            rest=fields.rest(),
            missing=fields.missing,
        )
    ]


def lost(fields: Fields, parts: Parts, source: Source) -> list[Draft]:
    """Something is not on record."""
    what, count, reason = fields.text("what"), fields.number("count"), fields.text("reason")
    message = f"Not on record of call {parts.call_id}: {what}, {count or 'nobody knows how many'}"
    return [
        Draft(
            facts.EVENT_LOG_ACTIVITY,
            facts.OTHER,
            message,
            log_of(source, parts.actor),
            activity="Lose",
            severity=facts.HIGH,
            status=facts.FAILURE,
            status_code=what,
            status_detail=reason,
            count=count,
            finding=f"The record has a gap: {what}",
            rest=fields.rest(),
            missing=fields.missing,
        )
    ]


def log_of(source: Source, actor: Any) -> dict[str, Any]:
    """Give the attributes of what is told of the log itself."""
    return {"actor": actor, "log_name": source.origin or "stockade", "log_provider": "stockade"}


def unknown(fields: Fields, parts: Parts, _: Source) -> list[Draft]:
    """Something that this version does not know."""
    return [
        Draft(
            facts.BASE_EVENT,
            facts.OTHER,
            "An entry of a kind, or with a body, that is not known",
            {},
            activity="Unknown",
            severity=facts.LOW,
            rest=fields.rest(),
            missing=fields.missing,
        )
    ]


DRAFTERS: Mapping[str, Drafter] = {
    Kind.INTENT: intent,
    Kind.STARTED: started,
    Kind.OUTPUT: output,
    Kind.TRUNCATED: truncated,
    Kind.DENIED: denied,
    Kind.PROCESSES: processes,
    Kind.WATCHED: watched,
    Kind.FLOW: flow,
    Kind.LOST: lost,
    Kind.SIGNAL: signal,
    Kind.RESIZED: resized,
    Kind.OUTCOME: outcome,
}
