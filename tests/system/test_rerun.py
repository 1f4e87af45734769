"""`audit rerun` of real calls: the same inputs again, what another profile makes of them, and what
is refused since it is not on record, or is another caller's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.call.types import Digest
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import with_profiles

SCRIPT = r"""
cat; printf '%s\n' "$WHO" "$0" "$(cat data.csv)" "$(pwd)" "$(stat -c %a run.sh)"
sh ./run.sh >made.txt
exec python3 -c 'import socket; socket.socket(socket.AF_INET); print("\033[2Jopen")'
"""
ARGV = ["sh", "-c", SCRIPT, b"\xff"]
LONG = 100_000  # more than an entry holds
PROFILES = {
    "shut": "",
    "open": "profile: open\nextends: base\nuse: [loopback]\nwhy: For one test.\n",
    "digests": "record: {stdin: digest}",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder: Path = tmp_path_factory.mktemp("rerun")
    config = with_profiles(folder / "profiles", **PROFILES)
    with running_daemon(config=config, folder=folder) as running:
        yield running


def run(daemon: Daemon, folder: Path, profile: str = "shut", *, more: str = "") -> str:
    """Run a program that shows each of its inputs and then makes a socket; give the call's id."""
    program = folder / "run.sh"
    program.write_text("#!/bin/sh\necho made\n")
    program.chmod(0o755)
    call = daemon.client.run(
        [*ARGV, more] if more else ARGV,
        profile=profile,
        env={"WHO": "agent é"},
        cwd="/work",
        files={"data.csv": b"1,2\n", "run.sh": program},
        outputs=["*.txt"],
        stdin=b"typed\n",
        timeout=20,
    )
    return call.call_id


def rerun(daemon: Daemon, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = daemon.command("audit", "rerun", "--json", *arguments)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def request_of(daemon: Daemon, call_id: str) -> dict[str, Any]:
    body: Any = daemon.client.record(call_id).entries[0].body()["body"]
    if "request" not in body:
        return dict(json.loads(daemon.client.read_blob(Digest(**body["request_blob"]))))
    return dict(body["request"])


@pytest.mark.parametrize("more", ["", "x" * LONG], ids=["short", "long"])
def test_the_same_again(daemon: Daemon, tmp_path: Path, more: str) -> None:
    first = run(daemon, tmp_path, more=more)
    code, told = rerun(daemon, first)
    assert (code, told["same"], told["differences"], told["unknown"]) == (0, True, [], [])
    second = told["rerun"]["call_id"]
    assert second != first
    wanted, given = request_of(daemon, first), request_of(daemon, second)
    new = ("request_id", "correlation", "kill_on_disconnect")
    assert {k: v for k, v in given.items() if k not in new} == {
        k: v for k, v in wanted.items() if k not in new
    }
    assert given["correlation"]["session"] == f"rerun:{first}"
    both = [b"".join(daemon.client.read_output(call, "stdout")) for call in (first, second)]
    assert both[0] == both[1] == "typed\nagent é\n".encode() + b"\xff\n1,2\n/work\n755\n"
    found = [daemon.client.get(call).finished for call in (first, second)]
    assert found[0] and found[1] and found[0].outputs == found[1].outputs
    assert found[0].outputs[0].digest.sha256 == hashlib.sha256(b"made\n").hexdigest()


def test_another_profile_shows_what_it_would_change(daemon: Daemon, tmp_path: Path) -> None:
    first = run(daemon, tmp_path)
    code, told = rerun(daemon, "--profile", "open", first)
    assert code == 1
    assert (told["call"]["exit_code"], told["rerun"]["exit_code"]) == (1, 0)
    assert (told["call"]["profile"], told["rerun"]["profile"]) == ("shut", "open")
    sorts = {one["what"]: one for one in told["differences"]}
    assert set(sorts) == {"outcome", "stdout", "stderr", "denied"}
    assert sorts["denied"]["of"].startswith("syscall socket")
    assert (sorts["denied"]["recorded"], sorts["denied"]["rerun"]) == ("x1", "none")
    done = daemon.command("audit", "rerun", "-p", "open", first)
    assert done.returncode == 1
    assert b"\n-Traceback (most recent call last):\n" in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr
    # stdout is no text, its argv[0] is 0xff: where it differs is told, and how long it is.
    assert b", from byte 31 on" in done.stdout


def test_what_is_not_on_record_is_named_and_nothing_runs(daemon: Daemon, tmp_path: Path) -> None:
    call_id = run(daemon, tmp_path, "digests")
    before = [call.call_id for call in daemon.client.records()]
    done = daemon.command("audit", "rerun", call_id)
    assert done.returncode == 3
    assert b"standard input is on record with 0 of 6 bytes" in done.stderr
    assert [call.call_id for call in daemon.client.records()] == before
    (tmp_path / "typed").write_bytes(b"typed\n")
    assert rerun(daemon, "-i", str(tmp_path / "typed"), call_id)[0] == 0
    code, told = rerun(daemon, "-i", "none", "-e", "WHO=me", call_id)
    assert (code, told["given"]) == (1, ["variable WHO", "standard input"])
    assert {one["what"] for one in told["differences"]} == {"stdout"}


def test_files_of_another_caller_stay_its_own(daemon: Daemon, tmp_path: Path) -> None:
    call_id, long = run(daemon, tmp_path), run(daemon, tmp_path, more="x" * LONG)
    config = json.loads(daemon.config.read_text())
    daemon.stop()
    other = {"name": "other", "uid": 0, "profiles": ["*"], "calls": "own", "audit": "all"}
    daemon.config.write_text(json.dumps({**config, "callers": [other]}))
    daemon.start()
    try:
        done = daemon.command("audit", "rerun", call_id)
        assert done.returncode == 3
        for name in ("data.csv", "run.sh"):
            assert f"file {name} is kept for its caller only".encode() in done.stderr
        assert b"only its caller may read it whole" in daemon.command("audit", "rerun", long).stderr
        (tmp_path / "data.csv").write_bytes(b"1,2\n")
        given = [f"{tmp_path / name}:{name}" for name in ("data.csv", "run.sh")]
        code, told = rerun(daemon, "-f", given[0], "-f", given[1], call_id)
        assert (code, told["same"]) == (0, True)
    finally:
        daemon.stop()
        daemon.config.write_text(json.dumps(config))
        daemon.start()
    # The caller whose they are has them still, also under an index that was made again.
    daemon.stop()
    (daemon.state / "index.db").unlink()
    daemon.start()
    assert rerun(daemon, call_id)[0] == 0
    assert rerun(daemon, long)[0] == 0


def test_a_secret_that_was_taken_out_is_not_run_with_what_stands_for_it(
    daemon: Daemon, tmp_path: Path
) -> None:
    token = b"ghp_" + b"a1B2" * 9 + b"\n"
    call = daemon.client.run(["cat"], profile="shut", stdin=token)
    assert call.stdout == token
    assert b"[REDACTED:" in b"".join(daemon.client.read_output(call.call_id, "stdin"))
    done = daemon.command("audit", "rerun", call.call_id)
    assert done.returncode == 3
    assert b"standard input has 1 secret replaced on record" in done.stderr
    (tmp_path / "token").write_bytes(token)
    # The digest is of what there was: that it is the same shows, though it is on no disk.
    assert rerun(daemon, "-i", str(tmp_path / "token"), call.call_id)[0] == 0
    code, told = rerun(daemon, "-i", "recorded", call.call_id)
    assert (code, [one["what"] for one in told["differences"]]) == (1, ["stdout"])
