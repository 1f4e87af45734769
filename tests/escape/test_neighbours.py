"""Two live calls at once, of one profile: neither sees the other's files, processes or ids."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator

import pytest

from supervisor.call.events import Output
from supervisor.client import Execution
from tests.escape.arena import PROGRAMS, confined, tried
from tests.support.daemon import Daemon

VICTIM = """
import os, socket, sys
mark = sys.argv[1]
for folder in ("/work", "/tmp", "/dev/shm"):
    open(f"{folder}/{mark}", "w").write("canary")
server = socket.socket(socket.AF_UNIX)
server.bind("\\0" + mark)
server.listen()
print(open("/proc/self/uid_map").read(), os.readlink("/proc/self/ns/pid"), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def victim(daemon: Daemon, mark: str) -> Iterator[tuple[Execution, str]]:
    """Keep a call alive that has files, a socket and a process with a mark; give what it said."""
    with daemon.client.execute(
        ["python3", "-c", VICTIM, mark], profile="python", stdin_open=True
    ) as execution:
        said = ""
        for event in execution:
            if isinstance(event.event, Output):
                said = event.event.data.decode()
                break
        yield execution, said
        execution.close_stdin()
    assert daemon.client.attach(execution.call_id).wait().ok


@pytest.fixture
def mark() -> str:
    return f"victim-{secrets.token_hex(8)}"


def test_a_neighbour_sees_nothing(daemon: Daemon, mark: str) -> None:
    with victim(daemon, mark) as (_, said):
        outside = daemon.client.run(["true"], profile="python")
        assert outside.ok
        trial = confined(daemon, "look_around.py", mark)
        found = trial.said()
        assert found["files"] == []
        assert found["processes"] == []
        assert found["socket"] == "ECONNREFUSED"
        own_ids, their_ids = found["uid_map"].split(), said.split()[:3]
        assert own_ids[1] != their_ids[1]
        assert found["ipc"] == []
        assert trial.denied == ()


def test_the_search_would_find_it(daemon: Daemon, mark: str) -> None:
    """The same look-around within the victim's own sandbox finds all of it."""
    script = (
        f"python3 victim.py {mark} < /dev/zero & sleep 0.5; python3 look_around.py {mark}; kill $!"
    )
    call = daemon.client.run(
        ["sh", "-c", script], profile="python",
        files={
            "victim.py": VICTIM.replace("sys.stdin.read()", "import time; time.sleep(60)").encode(),
            "look_around.py": PROGRAMS / "look_around.py",
        },
    )  # fmt: skip
    found = json.loads(tried(daemon, call).lines[-1])
    assert found["files"] == [f"{folder}/{mark}" for folder in ("/work", "/tmp", "/dev/shm")]
    assert len(found["processes"]) == 1
    assert found["socket"] == "CONNECTED"


def test_nothing_is_left_for_the_next_call(daemon: Daemon, mark: str) -> None:
    write = f"for f in /work /tmp /dev/shm; do echo canary > $f/{mark}; done"
    assert daemon.client.run(["sh", "-c", write], profile="python").ok
    assert confined(daemon, "look_around.py", mark).said()["files"] == []
