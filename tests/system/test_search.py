"""`audit ls` finds a call by each of its filters, from the command line to the index and back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited
from tests.support.daemon import Daemon, running_daemon
from tests.support.no_tls import PROGRAM, RULE
from tests.support.profiles import with_profiles

SCRIPT = f"id -u; echo PR''INTED; python3 -c '{PROGRAM}'; exit 3"
FILTERS = [
    (["--agent", "writer"], ["--agent", "nobody"]),
    (["--session", "s-1"], ["--session", "s-3"]),
    (["-p", "loud"], ["-p", "python"]),
    (["--caller", "owner", "--agent", "writer"], ["--caller", "nobody"]),
    (["--outcome", "not_ok"], ["--outcome", "timed_out"]),
    (["--denied"], ["--denied", "ptrace"]),
    (["--denied", "network"], ["--denied", "program"]),
    (["--denied", "tls"], ["--denied", "dns"]),
    (["--to", "api.github.com"], ["--to", "github.com"]),
    (["--to", "API.github.com.:443"], ["--to", "api.github.com:80"]),
    (["--program", "id"], ["--program", "curl"]),
    (["--program", "/usr/bin/id"], ["--program", "/bin/id-u"]),
    (["--text", "create_connection Exit"], ["--text", "PRINTED"]),
    (["--text", "exit", "--denied", "--outcome", "exited"], ["--text", "exit", "--outcome", "ok"]),
]
"""What gives the loud call alone, and what gives none or the other one."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("search")
    config = with_profiles(folder / "profiles", loud=RULE)
    with running_daemon(config=config, folder=folder) as running:
        yield running


@pytest.fixture(scope="module")
def calls(daemon: Daemon) -> tuple[str, str]:
    """Give a quiet call and, after it, a loud one."""
    client = daemon.client
    quiet = client.run(["true"], profile="base", agent="reader", session="s-2")
    loud = client.run(["sh", "-c", SCRIPT], profile="loud", agent="writer", session="s-1")
    assert loud.outcome == Exited(code=3)
    assert b"PRINTED" in loud.stdout
    return quiet.call_id, loud.call_id


def ls(daemon: Daemon, *options: str) -> list[str]:
    done = daemon.command("audit", "ls", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [call["call_id"] for call in json.loads(done.stdout)]


@pytest.mark.parametrize(("giving", "not_giving"), FILTERS)
def test_filters(
    daemon: Daemon, calls: tuple[str, str], giving: list[str], not_giving: list[str]
) -> None:
    quiet, loud = calls
    assert ls(daemon) == [loud, quiet]
    assert ls(daemon, *giving) == [loud]
    assert loud not in ls(daemon, *not_giving)


def test_times(daemon: Daemon, calls: tuple[str, str]) -> None:
    quiet, loud = calls
    accepted = daemon.client.get(loud).accepted_ns
    found = list(daemon.client.records(until_ns=accepted))
    assert [call.call_id for call in found] == [quiet]
    assert [call.call_id for call in daemon.client.records(since_ns=accepted)] == [loud]
    assert ls(daemon, "--since", "1d") == [loud, quiet]
    assert ls(daemon, "--until", "1d") == []
    assert ls(daemon, "--until", time.strftime("%Y-%m-%d", time.gmtime(time.time() + 90_000)))


def test_the_index_is_made_again_where_it_is_missing(
    daemon: Daemon, calls: tuple[str, str]
) -> None:
    daemon.stop()
    for file in Path(daemon.state).glob("index.db*"):
        file.unlink()
    daemon.start()
    for giving, _ in FILTERS:
        assert ls(daemon, *giving) == [calls[1]], giving
