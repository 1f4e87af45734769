"""What a storm is made of: requests and responses of any size, some of which break off. Pure.

Both sides draw an exchange from its number, which the request's head says: so each knows what the
other one sends, where it stops, and what it must itself never see.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from random import Random

NAME = "api.example.com"

BODY_BYTES_MAX = 6 << 20
OFFSETS = 1 << 20
BYTES = Random(1).randbytes(BODY_BYTES_MAX + OFFSETS)
"""Bodies are parts of this, each from an offset of its own: one that is mixed up is another."""

EDGES = (0, 1, 100, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1)
"""Sizes at which code decides: of one read, and of one pipe."""

CHUNKS = (1, 1000, 70_000)
CHUNKS_SMALL = 100
"""Chunks of such sizes at the beginning of a body; what follows is one of half a megabyte each."""

CHUNK_LARGE = 1 << 19


class Framing(enum.Enum):
    """How a response's body says where it ends."""

    LENGTH = enum.auto()
    CHUNKED = enum.auto()
    UNTIL_CLOSE = enum.auto()


class Side(enum.Enum):
    CLIENT = "client"
    FAR = "far side"


class How(enum.Enum):
    """How a side breaks off. After `END` it still reads."""

    CLOSE = enum.auto()
    RESET = enum.auto()
    END = enum.auto()


class Within(enum.Enum):
    REQUEST = enum.auto()
    RESPONSE = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Who breaks off an exchange, how, and in front of which byte of a message: `share` of it."""

    side: Side
    how: How
    within: Within
    share: float

    def is_by(self, side: Side, within: Within) -> bool:
        return self.side is side and self.within is within


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and its response; `request` is None for one without a body. Where it is `eager`,
    both sides move as much as they can at once. `polite` is a client that ends behind its request
    and waits for its response."""

    number: int
    request: int | None
    response: int
    framing: Framing
    offset: int
    eager: bool
    polite: bool
    broken: Break | None

    @classmethod
    def drawn(cls, number: int) -> Exchange:
        """Draw an exchange, the same for a number."""
        random = Random(number)
        framing = random.choices(list(Framing), (75, 20, 5))[0]
        return cls(
            number=number,
            request=_size(random) if random.random() < 0.5 else None,
            response=_size(random),
            framing=framing,
            offset=random.randrange(OFFSETS),
            eager=random.random() < 0.5,
            polite=random.random() < 0.05,
            broken=_broken(random, framing) if random.random() < 0.15 else None,
        )

    def body(self, size: int, at: int = 0) -> bytes:
        """Give `size` bytes of a body, from the byte `at` on: both bodies begin with the same."""
        return BYTES[self.offset + at : self.offset + at + size]

    def asked(self, port: int) -> bytes:
        """Write the request."""
        method, length = "GET", ""
        if self.request is not None:
            method, length = "PUT", f"Content-Length: {self.request}\r\n"
        lines = f"{method} /x HTTP/1.1\r\nHost: {NAME}:{port}\r\nX-Number: {self.number}\r\n"
        return f"{lines}{length}\r\n".encode() + self.body(self.request or 0)

    def answered(self) -> bytes:
        """Write the response."""
        first, body = b"HTTP/1.1 200 OK\r\n", self.body(self.response)
        match self.framing:
            case Framing.LENGTH:
                return first + b"Content-Length: %d\r\n\r\n" % self.response + body
            case Framing.UNTIL_CLOSE:
                return first + b"\r\n" + body
            case Framing.CHUNKED:
                return first + b"Transfer-Encoding: chunked\r\n\r\n" + self._chunked(body)

    def breaks(self, side: Side, within: Within) -> How | None:
        """Give how a side breaks off within a message, if it does."""
        if self.broken is not None and self.broken.is_by(side, within):
            return self.broken.how
        return None

    def until_break(self, message: bytes) -> bytes:
        """Give what of a message comes before the break: never all of it."""
        return message[: int(len(message) * self.broken.share)] if self.broken else message

    def _chunked(self, body: bytes) -> bytes:
        random, at = Random(self.number), 0
        parts: list[bytes] = []
        while at < len(body):
            large = self.eager or len(parts) >= CHUNKS_SMALL
            part = body[at : at + (CHUNK_LARGE if large else random.choice(CHUNKS))]
            parts.append(b"%x\r\n%b\r\n" % (len(part), part))
            at += len(part)
        return b"".join((*parts, b"0\r\n\r\n"))


def _size(random: Random) -> int:
    return random.choice((*EDGES, random.randrange(1 << 20), random.randrange(BODY_BYTES_MAX)))


def _broken(random: Random, framing: Framing) -> Break:
    side, within = random.choice(list(Side)), random.choice(list(Within))
    how = random.choice(list(How))
    if within is Within.RESPONSE and (side is Side.CLIENT or framing is Framing.UNTIL_CLOSE):
        # A client that ends behind its request breaks nothing (`polite`), and where the end of a
        # body is the connection's, only a reset shows that there was more.
        how = How.RESET if how is How.END or side is Side.FAR else how
    return Break(side=side, how=how, within=within, share=random.random())
