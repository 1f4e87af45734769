"""Take everything there is: processes, memory of each kind, descriptors, disk, inodes, time.

Few of these are tried on the host: they would bring it down. The limit's value is in the record.
"""

from __future__ import annotations

import pytest

from supervisor.call.outcome import (
    LimitExceeded,
    LimitKind,
    OutOfMemory,
    Signaled,
    TimedOut,
)
from tests.escape.arena import Trial, confined, on_host, tried
from tests.support.daemon import Daemon

MEMORY, PIDS, FILES, OUTPUT = 96 << 20, 24, 64, 4 << 20  # profiles/small.yaml
WORK, SHM = 16 << 20, 16 << 20

HEAP = "x = []\nwhile True: x.append(b'x' * (1 << 20))"
MAPPED = """
import mmap
maps = []
while True:
    maps.append(mmap.mmap(-1, 1 << 20))
    maps[-1].write(b"x" * (1 << 20))
"""
SYSTEM_V = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
while True:
    segment = libc.shmget(0, 1 << 20, 0o1600)
    assert segment >= 0, ctypes.get_errno()
    ctypes.memset(libc.shmat(segment, None, 0), 120, 1 << 20)
"""
CHILDREN = """
import os, time
for _ in range(12):
    if os.fork() == 0:
        block = b"x" * (16 << 20)
        time.sleep(60)
os.wait()
time.sleep(60)
"""
PIPES = """
import fcntl, os
ends = []
try:
    while True:
        read, write = os.pipe()
        ends += [read, write]
        fcntl.fcntl(write, 1031, 1 << 20)
        os.write(write, b"x" * (1 << 20))
except OSError as error:
    print(error.errno)
"""


def run(daemon: Daemon, script: str, *, profile: str = "small", **options: float) -> Trial:
    call = daemon.client.run(["python3", "-c", script], profile=profile, **options)
    return tried(daemon, call)


def limit(trial: Trial, name: str) -> dict[str, int]:
    found = trial.denials(name, wall="limit")
    assert found, f"the record has no denial of the limit {name}: {trial.denied}"
    return {"used": int(found[-1]["used"]), "allowed": int(found[-1]["allowed"])}


@pytest.mark.parametrize(
    "script", [HEAP, MAPPED, SYSTEM_V, CHILDREN], ids=["heap", "mmap", "sysv", "children"]
)
def test_memory(daemon: Daemon, script: str) -> None:
    trial = run(daemon, script)
    assert isinstance(trial.call.outcome, OutOfMemory), (trial.call.outcome, trial.call.stderr)
    assert trial.call.outcome.limit_bytes == MEMORY
    assert trial.call.outcome.peak_bytes <= MEMORY
    assert limit(trial, "memory")["allowed"] == MEMORY


def test_files_in_memory_count_as_memory(daemon: Daemon) -> None:
    """The writable mounts are tmpfs: together larger than the memory, so that bounds them."""
    script = (
        "import os, time\n"
        "for n, folder in enumerate(['/work', '/tmp'] * 40):\n"
        "    open(f'{folder}/{n}', 'wb').write(b'x' * (4 << 20))\n"
    )
    call = daemon.client.run(["python3", "-c", script], profile="roomy")
    assert isinstance(call.outcome, OutOfMemory), (call.outcome, call.stderr)
    assert call.usage.memory_peak_bytes <= MEMORY


@pytest.mark.parametrize("folder", ["/work", "/tmp"])
def test_disk(daemon: Daemon, folder: str) -> None:
    script = f"f = open('{folder}/big', 'wb')\nwhile True: f.write(b'x' * (1 << 20)); f.flush()"
    trial = run(daemon, script)
    assert isinstance(trial.call.outcome, LimitExceeded)
    assert (trial.call.outcome.limit, trial.call.outcome.subject) == (LimitKind.DISK, folder)
    used = limit(trial, "disk")
    assert used["used"] == used["allowed"] == {"/work": WORK, "/tmp": WORK // 2}[folder]


def test_shared_memory_files_are_bounded(daemon: Daemon) -> None:
    script = (
        "import errno\n"
        "done = 0\n"
        "try:\n"
        "    with open('/dev/shm/big', 'wb', buffering=0) as f:\n"
        "        while True: done += f.write(b'x' * (1 << 20))\n"
        "except OSError as error: print(errno.errorcode[error.errno], done)\n"
    )
    trial = run(daemon, script)
    assert trial.lines == [f"ENOSPC {SHM}"]


def test_inodes(daemon: Daemon) -> None:
    script = (
        "import errno, os\n"
        "n = 0\n"
        "try:\n"
        "    while True: os.close(os.open(f'/work/{n}', os.O_CREAT | os.O_WRONLY)); n += 1\n"
        "except OSError as error: print(errno.errorcode[error.errno], n)\n"
    )
    trial = run(daemon, script)
    assert isinstance(trial.call.outcome, LimitExceeded)
    assert (trial.call.outcome.limit, trial.call.outcome.subject) == (LimitKind.INODES, "/work")
    used = limit(trial, "inodes")
    assert used["used"] == used["allowed"] == WORK // 4096


def test_fork_bomb(daemon: Daemon) -> None:
    script = "import os\nwhile True:\n    try: os.fork()\n    except BlockingIOError: pass\n"
    trial = run(daemon, script, timeout=2.0)
    assert isinstance(trial.call.outcome, TimedOut | LimitExceeded | OutOfMemory)
    assert limit(trial, "pids")["allowed"] == PIDS
    assert trial.call.usage.pids_peak <= PIDS


def test_threads_count_as_processes(daemon: Daemon) -> None:
    script = (
        "import threading, time\n"
        "n = 0\n"
        "try:\n"
        "    while True:\n"
        "        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "        n += 1\n"
        "except RuntimeError: print(n, flush=True)\n"
        "import os; os._exit(0)\n"
    )
    trial = run(daemon, script)
    assert 0 < int(trial.lines[0]) < PIDS
    assert limit(trial, "pids")["allowed"] == PIDS


def test_descriptors(daemon: Daemon) -> None:
    script = (
        "import errno, os, resource\n"
        "n = 0\n"
        "try: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        "except (OSError, ValueError) as error: print(type(error).__name__)\n"
        "try:\n"
        "    while True: os.open('/dev/null', 0); n += 1\n"
        "except OSError as error: print(errno.errorcode[error.errno], n + 3)\n"
    )
    trial = run(daemon, script)
    assert trial.lines == ["ValueError", f"EMFILE {FILES}"]


def test_pipe_buffers_are_bounded(daemon: Daemon) -> None:
    trial = run(daemon, PIPES)
    assert trial.call.ok or isinstance(trial.call.outcome, OutOfMemory), trial.call.outcome
    assert trial.call.usage.memory_peak_bytes <= MEMORY


def test_socket_buffers_are_bounded(daemon: Daemon) -> None:
    """Outside, they come to more than the sandbox's whole memory."""
    up = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    assert int(on_host("fill_sockets.py", inside=up).stdout) > MEMORY
    trial = confined(daemon, "fill_sockets.py", profile="net-small")
    if isinstance(trial.call.outcome, OutOfMemory):
        assert trial.call.outcome.limit_bytes == MEMORY  # version 2: buffers are memory
        return
    assert 0 < trial.said() < MEMORY
    held = trial.denials("memory", wall="limit")
    assert [(body["detail"], body["allowed"]) for body in held] == [("socket buffers", MEMORY // 8)]


def test_netlink_buffers_are_bounded(daemon: Daemon) -> None:
    """No cgroup of either version is charged for them."""
    alone = ("unshare", "--net")
    assert int(on_host("fill_netlink.py", "20", inside=alone).stdout) > MEMORY
    trial = confined(daemon, "fill_netlink.py", "200", profile="net-small")
    assert isinstance(trial.call.outcome, LimitExceeded), trial.call.stderr
    assert trial.call.outcome.limit is LimitKind.MEMORY
    assert "netlink sockets" in trial.call.outcome.subject
    held = trial.denials("memory", wall="limit")
    assert [body["allowed"] for body in held] == [MEMORY // 8]


def test_output(daemon: Daemon) -> None:
    """More than the profile allows: ended, what came is on record, and the digest covers it."""
    call = daemon.client.run(["sh", "-c", "yes & yes >&2"], profile="small")
    assert isinstance(call.outcome, LimitExceeded)
    assert (call.outcome.limit, call.outcome.allowed) == (LimitKind.OUTPUT, OUTPUT)
    assert OUTPUT < sum(one.digest.size_bytes for one in call.finished.streams) < 64 << 20
    assert limit(tried(daemon, call), "output")["allowed"] == OUTPUT


def test_cpu(daemon: Daemon) -> None:
    script = "import os\nfor _ in range(4): os.fork()\nwhile True: pass"
    trial = run(daemon, script, profile="brief")
    assert isinstance(trial.call.outcome, LimitExceeded)
    assert trial.call.outcome.limit is LimitKind.CPU
    assert limit(trial, "cpu")["allowed"] == 1000


def test_a_core_is_not_dumped(daemon: Daemon) -> None:
    """Neither into /work nor through a pipe to a program of the host."""
    script = "import os, resource\nprint(resource.getrlimit(4))\nos.abort()"
    call = daemon.client.run(["python3", "-c", script], profile="small", outputs=["**"])
    assert call.outcome == Signaled(signal=6)
    assert call.stdout == b"(1, 1)\n"
    assert list(call.outputs) == []
