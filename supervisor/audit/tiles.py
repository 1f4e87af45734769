"""The tree and the entries of the log in the layout of C2SP tlog-tiles.

    checkpoint                 the latest signed head of the tree (`checkpoints`)
    tile/<L>/<N>[.p/<W>]       256 hashes of level L, or W of them where there are no more
    tile/entries/<N>[.p/<W>]   the entries below the same tile of level 0

A hash of level L is that of a full tile of level L - 1. Whoever has the folder can compute every
proof, and needs nothing of ours for it. Tiles are the tree's only form at rest: a full one never
changes, and a partial one belongs to a size for which there was a checkpoint.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from supervisor.audit.merkle import EMPTY_ROOT, HASH_BYTES, root_of_leaves

WIDTH = 256
"""Hashes of a full tile, and entries of a full bundle."""

HEIGHT = 8
LEVELS_MAX = 8
"""A tree has fewer than 2^64 leaves."""

TILES_KEPT = 64
"""Of one reader, 8 KiB each."""

CHECKPOINT = "checkpoint"

Read = Callable[[str], bytes]
"""Gives a file by its path below the log, or raises FileNotFoundError."""

_LENGTH = struct.Struct(">H")


class TileError(Exception):
    """A tile or a bundle that is missing or is not what it should be; the text names it."""


def tile_path(level: int, number: int, width: int = WIDTH) -> str:
    """Give the path of a tile; one with fewer than 256 hashes is a partial one."""
    return f"tile/{level}/{_spelled(number, width)}"


def bundle_path(number: int, width: int = WIDTH) -> str:
    """Give the path of a bundle of entries."""
    return f"tile/entries/{_spelled(number, width)}"


def _spelled(number: int, width: int) -> str:
    if number < 0 or not 0 < width <= WIDTH:
        raise ValueError(f"tile {number} with {width} hashes")
    digits = f"{number:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return path if width == WIDTH else f"{path}.p/{width}"


def tiles_of(size: int) -> Iterator[tuple[int, int, int]]:
    """Give level, number and width of every tile of a tree of `size` leaves."""
    level = 0
    while size:
        yield from ((level, number, WIDTH) for number in range(size // WIDTH))
        if size % WIDTH:
            yield level, size // WIDTH, size % WIDTH
        size, level = size // WIDTH, level + 1


def pack_bundle(entries: Iterable[bytes]) -> bytes:
    """Give the bytes of a bundle; an entry has at most 65 535 bytes."""
    return b"".join(_LENGTH.pack(len(entry)) + entry for entry in entries)


def unpack_bundle(data: bytes) -> list[bytes]:
    """Give the entries of a bundle.

    Raises:
        TileError: it ends within one.
    """
    entries, at = [], 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise TileError("the bundle ends within a length")
        begin = at + _LENGTH.size
        at = begin + _LENGTH.unpack_from(data, at)[0]
        if at > len(data):
            raise TileError("the bundle ends within an entry")
        entries.append(data[begin:at])
    return entries


class Growth:
    """The right edge of a growing tree: the hashes of each level that fill no tile yet."""

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[list[bytes]] = [[]]

    @classmethod
    def at(cls, size: int, read: Read) -> Growth:
        """Take up a tree of `size` leaves from its partial tiles, which `read` gives by path.

        Raises:
            TileError: one of them is not what it should be.
        """
        growth = cls()
        growth.size = size
        growth._edge = []
        level = 0
        while size or not growth._edge:
            width = size % WIDTH
            growth._edge.append(read_tile(read, level, size // WIDTH, width) if width else [])
            size, level = size // WIDTH, level + 1
        return growth

    def add(self, leaf: bytes) -> list[tuple[str, bytes]]:
        """Take a leaf hash; give the tiles that it fills, as path and bytes."""
        filled: list[tuple[str, bytes]] = []
        level, at = 0, leaf
        while True:
            if level == len(self._edge):
                self._edge.append([])
            edge = self._edge[level]
            edge.append(at)
            if len(edge) < WIDTH:
                break
            number = self.size >> (HEIGHT * (level + 1))
            filled.append((tile_path(level, number), b"".join(edge)))
            at = root_of_leaves(edge)
            edge.clear()
            level += 1
        self.size += 1
        return filled

    def partial(self) -> list[tuple[str, bytes]]:
        """Give the tiles that are not full, as path and bytes."""
        return [
            (tile_path(level, self.size >> (HEIGHT * (level + 1)), len(edge)), b"".join(edge))
            for level, edge in enumerate(self._edge)
            if edge
        ]

    def root(self) -> bytes:
        """Give the root over all leaves."""
        at: bytes | None = None
        for edge in self._edge:
            if edge and at is not None:
                at = root_of_leaves([*edge, at])
            elif edge:
                at = root_of_leaves(edge)
        return EMPTY_ROOT if at is None else at


class TileReader:
    """The subtrees of a tree of `size` leaves (`merkle.Subtrees`), from its tiles."""

    def __init__(self, size: int, read: Read) -> None:
        self.size = size
        self._read = read
        self._tile = functools.lru_cache(maxsize=TILES_KEPT)(self._load)

    def at(self, level: int, index: int) -> bytes:
        """Give the hash of a complete subtree.

        Raises:
            TileError: its tile is missing, or too short.
        """
        if (index + 1) << level > self.size:
            raise ValueError(f"subtree {index} of level {level} in a tree of {self.size}")
        tile_level, within = divmod(level, HEIGHT)
        first = index << within
        number, offset = divmod(first, WIDTH)
        tile = self._tile(tile_level, number)
        return root_of_leaves(tile[offset : offset + (1 << within)])

    def leaf(self, index: int) -> bytes:
        """Give a leaf hash."""
        return self.at(0, index)

    def _load(self, level: int, number: int) -> Sequence[bytes]:
        have = self.size >> (HEIGHT * level)
        return read_tile(self._read, level, number, min(WIDTH, have - number * WIDTH))


def read_tile(read: Read, level: int, number: int, width: int) -> list[bytes]:
    """Give the hashes of a tile; a partial one may be gone once the full one is there.

    Raises:
        TileError: it is missing, or too short.
    """
    path = tile_path(level, number, width)
    data, full = _either(read, path, tile_path(level, number))
    return _hashes(data, WIDTH if full else width, path)[:width]


def read_bundle(read: Read, number: int, width: int) -> list[bytes]:
    """Give the entries of a bundle; the same holds.

    Raises:
        TileError: it is missing, or has another number of entries.
    """
    path = bundle_path(number, width)
    data, full = _either(read, path, bundle_path(number))
    entries = unpack_bundle(data)
    if len(entries) != (WIDTH if full else width):
        raise TileError(f"{path} has {len(entries)} entries")
    return entries[:width]


def _either(read: Read, path: str, full: str) -> tuple[bytes, bool]:
    try:
        return read(path), path == full
    except FileNotFoundError:
        if path == full:
            raise TileError(f"{path} is missing") from None
    try:
        return read(full), True
    except FileNotFoundError:
        raise TileError(f"{path} is missing, and so is the full one") from None


def folder_reader(folder: Path) -> Read:
    """Read files of a log that lies in a folder."""
    return lambda path: (folder / path).read_bytes()


def tile_hash(data: bytes) -> bytes:
    """Give the hash that a full tile has in the level above."""
    return root_of_leaves(_hashes(data, WIDTH, "a tile"))


def _hashes(data: bytes, width: int, path: str) -> list[bytes]:
    if len(data) != width * HASH_BYTES:
        raise TileError(f"{path} has {len(data)} bytes, not {width * HASH_BYTES}")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
