"""A second program in the sandbox takes the broker's place: not while the broker is there."""

from __future__ import annotations

import json
from typing import Any

from tests.egress.arena import PROGRAMS, tried
from tests.egress.servers import places
from tests.support.daemon import Daemon
from tests.support.world import PYTHON, World

PROGRAM = "squat.py"
FREE_PORT = 15_000


def test_without_walls_the_first_one_gets_it(there: World) -> None:
    done = there.unconfined([PYTHON, PROGRAMS / PROGRAM, str(FREE_PORT)])
    said = json.loads(done.stdout)
    assert said["bound"][f"SOCK_STREAM 127.0.0.1 {FREE_PORT}"] == "bound"
    assert set(said["said"].values()) == {"squatted"}


def test_the_brokers_places_are_taken(there: World, daemon: Daemon) -> None:
    mark = there.mark()
    files = {PROGRAM: PROGRAMS / PROGRAM}
    call = daemon.client.run(["python3", PROGRAM], profile="reaching", files=files)
    assert call.ok, call.stderr
    said: dict[str, Any] = json.loads(call.stdout)
    door = [port for port in said["ports"] if port != 53]
    assert len(door) == 1
    assert 53 in said["ports"]
    assert said["resolver"] in places.LOOPBACK
    bound = {place for place, how in said["bound"].items() if how == "bound"}
    # Nobody needs UDP on the door's port, and nothing is led to it.
    assert bound <= {place for place in said["bound"] if place.startswith("SOCK_DGRAM")}
    assert not any(place.endswith(" 53") for place in bound)
    assert "squatted" not in said["said"].values()
    # Whoever goes to the door by itself is told on record, and led nowhere.
    trial = tried(daemon, call)
    told = trial.denials(("network", "connect"))
    assert told, trial.denied
    assert there.settled(mark) == []
