"""Make text that comes from a sandbox or a record harmless to print.

A program chooses its argv, its file names and what it writes; a terminal obeys escape sequences,
and bidirectional controls can make a line read as another. Everything that is not printable is
shown as an escape; ordinary text of any language stays as it is. Pure.
"""

from __future__ import annotations

import shlex

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e", "\0": "\\0"}
ELLIPSIS = "…"


def safe(value: object, *, lines: bool = False) -> str:
    """Give `value` as text without controls, escape sequences, bidi marks or undecodable bytes;
    with `lines`, line ends stay."""
    text = value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and c == "\n") else _escape(c) for c in text)


def command(argv: tuple[bytes, ...] | list[bytes], limit: int = 0) -> str:
    """Give argv as a shell would take it, in one line; cut at `limit` characters, where set."""
    return shorten(" ".join(_word(argument) for argument in argv), limit)


def shorten(text: str, limit: int) -> str:
    """Cut at `limit` characters, where set, and show that it was cut."""
    return text if not limit or len(text) <= limit else text[: limit - 1] + ELLIPSIS


def _word(argument: bytes) -> str:
    text = argument.decode(errors="surrogateescape")
    if text.isprintable():
        return shlex.quote(text)
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(c if c.isprintable() else _escape(c) for c in quoted) + "'"


def _escape(character: str) -> str:
    """Escape one character; a surrogate stands for a byte that is not UTF-8 (PEP 383)."""
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
