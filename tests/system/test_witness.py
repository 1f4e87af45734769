"""Another Stockade as the witness of a log: two real daemons."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.witness_word import read_word
from tests.support.daemon import Daemon

WAIT_S = 60.0
ORIGIN = "log.example.com/host-2"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Daemon, Daemon]]:
    """Give a witness that runs, and one that has it, not started."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Daemon(tmp_path / "a") as witness, Daemon(tmp_path / "b") as logged:
        made = logged.command("audit", "key", "new", "--origin", ORIGIN, str(logged.state))
        assert made.returncode == 0, made.stderr
        key = (logged.state / "log.pub").read_text().strip()
        witness.configure({"witness_for": [{"origin": ORIGIN, "key": key}]})
        logged.configure({"witnesses": [{"stockade": witness.address}]})
        witness.start()
        yield witness, logged
        for one in (logged, witness):
            if one.alive:
                assert one.stop() == 0, one.tail()
            assert one.leftovers() == []


def wait_for(what: Callable[[], object], *daemons: Daemon) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "\n".join(one.tail() for one in daemons)
        time.sleep(0.1)


def witnessed(daemon: Daemon) -> list[dict[str, Any]]:
    return [entry.body()["body"] for entry in daemon.client.events(kind="witnessed")]


def contradicted(daemon: Daemon) -> list[dict[str, Any]]:
    return [entry.body()["body"] for entry in daemon.client.events(kind="head_contradicted")]


def test_a_log_that_was_cut_back_is_refused(pair: tuple[Daemon, Daemon], tmp_path: Path) -> None:
    witness, logged = pair
    logged.start()
    wait_for(lambda: witnessed(witness), witness, logged)
    assert logged.stop() == 0
    before = witnessed(witness)
    shutil.copytree(logged.state, tmp_path / "earlier", symlinks=True)
    logged.start()
    for _ in range(3):
        logged.client.run(["true"], profile="base")
    assert logged.stop() == 0  # which gives the last head away
    after = witnessed(witness)
    assert after[0]["size"] > before[0]["size"]
    assert {body["origin"] for body in after} == {ORIGIN}
    (kept,) = (witness.state / "witnessed").iterdir()
    verified = logged.command("audit", "verify", "--head", str(kept), str(logged.state))
    assert verified.returncode == 0, verified.stdout
    shutil.rmtree(logged.state)
    (tmp_path / "earlier").rename(logged.state)  # as root could
    assert logged.command("audit", "verify", str(logged.state)).returncode == 0  # it fits itself
    logged.start()
    wait_for(lambda: contradicted(logged), witness, logged)
    assert "it was cut back" in contradicted(logged)[0]["why"] and "CRITICAL" in logged.tail()
    wait_for(lambda: any(one.contradicted for one in read_word(logged.state).values()), logged)
    for _ in range(6):  # until it is longer than it was
        logged.client.run(["true"], profile="base")
    assert logged.stop() == 0
    assert "does not begin with the one over" in logged.tail(), logged.tail()
    verified = logged.command("audit", "verify", str(logged.state))
    assert verified.returncode == 0, verified.stdout
    assert "was rewritten, or cut back" in witness.tail()
    refused = [entry.body()["body"]["reason"] for entry in witness.client.events(kind="refused")]
    assert "HEAD_REWRITTEN" in refused
    assert witnessed(witness) == after  # nothing else was taken


def test_who_may_not_have_heads_kept(pair: tuple[Daemon, Daemon]) -> None:
    witness, logged = pair
    assert witness.stop() == 0
    witness.configure({"callers": [{"name": "other", "uid": 0, "profiles": [], "audit": "all"}]})
    witness.start()
    logged.start()
    wait_for(lambda: "WITNESS_NOT_GRANTED" in logged.tail(), witness, logged)
    assert witnessed(witness) == []
