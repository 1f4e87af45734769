"""Blobs: under their digest, durable, checked when read."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit.blobs import BlobStore
from supervisor.audit.compression import compress
from supervisor.call.types import Digest
from supervisor.errors import (
    AuditCorrupt,
    AuditUnavailable,
    CapacityError,
    InvalidRequest,
    NotFound,
    StockadeError,
)
from tests.support.descriptors import no_descriptors


def fail(what: str, error: OSError) -> StockadeError:
    return AuditUnavailable("JOURNAL_UNAVAILABLE", f"{what}: {error}")


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore.at(tmp_path / "blobs", fail)


def parts(blobs: BlobStore) -> list[str]:
    return [path.name for path in blobs.part_directory.iterdir()]


@settings(max_examples=30)
@given(data=st.binary(max_size=3000), repeat=st.sampled_from([1, 1000]))
def test_content_comes_back(
    data: bytes, repeat: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    blobs = BlobStore(tmp_path_factory.getbasetemp() / "shared", fail)
    if not blobs.part_directory.exists():
        blobs = BlobStore.at(tmp_path_factory.getbasetemp() / "shared", fail)
    digest = blobs.put(data * repeat)
    assert digest == Digest.of(data * repeat)
    assert blobs.has(digest)
    assert blobs.get(digest) == data * repeat


def test_a_blob_needs_nothing_of_ours_to_be_read(blobs: BlobStore, tmp_path: Path) -> None:
    digest = blobs.put(b"plain zstd\n" * 200_000)
    path = blobs.blob_path(digest.sha256)
    assert path.name == digest.sha256 + ".zst"
    assert path.stat().st_mode & 0o777 == 0o600
    assert parts(blobs) == []


def test_what_is_not_there_is_not_found(blobs: BlobStore) -> None:
    for sha256 in ("0" * 64, "../../../etc/passwd", "", "A" * 64):
        digest = Digest(sha256=sha256, size_bytes=1)
        assert not blobs.has(digest)
        with pytest.raises(NotFound) as caught:
            blobs.open(digest)
        assert caught.value.reason == "BLOB_NOT_FOUND"


def test_damage_is_found_when_read(blobs: BlobStore) -> None:
    digest = blobs.put(os.urandom(5000))
    path = blobs.blob_path(digest.sha256)
    good = path.read_bytes()
    for at in range(0, len(good), 97):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(AuditCorrupt) as caught:
            blobs.get(digest)
        assert caught.value.reason == "DIGEST_MISMATCH"
    for cut in (0, 1, 100, len(good) - 13):  # the last 12 are not content
        path.write_bytes(good[:cut])
        with pytest.raises(AuditCorrupt):
            blobs.get(digest)


def test_any_flipped_bit_of_the_file_is_found(blobs: BlobStore) -> None:
    digest = blobs.put(b"abc" * 30)
    path = blobs.blob_path(digest.sha256)
    good = path.read_bytes()
    blobs.check_file(digest)
    for at in range(len(good)):
        for bit in range(8):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
            with pytest.raises(AuditCorrupt) as caught:
                blobs.check_file(digest)
            assert caught.value.reason == "DIGEST_MISMATCH"
    for cut in range(len(good)):
        path.write_bytes(good[:cut])
        with pytest.raises(AuditCorrupt):
            blobs.check_file(digest)


def test_an_upload_is_checked_against_its_digest(blobs: BlobStore) -> None:
    expected = Digest.of(b"hello")
    with blobs.writer(expected) as writer:
        writer.write(b"hel")
        writer.write(b"lo")
        assert writer.commit() == expected
    assert blobs.get(expected) == b"hello"


@pytest.mark.parametrize("content", [b"", b"hell", b"hellO", b"hello, and much more"])
def test_another_content_is_refused(content: bytes, blobs: BlobStore) -> None:
    with pytest.raises(InvalidRequest) as caught, blobs.writer(Digest.of(b"hello")) as writer:
        writer.write(content)
        writer.commit()
    assert caught.value.reason == "DIGEST_MISMATCH"
    assert parts(blobs) == []
    assert not blobs.has(Digest.of(content))


def test_an_upload_that_is_given_up_leaves_nothing(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"x")
        assert len(parts(blobs)) == 1
    assert parts(blobs) == []


def test_leftovers_are_swept_and_recordings_stay(blobs: BlobStore) -> None:
    (blobs.part_directory / "blob.0123").touch()
    (blobs.part_directory / "call-1").touch()
    blobs.sweep()
    assert parts(blobs) == ["call-1"]


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOSPC, "RECORD_FULL"), (errno.EIO, "JOURNAL_UNAVAILABLE")]
)
def test_a_failed_write(
    code: int, reason: str, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int, data: bytes) -> int:
        raise OSError(code, "no")

    with monkeypatch.context() as patch, pytest.raises(AuditUnavailable) as caught:
        patch.setattr(os, "write", broken)
        blobs.put(b"x" * 100)
    assert caught.value.reason == reason
    assert parts(blobs) == []


def test_compressors_are_not_shared_between_threads() -> None:
    data = [os.urandom(1 << 16) + bytes(1 << 18) for _ in range(4)]
    results: dict[int, list[bytes]] = {}

    def work(number: int) -> None:
        results[number] = [compress(data[number]) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [compress(item) for item in data]
    assert all(set(results[number]) == {expected[number]} for number in range(4))


def test_sha256sum_agrees_with_a_recording_name(blobs: BlobStore) -> None:
    (blobs.part_directory / "call-1").write_bytes(b"frames")
    sha256 = hashlib.sha256(b"frames").hexdigest()
    assert blobs.place_recording("call-1", sha256)
    shown = subprocess.run(
        ["sha256sum", blobs.recording_path(sha256)], check=True, capture_output=True, text=True
    )
    assert shown.stdout.split()[0] == blobs.recording_path(sha256).name


def test_without_a_descriptor_only_the_request_fails(blobs: BlobStore) -> None:
    kept = blobs.put(b"kept")
    writer = blobs.writer()
    writer.write(b"half")
    with no_descriptors():
        for attempt in (
            lambda: blobs.put(b"new"),
            lambda: blobs.open(kept),
            lambda: blobs.check_file(kept),
            writer.commit,
        ):
            with pytest.raises(CapacityError) as caught:
                attempt()
            assert caught.value.reason == "FDS_EXHAUSTED"
            assert caught.value.retry_after_s
    digest = writer.commit()  # nothing of it was given up
    assert blobs.get(digest) == b"half"
    assert parts(blobs) == []


def test_without_memory_only_the_request_fails(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: object) -> int:
        raise OSError(errno.ENOMEM, "no memory")

    with monkeypatch.context() as patch, pytest.raises(CapacityError) as caught:
        patch.setattr(os, "open", exhausted)
        blobs.put(b"new")
    assert caught.value.reason == "MEMORY_EXHAUSTED"
    assert blobs.get(blobs.put(b"new")) == b"new"


def test_deleting_the_parts_fails_what_lay_there(blobs: BlobStore) -> None:
    writer = blobs.writer()
    writer.write(b"half")
    shutil.rmtree(blobs.part_directory)
    with pytest.raises(AuditUnavailable) as caught:
        writer.commit()
    assert caught.value.reason == "RECORD_UNAVAILABLE"
    writer.close()
    assert blobs.get(blobs.put(b"after")) == b"after"


def test_a_folder_of_hashes_comes_back(blobs: BlobStore) -> None:
    digest = Digest.of(b"content")
    folder = blobs.blob_path(digest.sha256).parent
    folder.rmdir()
    assert blobs.put(b"content") == digest
    assert blobs.get(digest) == b"content"
    sha256 = "ab" * 32
    (blobs.part_directory / "call-1").write_bytes(b"recording")
    blobs.recording_path(sha256).parent.rmdir()
    assert blobs.place_recording("call-1", sha256)
    assert blobs.recording_path(sha256).read_bytes() == b"recording"
    assert blobs.place_recording("call-1", sha256)  # gone: there is nothing to try again
