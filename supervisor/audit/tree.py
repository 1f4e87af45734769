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

import contextlib
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
from supervisor.audit.entry import TIME, Leaf, leaf_hash, tail_of
from supervisor.audit.notes import Signer, VerifierKey
from supervisor.audit.rotation import RotationError, follow, statement_in
from supervisor.audit.shortage import NO_DESCRIPTORS
from supervisor.audit.space import NO_SPACE, make_folder, sync_directory
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
from supervisor.errors import (
    AuditCorrupt,
    AuditUnavailable,
    HostError,
    InvariantError,
    StockadeError,
)

PUBLISH_S = 1.0
"""The oldest that a published head is, while the log grows."""

UNSIGNED_S = 60
"""A daemon signs each second, and before it ends: one that is killed leaves less unsigned."""

UNPLACED_MAX = 32
"""Files that are written, and made durable and put in their places together."""

RECENT_MAX = UNPLACED_MAX
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
        """Use `folder`, which is made; `keys` are former ones that may have signed the last head:
        an entry since then has to hand the log over.
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
        self._unplaced: list[tuple[int, str]] = []
        self._named: set[Path] = set()
        self._partial: set[str] = set()  # Full tiles and bundles that have partial ones so far.
        self._published = Checkpoint(origin=signer.key.name, size=0, root=merkle.EMPTY_ROOT)
        self._note = b""
        self._due = 0.0
        self._durable = 0
        self._behind = False
        self._loaded = False
        self.unsigned: StockadeError | None = None
        """Why the key could not sign the last head that was due; None where it could."""

    @property
    def behind(self) -> bool:
        """Say whether entries are missing in it, because there was no room for their tiles."""
        return self._behind

    @property
    def size(self) -> int:
        """Give how many entries it has."""
        with self._lock:
            return self._growth.size

    @property
    def published(self) -> Checkpoint:
        """Give the head that is published."""
        with self._lock:
            return self._published

    def load(self, size: int) -> None:
        """Take up the tree as it lies there, and the log's `size` durable entries into it.

        Raises:
            AuditCorrupt: `CHECKPOINT_BROKEN`, where the log is not the one whose head was signed.
            HostError: `KEY_OTHER`, where it is another key that signs this log; or as the key says
                that cannot sign.
            OSError: the folder cannot be read or written.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for number in range(UNPLACED_MAX):
            self._new(number).unlink(missing_ok=True)
        last, key = self._last_head()
        if last.size > size:
            raise _broken(f"a head over {last.size} entries was signed, and the log has {size}")
        self._require_handed_over(key, last.size, size)
        self._durable = size
        self._published = last
        self._look_at_unsigned(last.size)
        try:
            self._catch_up()
            self.publish()
        except OSError as error:
            self._fall_behind(error)
        if self.unsigned is not None:
            raise self.unsigned
        self._loaded = True

    def _look_at_unsigned(self, signed: int) -> None:
        """Say so where the entries that nobody signed are more than a daemon leaves that dies."""
        tails = map(tail_of, itertools.islice(self._entries(signed), self._durable - signed))
        times = [int(tail[TIME]) for tail in tails if tail is not None]
        if signed and times and (span_s := (max(times) - min(times)) // 10**9) > UNSIGNED_S:
            log.critical(
                "entries %d to %d of the log, of %d s, were below no signed head: they are signed "
                "now, and whoever could write the disk could have written them",
                signed,
                self._durable - 1,
                span_s,
            )

    def extend(self, entries: Sequence[Leaf]) -> None:
        """Take entries that have become durable, each with its leaf hash, and publish a head where
        one is due.

        Raises:
            OSError: a tile cannot be written, for a reason other than that the disk is full.
        """
        if not self._loaded:
            if entries:
                raise InvariantError("TREE_NOT_LOADED", "entries came before the tree was loaded")
            return  # The journal's thread looks by; what lies on the disk is not known yet.
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
        """Sign the head and put it, and the tiles that are not full, where all can read them. A key
        that cannot sign is asked again a second later.

        Raises:
            OSError: they cannot be written.
        """
        with self._lock:
            growth = self._growth
            files = dict(growth.partial())
            if self._bundle:
                number = growth.size // WIDTH
                files[bundle_path(number, len(self._bundle))] = pack_bundle(self._bundle)
            try:
                checkpoint, note = self._sign()
            except StockadeError as error:
                self._put_off(error)
                return
        self.unsigned = None
        if checkpoint.size == self._published.size and self._note:
            return
        with self._placing():
            for path, content in files.items():
                self._write(path, content)
        # A head that a power cut leaves finds its tiles there.
        self._sync_names()
        with self._placing():
            self._write(CHECKPOINT, note)
        self._sync_names()
        with self._lock:
            self._published, self._note = checkpoint, note
        self._due = self._clock() + PUBLISH_S

    def _put_off(self, error: StockadeError) -> None:
        """Leave the head unsigned until the key can be used again."""
        if self.unsigned is None:
            log.warning("the head of the log cannot be signed: %s", error)
        self.unsigned = error
        self._due = self._clock() + PUBLISH_S

    @property
    def key(self) -> VerifierKey:
        """Give the public key that its heads are signed with."""
        return self._signer.key

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """Give that key, and those former ones that are known."""
        return self._keys

    def head(self) -> bytes:
        """Give the published head, a signed note."""
        with self._lock:
            return self._note

    def signed(self) -> bytes:
        """Give a head over all that is in it, signed now; the published one may be older."""
        with self._lock:
            return self._sign()[1]

    def current(self) -> bytes:
        """Do as `signed`, where the tree has all that it had: while it catches up, it is smaller
        than heads that were given away.

        Raises:
            AuditUnavailable: `TREE_BEHIND`.
            StockadeError: as the key says that cannot sign now.
        """
        with self._lock:
            if self._behind:
                raise _tree_behind("it is being made again")
            return self._sign()[1]

    def receipt(self, index: int) -> Receipt:
        """Give the receipt of a durable entry, under a head that is signed now.

        Raises:
            AuditUnavailable: `TREE_BEHIND`, where it has no place in the tree yet.
            AuditCorrupt: `CHECKPOINT_BROKEN`, where a tile is gone.
            StockadeError: as the key says that cannot sign now.
        """
        with self._lock:
            size = self._growth.size
            if index >= size or self._behind:
                raise _tree_behind(f"entry {index} has no place in it yet")
            recent, rows = dict(self._recent), self._growth.rows()
            _, note = self._sign()
        reader = TileReader(size, self._reader(recent), rows)
        try:
            hashes = tuple(merkle.inclusion_proof(index, size, reader))
        except TileError as error:
            raise _broken(str(error)) from error
        return Receipt(index=index, hashes=hashes, checkpoint=note)

    def receipt_or_none(self, index: int) -> bytes:
        """Give a receipt, encoded; b"" where there is none now: the entry is durable, and it can be
        had later."""
        try:
            return self.receipt(index).encode()
        except StockadeError as error:
            log.warning("no receipt of entry %d: %s", index, error.message)
            return b""

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Give the hashes that show the log of `new` entries to begin with that of `old`.

        Raises:
            ValueError: there are no such sizes.
            AuditUnavailable: `TREE_BEHIND`, while tiles are being made again.
            AuditCorrupt: `CHECKPOINT_BROKEN`, where a tile is gone.
        """
        with self._lock:
            if self._behind:
                raise _tree_behind("it is being made again")
            size, recent, rows = self._growth.size, dict(self._recent), self._growth.rows()
        if new > size:
            raise ValueError(f"the tree has {size} entries, not {new}")
        try:
            return merkle.consistency_proof(old, new, TileReader(size, self._reader(recent), rows))
        except TileError as error:
            raise _broken(str(error)) from error

    def root(self, size: int) -> tuple[int, bytes]:
        """Give how many entries it has, and the root over the first `size`, b"" where it has fewer;
        raises as `consistency` does."""
        with self._lock:
            if self._behind:
                raise _tree_behind("it is being made again")
            whole, recent, rows = self._growth.size, dict(self._recent), self._growth.rows()
        if size > whole:
            return whole, b""
        try:
            return whole, merkle.root(size, TileReader(whole, self._reader(recent), rows))
        except TileError as error:
            raise _broken(str(error)) from error

    def require_other(self, head: Checkpoint) -> None:
        """Make sure, by the entries themselves, that they have not the root of a head which the
        tiles do not have. Reads all of them.

        Raises:
            AuditCorrupt: `CHECKPOINT_BROKEN`, where they have it: a tile is damaged.
        """
        growth = Growth()
        entries = itertools.islice(self._entries(0), head.size)
        while part := [leaf_hash(entry) for entry in itertools.islice(entries, WIDTH)]:
            growth.extend(part)
        if growth.root() == head.root:
            raise _broken(f"a tile below its first {head.size} entries is damaged")

    def _sign(self) -> tuple[Checkpoint, bytes]:
        growth = self._growth
        checkpoint = Checkpoint(origin=self._signer.key.name, size=growth.size, root=growth.root())
        if checkpoint == self._published and self._note:
            return checkpoint, self._note
        return checkpoint, notes.sign(checkpoint.text(), [self._signer]).encode()

    def _reader(self, recent: Mapping[str, bytes]) -> Read:
        read = folder_reader(self._folder)
        return lambda path: recent[path] if path in recent else read(path)

    def _grow(self, entries: Iterable[Leaf]) -> None:
        """Take entries into the tree, as many at a time as fill a tile."""
        rest = iter(entries)
        with self._placing():
            while part := list(itertools.islice(rest, WIDTH - len(self._bundle))):
                with self._lock:
                    self._bundle += (entry for entry, _ in part)
                    filled = self._growth.extend([leaf for _, leaf in part])
                    self._remember(filled)
                if filled:
                    number = self._growth.size // WIDTH - 1
                    self._write(bundle_path(number), pack_bundle(self._bundle))
                    self._bundle = []
                for path, content in filled:
                    self._write(path, content)

    def _remember(self, filled: Iterable[tuple[str, bytes]]) -> None:
        self._recent.update(filled)
        while len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    @contextlib.contextmanager
    def _placing(self) -> Iterator[None]:
        """Put what is written in its place, whole, before it goes on: what is signed later is found
        on the disk before it."""
        try:
            yield
            self._place()
        finally:
            for fd, _ in self._unplaced:
                os.close(fd)
            self._unplaced.clear()

    def _sync_names(self) -> None:
        """Make the names durable that files were given."""
        while self._named:
            folder = self._named.pop()
            if folder.is_dir():  # Else it was that of a partial tile, which is full by now.
                sync_directory(folder)

    def _write(self, path: str, content: bytes) -> None:
        """Write a file that `_place` puts in its place."""
        fd = self._create()
        self._unplaced.append((fd, path))
        left = memoryview(content)
        while left:
            left = left[os.write(fd, left) :]
        # The kernel begins to write it, so that one wait is enough for most of them.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _create(self) -> int:
        """Make a file; those that wait make room for it where they are many, or where the process
        has no descriptor left."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        if len(self._unplaced) < UNPLACED_MAX:
            try:
                return os.open(self._new(len(self._unplaced)), flags, 0o600)
            except OSError as error:
                if error.errno not in NO_DESCRIPTORS or not self._unplaced:
                    raise
        self._place()
        return os.open(self._new(0), flags, 0o600)

    def _place(self) -> None:
        """Wait until all that is written is on the disk, then let it be found."""
        for fd, _ in self._unplaced:
            os.fdatasync(fd)
        for number, (_, path) in enumerate(self._unplaced):
            self._rename(self._new(number), self._folder / path)
            full, _, width = path.partition(".p/")
            if width:
                self._partial.add(full)
            elif path in self._partial:
                self._partial.remove(path)
                shutil.rmtree(self._folder / f"{path}.p", ignore_errors=True)
        for fd, _ in self._unplaced:
            os.close(fd)
        self._unplaced.clear()

    def _rename(self, new: Path, place: Path) -> None:
        try:
            new.rename(place)
        except FileNotFoundError:
            make_folder(place.parent)
            new.rename(place)
        self._named.add(place.parent)

    def _new(self, number: int) -> Path:
        return self._folder / f"{_NEW}.{number}"

    def _last_head(self) -> tuple[Checkpoint, VerifierKey]:
        """Give the head that was signed last, and whose it is: where none was, that of the key
        which the log was given."""
        try:
            data = (self._folder / CHECKPOINT).read_bytes()
        except FileNotFoundError:
            head = Checkpoint(origin=self._signer.key.name, size=0, root=merkle.EMPTY_ROOT)
            return head, self._keys[-1]
        try:
            head, note = open_checkpoint(data, self._keys)
        except CheckpointError as error:
            raise self._unopened(data, error) from None
        return head, next(key for key in self._keys if any(map(key.made, note.signatures)))

    def _require_handed_over(self, last: VerifierKey, begin: int, end: int) -> None:
        """Make sure that the log is our key's: `last` has signed the head over `begin` entries, and
        one of those up to `end` may hand the log over."""
        entries = enumerate(itertools.islice(self._entries(begin), end - begin), begin)
        statements = ((index, statement_in(entry)) for index, entry in entries)
        try:
            chain = follow(last, ((index, body) for index, body in statements if body is not None))
        except RotationError as error:
            raise _broken(str(error)) from None
        for key in (chain.current, chain.at(end)):
            if key != self._signer.key:
                raise _other_key(str(key), self._signer.key)

    def _unopened(self, data: bytes, error: CheckpointError) -> StockadeError:
        """Tell a head of another key from one that is damaged."""
        broken = _broken(f"{self._folder / CHECKPOINT}: {error}")
        try:
            signature = notes.Note.parse(data).signatures[0]
        except notes.NoteError:
            return broken
        if any(key.made(signature) for key in self._keys):
            return broken
        return _other_key(f"{signature.name}+{signature.key_id.hex()}", self._signer.key)

    def _take_up(self, last: Checkpoint) -> None:
        read = folder_reader(self._folder)
        growth = Growth.at(last.size, read)
        if growth.root() != last.root:
            raise TileError("the tiles are not those of the head that was signed")
        width = last.size % WIDTH
        bundle = read_bundle(read, last.size // WIDTH, width) if width else []
        self._growth, self._bundle = growth, bundle
        self._partial = {path.partition(".p/")[0] for path, _ in growth.partial()}
        self._partial.add(bundle_path(last.size // WIDTH))
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
        self._growth, self._bundle, self._partial = Growth(), [], set()
        self._grow(_hashed(itertools.islice(self._entries(0), last.size)))
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

    def _since(self, last: Checkpoint) -> Iterator[Leaf]:
        """Give the durable entries since a head; the log may have more."""
        return _hashed(itertools.islice(self._entries(last.size), self._durable - last.size))


def _tree_behind(why: str) -> AuditUnavailable:
    return AuditUnavailable(
        "TREE_BEHIND",
        f"the tree of the record does not have all of it: {why}",
        hint="ask again; where it stays so, make room on the filesystem of the state directory",
        retry_after_s=PUBLISH_S,
    )


def _hashed(entries: Iterable[bytes]) -> Iterator[Leaf]:
    return ((entry, leaf_hash(entry)) for entry in entries)


def _other_key(wanted: str, given: VerifierKey) -> HostError:
    return HostError(
        "KEY_OTHER",
        f"the log's key is {wanted}, and the one that was given is {given}",
        hint="start the daemon with the key, and the name, that this log is signed with; `stockade "
        "audit key rotate` hands it over to another, and ends what it could not end before",
    )


def _broken(why: str) -> AuditCorrupt:
    return AuditCorrupt(
        "CHECKPOINT_BROKEN",
        f"the record is not the one that was signed: {why}",
        hint="keep the state directory as it is, and compare it with a copy: stockade audit verify",
    )
