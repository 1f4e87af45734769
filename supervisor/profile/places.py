"""Places that people ask about: HOST:PORT, ADDRESS:PORT or [ADDRESS]:PORT, and what is none."""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from supervisor.errors import InvalidRequest
from supervisor.profile import hosts
from supervisor.profile.addresses import Address

Place = str | Address

LOCALHOST = "localhost"
PORT_MAX = 65_535
NEAR = 0.6
"""How much of two names has to be the same for one to be a slip of the other."""

_PLACE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):([0-9]{1,5})", re.ASCII)
_WITH_SOME_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:/]+):[^\[\]:/]*", re.ASCII)
_PORT_OF_SCHEME = {"http": 80}
_HINT = "as in api.example.com:443, 192.0.2.1:443 or [2001:db8::1]:443"


def parse_place(text: str) -> tuple[Place, int]:
    """Read HOST:PORT, ADDRESS:PORT or [ADDRESS]:PORT.

    Raises:
        InvalidRequest: `PLACE_INVALID`.
    """
    found = _PLACE.fullmatch(text)
    if found is None or not 1 <= int(found[3]) <= PORT_MAX:
        raise _no_place(text)
    return parse_target(found[1] or found[2]), int(found[3])


def parse_target(text: str) -> Place:
    """Read a host's name, or an address.

    Raises:
        InvalidRequest: `PLACE_INVALID`.
    """
    with contextlib.suppress(ValueError):  # a name, or neither: that is said below
        return ipaddress.ip_address(text)
    if text.lower() == LOCALHOST:
        return LOCALHOST
    try:
        return hosts.canonical(text)
    except hosts.HostnameError as error:
        raise InvalidRequest("PLACE_INVALID", error.message, hint=error.hint) from error


def written(place: Place, port: int) -> str:
    """Write a place as `parse_place` reads it."""
    bracketed = isinstance(place, ipaddress.IPv6Address)
    return f"[{place}]:{port}" if bracketed else f"{place}:{port}"


def nearest(host: str, known: Iterable[str]) -> str | None:
    """Give the name that `host` may be a slip of. Labels that both have do not count: all hosts of
    a domain have those in common."""
    name, closeness = max(
        ((name, _closeness(host, name)) for name in known),
        key=lambda pair: pair[1],
        default=(None, 0.0),
    )
    return name if closeness >= NEAR else None


def _closeness(one: str, other: str) -> float:
    labels, others = one.split("."), other.split(".")
    left = ".".join(label for label in labels if label not in others)
    right = ".".join(label for label in others if label not in labels)
    return difflib.SequenceMatcher(None, left, right).ratio()


def _no_place(text: str) -> InvalidRequest:
    """Say what is given instead of a place, and how to ask for what may be meant."""
    what, hint = f"{text!r} is not a place with its port", _HINT
    if "://" in text:
        what, hint = f"{text!r} is a URL, not a place with its port", _asked_by(text) or _HINT
    elif _WITH_SOME_PORT.fullmatch(text):
        what = f"{text!r} has no port from 1 to {PORT_MAX} behind the colon"
    else:
        # Without brackets an address of IPv6 has colons, and no port.
        with contextlib.suppress(InvalidRequest):  # no host either: that is what is said
            place = parse_target(text.removeprefix("[").removesuffix("]"))
            what, hint = f"{text!r} has no port", f"as in {written(place, 443)}"
    return InvalidRequest("PLACE_INVALID", what, hint=hint)


def _asked_by(url: str) -> str:
    """Give how to ask for the place that a URL leads to, "" where that cannot be said."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT_OF_SCHEME.get(parts.scheme, 443)
        return f"as in {written(parse_target(parts.hostname or ''), port)}"
    except (ValueError, InvalidRequest):
        return ""
