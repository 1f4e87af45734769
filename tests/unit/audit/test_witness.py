"""Witnesses: what they get, when, and what is told where one takes nothing."""

from __future__ import annotations

import logging
import sys
import threading
import time
from pathlib import Path

import pytest

from supervisor.audit import witness as witness_module
from supervisor.audit.checkpoints import open_checkpoint
from supervisor.audit.witness import (
    CommandWitness,
    FileWitness,
    Pusher,
    WitnessFailed,
    heads_in,
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
    found = list(heads_in(path.read_bytes()))
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
    assert list(heads_in(b"")) == []
    assert list(heads_in(b"nothing\n")) == []
