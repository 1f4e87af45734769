"""Frames of the log, many at a time: made and checked in C (`native/frames.c`), where that is built
and its libcrypto is here, else by what does the same with one.

Python stays the one that decides: what C makes is what `entry` would, byte for byte, and where it
meets anything but flawless entries it stops, and leaves the rest to `segment`.
"""

from __future__ import annotations

import array
import ctypes
import functools
import logging
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import google_crc32c

from supervisor.audit.entry import (
    CALL,
    ENTRY_BYTES_MAX,
    HEADER,
    INDEX,
    KIND,
    LEAF_BYTES,
    NAMES,
    PREV,
    SEQUENCE,
    Head,
    around,
    encode_frame,
    leaf_hash,
    tail_of,
)

LIBRARY_NAME = "libframes.so"
VERSION = 2
"""Of what the library takes and gives."""

AROUND_BYTES = 512
"""More than a frame has around its body."""

INDEX_END = 1 << 64
"""C counts no further."""

FRAME_BYTES_LEAST = 180
"""No frame is shorter."""

_ENTRY = struct.Struct("=8IQ")
"""As `struct entry` in C."""

_START = struct.Struct(">II")

CONTROLS = bytes([*range(0x20), 0x7F])

_BYTES, _PLACE = ctypes.c_char_p, ctypes.c_void_p
_U32, _U64, _SIZE = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t

log = logging.getLogger("stockade.audit")


class Frames(NamedTuple):
    """Entries that follow each other, in their frames: `ends` are where these end in `data`."""

    data: bytes
    ends: Sequence[int]
    payloads: list[bytes]
    leaves: list[bytes]


class Seen(NamedTuple):
    """Flawless frames at the beginning of a buffer, in lists of what each has: its entry and leaf
    hash; where in that the body ends; call, kind and sequence; and where its frame begins. `end` is
    where the last one ends."""

    payloads: list[bytes]
    leaves: list[bytes]
    tails: list[int]
    calls: list[tuple[bytes, bytes, int]]
    begins: list[int]
    end: int


def make_frames(first: Head, bodies: Sequence[bytes], durable: int) -> Frames:
    """Give the frames of entries of one call and kind, of which `first` is the head of the first;
    `bodies` are encoded.

    Raises:
        InvariantError: `ENTRY_TOO_LARGE`, `ENTRY_NAMES`.
    """
    library = native()
    made = None if library is None else _make(library, first, bodies, durable)
    return _make_here(first, bodies, durable) if made is None else made


def see_frames(buffer: bytes, index: int, leaf: bytes) -> Seen:
    """Give the frames at the beginning of `buffer` that follow the entry before `index`, whose leaf
    hash is `leaf`, as far as all is well with them."""
    library = native()
    if library is not None and index + len(buffer) < INDEX_END:
        seen = _see(library, buffer, index, leaf)
        if seen is not None and seen.payloads:
            return seen
    return _see_here(buffer, index, leaf)  # also what is spelled in another way than ours


def count_controls(text: bytes) -> int:
    """Give how many bytes of a text are control characters of ASCII: those are no part of a line.
    Python takes 1 ns for a byte of that, which is more than it takes to write it."""
    library = native()
    if library is None:
        return len(text) - len(text.translate(None, CONTROLS))
    return int(library.stockade_count_controls(text, len(text)))


@functools.cache
def native() -> ctypes.CDLL | None:
    """Give the library; None where it is not to be had."""
    package = Path(__file__).resolve().parent
    packaged = package.parent / "_data" / LIBRARY_NAME
    path = packaged if packaged.is_file() else package / "native" / ".output" / LIBRARY_NAME
    try:
        library = ctypes.CDLL(str(path))
        make, see = library.stockade_make_frames, library.stockade_read_frames
        count = library.stockade_count_controls
        version = library.stockade_frames_version()
        if version != VERSION:
            raise OSError(f"{path} is of version {version}, and {VERSION} is wanted: run make")
    except (OSError, AttributeError) as error:
        log.warning("the log is written and read without its library, and slower: %s", error)
        return None
    make.restype = see.restype = ctypes.c_int64
    make.argtypes = (
        _BYTES,
        _PLACE,
        _U32,
        _BYTES,
        _BYTES,
        *[_U64] * 4,
        _PLACE,
        _PLACE,
        _SIZE,
        _PLACE,
    )
    see.argtypes = (_BYTES, _SIZE, _U64, _BYTES, _PLACE, _SIZE)
    count.restype, count.argtypes = ctypes.c_uint64, (_BYTES, _SIZE)
    return library


def _make(
    library: ctypes.CDLL, first: Head, bodies: Sequence[bytes], durable: int
) -> Frames | None:
    """Make them in C; None where that cannot be."""
    if not NAMES.fullmatch(f"{first.call} {first.kind}"):
        return None
    joined, lengths = b"".join(bodies), array.array("I", map(len, bodies))
    room = len(joined) + AROUND_BYTES * len(bodies)
    out, ends = bytearray(room), array.array("I", bytes(4 * len(bodies)))
    leaf = bytearray(first.prev)
    done = library.stockade_make_frames(
        joined, lengths.buffer_info()[0], len(bodies), first.call.encode(), first.kind.encode(),
        first.index, first.sequence, first.time_ns, durable,
        _place_of(leaf), _place_of(out), room, ends.buffer_info()[0],
    )  # fmt: skip
    if done < 0:
        return None
    data = bytes(memoryview(out)[:done])
    payloads, begin = [], 0
    for end in ends:
        payloads.append(data[begin + HEADER.size : end - LEAF_BYTES])
        begin = end
    return Frames(data, ends, payloads, [data[end - LEAF_BYTES : end] for end in ends])


def _make_here(first: Head, bodies: Sequence[bytes], durable: int) -> Frames:
    frames, ends, payloads, leaves, at = list[bytes](), list[int](), list[bytes](), [first.prev], 0
    for number, body in enumerate(bodies):
        head = replace(
            first, index=first.index + number, sequence=first.sequence + number, prev=leaves[-1]
        )
        payload = around(head, body)
        leaf = leaf_hash(payload)
        frames.append(encode_frame(payload, leaf, durable))
        at += len(frames[-1])
        ends.append(at)
        payloads.append(payload)
        leaves.append(leaf)
    return Frames(b"".join(frames), ends, payloads, leaves[1:])


def _see(library: ctypes.CDLL, buffer: bytes, index: int, leaf: bytes) -> Seen | None:
    """Look at them in C; None where that cannot be."""
    most = len(buffer) // FRAME_BYTES_LEAST + 1
    out = bytearray(_ENTRY.size * most)
    count = library.stockade_read_frames(buffer, len(buffer), index, leaf, _place_of(out), most)
    if count < 0:
        return None
    seen = list(_ENTRY.iter_unpack(memoryview(out)[: _ENTRY.size * count]))
    ends = [begin + length for begin, length, *_ in seen]
    return Seen(
        payloads=[buffer[one[0] : end] for one, end in zip(seen, ends, strict=True)],
        leaves=[buffer[end : end + LEAF_BYTES] for end in ends],
        tails=[one[2] - one[0] for one in seen],
        calls=[
            (buffer[call : call + length], buffer[kind : kind + more], sequence)
            for _, _, _, call, length, kind, more, _, sequence in seen
        ],
        begins=[one[0] - HEADER.size for one in seen],
        end=ends[-1] + LEAF_BYTES if ends else 0,
    )


def _see_here(buffer: bytes, index: int, leaf: bytes) -> Seen:
    seen = Seen([], [], [], [], [], 0)
    at, size, prev = 0, len(buffer), leaf.hex().encode()
    while at + HEADER.size <= size:
        length, checksum = _START.unpack_from(buffer, at)
        end = at + HEADER.size + length + LEAF_BYTES
        if length > ENTRY_BYTES_MAX or end > size:
            break
        checked = buffer[at + _START.size : end]
        payload, leaf = checked[HEADER.size - _START.size : -LEAF_BYTES], checked[-LEAF_BYTES:]
        tail = tail_of(payload)
        if (
            tail is None
            or tail[PREV] != prev
            or int(tail[INDEX]) != index
            or google_crc32c.value(buffer[at : at + 4] + checked) != checksum
            or leaf_hash(payload) != leaf
        ):
            break
        seen.payloads.append(payload)
        seen.leaves.append(leaf)
        seen.tails.append(tail.start())
        seen.calls.append((tail[CALL], tail[KIND], int(tail[SEQUENCE])))
        seen.begins.append(at)
        at, index, prev = end, index + 1, leaf.hex().encode()
    return seen._replace(end=at)


def _place_of(data: bytearray) -> ctypes.Array[ctypes.c_char]:
    return (ctypes.c_char * len(data)).from_buffer(data)
