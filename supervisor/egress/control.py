"""What the daemon and a call's broker say to each other: JSON, one value a message. Pure.

The daemon believes nothing: a broker reads what a sandbox sends, so a message of its is checked for
every field, type and bound, and one that is wrong ends the call.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from supervisor.call.events import Denied, Flow, Lost, Verdict, Wall
from supervisor.profile.model import EgressRule, Inspect, PortRange

MESSAGE_BYTES_MAX = 60 * 1024
"""Of one message, in both directions."""

POLICY_BYTES_MAX = 16 << 20

NAME_CHARS_MAX = 300
"""A host's name has at most 253, a rule's a port list more."""

TEXT_CHARS_MAX = 2048
PROGRAM_BYTES_MAX = 64
NUMBER_MAX = (1 << 63) - 1
PID_MAX = (1 << 22) - 1
"""As the kernel has it (PID_MAX_LIMIT)."""
COUNT_MAX = (1 << 32) - 1
"""Of what is told at once. Sums of such counts are a number in every encoding, too."""
SECONDS_MAX = 10 * 86_400.0
"""A flow is ended after a day."""
PORT_MAX = 65535

FLOWS_MAX = 1024
"""Connections of one call at a time, where the order says nothing else."""

DENIAL_NAMES = frozenset({"connect", "dns", "dial", "tls", "http", "secret"})
LIMIT_NAME = "egress"
LOST_KINDS = frozenset({"flow", "denial"})


ORDER_BYTES_MAX = 4096
"""Of a word between the daemon and the zygote."""

SECRET_VALUE = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
"""What a header may hold (RFC 9110, section 5.5) without blanks at its ends; ASCII alone, so that
every library writes the same bytes."""

_PLACEHOLDER_BYTES = 16


class ControlError(Exception):
    """A message is not one of those that there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The broker is confined, has its policy, and accepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameTaken:
    """A name under a wildcard was asked for first, and now has the addresses with this number."""

    name: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The broker cannot go on; nothing passes any more."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """All flows have ended and were told; the broker ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """End all flows, tell what is left, then end; the daemon's only word. With `drain`, what the
    program had sent before it ended is passed on first."""

    drain: bool = False


BrokerEvent = Flow | Denied | Lost | NameTaken
Message = BrokerEvent | Ready | Failed | Done


def make_placeholder(name: str) -> str:
    """Make what a sandbox holds for the secret `name`: no other call has the same."""
    return f"stockade-secret-{name}-{secrets.token_hex(_PLACEHOLDER_BYTES)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret with its value: the sandbox has `placeholder`, requests to `host` get `value`."""

    name: str
    header: str
    host: str
    placeholder: str
    value: str = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A call's own authority, in PEM: `certificate` is what its sandbox trusts, `key` is what its
    broker needs to be the hosts that it is for, a private key and the certificate for it."""

    key: str = dataclasses.field(repr=False)
    certificate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """How many listeners of each sort come along, in this order."""

    tcp: int
    dns_udp: int
    dns_tcp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All that a broker is told of its call. `call` is the id in the kernel's maps, `resolvers` are
    as `upstream.Nameserver` reads them, the host's where there are none, `authority` and
    `authorities` what `terminate.Terminator` is made of."""

    call_id: str
    call: int
    rules: tuple[EgressRule, ...]
    secrets: tuple[Secret, ...] = ()
    egress_bytes: int
    listening: Listening
    resolvers: tuple[str, ...] = ()
    flows_max: int = FLOWS_MAX
    authority: Authority | None = None
    authorities: str = ""


def encode(message: Message | Finish) -> bytes:
    """Give a value as a message; whether it may be said is for whoever hears it."""
    fields: dict[str, Any] = {"kind": type(message).__name__}
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        fields[field.name] = value.decode("latin-1") if isinstance(value, bytes) else value
    return json.dumps(fields, separators=(",", ":")).encode()


def decode(data: bytes) -> Message:
    """Give the value that a broker sent.

    Raises:
        ControlError: it is none.
    """
    if len(data) > MESSAGE_BYTES_MAX:
        raise ControlError(f"a message of {len(data)} bytes")
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"a message that is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ControlError("a message that is no object")
    return _decode(fields)


def decode_request(data: bytes) -> Finish:
    """Give what the daemon asks for.

    Raises:
        ControlError: it is nothing known.
    """
    for known in (Finish(), Finish(drain=True)):
        if data == encode(known):
            return known
    raise ControlError("an unknown request")


def _decode(fields: dict[str, Any]) -> Message:
    reader = _Reader(fields)
    kind = reader.text("kind", NAME_CHARS_MAX)
    make = _MAKERS.get(kind)
    if make is None:
        raise ControlError("a message of an unknown kind")
    message = make(reader)
    reader.end()
    return message


class _Reader:
    """Takes fields out of an object, each with its type and its bound."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = dict(fields)

    def _take(self, name: str) -> Any:
        try:
            return self._fields.pop(name)
        except KeyError as error:
            raise ControlError(f"a message without {name}") from error

    def text(self, name: str, chars_max: int = TEXT_CHARS_MAX) -> str:
        value = self._take(name)
        if not isinstance(value, str) or len(value) > chars_max or not _is_text(value):
            raise ControlError(f"{name} is not text of at most {chars_max} characters")
        return value

    def data(self, name: str) -> bytes:
        value = self.text(name, PROGRAM_BYTES_MAX)
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError as error:
            raise ControlError(f"{name} is not bytes") from error

    def number(self, name: str, low: int = 0, high: int = NUMBER_MAX) -> int:
        value = self._take(name)
        if type(value) is not int or not low <= value <= high:
            raise ControlError(f"{name} is not a number from {low} to {high}")
        return value

    def seconds(self, name: str) -> float:
        value = self._take(name)
        if type(value) not in (int, float) or not 0 <= value <= SECONDS_MAX:
            raise ControlError(f"{name} is not a duration")
        return float(value)

    def one_of(self, name: str, known: frozenset[str]) -> str:
        value = self.text(name, NAME_CHARS_MAX)
        if value not in known:
            raise ControlError(f"{name} is not one of {', '.join(sorted(known))}")
        return value

    def nothing(self, name: str) -> None:
        if self._take(name):
            raise ControlError(f"{name} is not empty")

    def end(self) -> None:
        if self._fields:
            raise ControlError("a message with a field too many")


def _is_text(value: str) -> bool:
    """Say whether the record can write it: no half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _flow(reader: _Reader) -> Flow:
    return Flow(
        name=reader.text("name", NAME_CHARS_MAX),
        address=reader.text("address", NAME_CHARS_MAX),
        port=reader.number("port", high=PORT_MAX),
        rule=reader.text("rule"),
        verdict=Verdict(reader.one_of("verdict", frozenset(Verdict))),
        reason=reader.text("reason"),
        sent=reader.number("sent"),
        received=reader.number("received"),
        started_ns=reader.number("started_ns"),
        duration_s=reader.seconds("duration_s"),
        pid=reader.number("pid", high=PID_MAX),
        program=reader.data("program"),
    )


def _denied(reader: _Reader) -> Denied:
    wall = Wall(reader.one_of("wall", frozenset({Wall.NETWORK, Wall.LIMIT})))
    names = frozenset({LIMIT_NAME}) if wall is Wall.LIMIT else DENIAL_NAMES
    reader.nothing("arguments")
    return Denied(
        wall=wall,
        name=reader.one_of("name", names),
        detail=reader.text("detail"),
        pid=reader.number("pid", high=PID_MAX),
        program=reader.data("program"),
        count=reader.number("count", low=1, high=COUNT_MAX),
        rule=reader.text("rule"),
        used=reader.number("used"),
        allowed=reader.number("allowed"),
    )


def _lost(reader: _Reader) -> Lost:
    return Lost(
        what=reader.one_of("what", LOST_KINDS),
        count=reader.number("count", high=COUNT_MAX),
        reason=reader.text("reason", NAME_CHARS_MAX),
    )


def _taken(reader: _Reader) -> NameTaken:
    return NameTaken(
        name=reader.text("name", NAME_CHARS_MAX), number=reader.number("number", high=(1 << 32) - 1)
    )


_MAKERS: Mapping[str, Callable[[_Reader], Message]] = {
    "Flow": _flow,
    "Denied": _denied,
    "Lost": _lost,
    "NameTaken": _taken,
    "Ready": lambda _: Ready(),
    "Done": lambda _: Done(),
    "Failed": lambda reader: Failed(reason=reader.text("reason")),
}


def encode_policy(policy: Policy) -> bytes:
    """Give a policy as JSON, for a memfd that only the broker reads."""
    data = json.dumps(dataclasses.asdict(policy)).encode()
    if len(data) > POLICY_BYTES_MAX:
        raise ControlError(f"a policy of {len(data)} bytes")
    return data


def decode_policy(data: bytes) -> Policy:
    """Give the policy that `encode_policy` wrote: it is the daemon's own word.

    Raises:
        ControlError: it is none.
    """
    try:
        fields = json.loads(data)
        fields["rules"] = tuple(_rule(rule) for rule in fields["rules"])
        fields["secrets"] = tuple(Secret(**secret) for secret in fields["secrets"])
        fields["listening"] = Listening(**fields["listening"])
        fields["resolvers"] = tuple(fields["resolvers"])
        if fields["authority"] is not None:
            fields["authority"] = Authority(**fields["authority"])
        return Policy(**fields)
    except (ValueError, TypeError, KeyError) as error:
        # Not the error's text: it may hold a secret.
        raise ControlError(f"a policy that is none: {type(error).__name__}") from None


def _rule(fields: dict[str, Any]) -> EgressRule:
    return EgressRule(
        **{
            **fields,
            "ports": tuple(PortRange(**ports) for ports in fields["ports"]),
            "inspect": None if fields["inspect"] is None else Inspect(fields["inspect"]),
            "methods": tuple(fields["methods"]),
            "paths": tuple(fields["paths"]),
        }
    )
