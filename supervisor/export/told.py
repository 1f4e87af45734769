"""What the process of a sink may tell the daemon, and nothing else.

It talks to the other side, and may be in that one's hands. What it says of its own sink is believed
as far as it can be so: a cursor is not past the log, a letter is of an entry, a figure is
one. Pure.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from supervisor.audit.cursors import Cursor
from supervisor.export.channel import PeerMisbehaves
from supervisor.export.letters import WHY_CHARACTERS_MAX, Letter
from supervisor.export.pump import Circuit, PumpState

INT64_MAX = 2**63 - 1
SECONDS_MAX = 253_402_300_799.0
"""The end of the year 9999."""

CALL_CHARACTERS_MAX = 128
TEXT_CHARACTERS_MAX = 32_768
_LEAF = re.compile(r"[0-9a-f]{64}", re.ASCII)
_UID = re.compile(r"([0-9]{1,19})-[0-9a-f]{16}(-[0-9]{1,9})?", re.ASCII)


def text(message: Mapping[str, Any], name: str, characters_max: int) -> str:
    """Give a field that is a text, cut.

    Raises:
        PeerMisbehaves: it is none; and so for all below.
    """
    value = message.get(name)
    if type(value) is not str:
        raise PeerMisbehaves(f"its {name} is no text")
    return value[:characters_max]


def number(message: Mapping[str, Any], name: str, most: int = INT64_MAX) -> int:
    """Give a field that counts something, 0 to `most`."""
    value = message.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise PeerMisbehaves(f"its {name} is no number from 0 to {most}")
    return value


def call(message: Mapping[str, Any]) -> str:
    """Give the id of a call."""
    return text(message, "call", CALL_CHARACTERS_MAX)


def logged(message: Mapping[str, Any]) -> tuple[int, str]:
    """Give what it logs: the level, no more than an error, and the text."""
    level = min(number(message, "level"), logging.ERROR)
    return level, text(message, "text", TEXT_CHARACTERS_MAX)


def cursor(message: Mapping[str, Any], durable: int) -> Cursor:
    """Give how far it is acknowledged: within the `durable` entries of the log."""
    leaf = text(message, "leaf", CALL_CHARACTERS_MAX)
    if not _LEAF.fullmatch(leaf):
        raise PeerMisbehaves("its leaf is no hash")
    return Cursor(index=number(message, "index", durable), leaf=leaf)


def letter(told: Any, durable: int) -> Letter:
    """Give a dead letter: of an event of one of the `durable` entries."""
    if not isinstance(told, dict):
        raise PeerMisbehaves("its letter is none")
    index = number(told, "index", durable - 1)
    uid = text(told, "uid", CALL_CHARACTERS_MAX)
    found = _UID.fullmatch(uid)
    if found is None or int(found[1]) != index:
        raise PeerMisbehaves("its letter is of no event")
    return Letter(
        index=index,
        uid=uid,
        why=text(told, "why", WHY_CHARACTERS_MAX),
        time_ns=number(told, "time_ns"),
    )


def outcome(
    answer: Mapping[str, Any], letters: Sequence[Letter], durable: int
) -> tuple[set[str], dict[str, Letter], str]:
    """Give what became of letters that were sent again: the uids that were delivered, the letters
    that are ones again, and why it stopped."""
    delivered, refused = answer.get("delivered"), answer.get("refused")
    if not isinstance(delivered, list) or not isinstance(refused, list):
        raise PeerMisbehaves("what became of letters is no list")
    again = {one.uid: one for one in (letter(told, durable) for told in refused)}
    known = {one.uid for one in letters}
    if not all(type(uid) is str and uid in known for uid in (*delivered, *again)):
        raise PeerMisbehaves("it tells of letters that it was not given")
    return set(delivered) - again.keys(), again, text(answer, "stopped", WHY_CHARACTERS_MAX)


def state(message: Mapping[str, Any]) -> dict[str, Any]:
    """Give what it says of itself: the fields of a `PumpState`."""
    found = {}
    for field in dataclasses.fields(PumpState):
        read: Callable[[Mapping[str, Any], str], Any] = _READ[type(field.default)]
        found[field.name] = read(message, field.name)
    return found


def _seconds(message: Mapping[str, Any], name: str) -> float:
    value: Any = message.get(name)
    if type(value) not in (int, float) or not 0 <= value <= SECONDS_MAX:
        raise PeerMisbehaves(f"its {name} is no time")
    return float(value)


def _why(message: Mapping[str, Any], name: str) -> str:
    return text(message, name, WHY_CHARACTERS_MAX)


def _circuit(message: Mapping[str, Any], name: str) -> str:
    value: Any = message.get(name)
    try:
        return Circuit(value).value
    except ValueError:
        raise PeerMisbehaves(f"its {name} is none") from None


_READ: Mapping[type, Callable[[Mapping[str, Any], str], Any]] = {
    int: number,
    float: _seconds,
    str: _why,
    Circuit: _circuit,
}
