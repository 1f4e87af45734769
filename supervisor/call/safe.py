"""Make text that comes from a sandbox or a record harmless to print.

A program chooses its argv, its file names and what it writes; a terminal obeys escape sequences,
and bidirectional controls can make a line read as another. Everything that is not printable is
shown as an escape; ordinary text of any language stays as it is. Pure.
"""

from __future__ import annotations

import codecs
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


class SafeStream:
    """Makes bytes that come piece by piece safe for a terminal: a character that stands across two
    pieces is one, line ends and tabs stay."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._return = ""

    def feed(self, data: bytes) -> str:
        """Give what can be told of `data`, and what waited for it."""
        return self._told(self._decoder.decode(data), final=False)

    def end(self) -> str:
        """Give what still waits; what is fed then begins anew."""
        return self._told(self._decoder.decode(b"", True), final=True)

    def _told(self, text: str, *, final: bool) -> str:
        # A carriage return is a line end together with what follows; alone it would let the
        # program write over what stands there.
        text, self._return = self._return + text, ""
        if text.endswith("\r") and not final:
            text, self._return = text[:-1], "\r"
        lines = text.replace("\r\n", "\n").split("\n")
        return "\n".join("\t".join(map(safe, line.split("\t"))) for line in lines)


def command(argv: tuple[bytes, ...] | list[bytes], limit: int = 0) -> str:
    """Give argv as a shell would take it, in one line; cut at `limit` characters, where set."""
    words = (_word(argument.decode(errors="surrogateescape")) for argument in argv)
    return shorten(" ".join(words), limit)


def word(name: str | bytes, limit: int = 0) -> str:
    """Give a name as one word of a list: in quotes, as bash reads them, where anything in it could
    be taken for more than a part of the name. Cut to `limit` characters, where set, and `…` after
    the quotes says so."""
    text = name.decode(errors="surrogateescape") if isinstance(name, bytes) else name
    whole = _item(text)
    if not limit or len(whole) <= limit:
        return whole
    text = text[: limit - len(ELLIPSIS)]
    while len(shown := _item(text) + ELLIPSIS) > limit and text:
        text = text[:-1]
    return shown


def host(name: str, limit: int) -> str:
    """Give a host's name as `word` does, cut to `limit` characters from its beginning: whose it is
    stands at its end."""
    shown, text = word(name), name
    while len(shown) > limit and text:
        text = text[max(1, len(text) - limit) :]
        shown = ELLIPSIS + word(text)
    return shown


def _item(text: str) -> str:
    shown = _word(text)
    return f"'{text}'" if shown == text and "," in text else shown


def shorten(text: str, limit: int) -> str:
    """Cut at `limit` characters, where set, and show that it was cut."""
    return text if not limit or len(text) <= limit else text[: limit - 1] + ELLIPSIS


def _word(text: str) -> str:
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
