"""The log's tree at work: growing, publishing, taking up, catching up, and what it refuses."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit import merkle
from supervisor.audit import tree as tree_module
from supervisor.audit.checkpoints import Checkpoint, open_checkpoint
from supervisor.audit.entry import NO_LEAF, Head, encode_entry, leaf_hash
from supervisor.audit.tiles import WIDTH, TileReader, folder_reader, read_bundle
from supervisor.audit.tree import PUBLISH_S, RECENT_MAX, LogTree
from supervisor.errors import AuditCorrupt, AuditUnavailable, HostError, InvariantError
from tests.unit.audit import rfc6962
from tests.unit.audit.keys import ORIGIN, TestSigner

SIGNER = TestSigner()
ENTRIES = [b"entry %d" % number for number in range(2 * WIDTH + 40)]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A log, and its tree, which may be opened again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tlog"
        self.entries: list[bytes] = []
        self.clock = Clock()
        self.tree = self.opened()

    def read(self, index: int) -> Iterator[bytes]:
        return iter(self.entries[index:])

    def opened(self, signer: TestSigner = SIGNER, *former: TestSigner) -> LogTree:
        tree = LogTree(
            self.folder, signer, self.read, keys=[one.key for one in former], clock=self.clock
        )
        tree.load(len(self.entries))
        self.tree = tree
        return tree

    def write(self, count: int) -> None:
        fresh = ENTRIES[len(self.entries) : len(self.entries) + count]
        self.entries += fresh
        self.tree.extend([(entry, leaf_hash(entry)) for entry in fresh])

    def head(self) -> Checkpoint:
        return open_checkpoint(self.tree.head(), [SIGNER.key])[0]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def is_whole(log: Log) -> None:
    """All that a stranger needs is in the folder: a head, the tiles below it, and the entries."""
    head, _ = open_checkpoint((log.folder / "checkpoint").read_bytes(), [SIGNER.key])
    assert head.root == rfc6962.mth(log.entries[: head.size])
    read = folder_reader(log.folder)
    reader = TileReader(head.size, read)
    assert merkle.root(head.size, reader) == head.root
    entries: list[bytes] = []
    for number in range(-(-head.size // WIDTH)):
        width = min(WIDTH, head.size - number * WIDTH)
        entries += read_bundle(read, number, width)
    assert entries == log.entries[: head.size]
    assert [reader.leaf(index) for index in range(head.size)] == list(map(leaf_hash, entries))


def test_nothing_is_written_before_it_is_known_what_lies_there(log: Log) -> None:
    log.write(5)
    log.tree.close()
    before = (log.folder / "checkpoint").read_bytes()
    tree = LogTree(log.folder, SIGNER, log.read, clock=log.clock)
    tree.extend(())
    assert (log.folder / "checkpoint").read_bytes() == before
    with pytest.raises(InvariantError):
        tree.extend([(b"an entry", leaf_hash(b"an entry"))])


def test_a_log_without_entries_has_a_head(log: Log) -> None:
    assert log.head() == Checkpoint(origin=ORIGIN, size=0, root=merkle.EMPTY_ROOT)
    is_whole(log)


@given(steps=st.lists(st.tuples(st.integers(0, 200), st.booleans(), st.booleans()), max_size=6))
@settings(max_examples=30)
def test_every_head_is_the_logs_and_follows_the_one_before(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool, bool]]
) -> None:
    log = Log(tmp_path_factory.mktemp("log"))
    heads = [log.head()]
    for count, later, again in steps:
        log.clock.now += PUBLISH_S if later else 0.0
        log.write(count)
        if again:
            log.opened()
        heads.append(log.head())
        is_whole(log)
    reader = TileReader(heads[-1].size, folder_reader(log.folder))
    for old, new in itertools.pairwise(heads):
        assert old.size <= new.size
        if old.size:
            proof = merkle.consistency_proof(old.size, new.size, reader)
            assert merkle.verify_consistency(old.size, old.root, new.size, new.root, proof)


def test_a_head_can_be_had_that_is_not_published(log: Log) -> None:
    log.write(3)
    log.write(5)
    assert log.head().size == 0
    assert open_checkpoint(log.tree.signed(), [SIGNER.key])[0].size == 8


def test_a_head_is_published_each_second_while_the_log_grows(log: Log) -> None:
    log.write(3)
    assert log.head().size == 0
    log.clock.now += PUBLISH_S
    log.write(1)
    assert log.head().size == 4
    log.write(1)
    assert log.head().size == 4
    log.tree.publish()
    assert log.head().size == 5
    is_whole(log)


@pytest.mark.parametrize("size", [1, 200, WIDTH, WIDTH + 1, 2 * WIDTH + 40])
def test_each_entry_has_a_receipt_at_once(log: Log, size: int) -> None:
    log.write(size)
    for index in {0, size // 2, size - 1}:
        receipt = log.tree.receipt(index)
        head = receipt.verify(leaf_hash(log.entries[index]), [SIGNER.key])
        assert head == Checkpoint(origin=ORIGIN, size=size, root=rfc6962.mth(log.entries))
    with pytest.raises(AuditUnavailable, match=f"entry {size} has no place") as caught:
        log.tree.receipt(size)
    assert caught.value.reason == "TREE_BEHIND"


def test_a_head_of_a_receipt_stays_true_after_the_log_has_grown(log: Log) -> None:
    log.write(WIDTH - 3)
    receipt = log.tree.receipt(7)
    given_away, _ = open_checkpoint(receipt.checkpoint, [SIGNER.key])
    log.write(30)
    log.opened()
    head = log.head()
    reader = TileReader(head.size, folder_reader(log.folder))
    proof = merkle.consistency_proof(given_away.size, head.size, reader)
    assert merkle.verify_consistency(given_away.size, given_away.root, head.size, head.root, proof)


def test_a_tree_is_taken_up_where_the_partial_tiles_of_its_head_have_become_full(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.write(56)
    log.tree.publish()
    log.write(300)
    assert log.head().size == 56
    log.opened()
    assert "made again" not in caplog.text
    assert log.head().size == 356
    is_whole(log)


def test_full_tiles_leave_no_partial_ones_behind(log: Log) -> None:
    for _ in range(5):
        log.clock.now += PUBLISH_S
        log.write(60)
    assert len(log.entries) == 300
    assert not (log.folder / "tile/0/000.p").exists()
    assert not (log.folder / "tile/entries/000.p").exists()
    assert len(log.tree._recent) <= RECENT_MAX
    is_whole(log)


def test_entries_that_were_durable_before_a_crash_are_taken_up(log: Log) -> None:
    log.write(300)
    log.entries += ENTRIES[300:320]
    log.opened()
    assert log.head().size == 320
    is_whole(log)


class Crash(BaseException):
    """The daemon ends here."""


@pytest.mark.parametrize("name", ["write", "fdatasync", "rename"])
@pytest.mark.parametrize("step", range(6))
def test_a_crash_while_files_are_put_in_their_places(
    log: Log, monkeypatch: pytest.MonkeyPatch, name: str, step: int
) -> None:
    log.write(10)
    log.clock.now += PUBLISH_S
    log.write(10)
    before, calls = log.head(), itertools.count()
    log.clock.now += PUBLISH_S
    owner: object = Path if name == "rename" else os
    real = getattr(owner, name)

    def call(*given: object) -> object:
        if next(calls) >= step:
            raise Crash
        return real(*given)

    with monkeypatch.context() as crashing:
        crashing.setattr(owner, name, call)
        with pytest.raises(Crash):
            log.write(500)
    head, _ = open_checkpoint((log.folder / "checkpoint").read_bytes(), [SIGNER.key])
    assert head == before
    log.opened()
    assert not list(log.folder.glob("new.*"))
    assert log.head().size == 520
    is_whole(log)


def test_what_is_written_is_durable_before_it_can_be_found(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    sync, rename = os.fdatasync, Path.rename

    def note(fd: int) -> None:
        sync(fd)
        synced.add(os.fstat(fd).st_ino)

    def place(path: Path, target: Path) -> Path:
        assert path.stat().st_ino in synced, target
        return rename(path, target)

    monkeypatch.setattr(os, "fdatasync", note)
    monkeypatch.setattr(Path, "rename", place)
    monkeypatch.setattr(tree_module, "UNPLACED_MAX", 3)
    log.clock.now += PUBLISH_S
    log.write(2 * WIDTH + 5)
    assert len(synced) >= 8
    is_whole(log)


def test_files_that_wait_give_their_descriptors_back(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, most = os.open, 0

    def few(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        nonlocal most
        if flags & os.O_CREAT:
            if len(log.tree._unplaced) >= 3:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            most = max(most, len(log.tree._unplaced) + 1)
        return real(path, flags, mode, dir_fd=dir_fd)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", few)
    log.write(2 * WIDTH)
    log.clock.now += PUBLISH_S
    log.write(5)
    assert most == 3
    is_whole(log)
    monkeypatch.setattr(os, "open", _raise(errno.EMFILE))
    log.clock.now += PUBLISH_S
    with pytest.raises(OSError, match="Too many open files"):
        log.write(5)


@pytest.mark.parametrize("gone", ["tile", "tile/0", "tile/1/000.p", "tile/entries/001.p"])
def test_tiles_that_are_gone_are_made_again(log: Log, gone: str) -> None:
    log.write(300)
    log.tree.publish()
    shutil.rmtree(log.folder / gone)
    if gone == "tile/0":
        shutil.rmtree(log.folder / "tile/1")
    log.opened()
    is_whole(log)


@pytest.mark.parametrize("path", ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"])
def test_tiles_that_are_damaged_are_made_again(log: Log, path: str) -> None:
    log.write(300)
    log.tree.publish()
    content = bytearray((log.folder / path).read_bytes())
    content[0] ^= 1
    (log.folder / path).write_bytes(content)
    log.opened()
    is_whole(log)


def test_a_log_that_was_changed_is_refused(log: Log) -> None:
    log.write(300)
    log.tree.publish()
    log.entries[299] = b"another"
    with pytest.raises(AuditCorrupt, match="entry 299 is not the one") as caught:
        log.opened()
    assert caught.value.reason == "CHECKPOINT_BROKEN"


def test_a_log_that_was_changed_is_refused_also_where_its_tiles_are_gone(log: Log) -> None:
    log.write(300)
    log.tree.publish()
    shutil.rmtree(log.folder / "tile")
    log.entries[7] = b"another"
    with pytest.raises(AuditCorrupt, match="first 300 entries are not those"):
        log.opened()


@pytest.mark.parametrize(("seconds", "told"), [(60, False), (61, True)])
def test_entries_that_nobody_signed_for_long_are_told(
    seconds: int, told: bool, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.write(9)
    log.tree.close()
    for index, time_s in enumerate((5, 5, 5 + seconds), 9):
        head = Head(
            index=index, prev=NO_LEAF, time_ns=time_s * 10**9, kind="blob", call="", sequence=0
        )
        log.entries.append(encode_entry(head, {}))
    log.opened()
    said = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert [record.getMessage().partition(",")[0] for record in said] == [
        "entries 9 to 11 of the log"
    ] * told
    assert log.head().size == 12


def test_a_log_that_was_cut_is_refused(log: Log) -> None:
    log.write(10)
    log.tree.publish()
    del log.entries[9:]
    with pytest.raises(AuditCorrupt, match="a head over 10 entries was signed, and the log has 9"):
        log.opened()


def test_a_head_that_nobody_known_has_signed_is_refused(log: Log) -> None:
    log.write(10)
    log.tree.publish()
    other = TestSigner(ORIGIN, seed=bytes(32))
    for former in ((), (SIGNER,)):
        with pytest.raises(HostError, match=f"the log's key is {ORIGIN}") as caught:
            log.opened(other, *former)
        assert caught.value.reason == "KEY_OTHER"
        assert SIGNER.key.key_id.hex() in caught.value.message
    renamed = TestSigner("other.example.com", seed=hashlib.sha256(ORIGIN.encode()).digest())
    with pytest.raises(HostError, match=r"other\.example\.com"):
        log.opened(renamed, SIGNER)
    log.opened(SIGNER, SIGNER)


def test_a_log_that_was_given_to_a_key_is_not_anothers_before_it_has_a_head(log: Log) -> None:
    shutil.rmtree(log.folder)
    other = TestSigner(ORIGIN, seed=bytes(32))
    with pytest.raises(HostError, match=re.escape(str(SIGNER.key))):
        log.opened(other, SIGNER)
    log.opened(other)


@pytest.mark.parametrize("content", [b"", b"nothing", b"a\n\n"])
def test_a_head_that_is_none_is_damage(log: Log, content: bytes) -> None:
    (log.folder / "checkpoint").write_bytes(content)
    with pytest.raises(AuditCorrupt, match="checkpoint"):
        log.opened()


def test_a_head_that_was_changed_is_damage_and_no_matter_of_keys(log: Log) -> None:
    log.write(10)
    log.tree.publish()
    path = log.folder / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"\n10\n", b"\n11\n", 1))
    with pytest.raises(AuditCorrupt, match="is wrong"):
        log.opened()


def test_a_key_that_cannot_sign_leaves_the_head_where_it_is_until_it_can(log: Log) -> None:
    signer = TestSigner()
    log.opened(signer)
    log.write(5)
    signer.refuses = HostError("KEY_UNAVAILABLE", "the token is gone")
    log.clock.now += PUBLISH_S
    log.write(300)
    assert log.tree.unsigned is signer.refuses
    assert log.head().size == 0
    for ask in (log.tree.signed, lambda: log.tree.receipt(3)):
        with pytest.raises(HostError, match="the token is gone"):
            ask()
    with pytest.raises(HostError, match="the token is gone"):
        log.opened(signer)
    signer.refuses = None
    log.opened(signer)
    signer.refuses = HostError("KEY_UNAVAILABLE", "the token is gone")
    log.clock.now += PUBLISH_S
    log.write(5)
    signer.refuses = None
    log.tree.extend(())
    assert log.tree.unsigned is not None  # It is not asked again and again.
    log.clock.now += PUBLISH_S
    log.tree.extend(())
    assert log.tree.unsigned is None
    assert log.head().size == 310
    is_whole(log)


def test_without_room_the_tree_is_behind_and_catches_up(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(10)
    log.clock.now += PUBLISH_S
    with monkeypatch.context() as full:
        full.setattr(os, "write", _raise(errno.ENOSPC))
        log.write(300)
        assert log.tree.behind
        log.clock.now += PUBLISH_S
        log.write(5)
        assert log.tree.behind
    with pytest.raises(AuditUnavailable, match="no place"):
        log.tree.receipt(3)
    for ask in (log.tree.current, lambda: log.tree.consistency(5, 10)):
        with pytest.raises(AuditUnavailable, match="made again"):
            ask()
    log.write(1)
    assert log.tree.behind
    log.clock.now += PUBLISH_S
    log.write(1)
    assert not log.tree.behind
    assert log.head().size == 317 == log.tree.size
    assert log.tree.current() == log.tree.signed()
    assert log.tree.consistency(5, 10)
    is_whole(log)


def test_any_other_error_is_the_journals(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", _raise(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        log.write(300)


def _raise(number: int):  # type: ignore[no-untyped-def]
    def write(*given: object) -> int:
        raise OSError(number, os.strerror(number))

    return write


def test_what_is_not_durable_yet_is_never_signed(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write(10)
    log.clock.now += PUBLISH_S
    with monkeypatch.context() as full:
        full.setattr(os, "write", _raise(errno.ENOSPC))
        log.write(5)
        assert log.tree.behind
    log.entries += ENTRIES[15:20]  # In the log, and not handed over: it could still be lost.
    log.clock.now += PUBLISH_S
    log.tree.extend(())
    assert not log.tree.behind
    assert log.head().size == 15


def test_a_full_disk_keeps_no_daemon_from_starting(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(10)
    log.tree.publish()
    log.entries += ENTRIES[10:300]
    with monkeypatch.context() as full:
        full.setattr(os, "write", _raise(errno.ENOSPC))
        log.opened()
        assert log.tree.behind
    log.clock.now += PUBLISH_S
    log.tree.close()
    assert log.head().size == 300
    is_whole(log)
