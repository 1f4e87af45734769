"""What files were before their secrets were replaced on record: in memory, while the daemon lives.

On the disk lies the redacted file, under its own digest. Here are the bytes that were replaced in
it; both together give the file as it was to the sandbox that runs on it and to the caller that
fetches it. When the daemon ends, or a caller has too many, the oldest go, and the record alone is
left.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from supervisor.call.types import Digest, Json

ORIGINALS_MAX = 4096
ORIGINALS_BYTES_MAX = 32 * 1024 * 1024
"""Of secrets, over all files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Where in a redacted file a mark stands, and what stood there."""

    at: int
    mark_bytes: int
    secret: bytes

    def __repr__(self) -> str:
        """Name the place, and no more."""
        return f"Patch(at={self.at})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A file with secrets: `stored` is what the record has of it, None where that is nothing."""

    digest: Digest
    stored: Digest | None
    patches: tuple[Patch, ...] = ()

    def to_json(self) -> list[Json]:
        """Give what an entry says of it: its digest and size, those of what is stored, and how many
        secrets were replaced."""
        stored = self.stored or Digest(sha256="", size_bytes=0)
        size, stored_size = self.digest.size_bytes, stored.size_bytes
        return [self.digest.sha256, size, stored.sha256, stored_size, len(self.patches)]

    def restored(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Give the file as it was out of the redacted one's chunks."""
        patches = iter(self.patches)
        patch = next(patches, None)
        place = skip = 0
        for chunk in chunks:
            end = place + len(chunk)
            begin = min(len(chunk), skip)
            skip -= begin
            while patch is not None and patch.at < end:
                at = patch.at - place
                if at > begin:
                    yield chunk[begin:at]
                yield patch.secret
                begin = min(len(chunk), at + patch.mark_bytes)
                skip = at + patch.mark_bytes - begin
                patch = next(patches, None)
            if begin < len(chunk):
                yield chunk[begin:]
            place = end


class Originals:
    """The originals of one daemon, by the caller whose file it was. Any thread may use it.

    Where there are too many, the oldest of the caller goes that has most: nobody can push out those
    of others by having more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shares: dict[str, _Share] = {}

    def put(self, original: Original, owner: str) -> None:
        """Keep one, and let go of others where there are too many."""
        with self._lock:
            share = self._shares.setdefault(owner, _Share())
            share.drop(original.digest.sha256)
            share.all[original.digest.sha256] = original
            share.bytes += _bytes(original)
            self._make_room(ORIGINALS_MAX, lambda one: len(one.all))
            self._make_room(ORIGINALS_BYTES_MAX, lambda one: one.bytes)

    def get(self, digest: Digest) -> Original | None:
        """Give the original with a digest; None where it cannot be given as it was."""
        with self._lock:
            found = self._find(digest)
        return found if found is not None and found.stored is not None else None

    def told(self, digests: Iterable[Digest]) -> list[Original]:
        """Give those among files of which something else, or nothing, is stored."""
        with self._lock:
            found = {one.sha256: self._find(one) for one in digests}
        return [one for one in found.values() if one is not None]

    def _find(self, digest: Digest) -> Original | None:
        of = (share.all.get(digest.sha256) for share in self._shares.values())
        return next((one for one in of if one is not None), None)

    def _make_room(self, most: int, used: Callable[[_Share], int]) -> None:
        while sum(map(used, self._shares.values())) > most:
            owner = max(self._shares, key=lambda one: used(self._shares[one]))
            share = self._shares[owner]
            share.drop(next(iter(share.all)))
            if not share.all:
                del self._shares[owner]


@dataclass(slots=True)
class _Share:
    all: OrderedDict[str, Original] = field(default_factory=OrderedDict)
    bytes: int = 0

    def drop(self, sha256: str) -> None:
        former = self.all.pop(sha256, None)
        if former is not None:
            self.bytes -= _bytes(former)


def _bytes(original: Original) -> int:
    return sum(len(patch.secret) for patch in original.patches)
