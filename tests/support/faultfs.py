"""Mount a `FaultDisk` through FUSE, and drive it from a test.

    with fault_fs(tmp_path) as fs:
        fs.fault("sync", "EIO", path="/state/log/*", after=10)
        …
        fs.cut_power(seed)      # whoever had files open there is gone by then

The server is a process of its own: a test that waits in the kernel for its own answers would hang.
It takes one JSON object a line on standard input and answers each with one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import pickle
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.support.faultdisk import (
    BLOCK_BYTES,
    CAPACITY_BYTES,
    FAULTS_MAX,
    HIDDEN,
    Fault,
    FaultDisk,
    File,
    Folder,
    Link,
    Node,
)

ROOT = Path(__file__).resolve().parents[2]
NAME = "stockade-fault-test"
MOUNT_S = 20.0
POLL_S = 0.01


class FaultFs:
    """A mounted disk, from outside."""

    def __init__(self, mount: Path, folder: Path) -> None:
        self.path = mount
        self._image = folder / "disk.image"
        self._log = (folder / "disk.log").open("ab")
        self._server = self._serve()

    def _serve(self) -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.faultfs", str(self.path), str(self._image)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        deadline = time.monotonic() + MOUNT_S
        while not self.path.is_mount():
            assert server.poll() is None, "the server of the file system has ended"
            assert time.monotonic() < deadline, "nothing is mounted"
            time.sleep(POLL_S)
        return server

    def fault(
        self, operation: str, does: str, *, path: str = "*", after: int = 0, times: int = -1
    ) -> None:
        """Let an operation go wrong from now on: see `faultdisk.Fault`."""
        rule = Fault(operation=operation, does=does, path=path, after=after, times=times)
        self._ask({"do": "fault", **asdict(rule)})

    def heal(self) -> int:
        """Take all faults away; give how often they struck."""
        return int(self._ask({"do": "heal"})["injected"])

    def injected(self) -> int:
        """Give how often the faults struck so far."""
        return int(self._ask({"do": "injected"})["injected"])

    def cut_power(self, seed: int = 0, *, share: float | None = None) -> dict[str, int]:
        """Lose what was not synced, but for about a `share` of it, and come back. Nobody may have
        anything open there."""
        told = self._ask({"do": "cut", "seed": seed, "share": share})
        self._end()
        self._server = self._serve()
        return told

    def close(self) -> None:
        """End it, whatever is open."""
        self._end()
        self._log.close()

    def _end(self) -> None:
        # A sandbox that was made meanwhile has a copy of the mount: that is cut off with the
        # server, and would else keep it.
        subprocess.run(["umount", "--lazy", self.path], check=True)
        self._server.kill()
        self._server.wait()
        for pipe in (self._server.stdin, self._server.stdout):
            assert pipe is not None
            pipe.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        server = self._server
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(question).encode() + b"\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the server of the file system has ended"
        return dict(json.loads(answer))


@contextlib.contextmanager
def fault_fs(folder: Path) -> Iterator[FaultFs]:
    """Have a disk mounted at `folder`/disk; whatever happens, it is gone in the end."""
    mount = folder / "disk"
    mount.mkdir()
    fs = FaultFs(mount, folder)
    try:
        yield fs
    finally:
        fs.close()
    assert "Traceback" not in (folder / "disk.log").read_text(), (folder / "disk.log").read_text()


class Server:
    """The operations that libfuse calls, by path or by handle. One thread at a time."""

    use_ns = True

    def __init__(self, disk: FaultDisk, lock: threading.Lock) -> None:
        self._disk = disk
        self._lock = lock
        self._open: dict[int, tuple[str, File]] = {}
        self._next = 1

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name.startswith("_") or not callable(found):
            return found
        lock = object.__getattribute__(self, "_lock")

        @functools.wraps(found)
        def locked(*arguments: Any) -> Any:
            with lock:
                return found(*arguments)

        return locked

    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, Any]:
        node = self._open[fh][1] if fh else self._disk.find(path or "")
        size = len(node.live) if isinstance(node, File | Folder) else 0
        return {
            "st_mode": node.mode, "st_ino": node.number, "st_size": size,
            "st_nlink": 0 if HIDDEN in (path or HIDDEN) else 1,
            "st_blocks": -(-size // 512), "st_blksize": BLOCK_BYTES,
            "st_mtime": node.changed_ns, "st_ctime": node.changed_ns, "st_atime": node.changed_ns,
        }  # fmt: skip

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        folder = self._disk.find(path)
        assert isinstance(folder, Folder)
        return [
            (name, {"st_ino": node.number, "st_mode": node.mode}, 0)
            for name, node in [(".", folder), ("..", folder), *folder.live.items()]
            if not name.startswith(HIDDEN)
        ]

    def mkdir(self, path: str, mode: int) -> None:
        self._disk.add(path, Folder, stat.S_IFDIR | stat.S_IMODE(mode))

    def symlink(self, target: str, source: str) -> None:
        self._disk.add(target, Link, stat.S_IFLNK | 0o777, target=source)

    def readlink(self, path: str) -> str:
        node = self._disk.find(path)
        assert isinstance(node, Link)
        return node.target

    def unlink(self, path: str) -> None:
        self._disk.remove(path)

    def rmdir(self, path: str) -> None:
        self._disk.remove(path)

    def rename(self, old: str, new: str) -> None:
        self._disk.rename(old, new)
        node = self._disk.find(new)
        for fh, (_, file) in list(self._open.items()):
            if file is node:  # faults find it by the name that it has now
                self._open[fh] = new, file

    def chmod(self, path: str, mode: int) -> None:
        node = self._disk.find(path)
        node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """All is root's here."""

    def utimens(self, path: str, times: tuple[int, int]) -> None:
        """Times are those of the last write."""

    def create(self, path: str, mode: int) -> int:
        return self._hold(path, self._disk.add(path, File, stat.S_IFREG | stat.S_IMODE(mode)))

    def open(self, path: str, flags: int) -> int:
        self._disk.check("open", path)
        return self._hold(path, self._disk.find(path))

    def _hold(self, path: str, node: Node) -> int:
        assert isinstance(node, File)
        self._next += 1
        self._open[self._next] = path, node
        return self._next

    def release(self, path: str | None, fh: int) -> None:
        del self._open[fh]

    def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:
        name, file = self._open[fh]
        self._disk.check("read", name)
        return bytes(file.live[offset : offset + size])

    def write(self, path: str | None, data: bytes, offset: int, fh: int) -> int:
        name, file = self._open[fh]
        return self._disk.write(name, file, offset, data)

    def truncate(self, path: str | None, length: int, fh: int | None = None) -> None:
        file = self._open[fh][1] if fh else self._disk.find(path or "")
        assert isinstance(file, File)
        self._disk.truncate(path or "", file, length)

    def fallocate(self, path: str | None, mode: int, offset: int, size: int, fh: int) -> None:
        self._disk.check("allocate", self._open[fh][0])

    def fsync(self, path: str | None, datasync: int, fh: int) -> None:
        self._disk.sync(*self._open[fh])

    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> None:
        folder = self._disk.find(path or "")
        assert isinstance(folder, Folder)
        self._disk.sync_folder(path or "", folder)

    def flush(self, path: str | None, fh: int) -> None:
        """A close is no fsync."""

    def statfs(self, path: str) -> dict[str, int]:
        self._disk.check("statfs", path)
        blocks = CAPACITY_BYTES // BLOCK_BYTES
        return {
            "f_bsize": BLOCK_BYTES, "f_frsize": BLOCK_BYTES, "f_blocks": blocks,
            "f_bfree": blocks, "f_bavail": blocks, "f_namemax": 255,
        }  # fmt: skip


def obey(disk: FaultDisk, lock: threading.Lock, image: Path) -> None:
    """Answer the test. After a power cut, what there is lies in `image`, for the next server."""
    for line in sys.stdin:
        question = json.loads(line)
        do = question.pop("do")
        with lock:
            answer: dict[str, Any] = {"injected": sum(fault.injected for fault in disk.faults)}
            if do == "fault":
                if len(disk.faults) >= FAULTS_MAX:
                    raise ValueError("too many faults")
                disk.faults.append(Fault(**question))
            elif do == "heal":
                disk.faults.clear()
            elif do == "cut":
                answer = disk.cut_power(**question)
                image.write_bytes(pickle.dumps(disk))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def serve(mount: str, image: Path) -> None:
    """Mount what is in `image`, or an empty disk; end when killed."""
    import mfusepy

    disk, lock = FaultDisk(), threading.Lock()
    if image.exists():
        disk = pickle.loads(image.read_bytes())  # noqa: S301 (our own)
    threading.Thread(target=obey, args=(disk, lock, image), daemon=True).start()
    mfusepy.FUSE(
        Server(disk, lock), mount, foreground=True, nothreads=True, fsname=NAME,
        use_ino=True, default_permissions=True, allow_other=True,
    )  # fmt: skip


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
