"""`audit what-if` over real calls: what another profile would have let through, or denied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.call.events import Output
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import with_profiles

OPEN = "profile: open\nextends: base\nuse: [loopback]\nwhy: For one test.\n"
PROFILES = {
    "shut": "",
    "open": OPEN,
    "watching": OPEN.replace("open", "watching") + "syscalls: {watch: [socket]}\n",
    "mounting": "files: {write: [{path: /opt/bin, size: 1MiB, exec: true, why: For one test.}]}",
}
SOCKET = ["python3", "-c", "import socket; socket.socket(socket.AF_INET)"]
LOUD = 5000
MOUNTED = "cp /usr/bin/true /opt/bin/mine && /opt/bin/mine"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder: Path = tmp_path_factory.mktemp("whatif")
    config = with_profiles(folder / "profiles", **PROFILES)
    with running_daemon(config=config, folder=folder) as running:
        yield running


@pytest.fixture(scope="module")
def calls(daemon: Daemon) -> dict[str, str]:
    """Run calls of which something was denied, let through and used; give their ids."""
    wanted = {
        "denied": ("shut", SOCKET),
        "watched": ("watching", SOCKET),
        "silent": ("open", SOCKET),
        "loud": ("shut", ["head", "-c", str(LOUD), "/dev/zero"]),
        "mounted": ("mounting", ["sh", "-c", MOUNTED]),
        "plain": ("shut", ["true"]),
    }
    ran = {name: daemon.client.run(argv, profile=of) for name, (of, argv) in wanted.items()}
    assert {name: call.exit_code for name, call in ran.items()} == {
        "denied": 1, "watched": 0, "silent": 0, "loud": 0, "mounted": 0, "plain": 0,
    }  # fmt: skip
    return {name: call.call_id for name, call in ran.items()}


def ask(daemon: Daemon, *arguments: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Ask what would be; give the exit code, the summary, and the calls by id."""
    done = daemon.command("audit", "what-if", "--json", *arguments)
    assert done.returncode in (0, 1), done.stderr
    told = json.loads(done.stdout)
    return done.returncode, told["summary"], {one["call_id"]: one for one in told["calls"]}


def named(findings: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(one["what"], one["of"]) for one in findings]


def test_a_wider_profile_lets_through_what_was_denied(
    daemon: Daemon, calls: dict[str, str]
) -> None:
    code, summary, found = ask(daemon, "open", "--profile", "shut")
    assert code == 1
    assert summary == {"calls": 3, "as_before": 2, "denied": 0, "let_through": 1, "unknown": 0}
    ((what, of),) = named(found[calls["denied"]]["let_through"])
    assert what == "syscall"
    assert of.startswith("socket(AF_INET")
    for name in ("loud", "plain"):
        assert found[calls[name]]["as_before"]


def test_a_narrower_profile_denies_what_was_let_through(
    daemon: Daemon, calls: dict[str, str]
) -> None:
    code, _, found = ask(daemon, "shut")
    assert code == 1
    watched = found[calls["watched"]]
    ((what, of),) = named(watched["denied"])
    assert what == "syscall"
    assert of.startswith("socket(AF_INET")
    assert watched["unknown"] == []
    # The same under a profile that does not watch them: nobody knows.
    silent = found[calls["silent"]]
    assert silent["denied"] == []
    ((what, of),) = named(silent["unknown"])
    assert (what, of.startswith("sockets of @")) == ("syscall", True)
    mounted = found[calls["mounted"]]
    assert named(mounted["unknown"]) == [("files.write", "/opt/bin")]
    assert named(mounted["denied"]) == [("program", "/opt/bin/mine")]
    # The very profile that they ran under.
    assert all(found[calls[name]]["as_before"] for name in ("denied", "loud", "plain"))


def test_a_file_stands_instead_of_the_daemons_profile(
    daemon: Daemon, calls: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "shut.yaml"
    file.write_text("profile: shut\nextends: base\nwhy: Less.\nlimits: {output: 4KiB}\n")
    arguments = (str(file), "--config", str(daemon.config), "-p", "shut")
    code, summary, found = ask(daemon, *arguments)
    assert code == 1
    assert summary == {"calls": 3, "as_before": 2, "denied": 1, "let_through": 0, "unknown": 0}
    (denied,) = found[calls["loud"]]["denied"]
    assert denied == {
        "what": "limit", "of": "output", "why": "4.883 KiB used, 4 KiB allowed",
    }  # fmt: skip
    done = daemon.command("audit", "what-if", *arguments)
    assert done.stdout.decode().splitlines()[-1] == (
        "3 calls: 2 as before, 1 would be denied something, 0 let through more, "
        "of 0 not everything can be told"
    )
    # Nothing of the daemon's own is another by that.
    assert (
        daemon.client.run(["true"], profile="shut").profile_digest
        == found[calls["plain"]]["profile_digest"]
    )


def test_nothing_is_otherwise_under_the_same_profile(daemon: Daemon, calls: dict[str, str]) -> None:
    code, summary, found = ask(daemon, "shut", "-p", "shut", "--until", "0s")
    assert (code, summary["calls"]) == (0, summary["as_before"])
    assert calls["plain"] in found
    code, summary, _ = ask(daemon, "shut", "--until", "2020-01-01")
    assert (code, summary["calls"]) == (0, 0)


def test_what_starts_a_sandbox_is_held_against_no_limit(daemon: Daemon, tmp_path: Path) -> None:
    """A runtime has more threads than most programs, and its end comes before theirs."""
    small = tmp_path / "shut.yaml"
    small.write_text("profile: shut\nextends: base\nwhy: For one test.\nlimits: {pids: 4}\n")
    alone = daemon.client.run(["true"], profile="shut")
    assert not alone.usage.pids_told
    assert alone.usage.pids_peak > 4, "else there is nothing to be told apart"
    many = "echo go; read line; for i in $(seq 40); do sleep 60 & done"
    with daemon.client.execute(["sh", "-c", many], profile="shut", stdin_open=True) as execution:
        for event in execution:
            if isinstance(event.event, Output):
                execution.write_stdin(b"now\n")
    used = daemon.client.get(execution.call_id).finished
    assert used is not None
    assert used.usage.pids_told
    assert used.usage.pids_peak > 40
    _, _, found = ask(daemon, str(small), "-n", "2")
    assert [one["of"] for one in found[execution.call_id]["denied"]] == ["pids"]
    assert found[alone.call_id]["denied"] == []
    assert [one["of"] for one in found[alone.call_id]["unknown"]] == ["pids"]
