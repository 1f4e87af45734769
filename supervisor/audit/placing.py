"""Recordings on their way from the name of their call to their digest: a full disk, or a daemon
that ended, can leave one where it was, and it is moved later."""

from __future__ import annotations

from collections.abc import Callable

from supervisor.audit.blobs import BlobStore


class Placing:
    """Moves sealed recordings, and remembers those that could not be moved."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._unplaced: dict[str, str] = {}

    @property
    def waiting(self) -> int:
        """Give how many could not be moved yet."""
        return len(self._unplaced)

    def place(self, call_id: str, sha256: str) -> None:
        """Move a recording to its digest, now or later."""
        if not self._blobs.place_recording(call_id, sha256):
            self._unplaced[call_id] = sha256

    def find(self, digest_of: Callable[[str], str | None]) -> None:
        """Move what a former daemon left; `digest_of` gives the digest of the recording of a call
        that has ended, "" where that has none, None for any other."""
        for path in self._blobs.part_directory.iterdir():
            sha256 = digest_of(path.name)
            if sha256:
                self.place(path.name, sha256)
            elif sha256 is not None:  # The power went before the call's end was durable.
                path.unlink(missing_ok=True)

    def again(self) -> None:
        """Try again where it was not possible."""
        self._unplaced = {
            call_id: sha256
            for call_id, sha256 in self._unplaced.items()
            if not self._blobs.place_recording(call_id, sha256)
        }
