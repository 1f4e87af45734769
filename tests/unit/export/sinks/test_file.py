"""A file: what is on the disk, what is cut off, and whose file it may be."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.export.sink import SinkError
from supervisor.export.sinks.file import LINE_BYTES_MAX, FileOptions, FileSink
from tests.support.disk import filled, small_disk
from tests.support.rounds import rounds
from tests.unit.export.sinks.samples import event

WRITER = """
import asyncio, sys
from pathlib import Path
from supervisor.export.sinks.file import FileOptions, FileSink
from tests.unit.export.sinks.samples import event

async def write():
    sink = FileSink(FileOptions(path=Path(sys.argv[1])))
    for begin in range(int(sys.argv[2]), 10**9, 50):
        batch = [event(n, b"%d %s" % (n, b"x" * 5000)) for n in range(begin, begin + 50)]
        await sink.send(batch)
        print(begin + 50, flush=True)

asyncio.run(write())
"""


def write(path: Path, *batches: list[bytes], **options: int) -> None:
    async def go() -> None:
        sink = FileSink(FileOptions(path=path, **options))  # type: ignore[arg-type]
        try:
            for batch in batches:
                await sink.send([event(0, data) for data in batch])
        finally:
            await sink.close()
            await sink.close()

    asyncio.run(go())


def test_lines_are_appended_and_nobody_else_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "events"
    write(path, [b"a", b"b"], [b"c"])
    write(path, [b"d"])
    assert path.read_bytes() == b"a\nb\nc\nd\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_line_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "events"

    async def go() -> None:
        sink = FileSink(FileOptions(path=path))
        batch = [event(0, data) for data in (b"a", b"b\nforged", b"c\0", b"d")]
        assert [one.position for one in await sink.send(batch)] == [1, 2]
        await sink.close()

    asyncio.run(go())
    assert path.read_bytes() == b"a\nd\n"


@pytest.mark.parametrize(
    ("found", "left"),
    [
        (b"", b""),
        (b"a\n", b"a\n"),
        (b"a\nhal", b"a\n"),
        (b"hal", b""),
        (b"a\n" + b"h" * LINE_BYTES_MAX, b"a\n"),
    ],
)
def test_part_of_a_line_is_cut_off(tmp_path: Path, found: bytes, left: bytes) -> None:
    path = tmp_path / "events"
    path.write_bytes(found)
    path.chmod(0o600)
    write(path, [b"b"])
    assert path.read_bytes() == left + b"b\n"


def test_more_than_a_line_is_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"h" * (LINE_BYTES_MAX + 2))
    path.chmod(0o600)
    with pytest.raises(SinkError):
        write(path, [b"b"])
    assert path.stat().st_size == LINE_BYTES_MAX + 2


def link(path: Path) -> None:
    (path.parent / "other").write_bytes(b"")
    path.symlink_to(path.parent / "other")


def open_to_all(path: Path) -> None:
    path.write_bytes(b"")
    path.chmod(0o622)


@pytest.mark.parametrize(
    "there", [link, os.mkfifo, Path.mkdir, open_to_all, lambda path: path.symlink_to("none")]
)
def test_what_is_no_file_of_ours(tmp_path: Path, there: Callable[[Path], None]) -> None:
    path = tmp_path / "events"
    there(path)
    with pytest.raises(SinkError):
        write(path, [b"a"])
    assert not (tmp_path / "none").exists()
    assert not path.is_file() or not path.read_bytes()


def test_a_file_that_another_writes(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with path.open("wb") as file:
        path.chmod(0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SinkError, match="another process"):
            write(path, [b"a"])
    write(path, [b"a"])


def test_a_file_that_is_renamed_or_removed(tmp_path: Path) -> None:
    path = tmp_path / "events"

    async def go() -> None:
        sink = FileSink(FileOptions(path=path))
        await sink.send([event(0, b"a")])
        path.rename(tmp_path / "events.1")
        await sink.send([event(0, b"b")])
        path.unlink()
        await sink.send([event(0, b"c")])
        path.rename(tmp_path / "events.2")
        path.write_bytes(b"new\nha")
        path.chmod(0o600)
        await sink.send([event(0, b"d")])
        await sink.close()

    asyncio.run(go())
    assert (tmp_path / "events.1").read_bytes() == b"a\n"
    assert (tmp_path / "events.2").read_bytes() == b"c\n"
    assert path.read_bytes() == b"new\nd\n"


def test_a_file_that_is_cut_by_copytruncate(tmp_path: Path) -> None:
    path = tmp_path / "events"

    async def go() -> None:
        sink = FileSink(FileOptions(path=path))
        await sink.send([event(0, b"a" * 100)])
        os.truncate(path, 0)
        await sink.send([event(0, b"b")])
        await sink.close()

    asyncio.run(go())
    assert path.read_bytes() == b"b\n"


def test_a_rotation_of_our_own(tmp_path: Path) -> None:
    path = tmp_path / "events"
    write(path, *[[b"%d" % number] * 4 for number in range(5)], rotate_bytes=10, keep=2)
    assert path.read_bytes() == b"4\n" * 4
    assert (tmp_path / "events.1").read_bytes() == b"3\n" * 4
    assert (tmp_path / "events.2").read_bytes() == b"2\n" * 4
    assert not (tmp_path / "events.3").exists()


@pytest.mark.parametrize(("rotate_bytes", "keep"), [(1, 0), (0, 1), (-1, -1)])
def test_rotations_that_there_are_not(tmp_path: Path, rotate_bytes: int, keep: int) -> None:
    with pytest.raises(ValueError, match="rotated"):
        FileOptions(path=tmp_path, rotate_bytes=rotate_bytes, keep=keep)


@pytest.mark.parametrize("failing", ["write", "fdatasync"])
def test_an_error_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path, real = tmp_path / "events", os.write

    def half(fd: int, data: memoryview) -> int:
        if len(data) < 4:
            raise OSError(errno.EIO, "no more")
        return real(fd, data[: len(data) // 2])

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "not synced")

    async def go() -> None:
        sink = FileSink(FileOptions(path=path))
        await sink.send([event(0, b"a" * 20)])
        with monkeypatch.context() as patched:
            patched.setattr(os, failing, half if failing == "write" else fail)
            with pytest.raises(SinkError):
                await sink.send([event(0, b"b" * 20)])
        assert path.read_bytes() == b"a" * 20 + b"\n"
        await sink.send([event(0, b"c")])
        await sink.close()

    asyncio.run(go())
    assert path.read_bytes() == b"a" * 20 + b"\nc\n"


@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    async def go(disk: Path) -> None:
        sink = FileSink(FileOptions(path=disk / "events"))
        await sink.send([event(0, b"a")])
        with filled(disk):
            with pytest.raises(SinkError, match="No space"):
                await sink.send([event(0, b"b" * 100_000)] * 10)
            assert (disk / "events").read_bytes() == b"a\n"
        await sink.send([event(0, b"c")])
        await sink.close()
        assert (disk / "events").read_bytes() == b"a\nc\n"

    with small_disk(tmp_path, 16 * 1024 * 1024) as disk:
        asyncio.run(go(disk))


def test_killed_at_random_it_loses_nothing_and_tears_no_line(tmp_path: Path) -> None:
    path, chance, told = tmp_path / "events", random.Random(), 0
    for _ in range(rounds(6)):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, str(told)],
            stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert writer.stdout is not None
        for _ in range(chance.randrange(1, 20)):
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        told = max([told, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
    write(path, [b"end"])
    *lines, end, rest = path.read_bytes().split(b"\n")
    assert (end, rest) == (b"end", b"")
    numbers = [int(line.split()[0]) for line in lines]
    assert all(
        line == b"%d %s" % (number, b"x" * 5000)
        for line, number in zip(lines, numbers, strict=True)
    )
    first = list(dict.fromkeys(numbers))
    assert first == list(range(len(first)))
    assert len(first) >= told


def test_stopped_while_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "events"

    async def go() -> None:
        sink = FileSink(FileOptions(path=path))
        for number in range(20):
            sending = asyncio.create_task(sink.send([event(0, b"%d " % number + b"x" * 99_999)]))
            await asyncio.sleep(0)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await sink.send([event(0, b"%d y" % number)])
        await sink.close()

    asyncio.run(go())
    lines = path.read_bytes().split(b"\n")
    assert [line for line in lines if line.endswith(b"y")] == [b"%d y" % n for n in range(20)]
    assert {len(line) for line in lines if line.endswith(b"x")} <= {100_001, 100_002}
