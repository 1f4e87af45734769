"""The log's tree at work: each durable entry gets its place in it, and its head is signed.

The journal hands over what it has made durable, in order, from its own thread. Nothing is signed
that could still be lost: a head covers durable entries alone, so the log can always show that it
grew from any head that was ever given away.

Tiles are derived from the log, and made again from it where they are gone; that what is made again
is what was signed is checked before a daemon starts. A full disk leaves the tree behind the log,
and it catches up once there is room.

    tlog/checkpoint, tlog/tile/…    as C2SP tlog-tiles has it
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from supervisor.audit import merkle, notes
from supervisor.audit.checkpoints import Checkpoint, CheckpointError, Receipt, open_checkpoint
from supervisor.audit.entry import leaf_hash
from supervisor.audit.notes import Signer, VerifierKey
from supervisor.audit.space import NO_SPACE
from supervisor.audit.tiles import (
    CHECKPOINT,
    WIDTH,
    Growth,
    Read,
    TileError,
    TileReader,
    bundle_path,
    folder_reader,
    pack_bundle,
    read_bundle,
)
from supervisor.errors import AuditCorrupt, AuditUnavailable

PUBLISH_S = 1.0
"""The oldest that a published head is, while the log grows."""

RECENT_MAX = 16
"""Full tiles that are held in memory, for receipts of what has just been written."""

_NEW = "new"

Entries = Callable[[int], Iterator[bytes]]
"""Gives the log's entries from an index on, checked."""

log = logging.getLogger(__name__)


class LogTree:
    """The tree of one log. `extend` and `publish` belong to the journal's thread, `receipt` and
    `head` to any."""

    def __init__(
        self,
        folder: Path,
        signer: Signer,
        entries: Entries,
        *,
        keys: Iterable[VerifierKey] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use `folder`, which is made; `keys` are former ones that may have signed the last head.
        Nothing is read before `load`."""
        self._folder = folder
        self._signer = signer
        self._keys = (signer.key, *keys)
        self._entries = entries
        self._clock = clock
        self._lock = threading.Lock()
        self._growth = Growth()
        self._bundle: list[bytes] = []
        self._recent: dict[str, bytes] = {}
        self._published = Checkpoint(origin=signer.key.name, size=0, root=merkle.EMPTY_ROOT)
        self._note = b""
        self._due = 0.0
        self._durable = 0
        self._behind = False

    @property
    def behind(self) -> bool:
        """Say whether entries are missing in it, because there was no room for their tiles."""
        return self._behind

    @property
    def size(self) -> int:
        """Give how many entries it has."""
        with self._lock:
            return self._growth.size

    def load(self, size: int) -> None:
        """Take up the tree as it lies there, and the log's `size` durable entries into it.

        Raises:
            AuditCorrupt: `CHECKPOINT_BROKEN`, where the log is not the one whose head was signed.
            OSError: the folder cannot be read or written.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        (self._folder / _NEW).unlink(missing_ok=True)
        last = self._last_head()
        if last.size > size:
            raise _broken(f"a head over {last.size} entries was signed, and the log has {size}")
        self._durable = size
        self._published = last
        try:
            self._catch_up()
            self.publish()
        except OSError as error:
            self._fall_behind(error)

    def extend(self, entries: Sequence[bytes]) -> None:
        """Take entries that have become durable, and publish a head where one is due.

        Raises:
            OSError: a tile cannot be written, for a reason other than that the disk is full.
        """
        due = self._clock() >= self._due
        self._durable += len(entries)
        try:
            if not self._behind:
                self._grow(entries)
            elif due:
                self._catch_up()
            if due:
                self.publish()
        except OSError as error:
            self._fall_behind(error)

    def _fall_behind(self, error: OSError) -> None:
        """Leave entries out until there is room for their tiles."""
        if error.errno not in NO_SPACE:
            raise error
        if not self._behind:
            log.warning("there is no room for tiles of the log: %s", error)
        self._behind = True
        self._due = self._clock() + PUBLISH_S

    def close(self) -> None:
        """Publish the last head, where there is room for it.

        Raises:
            OSError: it cannot be written, for another reason.
        """
        self._due = 0.0
        self.extend(())

    def publish(self) -> None:
        """Sign the head and put it, and the tiles that are not full, where all can read them.

        Raises:
            OSError: they cannot be written.
        """
        with self._lock:
            growth = self._growth
            files = dict(growth.partial())
            if self._bundle:
                number = growth.size // WIDTH
                files[bundle_path(number, len(self._bundle))] = pack_bundle(self._bundle)
            checkpoint, note = self._sign()
        if checkpoint.size == self._published.size and self._note:
            return
        for path, content in files.items():
            self._write(path, content)
        self._write(CHECKPOINT, note)
        with self._lock:
            self._published, self._note = checkpoint, note
        self._due = self._clock() + PUBLISH_S

    def head(self) -> bytes:
        """Give the published head, a signed note."""
        with self._lock:
            return self._note

    def receipt(self, index: int) -> Receipt:
        """Give the receipt of a durable entry, under a head that is signed now.

        Raises:
            AuditUnavailable: `TREE_BEHIND`, where it has no place in the tree yet.
        """
        with self._lock:
            size = self._growth.size
            if index >= size or self._behind:
                raise AuditUnavailable(
                    "TREE_BEHIND",
                    f"entry {index} has no place in the tree of the record yet",
                    hint="ask again; where it stays so, make room on the filesystem of the state "
                    "directory",
                    retry_after_s=PUBLISH_S,
                )
            recent = {**self._recent, **dict(self._growth.partial())}
            _, note = self._sign()
        reader = TileReader(size, self._reader(recent))
        hashes = tuple(merkle.inclusion_proof(index, size, reader))
        return Receipt(index=index, hashes=hashes, checkpoint=note)

    def _sign(self) -> tuple[Checkpoint, bytes]:
        growth = self._growth
        checkpoint = Checkpoint(origin=self._signer.key.name, size=growth.size, root=growth.root())
        if checkpoint == self._published and self._note:
            return checkpoint, self._note
        return checkpoint, notes.sign(checkpoint.text(), [self._signer]).encode()

    def _reader(self, recent: Mapping[str, bytes]) -> Read:
        read = folder_reader(self._folder)
        return lambda path: recent[path] if path in recent else read(path)

    def _grow(self, entries: Iterable[bytes]) -> None:
        for entry in entries:
            with self._lock:
                self._bundle.append(entry)
                filled = self._growth.add(leaf_hash(entry))
                if filled:
                    number = self._growth.size // WIDTH - 1
                    filled.append((bundle_path(number), pack_bundle(self._bundle)))
                    self._bundle = []
                    self._remember(filled)
            for path, content in filled:
                self._write(path, content)
                shutil.rmtree(self._folder / f"{path}.p", ignore_errors=True)

    def _remember(self, filled: Iterable[tuple[str, bytes]]) -> None:
        self._recent.update(filled)
        while len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    def _write(self, path: str, content: bytes) -> None:
        """Put a file in its place, whole: what is signed later is found on the disk before it."""
        new, place = self._folder / _NEW, self._folder / path
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(fd, left) :]
            os.fdatasync(fd)
        finally:
            os.close(fd)
        new.rename(place)

    def _last_head(self) -> Checkpoint:
        try:
            note = (self._folder / CHECKPOINT).read_bytes()
        except FileNotFoundError:
            return Checkpoint(origin=self._signer.key.name, size=0, root=merkle.EMPTY_ROOT)
        try:
            return open_checkpoint(note, self._keys)[0]
        except CheckpointError as error:
            raise _broken(f"{self._folder / CHECKPOINT}: {error}") from None

    def _take_up(self, last: Checkpoint) -> None:
        read = folder_reader(self._folder)
        growth = Growth.at(last.size, read)
        if growth.root() != last.root:
            raise TileError("the tiles are not those of the head that was signed")
        width = last.size % WIDTH
        bundle = read_bundle(read, last.size // WIDTH, width) if width else []
        self._growth, self._bundle = growth, bundle
        self._check_last(last)

    def _check_last(self, last: Checkpoint) -> None:
        """Hold the log to the tree: its last entry names the one before, and so on."""
        if not last.size:
            return
        index = last.size - 1
        reader = TileReader(last.size, folder_reader(self._folder))
        if leaf_hash(next(self._entries(index))) != reader.leaf(index):
            raise _broken(f"entry {index} is not the one whose head was signed")

    def _make_again(self, last: Checkpoint) -> None:
        """Make all tiles from the log, which then has to have the head that was signed."""
        shutil.rmtree(self._folder / "tile", ignore_errors=True)
        self._growth, self._bundle = Growth(), []
        self._grow(itertools.islice(self._entries(0), last.size))
        if self._growth.root() != last.root:
            raise _broken(f"the log's first {last.size} entries are not those that were signed")

    def _catch_up(self) -> None:
        """Take up what is on the disk, and all that the log has had since."""
        with self._lock:
            self._recent.clear()
        last = self._published
        try:
            self._take_up(last)
        except TileError as error:
            log.warning("tiles of the log are made again: %s", error)
            self._make_again(last)
        self._grow(self._since(last))
        self._behind = False

    def _since(self, last: Checkpoint) -> Iterator[bytes]:
        """Give the durable entries since a head; the log may have more."""
        return itertools.islice(self._entries(last.size), self._durable - last.size)


def _broken(why: str) -> AuditCorrupt:
    return AuditCorrupt(
        "CHECKPOINT_BROKEN",
        f"the record is not the one that was signed: {why}",
        hint="keep the state directory as it is, and compare it with a copy: stockade audit verify",
    )
