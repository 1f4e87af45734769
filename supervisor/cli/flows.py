"""Connections in a record, for people: one in a line, many in a sum and a table.

What a sandbox chose stands in quotes where it could be taken for more than it is, or at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisor.call.safe import host, safe, shorten, word
from supervisor.call.types import untext
from supervisor.cli import output as out
from supervisor.cli.sections import Section

NAME_WIDTH = 50
RULE_WIDTH = 40
REASON_WIDTH = 80
"""Each part is cut by itself, so that a long one hides no other."""

SHOWN_MAX = 50
FEW = 3
"""How many of the addresses, and of the programs, of a group are named."""


def line(body: Mapping[str, Any]) -> str:
    """Name one connection from its entry, as `api.github.com:443 → 203.0.113.7 · rule
    api.github.com:443 · closed · 1.2 KiB out, 33.2 KiB in · 310 ms · curl[123]`, and why."""
    name, address = str(body.get("name", "?")), str(body.get("address") or "")
    dialled = f" → {word(address)}" if address not in ("", name) else ""
    parts = (
        f"{place(name, body.get('port'))}{dialled}",
        _rule(body) or "no rule",
        str(body.get("verdict", "?")),
        _amounts(_number(body, "sent"), _number(body, "received")),
        out.duration(float(body.get("duration_s") or 0)),
        _who(body),
        shorten(str(body.get("reason") or ""), REASON_WIDTH),
    )
    return " · ".join(part for part in parts if part)


def summed(bodies: Sequence[Mapping[str, Any]]) -> str:
    """Name connections in a row in one line."""
    if len(bodies) == 1:
        return line(bodies[0])
    sent = sum(_number(body, "sent") for body in bodies)
    received = sum(_number(body, "received") for body in bodies)
    return f"{out.count(len(bodies), 'connection')}, {_amounts(sent, received)}; listed below"


@dataclass(slots=True, kw_only=True)
class _Group:
    """Connections that differ in their bytes, their times, and whose they were only."""

    first: Mapping[str, Any]
    times: int = 0
    sent: int = 0
    received: int = 0
    addresses: dict[str, None] = field(default_factory=dict)
    who: dict[str, None] = field(default_factory=dict)

    def take(self, body: Mapping[str, Any]) -> None:
        """Add a connection."""
        self.times += 1
        self.sent += _number(body, "sent")
        self.received += _number(body, "received")
        if address := str(body.get("address") or ""):
            self.addresses[address] = None
        if who := _who(body):
            self.who[who] = None

    def row(self) -> tuple[object, ...]:
        """Give the line of the table."""
        reason = shorten(str(self.first.get("reason") or ""), REASON_WIDTH)
        verdict = str(self.first.get("verdict", "?"))
        return (
            place(str(self.first.get("name", "?")), self.first.get("port")),
            _few(self.addresses),
            shorten(str(self.first.get("rule") or "none"), RULE_WIDTH),
            self.times,
            out.size(self.sent),
            out.size(self.received),
            _few(self.who),
            f"{verdict}: {reason}" if reason else verdict,
        )


def section(bodies: Iterable[Mapping[str, Any]]) -> Section:
    """Give connections, alike ones together, those that carried the most first."""
    groups: dict[tuple[str, ...], _Group] = {}
    for body in bodies:
        key = tuple(str(body.get(of)) for of in ("name", "port", "rule", "verdict", "reason"))
        groups.setdefault(key, _Group(first=body)).take(body)
    most = sorted(groups.values(), key=lambda group: (-group.sent - group.received, -group.times))
    more = len(most) - SHOWN_MAX
    return Section(
        title="connections",
        columns=("TO", "DIALLED", "RULE", "TIMES", "OUT", "IN", "WHO", "VERDICT"),
        rows=[group.row() for group in most[:SHOWN_MAX]],
        notes=[f"and {more} more; --json has all"] if more > 0 else [],
    )


def place(name: str, port: object) -> str:
    """Name a place with its port; an address of IPv6 in brackets."""
    shown = host(name, NAME_WIDTH)
    return f"[{shown}]:{port}" if ":" in name else f"{shown}:{port}"


def _rule(body: Mapping[str, Any]) -> str:
    rule = str(body.get("rule") or "")
    return f"rule {shorten(rule, RULE_WIDTH)}" if rule else ""


def _amounts(sent: int, received: int) -> str:
    return f"{out.size(sent)} out, {out.size(received)} in"


def _who(body: Mapping[str, Any]) -> str:
    program, pid = _program(body.get("program") or ""), body.get("pid")
    return f"{program}[{pid}]" if pid else program


def _program(value: Any) -> str:
    try:
        name = untext(value)
    except ValueError:
        return safe(value)
    return word(name) if name else ""


def _few(names: Mapping[str, None]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(list(names)[:FEW]) + more


def _number(body: Mapping[str, Any], name: str) -> int:
    return int(body.get(name) or 0)
