"""Heads of other logs, kept as a witness: what was given once is never taken back.

Of each log that the configuration names, the last head is kept in `witnessed/`, under the SHA-256
of the log's name. The next one is taken where it is signed by that log's key and a consistency
proof shows that it begins with the one that is kept (C2SP tlog-witness: whoever submits says from
which size on, and is told ours where it is another). Each is an entry of our own log.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from supervisor.audit.checkpoints import Checkpoint, CheckpointError, open_checkpoint
from supervisor.audit.checkpoints import read_checkpoint as read_unverified
from supervisor.audit.entry import Kind
from supervisor.audit.merkle import verify_consistency
from supervisor.audit.notes import VerifierKey, to_base64
from supervisor.audit.own import OwnEntries
from supervisor.audit.space import sync_directory, write_whole
from supervisor.call.texts import brief
from supervisor.call.types import Json
from supervisor.errors import CallStateError, InvalidRequest, NotFound

WITNESSED_NAME = "witnessed"
CONFLICT = "HEAD_CONFLICT"
REWRITTEN = "HEAD_REWRITTEN"
SIZE_KEY = "size"
PROOF_HASHES_MAX = 128
CHECKPOINT_BYTES_MAX = 16 << 10

log = logging.getLogger("stockade.audit")


class Witnessed:
    """The heads of the logs that `keys` are of. Methods may be called from any thread."""

    def __init__(self, state: Path, keys: Iterable[VerifierKey], own: OwnEntries) -> None:
        self._folder = state / WITNESSED_NAME
        self._keys = tuple(keys)
        self._own = own
        self._lock = threading.Lock()

    async def commit(self) -> None:
        """Wait until all that was taken is in our own log.

        Raises:
            AuditUnavailable: `JOURNAL_UNAVAILABLE`.
        """
        await self._own.commit()

    def take(
        self, data: bytes, old_size: int, proof: Sequence[bytes], caller: Mapping[str, Json]
    ) -> None:
        """Keep a head, durably, and append an entry that says so; `commit` makes that durable.

        Raises:
            InvalidRequest: `HEAD_INVALID`.
            NotFound: `LOG_NOT_WITNESSED`.
            CallStateError: `HEAD_CONFLICT`, where another size is kept, which its metadata has;
                `HEAD_REWRITTEN`, where it does not begin with what is kept.
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        head = self._open(data, proof)
        with self._lock:
            kept = self._kept(head.origin)
            self._check(head, kept, old_size, proof)
            if kept is not None and kept.size == head.size:
                return
            body: dict[str, Json] = {
                "origin": head.origin,
                "size": head.size,
                "root": to_base64(head.root),
                "caller": dict(caller),
            }
            self._own.append(Kind.WITNESSED, body)
            self._keep(head.origin, data)

    def _open(self, data: bytes, proof: Sequence[bytes]) -> Checkpoint:
        if len(data) > CHECKPOINT_BYTES_MAX or len(proof) > PROOF_HASHES_MAX:
            raise InvalidRequest("HEAD_INVALID", "a head, or a proof, of that length is none")
        try:
            origin = read_unverified(data).origin
            keys = [key for key in self._keys if key.name == origin]
            if not keys:
                raise NotFound(
                    "LOG_NOT_WITNESSED",
                    f"nobody here is a witness for {brief(origin)!r}",
                    hint="its key goes under `witness_for:` in the daemon's configuration",
                )
            return open_checkpoint(data, keys)[0]
        except CheckpointError as error:
            raise InvalidRequest("HEAD_INVALID", str(error)) from error

    def _check(
        self, head: Checkpoint, kept: Checkpoint | None, old_size: int, proof: Sequence[bytes]
    ) -> None:
        size = kept.size if kept else 0
        if old_size != size:
            raise CallStateError(
                CONFLICT,
                f"{head.origin}: a head over {size} entries is kept here, not over {old_size}",
                metadata={SIZE_KEY: str(size)},
            )
        if kept is None or verify_consistency(size, kept.root, head.size, head.root, proof):
            return
        log.critical(
            "%s was rewritten, or cut back: its head over %d entries does not begin with the one "
            "over %d that is kept here", head.origin, head.size, size,
        )  # fmt: skip
        raise CallStateError(
            REWRITTEN,
            f"{head.origin}: the head over {head.size} entries does not begin with the one over "
            f"{size} that is kept here",
            metadata={SIZE_KEY: str(size)},
        )

    def _path(self, origin: str) -> Path:
        return self._folder / hashlib.sha256(origin.encode()).hexdigest()

    def _kept(self, origin: str) -> Checkpoint | None:
        try:
            return read_unverified(self._path(origin).read_bytes())
        except FileNotFoundError:
            return None
        except CheckpointError as error:
            raise InvalidRequest(
                "HEAD_INVALID", f"what is kept of {origin} is damaged: {error}"
            ) from error

    def _keep(self, origin: str, data: bytes) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_whole(self._path(origin), data)
        sync_directory(self._folder.parent)
