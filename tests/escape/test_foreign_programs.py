"""Programs that do not come from the image: by the loader, by mmap, from memory, by descriptor.

Where /work is noexec (every profile but `build`), what the caller or the program itself put there
does not run: not directly, not through ld.so, not from a memfd.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.escape.arena import PROGRAMS, on_host, tried
from tests.support.daemon import Daemon

PROGRAM = Path(shutil.which("id", path="/usr/bin") or "/usr/bin/id")  # dynamic: for the loader
WAYS = {
    "direct", "by_loader", "by_mmap", "by_dlopen", "by_memfd", "by_exec_of_a_descriptor", "by_shm",
}  # fmt: skip


def _ran(answer: str) -> bool:
    return answer.startswith(("ran", "uid="))


def test_every_way_works_on_the_host(tmp_path: Path) -> None:
    copy = tmp_path / "program"
    shutil.copy(PROGRAM, copy)
    outside: dict[str, Any] = json.loads(on_host("run_foreign.py", str(copy)).stderr)
    # glibc refuses to load a position-independent executable as a library, wherever it lies.
    assert {way for way in WAYS if not _ran(outside[way])} <= {"by_dlopen"}


@pytest.mark.parametrize("folder", ["/work", "/tmp"])
def test_no_way_works_in_a_sandbox(daemon: Daemon, folder: str) -> None:
    script = (
        "import os, shutil; "
        f"shutil.copy('/work/program', '{folder}/copy'); os.chmod('{folder}/copy', 0o755); "
        f"os.execv('/usr/bin/python3', ['python3', '/work/run_foreign.py', '{folder}/copy'])"
    )
    call = daemon.client.run(
        ["python3", "-c", script], profile="python",
        files={"program": PROGRAM, "run_foreign.py": PROGRAMS / "run_foreign.py"},
    )  # fmt: skip
    inside: dict[str, Any] = json.loads(call.stderr)
    assert set(inside) == WAYS
    assert {way: said for way, said in inside.items() if _ran(said)} == {}
    assert tried(daemon, call).count("memfd_create") == 1
