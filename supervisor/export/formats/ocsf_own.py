"""What the daemon did itself, as drafts of OCSF events: one function a kind of entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervisor.audit.entry import Kind
from supervisor.export.event import Source
from supervisor.export.formats import ocsf_facts as facts
from supervisor.export.formats.ocsf_calls import (
    HELD,
    PASSED,
    SERVICE,
    Drafter,
    log_of,
)
from supervisor.export.formats.ocsf_parts import (
    MILLISECOND_NS,
    PRODUCT,
    Draft,
    Fields,
    Parts,
    actor_of,
    endpoint_of,
    put,
)

UNKNOWN_CALLER = (facts.DENIED, facts.UNAUTHORIZED)


def _who(fields: Fields) -> Mapping[str, Any]:
    """Give the caller that an entry names, {} where it names none."""
    caller = fields.rest().get("caller")
    if isinstance(caller, Mapping):
        return caller
    return {"name": caller} if isinstance(caller, str) else {}


def _request(fields: Fields, source: Source, operation: str, **more: Any) -> dict[str, Any]:
    """Give the attributes of what is told as of a request."""
    caller, peer = _who(fields), fields.rest().get("peer")
    if not isinstance(peer, Mapping):
        peer = {}
    return {
        "actor": actor_of({**peer, **caller}),
        "api": {"operation": operation or "unknown", "service": SERVICE, **more},
        "src_endpoint": endpoint_of({**caller, **peer}, source.host),
    }


def _resource(uid: object, type_: str) -> list[dict[str, Any]] | None:
    return [{"uid": uid, "type": type_}] if isinstance(uid, str) and uid else None


def _asked(fields: Fields, source: Source, operation: str, activity_id: int, message: str) -> Draft:
    """Give what somebody asked for, and got."""
    return Draft(
        facts.API_ACTIVITY, activity_id, message, _request(fields, source, operation),
        status=facts.SUCCESS, decision=PASSED,
    )  # fmt: skip


def _done(draft: Draft, fields: Fields) -> list[Draft]:
    draft.rest, draft.missing = fields.rest(), fields.missing
    return [draft]


def daemon_started(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """The daemon opened the log."""
    return _done(Draft(facts.APPLICATION_LIFECYCLE, 3, "Started", _app(source)), fields)


def daemon_stopped(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """The daemon ended its last call."""
    return _done(Draft(facts.APPLICATION_LIFECYCLE, 4, "Stopped", _app(source)), fields)


def _app(source: Source) -> dict[str, Any]:
    return {"app": put({"name": PRODUCT, "vendor_name": PRODUCT}, version=source.version)}


def _of_log(
    fields: Fields, source: Source, activity_id: int, activity: str, message: str, severity: int
) -> Draft:
    """Give what was done to the log itself."""
    more = log_of(source, actor_of(_who(fields)))
    return Draft(
        facts.EVENT_LOG_ACTIVITY, activity_id, message, more, activity=activity, severity=severity
    )


def log_cut(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """A torn tail was cut off."""
    message = "A torn tail of the log, left by a crash, was cut off"
    return _done(_of_log(fields, source, facts.OTHER, "Cut", message, facts.MEDIUM), fields)


def key_rotated(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """The log has another key."""
    message = "The log was handed over to another key"
    return _done(_of_log(fields, source, facts.OTHER, "Rotate key", message, facts.MEDIUM), fields)


def removed(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """Retention let contents go."""
    why, count = fields.text("why"), fields.number("files_count")
    draft = _of_log(
        fields, source, 2, "", f"Contents were removed by {why}: {count} files", facts.LOW
    )
    draft.status, draft.status_detail, draft.count = facts.SUCCESS, why, count
    return _done(draft, fields)


def erased(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """The content of a call was erased."""
    call, why = fields.look("call"), fields.text("why")
    draft = _of_log(
        fields, source, 2, "", f"The content of call {call} was erased: {why}", facts.MEDIUM
    )
    draft.status, draft.status_detail = facts.SUCCESS, why
    return _done(draft, fields)


def head_contradicted(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """A witness has a head that the log does not begin with."""
    witness, why = fields.look("witness"), fields.text("why")
    message = f"The log is not the one that the witness {witness} knows: {why}"
    draft = _of_log(fields, source, facts.OTHER, "Contradict", message, facts.CRITICAL)
    draft.status, draft.status_detail = facts.FAILURE, why
    draft.finding = "The log was rewritten or cut back"
    return _done(draft, fields)


_SAID = {
    "test": "An entry to test the sink",
    "replay": "Entries are sent again to the sink",
    "redeliver": "Dead letters are sent again to the sink",
    "redelivered": "Dead letters were sent again to the sink",
    "discard": "It is given up on dead letters of the sink",
    "reload": "Sinks are read again from the configuration",
    "reloaded": "Sinks were read again from the configuration",
}


def export(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """Somebody sees to a sink."""
    action, sink = fields.look("action"), fields.rest().get("sink")
    message = _SAID.get(action, "Something is done about sinks")
    if isinstance(sink, str):
        message += f" {sink}"
    sends = action in ("test", "replay", "redeliver", "redelivered")
    activity_id, activity = (3, "") if sends else (facts.OTHER, "Manage sinks")
    severity = facts.LOW if action == "discard" else facts.INFORMATIONAL
    return _done(_of_log(fields, source, activity_id, activity, message, severity), fields)


def blob(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """A caller uploaded content."""
    draft = _asked(fields, source, "WriteBlob", 1, "Content was uploaded")
    put(draft.more, resources=_resource(fields.text("sha256"), "blob"))
    return _done(draft, fields)


def policy(fields: Fields, _: Parts, __: Source) -> list[Draft]:
    """What is in force from this start on."""
    message = f"In force: {fields.text('version') or 'an unknown version'}"
    draft = Draft(facts.CONFIG_CHANGE, 1, message, {}, status=facts.SUCCESS)
    return _done(draft, fields)


def read(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """Somebody reads the record."""
    rpc = fields.text("rpc")
    draft = _asked(fields, source, rpc, 2, f"The record is read: {rpc}")
    put(draft.more, resources=_resource(fields.map("of").get("call"), "call"))
    return _done(draft, fields)


def console_entered(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """Somebody comes to the console."""
    uid = fields.number("uid")
    draft = _asked(fields, source, "EnterSession", 1, f"The console is entered by uid {uid}")
    return _done(draft, fields)


def _held(fields: Fields, source: Source, operation: str, what: str) -> list[Draft]:
    call, why = fields.text("call"), fields.text("why")
    draft = _asked(fields, source, operation, 3, f"What call {call} left is {what}: {why}")
    draft.status_detail = why
    put(draft.more, resources=_resource(call, "call"))
    return _done(draft, fields)


def held(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """Somebody keeps what a call left."""
    return _held(fields, source, "Hold", "kept")


def released(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """Retention may have it again."""
    return _held(fields, source, "Release", "kept no more")


def witnessed(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """The head of another log was taken."""
    origin = fields.text("origin")
    draft = _asked(fields, source, "Witness", 1, f"A head of the log {origin} was taken")
    put(draft.more, resources=_resource(origin, "log"))
    return _done(draft, fields)


def _refusal(
    fields: Fields, source: Source, decision: tuple[int, int], severity: int, words: str
) -> list[Draft]:
    reason, rpc = fields.text("reason"), fields.text("rpc")
    draft = Draft(
        facts.API_ACTIVITY, facts.OTHER, f"{words}: {rpc} [{reason}]",
        _request(fields, source, rpc), activity="Refuse", severity=severity, decision=decision,
        status=facts.FAILURE, status_code=reason,
    )  # fmt: skip
    return _done(draft, fields)


def refused(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """A request was refused."""
    return _refusal(fields, source, HELD, facts.LOW, "A request was refused")


def unauthenticated(fields: Fields, _: Parts, source: Source) -> list[Draft]:
    """A request of nobody that the configuration knows."""
    return _refusal(fields, source, UNKNOWN_CALLER, facts.MEDIUM, "A request of nobody known")


def refusals_dropped(fields: Fields, parts: Parts, source: Source) -> list[Draft]:
    """Refusals have no entry of their own."""
    count = fields.number("count")
    draft = Draft(
        facts.API_ACTIVITY, facts.OTHER, f"{count} refusals have no entry of their own",
        _request(fields, source, "any"), activity="Refuse", severity=facts.MEDIUM, decision=HELD,
        status=facts.FAILURE, count=count,
    )  # fmt: skip
    for name, key in (("since_ns", "start_time"), ("until_ns", "end_time")):
        if time_ns := fields.time(name):
            draft.more[key] = time_ns // MILLISECOND_NS
    return _done(draft, fields)


DRAFTERS: Mapping[str, Drafter] = {
    Kind.DAEMON_STARTED: daemon_started,
    Kind.DAEMON_STOPPED: daemon_stopped,
    Kind.LOG_CUT: log_cut,
    Kind.BLOB: blob,
    Kind.POLICY: policy,
    Kind.READ: read,
    Kind.REFUSED: refused,
    Kind.UNAUTHENTICATED: unauthenticated,
    Kind.REFUSALS_DROPPED: refusals_dropped,
    Kind.KEY_ROTATED: key_rotated,
    Kind.REMOVED: removed,
    Kind.HELD: held,
    Kind.RELEASED: released,
    Kind.ERASED: erased,
    Kind.WITNESSED: witnessed,
    Kind.HEAD_CONTRADICTED: head_contradicted,
    Kind.CONSOLE_ENTERED: console_entered,
    Kind.EXPORT: export,
}
