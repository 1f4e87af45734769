"""What is lost closes the door: no byte passes from then on, and the call ends with a reason.

A program sends a little, again and again, and connects anew where a connection breaks: the world
would see at once where something still passed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.outcome import Failed, Interrupted, Outcome, Stopped
from supervisor.client import Execution
from tests.egress.arena import PROFILES, PROGRAMS, RESOLVING, Trial, confined, frames, tried
from tests.egress.attacks import fetch, of
from tests.egress.servers import places
from tests.support.daemon import Daemon, running_daemon
from tests.support.world import World, wait_until

AFTER_S = 0.3
"""How long the world is watched when the door has closed: the program tries every 10 ms."""

WAIT_S = 2
"""How long a program waits that is answered by nobody."""

HOST = "files.example.com"
ENOUGH_BYTES = 1000


@pytest.fixture
def fresh(there: World) -> Iterator[Daemon]:
    """Run a daemon that may be harmed."""
    config = there.config(profiles=PROFILES, limits={"drain_grace": "1s"})
    with running_daemon(network=there.island, config=config) as running:
        yield running


@contextlib.contextmanager
def steady(daemon: Daemon, there: World) -> Iterator[Execution]:
    """Run a call that sends something all the time, from when the world has heard of it."""
    mark = there.mark()
    argv = ["python3", "steady.py", HOST, str(places.DISCARD)]
    files = {"steady.py": PROGRAMS / "steady.py"}
    call = daemon.client.execute(argv, profile="working", files=files)
    wait_until(lambda: heard(there, mark) > ENOUGH_BYTES, "byte of the program")
    yield call


def heard(there: World, mark: int) -> int:
    """Count the bytes that the world got since a mark."""
    return sum(line["count"] for line in there.since(mark, "bytes"))


def nothing_passes(there: World) -> None:
    """See that from now on the world gets nothing, not even a question for a name."""
    mark = there.mark()
    time.sleep(AFTER_S)
    assert there.settled(mark) == []


def brokers(daemon: Daemon) -> list[int]:
    """Give the processes that a daemon's zygote has forked, one for each call with egress."""
    zygotes = [pid for pid in children(daemon.pid) if b"zygote" in command(pid)]
    return [pid for zygote in zygotes for pid in children(zygote)]


def children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split()]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_broker_that_dies_ends_its_call(there: World, fresh: Daemon) -> None:
    with steady(fresh, there) as call:
        (broker,) = brokers(fresh)
        os.kill(broker, signal.SIGKILL)
        wait_until(lambda: gone(broker), "end of the broker")
        nothing_passes(there)
        ended = call.wait()
    assert isinstance(ended.outcome, Failed), ended.outcome
    assert "BROKER" in ended.outcome.reason
    assert fresh.client.run(["true"], profile="working").ok


def test_a_broker_that_hangs_passes_nothing(there: World, fresh: Daemon) -> None:
    with steady(fresh, there) as call:
        (broker,) = brokers(fresh)
        os.kill(broker, signal.SIGSTOP)
        nothing_passes(there)
        fresh.client.signal(call.call_id)
        ended = call.wait()
    assert isinstance(ended.outcome, Stopped), ended.outcome
    wait_until(lambda: gone(broker), "end of the broker")
    trial = tried(fresh, ended)
    assert [body["what"] for body in trial.lost] == ["flow"]


def test_the_zygotes_end_ends_its_calls(there: World, fresh: Daemon) -> None:
    with steady(fresh, there) as call:
        (zygote,) = [pid for pid in children(fresh.pid) if b"zygote" in command(pid)]
        os.kill(zygote, signal.SIGKILL)
        wait_until(lambda: gone(zygote), "end of the zygote")
        ended = call.wait()
        nothing_passes(there)
    assert isinstance(ended.outcome, Failed), ended.outcome
    # The next call has another.
    trial = confined(fresh, [fetch(HOST, HOST)])
    assert of(HOST) in trial.got()[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_that_stops(there: World, fresh: Daemon, number: int) -> None:
    with steady(fresh, there) as call:
        call_id = call.call_id
        found = brokers(fresh)
        assert found
        fresh.request_stop(number)
        fresh.wait_ended()
        wait_until(lambda: all(map(gone, found)), "end of the brokers")
        nothing_passes(there)
    fresh.start()
    outcome = outcome_of(fresh, call_id)
    assert isinstance(outcome, Interrupted | Stopped), outcome
    nothing_passes(there)


def outcome_of(daemon: Daemon, call_id: str) -> Outcome:
    """Give how a call ended, once that is on record."""
    return daemon.client.attach(call_id).wait().outcome


@pytest.mark.parametrize("mode", ["silent", "garbage", "failing", "other-id", "other-name"])
def test_a_resolver_that_is_of_no_use(there: World, daemon: Daemon, mode: str) -> None:
    name = f"{mode}.good.example.com"
    there.set_names({name: {"A": [places.SHARED[0]], "mode": mode}})
    mark = there.mark()
    attempt = {"do": "tcp", "to": name, "port": 443, "tls": {"sni": name}, "send": "x",
               "wait_s": WAIT_S}  # fmt: skip
    trial = confined(daemon, [attempt], profile="working")
    assert frames(there.settled(mark)) <= RESOLVING
    assert there.token not in trial.got()[0]
    (flow,) = trial.flows
    assert (flow["name"], flow["address"]) == (name, "")
    # Where no answer comes the program gives up first, and its call ends.
    assert flow["verdict"] in ("failed", "stopped")
    assert flow["reason"] or flow["verdict"] == "stopped"
    assert (flow["sent"], flow["received"]) == (0, 0)


def test_no_resolver_at_all(there: World) -> None:
    config = there.config(profiles=PROFILES)
    config["egress"]["resolver"] = ["198.51.100.99"]
    with running_daemon(network=there.island, config=config) as daemon:
        mark = there.mark()
        trial = confined(daemon, [fetch(HOST, HOST, wait_s=WAIT_S)])
    assert {address for _, address, _ in frames(there.settled(mark))} <= {"198.51.100.99"}
    (flow,) = trial.flows
    assert flow["name"] == HOST
    assert flow["verdict"] in ("failed", "stopped")
    assert there.token not in trial.got()[0]


def test_a_far_side_that_is_not_there(there: World, daemon: Daemon) -> None:
    name = "nowhere.good.example.com"
    there.set_names({name: {"A": ["203.0.113.200"]}})
    attempt = {"do": "tcp", "to": name, "port": 443, "tls": {"sni": name}, "send": "x"}
    trial = confined(daemon, [attempt], profile="working")
    (flow,) = trial.flows
    assert (flow["name"], flow["verdict"]) == (name, "failed")
    assert flow["reason"]


def exhaust(
    daemon: Daemon, count: int, names: int, **options: object
) -> tuple[Trial, dict[str, dict[str, int]]]:
    argv = ["python3", "exhaust.py", HOST, str(places.ECHO), str(count), str(names)]
    files = {"exhaust.py": PROGRAMS / "exhaust.py"}
    call = daemon.client.run(argv, profile="exhausting", files=files)
    assert call.ok, (call.outcome, call.stderr[-2000:])
    return tried(daemon, call), json.loads(call.stdout)


CONNECTIONS, CONNECTIONS_MAX = 1300, 1024
NAMES, NAMES_MAX = 1100, 1024


def test_more_is_opened_without_walls(there: World) -> None:
    done = there.unconfined(
        ["/usr/bin/python3", PROGRAMS / "exhaust.py", HOST, str(places.ECHO), str(CONNECTIONS),
         str(NAMES)]
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert said["ends"] == {"opened": CONNECTIONS}
    assert said["names"] == {"resolved": NAMES}


def test_full_tables_refuse_what_is_new(there: World, daemon: Daemon) -> None:
    """Connections, and names below a wildcard, come to an end; what is open goes on, and another
    call has tables of its own."""
    mark = there.mark()
    trial, said = exhaust(daemon, CONNECTIONS, NAMES)
    opened = said["ends"].pop("opened")
    assert 0 < opened <= CONNECTIONS_MAX
    assert sum(said["ends"].values()) == CONNECTIONS - opened
    assert set(said["ends"]) <= {"EPERM"}
    assert said["names"]["resolved"] == said["addresses"] == NAMES_MAX
    assert trial.denials(("network", "connect"), says=HOST)
    assert trial.denials(("network", "dns"), says="good.example.com")
    told = sum(body["count"] for body in trial.denials(("network", "connect")))
    assert told == CONNECTIONS - opened
    seen = there.settled(mark)
    assert len([line for line in seen if line["kind"] == "bytes"]) == opened
    assert {line["name"] for line in seen if line["kind"] == "query"} == {HOST}
    assert len(trial.flows) + sum(b["count"] for b in trial.lost if b["what"] == "flow") == opened
    again = confined(daemon, [fetch(HOST, HOST)], profile="working")
    assert of(HOST) in again.got()[0]
