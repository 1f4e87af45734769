"""Find a placeholder of a secret in bytes that pass in the clear, however they are cut. Pure.

A placeholder is no secret: this tells of one that goes where it should not, and stops it. A program
that means to hide one can (by compressing it, say), and has gained nothing by that.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from urllib.parse import quote_from_bytes

_ALARM_BYTES = 12
"""How much of each form is looked for first. It is the same for all placeholders, so that bytes are
searched a few times, however many secrets a call has."""

_BASE64_SKIPPED = (0, 2, 3)
"""How many characters depend on what stands before, by how many bytes that is (modulo 3)."""


def forms(text: bytes) -> frozenset[bytes]:
    """Give `text` as it is, in hexadecimal, with all of it percent-encoded, and in base64 at each
    of the three places where it can begin."""
    percent = b"".join(b"%%%02X" % byte for byte in text)
    found = {text, text.hex().encode(), text.hex().upper().encode(), percent, percent.lower()}
    found.add(quote_from_bytes(text, safe="").encode())
    for before, skipped in enumerate(_BASE64_SKIPPED):
        whole = (before + len(text)) * 8 // 6  # What stands behind does not change these.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(before) + text)[skipped:whole])
    return frozenset(found)


class Needles:
    """What to look for, each with the name of the secret that it stands for."""

    def __init__(self, placeholders: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        """Take pairs of a placeholder and its secret's name."""
        self._names = {
            form: name
            for placeholder, name in dict(placeholders).items()
            for form in forms(placeholder.encode("ascii"))
        }
        self._alarms = tuple(sorted({needle[:_ALARM_BYTES] for needle in self._names}))
        self.longest = max(map(len, self._names), default=0)

    def __bool__(self) -> bool:
        return bool(self._names)

    def find(self, data: bytes | bytearray) -> str:
        """Give the name of a secret whose placeholder is in `data`, "" where there is none."""
        if not any(alarm in data for alarm in self._alarms):
            return ""
        return next((name for needle, name in self._names.items() if needle in data), "")


class Scanner:
    """Looks through a stream, with as much carried over as a needle may be cut."""

    def __init__(self, needles: Needles) -> None:
        self._needles = needles
        self._carried = b""

    def feed(self, data: bytes) -> str:
        """Give the name of a secret whose placeholder ends in `data`, "" where none does."""
        if not self._needles:
            return ""
        window = self._carried + data
        self._carried = window[max(0, len(window) - self._needles.longest + 1) :]
        return self._needles.find(window)
