"""Names that a program gives itself change nothing about whose call a denial belongs to."""

from __future__ import annotations

import threading

from supervisor.client import FinishedCall, Supervisor
from tests.escape.arena import NOWHERE, PROGRAMS, confined, tried
from tests.support.daemon import Daemon

SPOOF = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(15, b"apt-get", 0, 0, 0)  # PR_SET_NAME
libc.syscall(101, 16, 1, int(sys.argv[1]), 0)
"""


def test_comm_is_a_hint_and_the_call_is_certain(daemon: Daemon) -> None:
    """Two calls with the same spoofed names at once: each record has its own denial, alone."""
    calls: dict[int, FinishedCall] = {}

    def attack(number: int) -> None:
        script = ["-c", 'exec -a /usr/bin/apt-get python3 -c "$0" ' + str(number), SPOOF]
        with Supervisor(daemon.address) as client:
            calls[number] = client.run(["bash", *script], profile="python")

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, call in calls.items():
        trial = tried(daemon, call)
        assert [body["arguments"][:3] for body in trial.denials("ptrace")] == [[16, 1, number]]
        assert trial.denials("ptrace")[0]["program"] == "apt-get"
        assert daemon.client.get(call.call_id).argv[0] == b"bash"


def test_a_denial_of_a_child_of_a_child_is_the_calls(daemon: Daemon) -> None:
    script = '(setsid sh -c \'(setsid python3 -c "$1" 7 &) ; sleep 0.5\' sh "$0") ; exit 3'
    call = daemon.client.run(["sh", "-c", script, SPOOF], profile="python")
    assert call.exit_code == 3
    assert tried(daemon, call).count("ptrace", 16, 1, 7) == 1


def test_names_with_hostile_bytes_stay_data(daemon: Daemon) -> None:
    assert PROGRAMS.is_dir()
    script = SPOOF.replace('b"apt-get"', 'b"\\x1b[2J\\n\\xff%s{}"')
    call = daemon.client.run(["python3", "-c", script, str(NOWHERE)], profile="python")
    [denial] = tried(daemon, call).denials("ptrace")
    assert denial["program"] == {"base64": "G1sySgr/JXN7fQ=="}
    assert confined(daemon, "what_is_seen.py").call.ok
