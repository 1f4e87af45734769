"""What events are made of: a body read with care, and the parts that all events of a call share."""

from __future__ import annotations

import base64
import functools
import ipaddress
import re
import shlex
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from supervisor.call.types import Json
from supervisor.export.event import Opening, Source
from supervisor.export.formats import json_line
from supervisor.export.formats.ocsf_facts import INFORMATIONAL, INT64_MAX, LINUX

PRODUCT = "Stockade"
OBSERVE = "observe"
MILLISECOND_NS = 1_000_000
SHOWN_CHARACTERS_MAX = 256
"""Of a command line in a message; all of it is where it belongs."""

ADDRESS_CHARACTERS_MAX = 64
"""Of IPv6 with the name of an interface; what is longer is not even looked at."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_NONE: Mapping[str, Json] = {}
Share = Callable[[Any], Any]


class Fields:
    """Reads a body: what is of the expected type is taken, and all else stays in `rest`."""

    __slots__ = ("_body", "_rest", "missing")

    def __init__(self, body: object) -> None:
        known = type(body) is dict or isinstance(body, Mapping)
        self._body: Mapping[str, Any] = body if known else _NONE  # type: ignore[assignment]
        self._rest = dict(self._body)
        self.missing: list[str] = [] if known else ["body"]

    def text(self, name: str) -> str:
        """Give a text, "" where there is none."""
        value = self._body.get(name)
        if type(value) is str:
            self._rest.pop(name, None)
            return value
        self.missing.append(name)
        return ""

    def look(self, name: str) -> str:
        """Give a text as `text` does, and leave it in the rest: a message tells of it, and no
        attribute."""
        value = self._body.get(name)
        if type(value) is str:
            return value
        self.missing.append(name)
        return ""

    def bytes_(self, name: str) -> str:
        """Give bytes, as the log has them, as a text that shows each of them."""
        value = self._body.get(name)
        if type(value) is str:
            self._rest.pop(name, None)
            return value
        if (said := shown(value)) is not None:
            return said  # The very bytes stay in the rest.
        self.missing.append(name)
        return ""

    def number(self, name: str) -> int | None:
        """Give a whole number that OCSF has room for."""
        value = self._body.get(name)
        if type(value) is int and -INT64_MAX <= value <= INT64_MAX:
            self._rest.pop(name, None)
            return value
        self.missing.append(name)
        return None

    def time(self, name: str) -> int:
        """Give nanoseconds since the epoch, 0 where there are none; they stay in the rest, since
        OCSF has milliseconds."""
        value = self._body.get(name)
        if type(value) is int and 0 <= value <= INT64_MAX:
            return value
        self.missing.append(name)
        return 0

    def map(self, name: str) -> Mapping[str, Any]:
        """Give an object; it stays in the rest, since few take all of it."""
        value = self._body.get(name)
        if isinstance(value, Mapping):
            return value
        self.missing.append(name)
        return _NONE

    def list(self, name: str) -> Sequence[Any]:
        """Give a list; it stays in the rest."""
        value = self._body.get(name)
        if isinstance(value, list):
            return value
        self.missing.append(name)
        return ()

    def has(self, name: str) -> bool:
        """Say whether there is something by that name."""
        return name in self._body

    def take(self, name: str) -> Any:
        """Give what is there, whatever it is, since it goes into the event as it is."""
        self._rest.pop(name, None)
        return self._body.get(name)

    def rest(self) -> dict[str, Any]:
        """Give what was not taken."""
        return dict(self._rest)


@dataclass(slots=True)
class Draft:
    """An event before it is put together: what is its own. `more` are the attributes of its class;
    `decision` are action and disposition; `finding` is the title of the finding that is told
    besides, "" where there is none. `rest` is what OCSF has no place for."""

    class_uid: int
    activity_id: int
    message: str
    more: dict[str, Any]
    activity: str = ""
    severity: int = INFORMATIONAL
    status: int = 0
    status_code: str = ""
    status_detail: str = ""
    decision: tuple[int, int] | None = None
    count: int | None = None
    time_ns: int = 0
    rule: str = ""
    finding: str = ""
    rest: Mapping[str, Any] = field(default_factory=dict)
    missing: Sequence[str] = ()


@dataclass(slots=True)
class Parts:
    """What all events of a call say, made once, as JSON or as it is; `old` is for OCSF 1.1.

    `observes` says that nothing is enforced, `actor` is that without a process in the sandbox,
    `who` is what it says besides one; `call` is for `unmapped`; `traceparent` is "" where it names
    no trace.
    """

    old: bool
    observes: bool
    call_id: str
    profile: str
    command: str
    actor: Any
    who: dict[str, Any]
    caller_endpoint: Any
    sandbox_endpoint: Any
    device: Any
    container: Any
    policy: Any
    trace: Any
    agent: Any
    call: Any
    traceparent: str = ""
    missing: Sequence[str] = ()
    call_text: str = ""
    shapes: dict[Hashable, Any] = field(default_factory=dict)
    """Both are kept here by `ocsf_shapes`."""


def shown(value: object) -> str | None:
    """Give text, or bytes as the log has them, as text; None where it is neither."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("base64"), str):
        try:
            return base64.b64decode(value["base64"], validate=True).decode(
                errors="backslashreplace"
            )
        except ValueError:
            return None
    return None


def command_line(argv: object) -> str:
    """Give arguments as one text: each that is not a plain word in quotes, as a shell takes it."""
    if not isinstance(argv, list):
        return ""
    return shlex.join(said for one in argv if (said := shown(one)) is not None)


def fragment(value: Any) -> orjson.Fragment:
    """Give JSON that is put into an event as it is."""
    return orjson.Fragment(json_line.encode(value))


def as_it_is(value: Any) -> Any:
    """Give a value, for who reads an event and does not encode it."""
    return value


def put(into: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Set what there is: nothing that is None or empty."""
    into |= {
        name: value
        for name, value in values.items()
        if value or (value is not None and value != "" and value != {})
    }
    return into


def user_of(caller: Mapping[str, Any]) -> dict[str, Any]:
    """Give a caller as a user, {} where it has neither name nor id."""
    fields = Fields(caller)
    uid = fields.number("uid")
    named = fields.text("certificate_name") or ("" if uid is None else str(uid))
    return put({}, name=fields.text("name"), uid=named)


def actor_of(caller: Mapping[str, Any], more: Mapping[str, Any] = _NONE) -> dict[str, Any]:
    """Give a caller as an actor, with its process where that is known."""
    pid = Fields(caller).number("pid")
    made = put({}, user=user_of(caller), process=None if pid is None else {"pid": pid}, **more)
    return made or {"invoked_by": "stockade"}


def endpoint_of(peer: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Give where a request came from: over a local socket, this host."""
    fields = Fields(peer)
    transport = fields.text("transport")
    name = fields.text("certificate_name") or fields.text("name")
    address, _, port = fields.text("address").rpartition(":")
    made = put({}, ip=ip(address.removeprefix("[").removesuffix("]")))
    if made and port.isascii() and port.isdecimal() and len(port) <= 5:
        made["port"] = int(port)
    if transport == "tls":
        return put(made, name=name) or {"name": "unknown"}
    return put(made, hostname=host, svc_name=transport) or {"name": "unknown"}


def ip(text: str) -> str:
    """Give an address, "" where it is none."""
    return _ip(text) if len(text) <= ADDRESS_CHARACTERS_MAX else ""


@functools.lru_cache(maxsize=4096)
def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return ""


def device_of(host: Mapping[str, Any], source: Source, *, kernel: bool) -> dict[str, Any]:
    """Give the host; `kernel` says whether its release has a place of its own (not in 1.1)."""
    fields = Fields(host)
    release = fields.text("kernel")
    os = put({"name": "Linux", "type_id": LINUX, "type": "Linux"}, version=release)
    if kernel and release:
        os["kernel_release"] = os.pop("version")
    made: dict[str, Any] = {"type_id": 0, "type": "Unknown", "os": os}
    made["hostname"] = fields.text("hostname") or source.host or "unknown"
    return made


def own_parts(source: Source, *, old: bool, share: Share = fragment) -> Parts:
    """Give the parts of what belongs to no call; `old` is for OCSF 1.1. `share` makes each what
    stands in an event: JSON, for who encodes that."""
    none = {"invoked_by": "stockade"}
    return Parts(
        old=old, observes=False, call_id="", profile="", command="",
        actor=share(none), who={},
        caller_endpoint=share(put({}, hostname=source.host) or {"name": "unknown"}),
        sandbox_endpoint=share({"name": "unknown"}),
        device=share(device_of({}, source, kernel=not old)),
        container=None, policy=None, trace=None, agent=None, call=None,
    )  # fmt: skip


def call_parts(
    opening: Opening, call_id: str, source: Source, *, old: bool, share: Share = fragment
) -> Parts:
    """Give the parts of a call; as `own_parts`."""
    body = Fields(opening.body)
    caller, profile = body.map("caller"), Fields(body.map("profile"))
    request: Mapping[str, Any] = body.map("request" if body.has("request") else "request_preview")
    asked = Fields(request)
    correlation = Fields(asked.map("correlation"))
    agent, session = correlation.text("agent"), correlation.text("session")
    traceparent = correlation.text("traceparent")
    trace, span, flags = _trace_of(traceparent)
    name, digest, mode = profile.text("name"), profile.text("digest"), profile.text("mode")
    more = put({}, session=put({}, uid=session), app_name="" if old else agent)
    who = put({}, user=user_of(caller), **more)
    container = {"uid": call_id or "unknown"}
    device = device_of(body.map("host"), source, kernel=not old)
    told = put(
        {"id": call_id, "index": opening.index, "time_ns": opening.time_ns},
        agent=agent, session=session, workflow=correlation.text("workflow"),
        traceparent=traceparent, trace_id=trace, span_id=span,
        request_id=asked.text("request_id"), caller=dict(caller),
        profile=put({}, name=name, digest=digest, mode=mode),
        fingerprint=body.text("fingerprint"),
    )  # fmt: skip
    return Parts(
        old=old, observes=mode == OBSERVE, call_id=call_id, profile=name,
        command=command_line(request.get("argv"))[:SHOWN_CHARACTERS_MAX],
        actor=share(actor_of(caller, more)),
        who={key: share(value) for key, value in who.items()},
        caller_endpoint=share(endpoint_of(caller, source.host)),
        sandbox_endpoint=share({"name": "sandbox", "container": container}),
        device=share({**device, "container": container}),
        container=share(container),
        policy=share(policy) if (policy := _policy(name, digest, mode)) else None,
        # A span needs times here, which only who opened it knows: it is in `unmapped`.
        trace=share({"uid": trace, "flags": [flags]}) if trace else None,
        agent=share(one) if (one := _agent(agent, session)) else None,
        call=share(told),
        traceparent=traceparent if trace else "",
        missing=[f"intent.{one}" for one in (*body.missing, *profile.missing)],
    )  # fmt: skip


def _policy(name: str, digest: str, mode: str) -> dict[str, Any]:
    made = put({}, name=name, uid=digest)
    return {**made, "is_applied": mode != OBSERVE} if made else {}


def _trace_of(traceparent: str) -> tuple[str, str, str]:
    """Give the trace that a caller named (W3C Trace Context), its span there, and its flags."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not int(found[1], 16):
        return "", "", ""
    return found[1], found[2], found[3]


def _agent(agent: str, session: str) -> dict[str, Any]:
    named = put({}, uid=agent, name=agent, instance_uid=session)
    return {**named, "type_id": 0, "type": "Unknown"} if agent else {}
