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
import itertools
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from supervisor.audit.merkle import EMPTY_ROOT, HASH_BYTES, node_hash, root_of_leaves

WIDTH = 256
"""Hashes of a full tile, and entries of a full bundle."""

HEIGHT = 8
LEVELS_MAX = 8
"""A tree has fewer than 2^64 leaves."""

FILE_BYTES_MAX = WIDTH * (2 + 65_535) + 1
"""One more than a full bundle of the longest entries has."""

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


def pack_bundle(entries: Sequence[bytes]) -> bytes:
    """Give the bytes of a bundle; an entry has at most 65 535 bytes."""
    lengths = map(_LENGTH.pack, map(len, entries))
    return b"".join(itertools.chain.from_iterable(zip(lengths, entries, strict=True)))


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


class Edge:
    """The hashes of one level that fill no tile yet, and those of the nodes above them within it:
    each of these is made once, when it is asked for."""

    def __init__(self, hashes: Sequence[bytes] = ()) -> None:
        self._rows: list[list[bytes]] = [list(hashes), *([] for _ in range(HEIGHT))]
        self.hashes = self._rows[0]

    def root(self, rest: bytes | None = None) -> bytes | None:
        """Give the root over them, and over what follows them and has the root `rest`; None where
        there is nothing."""
        for row in self.rows():
            if len(row) % 2:
                rest = row[-1] if rest is None else node_hash(row[-1], rest)
        return rest

    def rows(self) -> Sequence[Sequence[bytes]]:
        """Give the hashes and, row by row, those of the complete subtrees above them."""
        for row, above in itertools.pairwise(self._rows):
            begin = 2 * len(above)
            pairs = zip(row[begin::2], row[begin + 1 :: 2], strict=False)
            above += [node_hash(left, right) for left, right in pairs]
        return self._rows


class Growth:
    """The right edge of a growing tree."""

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[Edge] = [Edge()]

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
            growth._edge.append(Edge(read_tile(read, level, size // WIDTH, width) if width else ()))
            size, level = size // WIDTH, level + 1
        return growth

    def add(self, leaf: bytes) -> list[tuple[str, bytes]]:
        """Take a leaf hash; give the tiles that it fills, as path and bytes."""
        filled: list[tuple[str, bytes]] = []
        level, at = 0, leaf
        while True:
            if level == len(self._edge):
                self._edge.append(Edge())
            edge = self._edge[level]
            edge.hashes.append(at)
            if len(edge.hashes) < WIDTH:
                break
            number = self.size >> (HEIGHT * (level + 1))
            filled.append((tile_path(level, number), b"".join(edge.hashes)))
            at = edge.rows()[HEIGHT][0]
            self._edge[level] = Edge()
            level += 1
        self.size += 1
        return filled

    def extend(self, leaves: Sequence[bytes]) -> list[tuple[str, bytes]]:
        """Do as `add` does with each; it takes less time for many at once."""
        filled, at = list[tuple[str, bytes]](), 0
        while at < len(leaves):
            edge = self._edge[0].hashes
            part = leaves[at : at + WIDTH - 1 - len(edge)]  # All but the one that fills the tile.
            edge += part
            self.size += len(part)
            at += len(part)
            if at < len(leaves):
                filled += self.add(leaves[at])
                at += 1
        return filled

    def partial(self) -> list[tuple[str, bytes]]:
        """Give the tiles that are not full, as path and bytes."""
        return [
            (tile_path(level, number, len(rows[0])), b"".join(rows[0]))
            for (level, number), rows in self.rows().items()
        ]

    def rows(self) -> dict[tuple[int, int], list[list[bytes]]]:
        """Give the rows of the tiles that are not full, by level and number, as they are now."""
        return {
            (level, self.size >> (HEIGHT * (level + 1))): list(map(list, edge.rows()))
            for level, edge in enumerate(self._edge)
            if edge.hashes
        }

    def root(self) -> bytes:
        """Give the root over all leaves."""
        at: bytes | None = None
        for edge in self._edge:
            at = edge.root(at)
        return EMPTY_ROOT if at is None else at


class TileReader:
    """The subtrees of a tree of `size` leaves (`merkle.Subtrees`), from its tiles; of those whose
    rows are given, by level and number, nothing is read or hashed."""

    def __init__(
        self,
        size: int,
        read: Read,
        rows: Mapping[tuple[int, int], Sequence[Sequence[bytes]]] | None = None,
    ) -> None:
        self.size = size
        self._read = read
        self._rows = rows or {}
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
        rows = self._rows.get((tile_level, number))
        if rows is not None:
            return rows[within][offset >> within]
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

    def read(path: str) -> bytes:
        with (folder / path).open("rb") as file:
            return file.read(FILE_BYTES_MAX)

    return read


def tile_hash(data: bytes) -> bytes:
    """Give the hash that a full tile has in the level above."""
    return root_of_leaves(_hashes(data, WIDTH, "a tile"))


def _hashes(data: bytes, width: int, path: str) -> list[bytes]:
    if len(data) != width * HASH_BYTES:
        raise TileError(f"{path} has {len(data)} bytes, not {width * HASH_BYTES}")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
