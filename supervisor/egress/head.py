"""Find the head of an HTTP/1.1 message, and refuse what two readers could read in two ways.

`h11` parses heads, but forgives what old peers wrote: bare line feeds, folded lines, control bytes,
the same length twice. Whoever stands behind us may forgive otherwise, so none of it is forgiven
here. What is left has one way to be parted into lines and fields, which is done here as well, and
`h11` makes a message of the parts, which it validates: its connection would take three times as
long. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import h11

from supervisor.call.texts import brief

HEAD_BYTES_MAX = 64 * 1024
"""The longest head, from the first line to the empty one."""
HEADERS_MAX = 128
LENGTH_DIGITS_MAX = 18
"""As many as fit into a signed 64-bit number in any value."""

CHUNKED = -1
"""The framing of a body in chunks; one that is not negative is its length in bytes."""

_END = b"\r\n\r\n"
_ODD = re.compile(
    rb"""[\x00-\x08\n-\x1f\x7f]  # Of these alone each needs a look, so the search skips all else.
    (?: (?<! \r | \n )             # a control byte,
      | (?<= \r ) (?= [^\n] )      # CR without LF,
      | (?<= \n ) (?<! \r\n )      # LF without CR,
      | (?<= \n ) (?= [ \t] )      # or a line that is folded
    )""",
    re.VERBOSE,
)
_REQUEST_LINE = re.compile(rb"([^ ]+) ([^ ]+) HTTP/([0-9]\.[0-9])")
_STATUS_LINE = re.compile(rb"HTTP/([0-9]\.[0-9]) ([0-9]{3})(?: (.*))?")
_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding):[ \t]*([^\r]*)")
_LENGTH = re.compile(rb"0|[1-9][0-9]*")


class HeadError(Exception):
    """A message that is malformed, or could be read in two ways."""


class Heads:
    """Takes heads from the front of what one side sent, looking at each byte once."""

    def __init__(self) -> None:
        self._looked = 0

    def take(self, held: bytearray) -> bytes | None:
        """Take a head off `held`, with its empty line; None where it is not whole yet.

        Raises:
            HeadError: it is too long, or holds what no head may.
        """
        # Each look goes back so far that what straddles two of them is seen.
        end = held.find(_END, max(0, self._looked - len(_END) + 1))
        length = len(held) if end < 0 else end + len(_END)
        if odd := _ODD.search(held, max(0, self._looked - 2), length):
            raise HeadError(_odd(odd.group(), folded=held[odd.start() - 1 : odd.start()] == b"\r"))
        if length > HEAD_BYTES_MAX:
            raise HeadError(f"a head of more than {HEAD_BYTES_MAX} bytes")
        if end < 0:
            self._looked = len(held)
            return None
        head = bytes(held[:length])
        del held[:length]
        self._looked = 0
        if head.count(b"\n") - 2 > HEADERS_MAX:
            raise HeadError(f"more than {HEADERS_MAX} headers")
        return head


def _odd(found: bytes, *, folded: bool) -> str:
    if found == b"\x16":
        return "TLS where plain HTTP belongs"
    if found == b"\n" and folded:
        return "a folded header line"
    if found in {b"\n", b"\r"}:
        return "a line that does not end in CR LF"
    return f"the byte 0x{found[0]:02x} in a head"


def request_of(head: bytes) -> h11.Request:
    """Read the head of a request, as `Heads` gives it.

    Raises:
        HeadError, h11.LocalProtocolError: it is none.
    """
    first, *fields = head[: -len(_END)].split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(first)
    if found is None:
        raise HeadError(f"the request line {shown(first)}")
    method, target, version = found.groups()
    return h11.Request(
        method=method, target=target, http_version=version, headers=list(_parted(fields))
    )


def response_of(head: bytes) -> h11.Response | h11.InformationalResponse:
    """The same of a response."""
    first, *fields = head[: -len(_END)].split(b"\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise HeadError(f"the status line {shown(first)}")
    version, status, reason = found.groups(b"")
    code = int(status)
    make = h11.InformationalResponse if code < 200 else h11.Response
    return make(
        status_code=code, reason=reason, http_version=version, headers=list(_parted(fields))
    )


def _parted(fields: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Give names and values; `h11` looks at what is in them."""
    for line in fields:
        name, colon, value = line.partition(b":")
        if not colon:
            raise HeadError(f"the line {shown(line)}")
        yield name, value.strip(b" \t")


def framing_of(head: bytes) -> int | None:
    """Give the length of the body that a head announces, `CHUNKED`, or None where it does neither.

    Raises:
        HeadError: it announces more than one, or in a way that not all understand.
    """
    lower = head.lower()
    if b"\r\ncontent-length:" not in lower and b"\r\ntransfer-encoding:" not in lower:
        return None
    found = _FRAMING.findall(lower)
    if len(found) > 1:
        kinds = " and ".join(sorted({kind.decode() for kind, _ in found}))
        raise HeadError(f"several framings ({kinds})")
    kind, value = found[0][0], found[0][1].rstrip(b" \t")
    if kind == b"transfer-encoding":
        if value != b"chunked":
            raise HeadError(f"Transfer-Encoding {shown(value)}, not chunked")
        return CHUNKED
    if _LENGTH.fullmatch(value) is None or len(value) > LENGTH_DIGITS_MAX:
        raise HeadError(f"Content-Length {shown(value)}")
    return int(value)


def shown(text: bytes) -> str:
    """Write what a peer sent for a message: ASCII, and short."""
    whole = brief(text.decode("latin-1"))
    return ascii(whole.removesuffix("…")) + ("…" if len(text) > 80 else "")
