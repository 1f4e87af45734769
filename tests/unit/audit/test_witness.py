"""Witnesses: what they get, when, and what is told where one takes nothing."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisor.audit import witness as witness_module
from supervisor.audit.checkpoints import open_checkpoint
from supervisor.audit.witness import (
    CommandWitness,
    Contradicted,
    FileWitness,
    Pusher,
    WitnessFailed,
    heads_within,
)
from supervisor.errors import HostError
from tests.unit.audit.keys import TestSigner
from tests.unit.audit.test_tree import Log

SIGNER = TestSigner()
PUSHED_S = 10.0


def until(done: threading.Event) -> None:
    assert done.wait(PUSHED_S)


class Kept:
    """A witness in memory; where `failing` is set, it takes nothing."""

    name = "memory"

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.failing = ""
        self.asked = threading.Event()

    def take(self, head: bytes) -> None:
        try:
            if self.failing:
                raise WitnessFailed(self.failing)
            self.heads.append(head)
        finally:
            self.asked.set()


def test_a_file_keeps_every_head_as_a_note_of_its_own(tmp_path: Path) -> None:
    log, path = Log(tmp_path), tmp_path / "heads"
    given = []
    for count in (1, 300, 5):
        log.write(count)
        given.append(log.tree.signed())
        FileWitness(path).take(given[-1])
    found = list(heads_within(path.read_bytes()))
    assert found == given
    assert [open_checkpoint(head, [SIGNER.key])[0].size for head in found] == [1, 301, 306]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(WitnessFailed, match="No such file"):
        FileWitness(tmp_path / "none" / "heads").take(b"head")


def test_a_command_gets_the_head_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "here")
    program = (
        "import os, sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read() + "
        "repr(('SECRET' in os.environ, os.getcwd())).encode())"
    )
    CommandWitness((sys.executable, "-c", program, str(tmp_path / "got"))).take(b"head\n")
    assert (tmp_path / "got").read_bytes() == b"head\n(False, '/')"


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("/bin/sh", "-c", "echo 'no\\033room' >&2; exit 3"), "it exited with 3: 'no"),
        (("/none",), "No such file"),
        (("/bin/sleep", "600"), "not done within"),
    ],
)
def test_a_command_that_does_not_keep_it(
    argv: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_module, "COMMAND_S", 0.2)
    with pytest.raises(WitnessFailed, match=why) as caught:
        CommandWitness(argv).take(b"head")
    assert "\x1b" not in str(caught.value)


def test_heads_are_pushed_while_the_log_grows_and_once_more_at_the_end(tmp_path: Path) -> None:
    log, kept = Log(tmp_path), Kept()
    pusher = Pusher(log.tree.signed, [kept], every_s=0.01)
    pusher.start()
    until(kept.asked)
    kept.asked.clear()
    log.write(3)
    until(kept.asked)
    log.write(4)
    pusher.close()
    sizes = [open_checkpoint(head, [SIGNER.key])[0].size for head in kept.heads]
    assert (sizes[0], sizes[-1]) == (0, 7)
    assert sizes == sorted(set(sizes))  # None comes twice.


def test_an_outage_is_told_once_and_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log, kept = Log(tmp_path), Kept()
    kept.failing = "no room"
    pusher = Pusher(log.tree.signed, [kept], every_s=0.01)
    pusher.start()
    for _ in range(3):
        until(kept.asked)
        kept.asked.clear()
    log.write(2)
    kept.failing = ""
    deadline = time.monotonic() + PUSHED_S
    while not kept.heads:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pusher.close()
    told = [record.getMessage() for record in caplog.records if "memory" in record.getMessage()]
    assert told == [
        "the witness memory takes no head of the record: no room",
        "the witness memory has the head of the record again",
    ]
    assert open_checkpoint(kept.heads[-1], [SIGNER.key])[0].size == 2


def test_a_key_that_cannot_sign_is_an_outage_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def gone() -> bytes:
        raise HostError("KEY_GONE", "the token was taken out")

    pusher = Pusher(gone, [Kept()])
    pusher.start()
    pusher.close()
    assert "the token was taken out" in caplog.text


class Remembering(Kept):
    """A witness that says what it has."""

    def __init__(self, *has: bytes) -> None:
        super().__init__()
        self.has = list(has)
        self.unreadable = 0

    def kept(self) -> list[bytes]:
        if self.unreadable:
            self.unreadable -= 1
            raise WitnessFailed("it cannot be read")
        return self.has


class Told:
    """What an observer, and who is told of contradictions, heard."""

    def __init__(self) -> None:
        self.contradictions: list[tuple[str, int]] = []
        self.taken: list[str] = []
        self.fails: list[bool] = []
        self.counted: list[str] = []

    def check(self, heads: Sequence[bytes]) -> None:
        if b"other" in heads:
            raise Contradicted("it is another", size=9, shorter=False)

    def contradicted(self, witness: str, why: Contradicted) -> None:
        self.contradictions.append((witness, why.size))

    def witness_took(self, witness: str, time_s: float) -> None:
        assert abs(time_s - time.time()) < 60
        self.taken.append(witness)

    def witness_fails(self, witness: str, why: str) -> None:
        self.fails.append(bool(why))

    def head_contradicted(self, witness: str, why: str) -> None:
        self.counted.append(witness)

    def pusher(self, log: Log, *witnesses: Kept) -> Pusher:
        return Pusher(
            log.tree.signed, witnesses, check=self.check, contradicted=self.contradicted,
            observer=self, every_s=0.01,
        )  # fmt: skip


def test_a_witness_is_asked_what_it_has_before_it_gets_more(tmp_path: Path) -> None:
    log, told = Log(tmp_path), Told()
    same, other = Remembering(b"same"), Remembering(b"same", b"other")
    pusher = told.pusher(log, same, other)
    pusher.start()
    pusher.settle()
    assert told.contradictions == [("memory", 9)]
    log.write(1)
    pusher.close()
    assert told.contradictions == [("memory", 9)]  # and not again
    assert len(told.counted) == 1
    assert len(same.heads) == len(other.heads) >= 1  # it gets ours all the same
    assert told.taken and not any(told.fails)


def test_one_that_cannot_be_read_is_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told, witness = Told(), Remembering(b"other")
    witness.unreadable = 2
    pusher = told.pusher(Log(tmp_path), witness)
    pusher.start()
    deadline = time.monotonic() + PUSHED_S
    while not told.contradictions:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pusher.close()
    assert told.contradictions == [("memory", 9)]
    assert witness.heads and not any(told.fails)  # it gets ours meanwhile
    assert caplog.text.count("it cannot be read") == 1


def test_one_that_says_so_when_it_is_given_a_head_is_told_once(tmp_path: Path) -> None:
    class Contradicting(Kept):
        def take(self, head: bytes) -> None:
            self.asked.set()
            log.write(1)  # as the entry does that says so
            raise Contradicted(f"it has more than {log.tree.size}", size=11, shorter=True)

    log, told, witness = Log(tmp_path), Told(), Contradicting()
    pusher = told.pusher(log, witness)
    pusher.start()
    for _ in range(3):
        until(witness.asked)
        witness.asked.clear()
    pusher.close()
    assert told.contradictions == [("memory", 11)]
    assert told.counted == ["memory"] and all(told.fails)


def test_a_disk_that_fails_ends_no_witness(tmp_path: Path) -> None:
    def gone() -> bytes:
        told.taken.append("asked")
        raise OSError(24, "Too many open files")

    told, kept = Told(), Kept()
    pusher = Pusher(gone, [kept], observer=told, every_s=0.01)
    pusher.start()
    deadline = time.monotonic() + PUSHED_S
    while len(told.taken) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pusher.close()
    assert told.fails and all(told.fails)


def test_settling_waits_for_nobody_who_was_not_started(tmp_path: Path) -> None:
    Told().pusher(Log(tmp_path), Kept()).settle()


def test_the_end_of_a_file_of_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, witness = Log(tmp_path), FileWitness(tmp_path / "heads")
    assert witness.kept() == []
    given = []
    for _ in range(6):
        log.write(1)
        given.append(log.tree.signed())
        witness.take(given[-1])
    assert witness.kept() == given
    whole = witness.path.read_bytes()
    for cut in range(1, 2 * len(given[0]), 7):
        monkeypatch.setattr(witness_module, "KEPT_BYTES_MAX", len(whole) - cut)
        *rest, last = witness.kept()
        whole_ones = [head for head in (*rest, last) if head in given]
        assert whole_ones == given[-len(whole_ones) :] and len(whole_ones) >= 3
        assert len(rest) + 1 - len(whole_ones) <= 1  # what is cut is signed by nobody
    witness.path.write_bytes(b"somebody's\n\nown words\n" + whole)
    monkeypatch.setattr(witness_module, "KEPT_BYTES_MAX", 1 << 20)
    assert [head for head in witness.kept() if head in given] == given[1:]
    with pytest.raises(WitnessFailed, match="directory"):
        FileWitness(tmp_path).kept()


def test_one_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    log, kept, go_on = Log(tmp_path), Kept(), threading.Event()

    class Hanging(Kept):
        def take(self, head: bytes) -> None:
            assert go_on.wait(PUSHED_S)

    pusher = Pusher(log.tree.signed, [Hanging(), kept])
    pusher.start()
    until(kept.asked)
    go_on.set()
    pusher.close()


def test_a_pusher_without_witnesses_has_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    pusher = Pusher(Log(tmp_path).tree.signed, [])
    pusher.start()
    assert threading.active_count() == before
    pusher.close()


def test_what_is_no_file_of_heads() -> None:
    assert list(heads_within(b"")) == []
    assert list(heads_within(b"nothing\n")) == []
