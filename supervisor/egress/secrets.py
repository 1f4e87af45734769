"""Put secrets into requests in place of what the sandbox holds for them. Pure.

The sandbox has a placeholder. In the header that the profile names, of a request to the host that
it names, the secret takes its place, also within `Basic` credentials. A placeholder anywhere else
is refused and told. The value of a secret is in no message of an error and in no representation.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Protocol
from urllib.parse import unquote_to_bytes

from supervisor.egress.clear import Needles, Scanner
from supervisor.egress.control import SECRET_VALUE
from supervisor.egress.requests import Headers, RequestRefused
from supervisor.profile import hosts

_BASIC = b"basic "


class Secret(Protocol):
    """A secret as the broker was given it."""

    @property
    def name(self) -> str:
        """Its name in the profile."""

    @property
    def header(self) -> str:
        """The header that it is put into."""

    @property
    def host(self) -> str:
        """The canonical name, or the pattern of names, that may get it."""

    @property
    def placeholder(self) -> str:
        """What the sandbox holds for it."""

    @property
    def value(self) -> str:
        """The secret itself."""


def needles_of(known: Iterable[Secret]) -> Needles:
    """Give what to look for where no secret belongs at all."""
    return Needles((secret.placeholder, secret.name) for secret in known)


class Swap:
    """Does so for the requests of one connection, to the host `name`."""

    def __init__(self, known: Iterable[Secret], *, name: str, sealed: bool = False) -> None:
        """Take all secrets of the call: those for other hosts must not appear here either. `sealed`
        where none may: the host has TLS, and this is not it.

        Raises:
            ValueError: a secret cannot stand in a header.
        """
        known = tuple(known)
        self._but = ": to this host it goes in TLS alone" if sealed else ""
        self._needles = needles_of(known)
        self._mine: dict[bytes, list[tuple[bytes, bytes]]] = {}
        for secret in known:
            value = secret.value.encode("utf-8", "surrogateescape")
            if SECRET_VALUE.fullmatch(value) is None:
                raise ValueError(f"the secret {secret.name} is not what a header may hold")
            if not sealed and hosts.covers(secret.host, name):
                header = secret.header.lower().encode("ascii")
                swapped = (secret.placeholder.encode("ascii"), value)
                self._mine.setdefault(header, []).append(swapped)

    @property
    def scans(self) -> bool:
        """Say whether bodies are to be looked through."""
        return bool(self._needles)

    def scanner(self) -> Scanner:
        """Give what looks through one body."""
        return Scanner(self._needles)

    def apply(self, method: bytes, target: bytes, headers: Headers) -> Headers:
        """Give the headers of a request with the secrets in their places.

        Raises:
            RequestRefused: a placeholder is where none belongs.
        """
        if not self._found(target, *(part for header in headers for part in header)):
            return headers
        self._refuse(target, "the target")
        swapped: Headers = []
        for raw, value in headers:
            self._refuse(raw, "the name of a header")
            # What is left of the value when the secrets have been taken out must hold no further.
            filled, emptied = self._swap(raw.lower(), value)
            self._refuse(emptied, f"the header {raw.decode('ascii')}")
            swapped.append((raw, filled))
        if method == b"TRACE":
            raise RequestRefused("TRACE, which would show a secret to the sandbox", name="secret")
        return swapped

    def _swap(self, header: bytes, value: bytes) -> tuple[bytes, bytes]:
        """Give the value with its secrets, and without its placeholders."""
        mine = self._mine.get(header, [])
        if mine and value[: len(_BASIC)].lower() == _BASIC:
            try:
                inside = base64.b64decode(value[len(_BASIC) :].strip(), validate=True)
            except binascii.Error:
                inside = b""  # Not credentials: whatever placeholder it holds is then refused.
            if any(placeholder in inside for placeholder, _ in mine):
                filled, emptied = _replaced(inside, mine)
                return b"Basic " + base64.b64encode(filled), emptied
        return _replaced(value, mine)

    def _refuse(self, part: bytes, place: str) -> None:
        if found := self._found(part):
            reason = f"the placeholder of secret {found} in {place}{self._but}"
            raise RequestRefused(reason, name="secret")

    def _found(self, *parts: bytes) -> str:
        text = b"\n".join(parts)
        return self._needles.find(text) or (
            self._needles.find(unquote_to_bytes(text)) if b"%" in text else ""
        )


def _replaced(value: bytes, mine: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    filled = emptied = value
    for placeholder, secret in mine:
        filled = filled.replace(placeholder, secret)
        emptied = emptied.replace(placeholder, b"\n")  # Not nothing: what is around must not join.
    return filled, emptied
