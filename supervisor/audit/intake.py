"""What has to be kept before INTENT can name it by digest: the profile, a long request, files that
came with the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.audit.account import is_inline
from supervisor.audit.blobs import BlobStore
from supervisor.audit.files import CallFiles
from supervisor.call.types import CallRequest

if TYPE_CHECKING:
    from supervisor.profile.model import EffectiveProfile

PROFILES_KEPT_MAX = 1024


class Intake:
    """Keeps inputs; remembers which profiles it has kept, so that most calls need nothing."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._profiles: set[str] = set()

    def has_work(self, request: CallRequest, canonical: bytes, profile: EffectiveProfile) -> bool:
        """Say whether `keep` would touch the disk."""
        return (
            profile.digest not in self._profiles
            or not is_inline(canonical)
            or any(file.data is not None for file in request.files)
            or bool(self._blobs.originals.told(file.digest for file in request.files))
        )

    def keep(
        self,
        request: CallRequest,
        canonical: bytes,
        profile: EffectiveProfile,
        files: CallFiles,
    ) -> None:
        """Make the inputs durable; `files` knows then which of them are stored as something else.
        Blocks.

        Raises:
            CapacityError: `REDACTED_FILES_LIMIT`.
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        self.keep_profile(profile)
        if not is_inline(canonical):
            self._blobs.put(canonical)
        for file in request.files:
            if file.data is not None:
                files.keep([file.data])
        files.name(file.digest for file in request.files if file.data is None)

    def keep_profile(self, profile: EffectiveProfile) -> None:
        """Make the profile durable. Blocks.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        if profile.digest in self._profiles:
            return
        self._blobs.put(profile.canonical)
        if len(self._profiles) >= PROFILES_KEPT_MAX:
            self._profiles.clear()
        self._profiles.add(profile.digest)
