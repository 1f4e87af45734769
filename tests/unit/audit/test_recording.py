"""Recordings: frames that can be read alone, also while the call writes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.audit.blobs import BlobStore
from supervisor.audit.compression import compress
from supervisor.audit.recording import (
    FRAME_BYTES_MAX,
    FrameRef,
    RecordingReader,
    RecordingWriter,
    open_recording,
)
from supervisor.call.types import Digest, Stream
from supervisor.errors import AuditCorrupt, AuditUnavailable, StockadeError
from tests.support.descriptors import no_descriptors


def fail(what: str, error: OSError) -> StockadeError:
    return AuditUnavailable("JOURNAL_UNAVAILABLE", f"{what}: {error}")


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore.at(tmp_path / "blobs", fail)


def add(writer: RecordingWriter, data: bytes, offset: int = 0) -> FrameRef:
    frame = compress(data)
    ref = FrameRef(
        stream=Stream.STDOUT,
        offset=offset,
        length=len(data),
        frame_offset=writer.size,
        frame_length=len(frame),
        frame_sha256=hashlib.sha256(frame).hexdigest(),
    )
    writer.write(frame)
    writer.advance(frame)
    return ref


def test_nothing_recorded_leaves_no_file(blobs: BlobStore) -> None:
    writer = RecordingWriter(blobs, "call-1", fail)
    assert not writer.begun
    assert writer.seal() is None
    assert list(blobs.part_directory.iterdir()) == []


def test_frames_are_read_while_others_are_written(blobs: BlobStore) -> None:
    writer = RecordingWriter(blobs, "call-1", fail)
    first = add(writer, b"first")
    reader = open_recording(blobs, "call-1")
    assert reader is not None
    assert reader.read(first) == b"first"
    second = add(writer, b"x" * FRAME_BYTES_MAX)
    assert reader.read(second) == b"x" * FRAME_BYTES_MAX
    sealed = writer.seal()
    assert sealed is not None
    assert blobs.place_recording("call-1", sealed.sha256)
    assert reader.read(first) == b"first"
    assert reader.digest() == Digest(sha256=sealed.sha256, size_bytes=sealed.size_bytes)
    reader.close()
    again = open_recording(blobs, "call-1", sealed.sha256)
    assert again is not None
    assert again.read(second) == b"x" * FRAME_BYTES_MAX
    again.close()


def test_a_frame_that_did_not_get_into_the_log_is_cut(blobs: BlobStore) -> None:
    writer = RecordingWriter(blobs, "call-1", fail)
    ref = add(writer, b"kept")
    writer.write(compress(b"never named by an entry"))
    sealed = writer.seal()
    assert sealed is not None
    assert sealed.size_bytes == ref.frame_length
    path = blobs.part_directory / "call-1"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sealed.sha256


def test_a_frame_that_failed_is_written_over(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RecordingWriter(blobs, "call-1", fail)
    add(writer, b"one")

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch, pytest.raises(AuditUnavailable) as caught:
        patch.setattr(os, "pwrite", full)
        writer.write(b"two")
    assert caught.value.reason == "RECORD_FULL"
    ref = add(writer, b"three")
    reader = open_recording(blobs, "call-1")
    assert reader is not None
    assert reader.read(ref) == b"three"
    reader.close()
    assert writer.seal() is not None


def test_a_disk_that_fails_is_final(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RecordingWriter(blobs, "call-1", fail)
    add(writer, b"one")

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(AuditUnavailable) as caught:
        writer.seal()
    assert caught.value.reason == "JOURNAL_UNAVAILABLE"


def test_a_recording_is_of_one_call(blobs: BlobStore) -> None:
    add(RecordingWriter(blobs, "call-1", fail), b"one")
    with pytest.raises(AuditUnavailable) as caught:
        add(RecordingWriter(blobs, "call-1", fail), b"another")
    assert caught.value.reason == "JOURNAL_UNAVAILABLE"


@pytest.mark.parametrize(
    "change",
    [
        {"frame_sha256": "0" * 64},
        {"frame_offset": 1},
        {"frame_length": 5},
        {"length": 2},
        {"length": FRAME_BYTES_MAX + 1},
    ],
)
def test_a_frame_that_is_not_what_its_entry_says(change: dict[str, int], blobs: BlobStore) -> None:
    ref = add(RecordingWriter(blobs, "call-1", fail), b"abc")
    reader = open_recording(blobs, "call-1")
    assert reader is not None
    with pytest.raises(AuditCorrupt) as caught:
        reader.read(replace(ref, **change))  # type: ignore[arg-type]
    assert caught.value.reason == "DIGEST_MISMATCH"
    reader.close()


def test_a_frame_of_no_compressor_is_damage(blobs: BlobStore) -> None:
    writer = RecordingWriter(blobs, "call-1", fail)
    ref = add(writer, b"abc")
    junk = b"j" * ref.frame_length
    (blobs.part_directory / "call-1").write_bytes(junk)
    reader = open_recording(blobs, "call-1")
    assert reader is not None
    with pytest.raises(AuditCorrupt):
        reader.read(replace(ref, frame_sha256=hashlib.sha256(junk).hexdigest()))
    reader.close()


def test_a_reference_comes_back() -> None:
    ref = FrameRef(
        stream=Stream.STDIN, offset=1, length=2, frame_offset=3, frame_length=4, frame_sha256="a"
    )
    assert FrameRef.from_json(ref.to_json()) == ref
    assert ref.frame_end == 7
    with pytest.raises(TypeError):
        FrameRef.from_json({**ref.to_json(), "offset": "1"})


def test_a_recording_that_cannot_be_made_is_no_failure_of_the_disk(blobs: BlobStore) -> None:
    writer = RecordingWriter(blobs, "call-1", fail)
    with no_descriptors(), pytest.raises(AuditUnavailable) as caught:
        writer.write(compress(b"one"))
    assert caught.value.reason == "RECORD_UNAVAILABLE"
    assert not writer.begun
    assert writer.seal() is None


def test_sealing_needs_no_descriptor(blobs: BlobStore) -> None:
    writer = RecordingWriter(blobs, "call-1", fail)
    add(writer, b"one")
    with no_descriptors():
        sealed = writer.seal()
        assert sealed is not None
        assert blobs.place_recording("call-1", sealed.sha256)
    assert hashlib.sha256(blobs.recording_path(sealed.sha256).read_bytes()).hexdigest() == (
        sealed.sha256
    )


@pytest.mark.parametrize("folder", [True, False])
def test_a_deleted_recording_is_written_again(folder: bool, blobs: BlobStore) -> None:
    writer = RecordingWriter(blobs, "call-1", fail)
    first = add(writer, os.urandom(FRAME_BYTES_MAX))
    if folder:
        shutil.rmtree(blobs.part_directory)
    else:
        (blobs.part_directory / "call-1").unlink()
    second = add(writer, b"later")
    writer.write(compress(b"never named by an entry"))
    sealed = writer.seal()
    assert sealed is not None
    assert blobs.place_recording("call-1", sealed.sha256)
    reader = open_recording(blobs, "call-1", sealed.sha256)
    assert reader is not None
    assert reader.digest() == Digest(sha256=sealed.sha256, size_bytes=second.frame_end)
    assert len(reader.read(first)) == FRAME_BYTES_MAX
    assert reader.read(second) == b"later"
    reader.close()


def test_a_deleted_recording_that_finds_no_room_is_lost_alone(blobs: BlobStore) -> None:
    writer = RecordingWriter(blobs, "call-1", fail)
    add(writer, b"one")
    shutil.rmtree(blobs.part_directory)
    with no_descriptors():
        sealed = writer.seal()
    assert sealed is not None
    assert blobs.place_recording("call-1", sealed.sha256)
    assert open_recording(blobs, "call-1", sealed.sha256) is None


@pytest.mark.parametrize("name", ["offset", "length", "frame_offset", "frame_length"])
@pytest.mark.parametrize("value", [-1, 2**63, 2**70])
def test_a_place_that_no_file_has_is_none(name: str, value: int) -> None:
    ref = FrameRef(
        stream=Stream.STDOUT, offset=0, length=1, frame_offset=0, frame_length=9, frame_sha256="0"
    )
    with pytest.raises(ValueError, match="no place or length"):
        FrameRef.from_json({**ref.to_json(), name: value})


def test_a_frame_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "recording").write_bytes(b"x")
    fd = os.open(tmp_path / "recording", os.O_RDONLY)
    ref = FrameRef(
        stream=Stream.STDOUT, offset=0, length=1, frame_offset=0, frame_length=1 << 40,
        frame_sha256="0",
    )  # fmt: skip
    reader = RecordingReader(fd)
    with pytest.raises(AuditCorrupt, match="claims"):
        reader.check(ref)
    reader.close()
