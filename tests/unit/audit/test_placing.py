"""Recordings that could not be moved to their digest are moved later."""

from __future__ import annotations

from pathlib import Path

from supervisor.audit.blobs import BlobStore
from supervisor.audit.placing import Placing
from supervisor.errors import StockadeError


class Blobs(BlobStore):
    """A store whose disk has no room for a name, until it has."""

    full = True

    def place_recording(self, call_id: str, sha256: str) -> bool:
        return not self.full and super().place_recording(call_id, sha256)


def never(what: str, error: OSError) -> StockadeError:
    raise AssertionError(what) from error


def test_it_is_tried_again(tmp_path: Path) -> None:
    Blobs.at(tmp_path / "blobs", never)
    blobs = Blobs(tmp_path / "blobs", never)
    placing = Placing(blobs)
    (blobs.part_directory / "call-1").write_bytes(b"recording")
    placing.place("call-1", "ab" * 32)
    assert placing.waiting == 1
    placing.again()
    assert placing.waiting == 1
    blobs.full = False
    placing.again()
    assert placing.waiting == 0
    assert blobs.recording_path("ab" * 32).read_bytes() == b"recording"


def test_what_a_former_daemon_left_is_found(tmp_path: Path) -> None:
    Blobs.at(tmp_path / "blobs", never)
    blobs = Blobs(tmp_path / "blobs", never)
    blobs.full = False
    for name in ("ended", "live", "empty"):
        (blobs.part_directory / name).write_bytes(name.encode())
    Placing(blobs).find({"ended": "cd" * 32, "empty": "", "live": None}.get)
    assert [path.name for path in blobs.part_directory.iterdir()] == ["live"]
    assert blobs.recording_path("cd" * 32).read_bytes() == b"ended"
