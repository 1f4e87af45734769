"""No way out of one's cgroup: its file system is not there, nor the right to mount it."""

from __future__ import annotations

from tests.escape.arena import tried
from tests.support.daemon import Daemon

LOOK = """
import os
print(sorted({line.split(":", 2)[2].strip() for line in open("/proc/self/cgroup")}))
print([line for line in open("/proc/self/mountinfo") if " - cgroup" in line])
print(os.path.exists("/sys/fs/cgroup"), os.path.exists("/sys"))
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for kind in (b"cgroup", b"cgroup2"):
    print(libc.mount(b"none", b"/work", kind, 0, None), ctypes.get_errno())
"""


def test_there_is_no_cgroup_to_leave(daemon: Daemon) -> None:
    call = daemon.client.run(["python3", "-c", LOOK], profile="python")
    assert call.stdout.decode().splitlines() == [
        "['/']", "[]", "False False", "-1 1", "-1 1",
    ]  # fmt: skip
    trial = tried(daemon, call)
    assert trial.count("mount") == 2
