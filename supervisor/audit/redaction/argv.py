"""Redacts an argv that comes in pieces, arguments by their names as `redact_argv` does.

What comes is text, which a stream's redactor looks at, up to where a name says that a value is
secret: that is one mark, and its bytes are dropped up to the argument's end. A name is seen across
the borders of what is fed.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.audit.redaction.found import Found
from supervisor.audit.redaction.literals import Literals, RedactionFailed, mac8
from supervisor.audit.redaction.patience import Effort
from supervisor.audit.redaction.redactor import (
    Redactor,
    fails_closed,
    name_before_value,
    option_name,
)
from supervisor.audit.redaction.rules import Rule, Rules

NAME_BYTES_MAX = 1024
"""Of an argument that is looked at for a name."""

NAMED_MAX = 1024
"""Values that are secrets by their names; with more, nothing of the rest is given."""


class ArgvRedactor:
    """Redacts one argv from its byte `begin` on, where the argument behind `before` begins.

    `found` is what was replaced since somebody took it, with offsets in the whole argv.
    """

    def __init__(
        self, literals: Literals, rules: Rules, key: bytes, *, begin: int, before: bytes
    ) -> None:
        self._literals, self._rules, self._key = literals, rules, key
        self._effort = Effort()
        self._at = self._begin = begin
        self._redactor = self._stream()
        self._text = bytearray()
        self._head = before
        self._rule: Rule | None = None
        self._is_marked = self._is_over = False
        self._named = 0
        self.found: list[Found] = []
        self._next_argument()

    @fails_closed
    def feed(self, data: bytes, offset: int, *, is_last: bool = False) -> bytes:
        """Take what lies in the argv from `offset` on; give what is known to be clean.

        Raises:
            RedactionFailed: and so does all that follows.
        """
        if self._is_over:
            raise RedactionFailed("the argv has ended, or its redaction had failed")
        self._is_over = True  # until this step is through
        out = []
        if offset != self._at:
            out.append(self._skip(offset))
        for place, piece in enumerate(data.split(b"\0")):
            if place:
                self._add(b"\0")
                self._next_argument()
            if clean := self._piece(piece):
                out.append(clean)
        out.append(self._ended() if is_last else self._flushed())
        self._is_over = is_last
        return b"".join(out)

    def _skip(self, offset: int) -> bytes:
        """Go on elsewhere: who cut an argv between two arguments left out the byte between them."""
        held = self._ended()
        if offset == self._at + 1:
            self._next_argument()
            held += b"\0" if held else b""
        self._at = self._begin = offset
        return held

    def _next_argument(self) -> None:
        name = option_name(self._head)
        self._rule = self._rules.telling(name) if name else None
        self._head, self._is_marked = b"", False

    def _piece(self, piece: bytes) -> bytes:
        """Take a part of one argument; give what comes out where it is a secret by its name."""
        before = len(self._head)
        self._head += piece[: NAME_BYTES_MAX - before]
        if self._rule is None:
            name, cut = name_before_value(self._head)
            self._rule = self._rules.telling(name) if name else None
            if self._rule is None:
                self._add(piece)
                return b""
            self._add(piece[: max(cut - before, 0)])
            piece = piece[max(cut - before, 0) :]
        return self._secret(self._rule, piece) if piece else b""

    def _secret(self, rule: Rule, piece: bytes) -> bytes:
        held = self._ended()
        at, self._at = self._at, self._at + len(piece)
        self._begin = self._at
        if self._is_marked:
            return held
        self._is_marked = True
        self._named += 1
        if self._named > NAMED_MAX:
            raise RedactionFailed(f"more than {NAMED_MAX} secrets in one argv")
        hmac8 = mac8(self._key, piece)
        found = Found(offset=at, length=len(piece), rule=rule.id, hmac8=hmac8)
        self.found.append(found)
        return held + found.mark

    def _add(self, text: bytes) -> None:
        self._text += text
        self._at += len(text)

    def _flushed(self) -> bytes:
        clean = self._redactor.feed(bytes(self._text))
        self._text.clear()
        self._take()
        return clean

    def _ended(self) -> bytes:
        """Give the rest of the text before this place, and begin another."""
        clean = self._flushed() + self._redactor.finish()
        self._take()
        self._effort.next_value(self._at - self._begin)
        self._begin = self._at
        self._redactor = self._stream()
        return clean

    def _stream(self) -> Redactor:
        return Redactor(self._literals, self._rules, self._key, self._effort)

    def _take(self) -> None:
        found, self._redactor.found = self._redactor.found, []
        self.found += [replace(one, offset=one.offset + self._begin) for one in found]
