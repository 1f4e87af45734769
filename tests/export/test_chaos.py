"""Each sink against a receiver to which everything happens, and with the daemon killed as well.

A log of the real store goes through the real exporter and its worker. At random moments the
receiver is killed, stopped, started again, or answers errors; in the second test the daemon is
killed, too, at times together with the receiver. What is there in the end is the whole log, without
a gap in its indexes, and what came first came in order. Duplicates are counted and told.

`make test` has a short log and some of the sinks; `make soak` has 100 000 events for each.
"""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from supervisor.export.event import Event
from tests.export.places import PLACES, Place, Program, Trouble, order, place
from tests.support.exporting import Host, events_of, write_log
from tests.support.rounds import SOAK

log = logging.getLogger("tests.export")

EVENTS = 100_000 if SOAK else 2_000
EVENTS_PER_ENTRY = 1.8
TROUBLES = 16 if SOAK else 4
ARRIVE_S = 900.0 if SOAK else 60.0
LOOK_S = 0.05
Written = tuple[Path, int, dict[str, int]]
PACE = {} if SOAK else {"batch_events": 50}
QUICK = {"tls", "relp", "file", "otlp-grpc", "webhook"}
"""Of the daemon's troubles, among which are the receiver's; all others are for `make soak`."""


def parameters(quick: Container[str]) -> list[ParameterSet]:
    """Give all places, those that are not quick for `make soak` alone."""
    marks = {name: [] if name in quick else [pytest.mark.soak, pytest.mark.slow] for name in PLACES}
    marks["journald"].append(pytest.mark.root)
    return [pytest.param(name, marks=marks[name]) for name in PLACES]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Give a log, how many entries it has, and its events by their ids, with their classes."""
    state = tmp_path_factory.mktemp("chaos") / "state"
    count = write_log(state, round(EVENTS / EVENTS_PER_ENTRY))
    wanted: Sequence[Event] = events_of(state, "ocsf")
    assert len(wanted) >= EVENTS
    assert {event.index for event in wanted} == set(range(count))
    return state, count, {event.uid: event.class_uid for event in wanted}


@pytest.mark.timeout(1800 if SOAK else 120)
@pytest.mark.parametrize("name", parameters(()))
def test_the_receiver_has_the_log_whatever_happens_to_it(
    name: str, written: Written, tmp_path: Path
) -> None:
    run(name, written, tmp_path, lambda host, there: list(there.troubles))


@pytest.mark.timeout(1800 if SOAK else 120)
@pytest.mark.parametrize("name", parameters(QUICK))
def test_the_receiver_has_the_log_whatever_happens_to_the_daemon(
    name: str, written: Written, tmp_path: Path
) -> None:
    def troubles(host: Host, there: Place) -> list[Trouble]:
        def kill(chance: random.Random) -> None:
            host.kill()
            time.sleep(chance.random() / 10)
            host.start()

        def kill_worker(_: random.Random) -> None:
            host.kill_worker()

        def kill_both(chance: random.Random) -> None:
            """What the receiver did not put away is in nobody's memory then."""
            host.kill()
            chance.choice(there.troubles)(chance)
            host.start()

        return [kill, kill_worker, kill_both, *there.troubles]

    run(name, written, tmp_path, troubles)


@pytest.mark.parametrize("name", ["tls", pytest.param("syslog-ng", marks=pytest.mark.soak)])
def test_what_a_receiver_had_not_read_comes_again_where_both_die(name: str, tmp_path: Path) -> None:
    """It lay in the receiver's kernel, which had acknowledged it, and in the daemon's memory."""
    state = tmp_path / "state"
    count = write_log(state, 1500)
    wanted = [event.uid for event in events_of(state, "json")]
    with place(name, tmp_path / "place", 0) as there:
        assert isinstance(there, Program)
        options = there.options
        there.options = replace(options, held_s=600.0)
        ordered = order(there, "json", batch_events=1)
        with Host(state, [ordered]) as host:
            wait_until(host, lambda: bool(there.received()))
            with there.receiver.stalled():
                wait_until(host, lambda: sent(host) > len(there.received()))
                assert host.status()["index"] == 0
                host.kill()
                there.receiver.kill()
        there.receiver.start()
        there.options = replace(options, held_s=0.1)
        with Host(state, [order(there, "json")]) as host:
            wait_until(host, lambda: host.status().get("index", 0) == count)
        wait_until(host, lambda: set(there.received()) >= set(wanted))
        assert list(dict.fromkeys(there.received())) == wanted


def run(
    name: str,
    written: Written,
    folder: Path,
    troubles: Callable[[Host, Place], Sequence[Trouble]],
) -> None:
    """Have the log exported while things happen; hold what arrived against it."""
    seed = random.randrange(1, 1 << 32)
    log.info("%s: seed %d", name, seed)
    chance = random.Random(seed)
    state, count, wanted = written
    shutil.copytree(state, folder / "state")
    with place(name, folder / "place", seed) as there:
        begin = time.monotonic()
        with Host(folder / "state", [order(there, **PACE)], there.stdout) as host:
            done = happen(host, troubles(host, there), chance, count)
            wait_until(host, lambda: host.status().get("index", 0) == count)
            assert host.status()["letters"] == 0
        took = time.monotonic() - begin
        found = there.received()
        until = time.monotonic() + ARRIVE_S
        while not set(found).issuperset(wanted) and time.monotonic() < until:
            time.sleep(LOOK_S)
            found = there.received()
    missing = set(wanted).difference(found)
    assert not missing, (seed, len(missing), sorted(missing, key=list(wanted).index)[:5])
    firsts = list(dict.fromkeys(found))
    if name == "s3":  # An object has one class: there is no order between those of two.
        for one in set(wanted.values()):
            assert [uid for uid in firsts if wanted[uid] == one] == [
                uid for uid in wanted if wanted[uid] == one
            ], seed
    else:
        assert firsts == list(wanted), seed
    log.info(
        "%s: %d events in %.1f s, %d troubles (%s), %d duplicates",
        name, len(wanted), took, len(done), " ".join(done), len(found) - len(wanted),
    )  # fmt: skip


def happen(host: Host, acts: Sequence[Trouble], chance: random.Random, count: int) -> list[str]:
    """Do one thing after the other, each once so much of the log is out; give their names."""
    marks = sorted(chance.randrange(count) for _ in range(TROUBLES))
    chosen = (list(acts) * (TROUBLES // len(acts) + 1))[:TROUBLES] if SOAK else acts
    done = []
    for mark, act in zip(marks, chance.sample(chosen, min(TROUBLES, len(chosen))), strict=False):
        wait_until(host, lambda: sent(host) >= mark)  # noqa: B023
        act(chance)
        done.append(act.__name__.strip("_"))
    return done


def sent(host: Host) -> int:
    """Give how much of the log is out, acknowledged or not."""
    status = host.status()
    return max(status.get("index", 0), status.get("said", {}).get("sent", 0))


def wait_until(host: Host | None, condition: Callable[[], bool]) -> None:
    """Wait for something; say of the daemon how it does where that does not come."""
    until = time.monotonic() + ARRIVE_S
    while not condition():
        assert time.monotonic() < until, host and (host.status(), host.log()[-3000:])
        time.sleep(LOOK_S)
