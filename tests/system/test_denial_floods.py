"""A call that is denied without end, beside one that is denied a few times.

The flood is folded with counts: what is told adds up to what was tried. The quiet call's denials
are told one by one, each with its address, whatever its neighbour does.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from supervisor.call.events import Denied, Wall
from supervisor.call.outcome import Exited
from supervisor.client import FinishedCall
from tests.support.daemon import Daemon, running_daemon
from tests.support.following import is_started, until
from tests.support.profiles import with_profiles
from tests.support.rounds import rounds

NET = "profile: net\nextends: python\nuse: [loopback]\nwhy: Sockets, which lead nowhere.\n"
PLACES = 1000
"""More than the kinds that are told apart of one call, 256."""

FLOOD = """
import socket, sys
tried = denied = 0
for _ in range(int(sys.argv[1])):
    for number in range(int(sys.argv[2])):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            tried += 1
            try: one.connect(("198.51.%d.%d" % (100 + number // 250, number % 250), 443))
            except PermissionError: denied += 1
print(tried, denied)
"""
QUIET = """
import socket, sys, time
for number in range(10):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        try: one.connect(("2001:db8::%d" % number, 53))
        except PermissionError: print("denied")
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(config=with_profiles(tmp_path_factory.mktemp("profiles"), net=NET)) as it:
        yield it


def told(call: FinishedCall) -> list[Denied]:
    return [denied for denied in call.denials if denied.wall is Wall.NETWORK]


def test_a_flood_adds_up_and_hurts_no_other(daemon: Daemon) -> None:
    turns = rounds(200)
    argv = ["python3", "-c", FLOOD, str(turns), str(PLACES)]
    with daemon.client.execute(argv, profile="net") as loud:
        until(loud, is_started)
        quiet = daemon.client.run(["python3", "-c", QUIET], profile="net")
    with daemon.client.attach(loud.call_id) as again:
        loud_end = again.wait()
    assert loud_end.outcome == Exited(code=0), loud_end.stderr
    assert loud_end.stdout == f"{turns * PLACES} {turns * PLACES}\n".encode()
    assert sum(denied.count for denied in told(loud_end)) == turns * PLACES
    assert len({denied.detail for denied in told(loud_end)}) > 200
    assert {denied.rule for denied in told(loud_end)} == {"egress: nothing is allowed"}
    assert quiet.stdout == b"denied\n" * 10
    wanted = {f"[2001:db8::{number}]:53 udp" for number in range(1, 10)} | {"[2001:db8::]:53 udp"}
    assert {(denied.detail, denied.count) for denied in told(quiet)} == {(w, 1) for w in wanted}
    assert all(denied.pid and denied.program == b"python3" for denied in told(quiet))
