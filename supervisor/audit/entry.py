"""The log's entry and its frame: the bytes that are hashed, chained and checked.

An entry is one JSON object in canonical form, at most 65 535 bytes, so that it fits the entry
bundles of C2SP tlog-tiles. Its leaf hash is the one of RFC 6962, SHA-256 over a zero byte and
the entry, so that a Merkle tree can be built over the log as it lies there. Each entry names the
leaf hash of the one before it.

    {"body":{…},"call":"…","index":7,"kind":"output","prev":"…","sequence":3,"time_ns":…}

A frame is an entry on disk:

    u32 length of the entry · u32 CRC-32C over all other bytes of the frame ·
    u64 how many entries of the log were durable when this one was written ·
    the entry · 32 bytes leaf hash

The checksum finds damage, the leaf hash and the chain find edits. The count of durable entries
decides after a power cut whether a damaged frame may be cut off: never where a later frame says
that it had been durable.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import google_crc32c
import orjson

from supervisor.call.types import Json, canonical_json
from supervisor.errors import InvariantError

ENTRY_BYTES_MAX = 65_535
TOO_LARGE = "ENTRY_TOO_LARGE"
Leaf = tuple[bytes, bytes]
"""An entry, and its leaf hash."""

LEAF_BYTES = 32
NO_LEAF = bytes(LEAF_BYTES)
"""What the first entry of a log names as the one before it."""

HEADER = struct.Struct(">IIQ")
PAYLOAD_PREFIX = b'{"body":'
FRAME_BYTES_MAX = HEADER.size + ENTRY_BYTES_MAX + LEAF_BYTES

CALL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CHECKED = struct.Struct(">IQ")
# The body comes first and quotes inside of strings are escaped, so nothing in a body can look
# like this at the very end.
_AFTER_BODY = b',"call":"'
_TAIL = re.compile(
    _AFTER_BODY + rb'([A-Za-z0-9._-]{0,64})","index":(\d{1,20}),"kind":"([a-z_]{1,32})",'
    rb'"prev":"([0-9a-f]{64})","sequence":(\d{1,20}),"time_ns":(\d{1,20})\}'
)
NAMES = re.compile(r"[A-Za-z0-9._-]{0,64} [a-z_]{1,32}")
"""A call and a kind, as a tail can have them."""

CALL, INDEX, KIND, PREV, SEQUENCE, TIME = range(1, 7)
"""What the groups of a tail are."""
_LONG = re.compile(rb"[0-9]{20}")


class Kind(enum.StrEnum):
    """What an entry tells. The first group belongs to a call, the second to the daemon."""

    INTENT = "intent"
    STARTED = "started"
    OUTPUT = "output"
    TRUNCATED = "truncated"
    DENIED = "denied"
    PROCESSES = "processes"
    WATCHED = "watched"
    FLOW = "flow"
    LOST = "lost"
    SIGNAL = "signal"
    RESIZED = "resized"
    OUTCOME = "outcome"

    DAEMON_STARTED = "daemon_started"
    DAEMON_STOPPED = "daemon_stopped"
    LOG_CUT = "log_cut"
    BLOB = "blob"
    POLICY = "policy"
    READ = "read"
    REFUSED = "refused"
    UNAUTHENTICATED = "unauthenticated"
    REFUSALS_DROPPED = "refusals_dropped"
    KEY_ROTATED = "key_rotated"
    REMOVED = "removed"
    HELD = "held"
    RELEASED = "released"
    ERASED = "erased"
    WITNESSED = "witnessed"
    HEAD_CONTRADICTED = "head_contradicted"
    CONSOLE_ENTERED = "console_entered"
    EXPORT = "export"


CALL_KINDS = frozenset(
    {
        Kind.INTENT,
        Kind.STARTED,
        Kind.OUTPUT,
        Kind.TRUNCATED,
        Kind.DENIED,
        Kind.PROCESSES,
        Kind.WATCHED,
        Kind.FLOW,
        Kind.LOST,
        Kind.SIGNAL,
        Kind.RESIZED,
        Kind.OUTCOME,
    }
)

UNMARKED_MODE = "enforce"


def marked(body: Mapping[str, Json], mode: str) -> Mapping[str, Json]:
    """Give the body of an entry of a call in this mode: each of one that is not enforced says so.

    The mark is part of what is hashed, so that no entry of such a call can be read without it.
    """
    return body if mode == UNMARKED_MODE else {**body, "mode": mode}


# One of each is made for every entry that is written or read. A frozen dataclass takes three times
# as long to make, so these are none: nobody changes them all the same.


@dataclass(slots=True, kw_only=True)
class Head:
    """The fields of an entry around its body; `prev` is the leaf hash of the entry before."""

    index: int
    prev: bytes
    time_ns: int
    kind: str
    call: str
    sequence: int


class Position(NamedTuple):
    """Where a frame begins: the first index of its segment, and the offset in the file."""

    segment: int
    offset: int


@dataclass(slots=True, kw_only=True)
class StoredEntry:
    """An entry as it lies in the log: `leaf`, in hexadecimal, is the SHA-256 of a zero byte and
    `json`, the exact bytes."""

    head: Head
    json: bytes
    leaf: str
    position: Position

    @property
    def index(self) -> int:
        """Give the position in the log, from 0."""
        return self.head.index

    @property
    def sequence(self) -> int:
        """Give the number within the call, from 1; 0 for the daemon's own entries."""
        return self.head.sequence

    @property
    def time_ns(self) -> int:
        """Give when it was written, in nanoseconds since the epoch."""
        return self.head.time_ns

    @property
    def kind(self) -> str:
        """Give the kind, as in the record."""
        return self.head.kind

    @property
    def call_id(self) -> str:
        """Give the call, "" for the daemon's own entries."""
        return self.head.call

    def body(self) -> dict[str, Json]:
        """Decode the body."""
        return body_of(self.json)


def leaf_hash(payload: bytes) -> bytes:
    """Give the leaf hash of an entry (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x00" + payload).digest()


def encode_entry(head: Head, body: Mapping[str, Json]) -> bytes:
    """Give the exact bytes of an entry.

    Raises:
        InvariantError: `ENTRY_TOO_LARGE`; whoever makes a body keeps it small. `ENTRY_INTEGER`.
    """
    plain = body if type(body) is dict else dict(body)
    payload = _encoded(
        {
            "body": plain,
            "call": head.call,
            "index": head.index,
            "kind": head.kind,
            "prev": head.prev.hex(),
            "sequence": head.sequence,
            "time_ns": head.time_ns,
        },
        plain,
    )
    _require_fit(head.kind, payload)
    return payload


def encode_body(body: Mapping[str, Json]) -> bytes:
    """Give the exact bytes of a body, as an entry has them.

    Raises:
        InvariantError: `ENTRY_INTEGER`.
    """
    plain = body if type(body) is dict else dict(body)
    return _encoded(plain, plain)


def encode_bodies(bodies: Sequence[Mapping[str, Json]]) -> list[bytes]:
    """Do as `encode_body` does with each."""
    try:
        encoded = [orjson.dumps(body, option=orjson.OPT_SORT_KEYS) for body in bodies]
    except orjson.JSONEncodeError:
        return [encode_body(body) for body in bodies]
    return encoded if all(map(bytes.isascii, encoded)) else [encode_body(body) for body in bodies]


def _encoded(value: dict[str, Json], body: dict[str, Json]) -> bytes:
    """Give canonical JSON, where it can be by `orjson`, which needs a sixth of the time: it writes
    the same for all that is ASCII, but for how floats are spelled."""
    try:
        encoded = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # A lone surrogate, or an integer beyond 64 bits.
        encoded, text = canonical_json(value), canonical_json(body)
        if _decoded(text) != json.loads(text):
            raise InvariantError("ENTRY_INTEGER", "an integer below 64 bits") from None
    return encoded if encoded.isascii() else canonical_json(value)


def around(head: Head, body: bytes) -> bytes:
    """Give the exact bytes of an entry whose body is encoded.

    Raises:
        InvariantError: `ENTRY_TOO_LARGE`; `ENTRY_NAMES`, where call or kind are spelled as neither.
    """
    if not NAMES.fullmatch(f"{head.call} {head.kind}"):
        raise InvariantError("ENTRY_NAMES", f"an entry of kind {head.kind!r} of {head.call!r}")
    tail = (
        f',"call":"{head.call}","index":{head.index},"kind":"{head.kind}",'
        f'"prev":"{head.prev.hex()}","sequence":{head.sequence},"time_ns":{head.time_ns}}}'
    )
    payload = b"".join((PAYLOAD_PREFIX, body, tail.encode()))
    _require_fit(head.kind, payload)
    return payload


def _require_fit(kind: str, payload: bytes) -> None:
    if len(payload) > ENTRY_BYTES_MAX:
        raise InvariantError(
            TOO_LARGE, f"a {kind} entry of {len(payload)} bytes: {ENTRY_BYTES_MAX} fit"
        )


def tail_of(payload: bytes) -> re.Match[bytes] | None:
    """Give what stands in an entry after its body, or None where `payload` is no entry of ours."""
    at = payload.rfind(_AFTER_BODY)
    if at < 0 or not payload.startswith(PAYLOAD_PREFIX):
        return None
    return _TAIL.fullmatch(payload, at)


def head_of(tail: re.Match[bytes]) -> Head:
    """Give the fields that a tail tells."""
    return Head(
        index=int(tail[INDEX]),
        prev=bytes.fromhex(tail[PREV].decode()),
        time_ns=int(tail[TIME]),
        kind=tail[KIND].decode(),
        call=tail[CALL].decode(),
        sequence=int(tail[SEQUENCE]),
    )


def decode_head(payload: bytes) -> Head | None:
    """Give the fields around the body, or None where `payload` is no entry of ours."""
    tail = tail_of(payload)
    return None if tail is None else head_of(tail)


def mark_of_call(call_id: str) -> bytes:
    """Give bytes that every entry of a call has in it, and hardly any other entry."""
    return f'"call":"{call_id}","index":'.encode()


def mark_of_index(index: int) -> bytes:
    """Give bytes that the entry with this index has in it, and hardly any other."""
    return f'","index":{index},"kind":"'.encode()


def body_of(payload: bytes) -> dict[str, Json]:
    """Decode the body of an entry."""
    return _decoded(payload[len(PAYLOAD_PREFIX) : payload.rindex(_AFTER_BODY)])


def _decoded(text: bytes) -> dict[str, Json]:
    try:
        # `orjson` takes no lone surrogate, and would make a float of an integer beyond 64 bits.
        body = orjson.loads(text) if _LONG.search(text) is None else json.loads(text)
    except orjson.JSONDecodeError:
        body = _slowly(text)
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(body, dict):
        raise TypeError("the body of an entry is an object")
    return body


def _slowly(text: bytes) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise _too_deep() from None


def _too_deep() -> ValueError:
    return ValueError("it is nested too deeply")


def encode_frame(payload: bytes, leaf: bytes, durable: int) -> bytes:
    """Give the frame of an entry; `durable` entries are known to be on disk."""
    length, rest = len(payload), payload + leaf
    checksum = google_crc32c.value(_CHECKED.pack(length, durable) + rest)
    return HEADER.pack(length, checksum, durable) + rest


def frame_checksum(length: int, durable: int, payload_and_leaf: bytes) -> int:
    """Give the checksum that a frame should have."""
    return int(google_crc32c.value(_CHECKED.pack(length, durable) + payload_and_leaf))
