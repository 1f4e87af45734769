"""The files of encrypted blobs: whole or not at all, with the key or not at all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit.blobs import CHUNK_BYTES, BlobStore
from supervisor.audit.sealed_blobs import (
    SealedForm,
    SealedReader,
    check_sealed,
    content_digest,
    key_of,
    open_sealed,
)
from supervisor.audit.sealing import ContentKey
from supervisor.call.types import Digest
from supervisor.errors import AuditCorrupt, InvalidRequest, NotFound, StockadeError

KEY = ContentKey.new("call-1")


def never(what: str, error: OSError) -> StockadeError:
    raise AssertionError(what) from error


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> BlobStore:
    return BlobStore.at(tmp_path_factory.mktemp("sealed") / "blobs", never)


def keys(key_id: str) -> ContentKey:
    assert key_id == "call-1"
    return KEY


def put(blobs: BlobStore, *pieces: bytes, key: ContentKey = KEY) -> Digest:
    with blobs.writer(form=SealedForm(key)) as writer:
        for piece in pieces:
            writer.write(piece)
        assert writer.commit() == Digest.of(b"".join(pieces)) == writer.content
        return writer.stored


@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.binary(max_size=300), max_size=4), last=st.sampled_from([0, CHUNK_BYTES]))
def test_content_comes_back(pieces: list[bytes], last: int, blobs: BlobStore) -> None:
    pieces = [*pieces, b"z" * (last + bool(last))]
    whole = b"".join(pieces)
    stored = put(blobs, *pieces)
    assert stored.size_bytes == len(whole) == check_sealed(blobs, stored)
    with open_sealed(blobs, stored, keys) as reader:
        assert b"".join(reader.chunks()) == whole
    with open_sealed(blobs, stored, keys) as reader:
        assert whole[:7].startswith(reader.read(7))
    assert content_digest(blobs, stored, keys) == Digest.of(whole)
    assert key_of(blobs, stored) == "call-1"
    assert not blobs.has(Digest.of(whole))


def test_the_same_content_twice_has_nothing_in_common(blobs: BlobStore) -> None:
    one, two = put(blobs, b"same" * 1000), put(blobs, b"same" * 1000)
    assert one != two
    files = [blobs.sealed_path(digest.sha256).read_bytes() for digest in (one, two)]
    head = len(b"STKSEAL1") + 1 + len("call-1")
    assert files[0][:head] == files[1][:head]
    windows = [{file[at : at + 32] for at in range(head, len(file) - 31)} for file in files]
    assert not windows[0] & windows[1]


def test_nothing_of_the_content_is_in_the_file(blobs: BlobStore, tmp_path: Path) -> None:
    digest = put(blobs, b"a secret that is short")
    data = blobs.sealed_path(digest.sha256).read_bytes()
    assert b"secret" not in data
    assert bytes.fromhex(Digest.of(b"a secret that is short").sha256) not in data


def test_damage_is_found_with_the_key_and_without(blobs: BlobStore) -> None:
    digest = put(blobs, b"first", b"second" * 100, b"third")
    path = blobs.sealed_path(digest.sha256)
    good = path.read_bytes()
    cases = [good[:at] for at in range(0, len(good), 7)]
    cases += [good + b"x", good[:40] + good[50:]]
    for at in {*range(40), *random.sample(range(len(good)), 60)}:
        cases.append(good[:at] + bytes([good[at] ^ (1 << random.randrange(8))]) + good[at + 1 :])
    try:
        for bad in cases:
            path.write_bytes(bad)
            with pytest.raises(AuditCorrupt):
                check_sealed(blobs, digest)
            with (
                pytest.raises((AuditCorrupt, AssertionError)),  # the name of another key
                open_sealed(blobs, digest, keys) as reader,
            ):
                list(reader.chunks())
    finally:
        path.write_bytes(good)


def test_parts_do_not_move_between_files_or_calls(blobs: BlobStore, tmp_path: Path) -> None:
    other = ContentKey.new("call-2")
    mine, theirs = put(blobs, b"one", b"two"), put(blobs, b"one", b"two", key=other)
    again = put(blobs, b"six", b"ten")
    bodies = [blobs.sealed_path(digest.sha256).read_bytes() for digest in (mine, again, theirs)]
    head = len(b"STKSEAL1") + 1 + len("call-1") + 16
    for body in bodies[1:]:
        mixed = tmp_path / "mixed"
        mixed.write_bytes(bodies[0][:head] + body[head:])
        with mixed.open("rb") as file, pytest.raises(AuditCorrupt):
            SealedReader(file, keys).read()
    length = (len(bodies[0]) - head - 4 - 12 - 28 - 32) // 2  # two parts of the same length
    parts = [bodies[0][head : head + length], bodies[0][head + length : head + 2 * length]]
    swapped = bodies[0][:head] + parts[1] + parts[0] + bodies[0][head + 2 * length :]
    for bad in (swapped, bodies[0][:head] + parts[0] + bodies[0][head + 2 * length :]):
        (tmp_path / "mixed").write_bytes(bad)
        with (tmp_path / "mixed").open("rb") as file, pytest.raises(AuditCorrupt):
            list(SealedReader(file, keys).chunks())


def test_another_content_than_announced_leaves_nothing(blobs: BlobStore) -> None:
    with blobs.writer(Digest.of(b"this"), SealedForm(KEY)) as writer:
        writer.write(b"that")
        with pytest.raises(InvalidRequest):
            writer.commit()
    assert list(blobs.part_directory.iterdir()) == []


def test_what_is_not_there(blobs: BlobStore) -> None:
    for sha256 in ("0" * 64, "x", "../../log.key"):
        with pytest.raises(NotFound):
            open_sealed(blobs, Digest(sha256=sha256, size_bytes=1), keys)
