"""A terminal in a mount of devpts of its own: what is made there, and what is refused."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import RuntimeFailed
from supervisor.linux.mounts import unmount
from supervisor.linux.syscalls import MS_NOEXEC, MS_NOSUID, mount
from supervisor.linux.terminal import HOSTS_OWN, IUTF8, TerminalPair, open_terminal, set_size

pytestmark = pytest.mark.root
ECHO_BYTES = 100


@contextlib.contextmanager
def devpts(folder: Path) -> Iterator[Path]:
    """Mount an instance, with the terminals' owner as the sandboxes' has it."""
    folder.mkdir()
    mount("devpts", folder, "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,uid=1234")
    try:
        yield folder
    finally:
        unmount(folder)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[TerminalPair]:
    pair = open_terminal(folder, rows=30, columns=100)
    try:
        yield pair
    finally:
        os.close(pair.master)
        os.close(pair.peer)


def size_of(fd: int) -> tuple[int, ...]:
    return struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))


def test_it_has_its_size_its_owner_and_both_ends(tmp_path: Path) -> None:
    with devpts(tmp_path / "pts") as folder, opened(folder) as pair:
        assert (folder / "0").stat().st_uid == 1234
        assert size_of(pair.peer) == (30, 100, 0, 0)
        set_size(pair.master, rows=5, columns=7)
        assert size_of(pair.peer) == (5, 7, 0, 0)
        assert termios.tcgetattr(pair.peer)[0] & IUTF8
        os.write(pair.peer, b"out\n")
        assert os.read(pair.master, ECHO_BYTES) == b"out\r\n"
        with pytest.raises(BlockingIOError):
            os.read(pair.master, ECHO_BYTES)
        assert not any(map(os.get_inheritable, (pair.master, pair.peer)))


def test_it_is_nobodys_controlling_terminal(tmp_path: Path) -> None:
    with devpts(tmp_path / "pts") as folder, opened(folder) as pair:
        assert struct.unpack("i", fcntl.ioctl(pair.master, termios.TIOCGPGRP, bytes(4))) == (0,)


def test_what_the_other_side_has_closed_and_opened_again_goes_on(tmp_path: Path) -> None:
    with devpts(tmp_path / "pts") as folder, opened(folder) as pair:
        for _ in range(2):
            program = os.open(folder / "0", os.O_RDWR | os.O_NOCTTY)
            os.write(program, b"x")
            os.close(program)
            assert os.read(pair.master, ECHO_BYTES) == b"x"


def test_one_that_others_have_is_refused(tmp_path: Path) -> None:
    with devpts(tmp_path / "pts") as folder, opened(folder):
        for shared in (folder, HOSTS_OWN):
            with pytest.raises(RuntimeFailed) as raised:
                open_terminal(shared, rows=1, columns=1)
            assert raised.value.reason == "TERMINAL_NOT_PRIVATE"


def test_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_terminal(tmp_path, rows=1, columns=1)
