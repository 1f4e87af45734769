"""Compare a request's path with a rule's, so that the far side can read no other in it. Pure."""

from __future__ import annotations

import re

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_CONTROL = frozenset((*range(0x20), 0x7F))
_REFUSED = {
    ord("/"): "an encoded slash",
    ord("\\"): "an encoded backslash",
    ord(";"): "an encoded semicolon",
}
_TWICE = re.compile(rb"%25(?:25)*(?:2[ef]|3b|5c|00)", re.IGNORECASE)
"""A dot, slash, semicolon, backslash or NUL that is encoded more than once."""
_OVERLONG = re.compile(rb"%(?:C[01]|E0%[89]|F0%8)")
"""The first byte of a character in more bytes of UTF-8 than it takes: some decoders read ASCII."""


class PathError(Exception):
    """A path that cannot be compared for certain."""


def comparable(path: bytes) -> bytes:
    """Give `path`, without its query, with its unreserved characters decoded (RFC 3986, 6.2.2.2).

    Raises:
        PathError: another reader could take it for another path.
    """
    if not path.isascii():
        raise PathError("a path that is not ASCII")
    if b"\\" in path:
        raise PathError("a backslash in the path")
    plain = path
    if b"%" in path:
        plain = _ESCAPE.sub(_decoded, path)
        # Looked for behind that: digits may be encoded, too.
        if _TWICE.search(plain):
            raise PathError("an escape within an escape")
        if _OVERLONG.search(plain):
            raise PathError("UTF-8 that is longer than it need be in the path")
    # Some servers take what follows a semicolon out of a segment before they look for dots.
    if b"/." in plain and any(
        segment.split(b";", 1)[0] in {b".", b".."} for segment in plain.split(b"/")
    ):
        raise PathError("a dot segment in the path")
    return plain


def _decoded(escape: re.Match[bytes]) -> bytes:
    if escape[1] is None:
        raise PathError("a % that begins no escape")
    byte = int(escape[1], 16)
    if byte in _CONTROL:
        raise PathError(f"the control byte 0x{byte:02x} in the path")
    if byte in _REFUSED:
        raise PathError(f"{_REFUSED[byte]} in the path")
    return bytes((byte,)) if byte in _UNRESERVED else escape[0].upper()


def allowed(patterns: tuple[str, ...], plain: bytes) -> bool:
    """Say whether a comparable path is one of `patterns`: exact, or a prefix before a last `*`."""
    path = plain.decode("ascii")
    return any(
        path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern
        for pattern in patterns
    )
