"""Outputs that are not what their names say: links to the host's files, fifos, sockets, swaps."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import Daemon

CANARY = b"canary: this file is the host's"

TRICKS = """
import os, socket, sys
canary = sys.argv[1]
os.symlink(canary, "link")
os.symlink("/etc/shadow", "shadow")
os.symlink(os.path.dirname(canary), "folder")
os.symlink("/", "root")
os.symlink("/proc/self", "proc")
os.symlink("loop", "loop")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
os.mkdir("closed"); open("closed/file", "w").write("in a closed folder"); os.chmod("closed", 0)
open("secret", "w").write("unreadable"); os.chmod("secret", 0)
open("sparse", "w").truncate(1 << 40)
open("plain", "w").write("plain")
os.link("plain", "hard")
os.link("/work/plain", "/work/\\udcff\\n")
"""

SWAPPER = """
import os, sys, time
canary = sys.argv[1]
os.mkdir("real"); os.mkdir("trap")
open("real/file", "w").write("real")
os.symlink(canary, "trap/file")
os.rename("real", "now")
if os.fork() == 0:
    while True:
        os.rename("now", "real"); os.rename("trap", "now")
        os.rename("now", "trap"); os.rename("real", "now")
time.sleep(0.3)
"""


def _canary(folder: Path) -> Path:
    path = folder / "canary"
    path.write_bytes(CANARY)
    return path


def test_no_name_leads_to_the_host(daemon: Daemon, tmp_path: Path) -> None:
    call = daemon.client.run(
        ["python3", "-c", TRICKS, str(_canary(tmp_path))], profile="python", outputs=["**"]
    )
    assert call.ok, call.stderr
    taken = {name: call.outputs[name] for name in call.outputs}
    assert taken == {
        "plain": b"plain",
        "hard": b"plain",
        "\udcff\n": b"plain",
        "secret": b"unreadable",
        "closed/file": b"in a closed folder",
    }
    skipped = {one.path: one.reason for one in call.skipped}
    assert skipped == {
        **dict.fromkeys(
            (b"link", b"shadow", b"folder", b"root", b"proc", b"loop", b"fifo", b"socket"),
            "NOT_REGULAR",
        ),
        b"sparse": "TOO_LARGE",
    }


def test_names_are_swapped_until_the_end(daemon: Daemon, tmp_path: Path) -> None:
    """A child swaps a folder for one with a link in it, as fast as it can, until it is killed."""
    for _ in range(3):
        call = daemon.client.run(
            ["python3", "-c", SWAPPER, str(_canary(tmp_path))], profile="python", outputs=["**"]
        )
        assert call.ok, call.stderr
        assert all(call.outputs[name] == b"real" for name in call.outputs)


def test_more_files_than_the_record_can_name(daemon: Daemon) -> None:
    script = "import os\nfor n in range(3000): open(f'{n:04}' + 'x' * 200, 'w').close()"
    call = daemon.client.run(["python3", "-c", script], profile="python", outputs=["*"])
    assert call.ok, call.stderr
    assert 0 < len(call.outputs) < 3000
    assert {one.reason for one in call.skipped} == {"TOO_MANY"}
