"""Descriptors: none leaks into a child, none is opened through a link."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.linux import fds


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    with fds.closing_fd(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)) as fd:
        yield fd


def open_fds() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_a_pipe_closes_on_exec_and_has_the_size_asked_for() -> None:
    pipe = fds.make_pipe(fds.PIPE_BYTES)
    for fd in (pipe.read, pipe.write):
        assert not os.get_inheritable(fd)
    assert fcntl.fcntl(pipe.write, fcntl.F_GETPIPE_SZ) in (fds.PIPE_BYTES, 1 << 16)
    os.close(pipe.read)
    os.close(pipe.write)


def test_a_pipe_over_the_quota_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: int) -> int:
        raise PermissionError(1, "over the quota")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    pipe = fds.make_pipe(fds.PIPE_BYTES)
    assert os.write(pipe.write, b"x") == 1
    os.close(pipe.read)
    os.close(pipe.write)


def send(connection: socket.socket, data: bytes, descriptors: list[int]) -> None:
    connection.sendmsg(
        [data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    )


def test_descriptors_come_with_a_message() -> None:
    ours, theirs = socket.socketpair()
    pipe = fds.make_pipe()
    with ours, theirs:
        send(theirs, b"hello", [pipe.read, pipe.write])
        data, got = fds.receive_fds(ours, 1024, 4)
    assert data == b"hello"
    assert len(got) == 2
    os.write(got[1], b"through")
    assert os.read(pipe.read, 100) == b"through"
    assert not any(os.get_inheritable(fd) for fd in got)
    for fd in (*got, pipe.read, pipe.write):
        os.close(fd)


def test_more_descriptors_than_wanted_do_not_stay_open() -> None:
    ours, theirs = socket.socketpair()
    pipe = fds.make_pipe()
    with ours, theirs:
        before = open_fds()
        send(theirs, b"x", [pipe.read] * 20)
        _, got = fds.receive_fds(ours, 1024, 1)
        for fd in got:
            os.close(fd)
        assert open_fds() == before
    os.close(pipe.read)
    os.close(pipe.write)


def test_a_message_without_descriptors() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        assert fds.receive_fds(ours, 10, 1) == (b"x", [])


def test_a_file_below_a_folder(folder: int, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    with fds.closing_fd(fds.open_below(folder, [b"a", b"b", b"c"], os.O_CREAT | os.O_WRONLY)) as fd:
        os.write(fd, b"data")
    path = tmp_path / "a/b/c"
    assert path.read_bytes() == b"data"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "parts", [[b"link", b"file"], [b"real", b"out"], [b"real", b"dot", b"file"]]
)
def test_no_step_is_a_link(folder: int, tmp_path: Path, parts: list[bytes]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("secret")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/out").symlink_to("file")
    (tmp_path / "real/dot").symlink_to(".")
    before = open_fds()
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT):
        with pytest.raises(OSError):
            fds.open_below(folder, parts, flags)
    assert open_fds() == before


def test_waiting_for_both_ends_of_a_pipe() -> None:
    async def main() -> bytes:
        pipe = fds.make_pipe()
        os.set_blocking(pipe.read, False)
        waiting = asyncio.ensure_future(fds.wait_readable(pipe.read))
        await fds.wait_writable(pipe.write)
        assert not waiting.done()
        os.write(pipe.write, b"x")
        await waiting
        data = os.read(pipe.read, 10)
        hung_up = asyncio.ensure_future(fds.wait_readable(pipe.read))
        os.close(pipe.write)
        await hung_up
        os.close(pipe.read)
        return data

    assert asyncio.run(main()) == b"x"


def test_a_wait_that_is_cancelled_leaves_no_reader() -> None:
    async def main() -> bool:
        pipe = fds.make_pipe()
        for wait, fd in ((fds.wait_readable, pipe.read),):
            task = asyncio.ensure_future(wait(fd))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        removed = asyncio.get_running_loop().remove_reader(pipe.read)
        os.close(pipe.read)
        os.close(pipe.write)
        return removed

    assert asyncio.run(main()) is False


def test_a_socket_that_takes_no_descriptors_is_sent_none(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as one:
        refuses = fds.take_no_descriptors(listener)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        one.connect(str(tmp_path / "s"))
        if not refuses:
            pytest.skip("SO_PASSRIGHTS is of Linux 6.16")
        with pytest.raises(PermissionError):
            socket.send_fds(one, [b"x"], [0])
        with listener.accept()[0] as taken:
            with pytest.raises(PermissionError):
                socket.send_fds(one, [b"x"], [0])
            one.send(b"y")
            assert taken.recv(2) == b"y"
