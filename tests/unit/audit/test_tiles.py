"""Tiles: their paths, what is in them, and that a tree can be read and taken up from them alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit import merkle
from supervisor.audit.entry import leaf_hash
from supervisor.audit.tiles import (
    WIDTH,
    Growth,
    TileError,
    TileReader,
    bundle_path,
    folder_reader,
    pack_bundle,
    read_bundle,
    tile_hash,
    tile_path,
    tiles_of,
    unpack_bundle,
)
from tests.unit.audit import rfc6962

COUNT = 3 * WIDTH + 17
ENTRIES = tuple(b"entry %d" % number for number in range(COUNT))
LARGE = WIDTH * WIDTH + WIDTH + 3


def grown(count: int, entries: tuple[bytes, ...] = ENTRIES) -> tuple[Growth, dict[str, bytes]]:
    growth, files = Growth(), dict[str, bytes]()
    for entry in entries[:count]:
        files.update(growth.add(leaf_hash(entry)))
    files.update(growth.partial())
    return growth, files


def reader_of(files: dict[str, bytes], size: int, growth: Growth | None = None) -> TileReader:
    def read(path: str) -> bytes:
        try:
            return files[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    return TileReader(size, read, growth.rows() if growth else None)


# The first is the example of the specification.
@pytest.mark.parametrize(
    ("number", "path"),
    [
        (1234067, "tile/2/x001/x234/067"),
        (0, "tile/2/000"),
        (999, "tile/2/999"),
        (1000, "tile/2/x001/000"),
        (1_000_000_000, "tile/2/x001/x000/x000/000"),
    ],
)
def test_a_number_is_written_in_groups_of_three(number: int, path: str) -> None:
    assert tile_path(2, number) == path
    assert tile_path(2, number, 5) == f"{path}.p/5"
    assert bundle_path(number, 5) == f"{path.replace('/2/', '/entries/')}.p/5"


@pytest.mark.parametrize(("number", "width"), [(-1, 256), (0, 0), (0, 257)])
def test_there_is_no_such_tile(number: int, width: int) -> None:
    with pytest.raises(ValueError, match="tile"):
        tile_path(0, number, width)


def test_the_tiles_of_a_size_are_those_of_the_specifications_example() -> None:
    tiles = list(tiles_of(70_000))
    full = {level: sum(1 for one, _, width in tiles if (one, width) == (level, WIDTH))
            for level in range(3)}  # fmt: skip
    partial = {level: width for level, _, width in tiles if width < WIDTH}
    assert (full, partial) == ({0: 273, 1: 1, 2: 0}, {0: 112, 1: 17, 2: 1})
    assert list(tiles_of(256)) == [(0, 0, 256), (1, 0, 1)]
    assert list(tiles_of(0)) == []


@given(entries=st.lists(st.binary(max_size=400), max_size=20))
def test_a_bundle_gives_back_what_was_put_in(entries: list[bytes]) -> None:
    assert unpack_bundle(pack_bundle(entries)) == entries


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_a_bundle_that_is_cut_off_is_told(cut: int) -> None:
    data = pack_bundle([b"abc", b"defg"])
    with pytest.raises(TileError, match="ends within"):
        unpack_bundle(data[:-cut] if cut > 1 else data + b"\0")


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 513, COUNT])
def test_a_growing_tree_has_the_definitions_root_and_tiles(size: int) -> None:
    growth, files = grown(size)
    assert growth.size == size
    assert growth.root() == rfc6962.mth(ENTRIES[:size])
    assert set(files) == {tile_path(*tile) for tile in tiles_of(size)}
    for level, number, width in tiles_of(size):
        span = WIDTH**level
        begin = number * WIDTH * span
        expected = [
            rfc6962.mth(ENTRIES[begin + at * span : begin + (at + 1) * span]) for at in range(width)
        ]
        assert files[tile_path(level, number, width)] == b"".join(expected)


@given(data=st.data(), size=st.integers(1, COUNT))
def test_proofs_from_tiles_hold(data: st.DataObject, size: int) -> None:
    growth, files = grown(size)
    reader = reader_of(files, size)
    assert merkle.root(size, reader) == growth.root()
    index = data.draw(st.integers(0, size - 1))
    assert reader.leaf(index) == leaf_hash(ENTRIES[index])
    proof = merkle.inclusion_proof(index, size, reader)
    assert proof == rfc6962.path(index, ENTRIES[:size])
    full = {path: tile for path, tile in files.items() if ".p/" not in path}
    assert proof == merkle.inclusion_proof(index, size, reader_of(full, size, growth))
    old = data.draw(st.integers(1, size))
    shown = merkle.consistency_proof(old, size, reader)
    assert shown == rfc6962.proof(old, ENTRIES[:size])


def test_a_tree_with_three_levels() -> None:
    entries = tuple(b"%d" % number for number in range(LARGE))
    growth, files = grown(LARGE, entries)
    assert set(files) == {tile_path(*tile) for tile in tiles_of(LARGE)}
    reader = reader_of(files, LARGE)
    root = growth.root()
    assert merkle.root(LARGE, reader) == root == rfc6962.mth(entries)
    for index in (0, WIDTH, WIDTH * WIDTH - 1, WIDTH * WIDTH, LARGE - 1):
        proof = merkle.inclusion_proof(index, LARGE, reader)
        leaf = leaf_hash(entries[index])
        assert merkle.verify_inclusion(leaf, index, LARGE, proof, root)
    assert files[tile_path(1, 0)][:32] == tile_hash(files[tile_path(0, 0)])


@given(first=st.integers(0, 2 * WIDTH + 3), more=st.integers(0, WIDTH + 1))
def test_a_tree_is_taken_up_from_its_tiles(first: int, more: int) -> None:
    growth, files = grown(first)
    again = Growth.at(first, files.__getitem__)
    assert again.root() == growth.root()
    for entry in ENTRIES[first : first + more]:
        assert again.add(leaf_hash(entry)) == growth.add(leaf_hash(entry))
    assert again.partial() == growth.partial()
    assert again.root() == rfc6962.mth(ENTRIES[: first + more])


@given(parts=st.lists(st.integers(0, 2 * WIDTH + 3), max_size=5))
def test_many_leaves_at_once_make_the_same_tree(parts: list[int]) -> None:
    one, other, size = Growth(), Growth(), 0
    for part in parts:
        leaves = [leaf_hash(b"%d" % number) for number in range(size, size + part)]
        filled = [tile for leaf in leaves for tile in one.add(leaf)]
        assert other.extend(leaves) == filled
        assert (other.size, other.partial()) == (one.size, one.partial())
        assert other.root() == one.root()
        size += part


def test_a_partial_tile_may_be_gone_where_the_full_one_is_there() -> None:
    _, files = grown(WIDTH)
    for size in (1, 17, 255):
        assert merkle.root(size, reader_of(files, size)) == rfc6962.mth(ENTRIES[:size])


def test_what_is_missing_or_short_is_named() -> None:
    _, files = grown(WIDTH + 5)
    with pytest.raises(TileError, match=r"tile/0/001\.p/5 is missing, and so is the full one"):
        reader_of({"tile/0/000": files["tile/0/000"]}, WIDTH + 5).leaf(WIDTH)
    with pytest.raises(TileError, match="tile/0/000 is missing"):
        reader_of({}, WIDTH + 5).leaf(3)
    short = {**files, "tile/0/000": files["tile/0/000"][:-1]}
    with pytest.raises(TileError, match="tile/0/000 has 8191 bytes, not 8192"):
        reader_of(short, WIDTH + 5).leaf(3)
    with pytest.raises(ValueError, match="subtree"):
        reader_of(files, WIDTH + 5).at(8, 1)


def test_a_bundle_may_have_become_full() -> None:
    files = {bundle_path(0): pack_bundle(ENTRIES[:WIDTH]), bundle_path(1, 3): pack_bundle([b"a"])}

    def read(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    assert read_bundle(read, 0, 5) == list(ENTRIES[:5])
    with pytest.raises(TileError, match=r"001\.p/3 has 1 entries"):
        read_bundle(read, 1, 3)
    with pytest.raises(TileError, match=r"001\.p/4 is missing"):
        read_bundle(read, 1, 4)


def test_a_folder_is_read_by_path(tmp_path: Path) -> None:
    _, files = grown(WIDTH + 5)
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    reader = TileReader(WIDTH + 5, folder_reader(tmp_path))
    assert merkle.root(WIDTH + 5, reader) == rfc6962.mth(ENTRIES[: WIDTH + 5])
