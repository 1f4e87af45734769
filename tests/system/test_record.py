"""What the record of a call holds, by the command line, and that no byte of it can change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.checkpoints import Receipt, open_checkpoint
from supervisor.audit.entry import HEADER, LEAF_BYTES, Kind, StoredEntry
from supervisor.audit.notes import VerifierKey
from supervisor.audit.segment import segment_name
from supervisor.audit.verify import verify
from supervisor.audit.verify_log import LogCheck, Problem
from supervisor.audit.witness import heads_within
from supervisor.call.outcome import Exited
from supervisor.client import Output, Started, Verdict
from supervisor.errors import NotFound
from tests.support.daemon import Daemon, running_daemon
from tests.support.no_tls import PROGRAM, RULE
from tests.support.profiles import with_profiles
from tests.support.rounds import rounds

FLIPS = 6
LITTLE = f"{RULE}record: {{stdout: 1KiB}}\n"
LARGE_FILE_BYTES = 3_000_000
WRITTEN = {
    Kind.INTENT, Kind.STARTED, Kind.OUTPUT, Kind.TRUNCATED, Kind.DENIED, Kind.SIGNAL, Kind.OUTCOME,
    Kind.PROCESSES, Kind.FLOW, Kind.DAEMON_STARTED, Kind.DAEMON_STOPPED, Kind.BLOB, Kind.LOG_CUT,
    Kind.POLICY, Kind.READ, Kind.REFUSED,
}  # fmt: skip
"""The kinds that the daemon writes here, each at least once. `lost` needs a full disk, and those of
strangers and floods are in test_decisions.py."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running


@pytest.fixture(scope="module")
def call_id(daemon: Daemon) -> str:
    """Run the issue's call with the command line."""
    done = daemon.command("run", "-p", "python", "--", "python3", "-c", "print(6*7)")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"42\n", b"")
    (call,) = daemon.client.list_calls()
    return call.call_id


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the state of a daemon that has written every kind of entry."""
    folder = tmp_path_factory.mktemp("flips")
    config = with_profiles(folder / "profiles", little=LITTLE)
    with running_daemon(config=config, folder=folder) as daemon:
        write_every_kind(daemon)
        tear_the_tail(daemon)
        daemon.start()
        assert daemon.client.run(["true"], profile="base").outcome == Exited(code=0)
    assert verify(folder / "state").ok
    return folder / "state"


class TestOneCall:
    def test_show(self, daemon: Daemon, call_id: str) -> None:
        done = daemon.command("audit", "show", call_id)
        assert done.returncode == 0, done.stderr
        shown = done.stdout.decode()
        finished = daemon.client.get(call_id).finished
        assert finished is not None
        digest = hashlib.sha256(b"42\n").hexdigest()
        empty = hashlib.sha256(b"").hexdigest()
        profile = daemon.client.get_profile("python").summary.digest
        for wanted in ("print(6*7)", "owner", profile, digest, empty, finished.record):
            assert wanted in shown, wanted
        for phase in ("accepted", "preparing", "armed", "started", "ended", "destroyed"):
            assert phase in shown, phase
        for resource in ("user", "system", "memory", "processes"):
            assert resource in shown, resource

    def test_show_as_json(self, daemon: Daemon, call_id: str) -> None:
        record = self._json(daemon, "audit", "show", "--json", call_id)
        assert record["call"]["argv"] == ["python3", "-c", "print(6*7)"]
        assert record["call"]["caller"]["name"] == "owner"
        assert record["call"]["caller"]["uid"] == 0
        summary = daemon.client.get_profile("python").summary
        assert record["call"]["profile_digest"] == summary.digest
        finished = record["call"]["finished"]
        digests = {stream["stream"]: stream["digest"] for stream in finished["streams"]}
        assert digests["stdout"]["sha256"] == hashlib.sha256(b"42\n").hexdigest()
        assert digests["stderr"] == {"sha256": hashlib.sha256(b"").hexdigest(), "size_bytes": 0}
        times = list(finished["timeline"].values())
        assert all(times)
        assert times == sorted(times)
        assert finished["usage"]["memory_peak_bytes"] > 1_000_000
        assert finished["usage"]["cpu_user_s"] + finished["usage"]["cpu_system_s"] > 0

    def test_each_leaf_is_the_hash_of_its_entry(self, daemon: Daemon, call_id: str) -> None:
        record = daemon.client.record(call_id)
        for entry in record.entries:
            assert entry.leaf.sha256 == hashlib.sha256(b"\0" + entry.json).hexdigest()
        first, second, *between, last = dict.fromkeys(entry.kind for entry in record.entries)
        assert (first, second, last) == ("intent", "started", "outcome")
        # The kernel tells of the program, and the program writes: in no order.
        assert sorted(between) == ["output", "processes"]
        intent = record.entries[0].body()["body"]
        assert isinstance(intent, dict)
        assert {"caller", "request", "profile", "host", "fingerprint"} <= set(intent)
        finished = daemon.client.get(call_id).finished
        assert finished is not None
        assert record.entries[-1].leaf.sha256 == finished.record

    def test_whoever_has_the_key_can_check_a_receipt(
        self, daemon: Daemon, call_id: str, tmp_path: Path
    ) -> None:
        done = daemon.client.run(["/bin/true"], profile="python")
        key = VerifierKey.parse((daemon.state / "log.pub").read_text())
        leaf = bytes.fromhex(done.record)
        head = Receipt.parse(done.finished.receipt).verify(leaf, [key])
        later = open_checkpoint(daemon.client.checkpoint().checkpoint, [key])[0]
        assert later.size >= head.size
        path = tmp_path / "call.tlog-proof"
        assert daemon.command("audit", "proof", "-o", str(path), call_id).returncode == 0
        checked = daemon.command("audit", "check", "--key", str(key), str(path))
        assert checked.returncode == 0, checked.stdout
        assert call_id.encode() in checked.stdout
        kept = daemon.command("audit", "verify", "--head", str(path), str(daemon.state))
        assert kept.returncode == 0, kept.stdout
        assert b"1 head that you kept" in kept.stdout

    def test_cat(self, daemon: Daemon, call_id: str) -> None:
        done = daemon.command("audit", "cat", "--stream", "stdout", call_id)
        assert (done.returncode, done.stdout) == (0, b"42\n")
        done = daemon.command("audit", "cat", "--stream", "stderr", call_id)
        assert (done.returncode, done.stdout) == (0, b"")

    def test_ls(self, daemon: Daemon, call_id: str) -> None:
        listed = self._json(daemon, "audit", "ls", "--json")
        assert call_id in [call["call_id"] for call in listed]

    def test_verify_while_the_daemon_serves(self, daemon: Daemon, call_id: str) -> None:
        finished = daemon.client.get(call_id).finished
        assert finished is not None
        expect = f"{call_id}={finished.record}"
        done = daemon.command("audit", "verify", "--expect", expect, str(daemon.state))
        assert done.returncode == 0, done.stdout
        assert b"verified" in done.stdout
        assert b"signed by the key beside it" in done.stdout
        forged = f"{call_id}={'0' * 64}"
        done = daemon.command("audit", "verify", "--expect", forged, str(daemon.state))
        assert done.returncode == 8
        assert call_id.encode() in done.stdout

    @staticmethod
    def _json(daemon: Daemon, *arguments: str) -> Any:
        done = daemon.command(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


class TestFlips:
    """Any byte of anything on record, flipped, is found, and the entry is named."""

    def test_every_kind_is_there(self, state: Path) -> None:
        assert {entry.kind for entry in entries_of(state)} == WRITTEN

    @pytest.mark.parametrize("kind", sorted(WRITTEN))
    def test_entries(self, state: Path, kind: str) -> None:
        entries = [entry for entry in entries_of(state) if entry.kind == kind]
        for _ in range(rounds(FLIPS)):
            entry = random.choice(entries)
            size = HEADER.size + len(entry.json) + LEAF_BYTES
            path = state / "log" / segment_name(entry.position.segment)
            with flipped(path, entry.position.offset + random.randrange(size)) as where:
                done = verify(state)
                assert not done.ok, where
                assert entry.index in {problem.index for problem in done.problems}, where

    def test_recordings_and_blobs(self, state: Path) -> None:
        files = [path for path in (state / "blobs").rglob("*") if path.is_file()]
        assert len(files) >= 4
        for path in files:
            for _ in range(rounds(1)):
                if not path.stat().st_size:
                    continue
                with flipped(path, random.randrange(path.stat().st_size)) as where:
                    done = verify(state)
                    assert not done.ok, where
                    assert all(problem.index >= 0 for problem in done.problems), where

    def test_the_command_names_the_entry(self, state: Path, shared_daemon: Daemon) -> None:
        entry = random.choice([e for e in entries_of(state) if e.kind == Kind.DENIED])
        path = state / "log" / segment_name(entry.position.segment)
        with flipped(path, entry.position.offset + HEADER.size + 20):
            done = shared_daemon.command("audit", "verify", str(state))
        assert done.returncode == 8
        wanted = f"entry {entry.index} (denied of call {entry.call_id})"
        assert wanted.encode() in done.stdout
        assert shared_daemon.command("audit", "verify", str(state)).returncode == 0

    def test_a_daemon_does_not_start_over_it(self, state: Path, shared_daemon: Daemon) -> None:
        entry = next(e for e in entries_of(state) if e.kind == Kind.OUTCOME)
        path = state / "log" / segment_name(entry.position.segment)
        with flipped(path, entry.position.offset + HEADER.size + 20):
            done = shared_daemon.command(
                "serve", "--state", str(state), "--runtime-dir", str(shared_daemon.folder / "run"),
                "--listen", f"unix://{shared_daemon.folder}/other.sock", timeout=30,
            )  # fmt: skip
        assert done.returncode == 8, done.stderr
        assert b"CHAIN_BROKEN" in done.stderr


def write_every_kind(daemon: Daemon) -> None:
    """Have the daemon write each kind of entry that belongs to a call, a blob's, a reader's."""
    client = daemon.client
    large = daemon.folder / "large"
    large.write_bytes(random.randbytes(LARGE_FILE_BYTES))
    script = "unshare -r true; cat large | head -c 5000; head -c 70000 large >&2; cp large out"
    call = client.run(["sh", "-c", script], profile="little", files={"large": large}, outputs=["*"])
    assert call.outcome == Exited(code=0)
    assert call.stdout_truncated or call.finished.streams[0].truncated
    assert call.denials
    call = client.run(["/usr/bin/python3", "-c", PROGRAM], profile="little")
    assert [flow.verdict for flow in call.flows] == [Verdict.DENIED], call.stderr
    assert client.record(call.call_id).entries
    with pytest.raises(NotFound):
        client.record("no such call")
    with client.execute(["cat"], profile="base", stdin=b"typed", stdin_open=True) as execution:
        next(event for event in execution if isinstance(event.event, Started))
        next(event for event in execution if isinstance(event.event, Output))
        execution.signal(15, why="enough")
        assert [*execution]


def tear_the_tail(daemon: Daemon) -> None:
    """Stop the daemon and leave half a frame behind, as a power cut in the middle of a write."""
    assert daemon.stop() == 0
    last = list(entries_of(daemon.state))[-1]
    end = last.position.offset + HEADER.size + len(last.json) + LEAF_BYTES
    with (daemon.state / "log" / segment_name(last.position.segment)).open("r+b") as file:
        file.seek(end)
        file.write(b"\0\0\1\0torn")


def entries_of(state: Path) -> list[StoredEntry]:
    problems: list[Problem] = []
    found = list(LogCheck(state / "log", problems.append, live=False).entries())
    assert not problems
    return found


@contextlib.contextmanager
def flipped(path: Path, offset: int) -> Iterator[str]:
    """Change one random bit, and put it back."""
    bit = 1 << random.randrange(8)
    with path.open("r+b") as file:
        file.seek(offset)
        (before,) = file.read(1)
        file.seek(offset)
        file.write(bytes([before ^ bit]))
    try:
        yield f"{path.name} at {offset}, bit {bit}"
    finally:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([before]))


def test_witnesses_get_heads_that_hold_the_record_to_what_it_was(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    kept, program = tmp_path / "kept", tmp_path / "keep"
    program.write_text(f"#!/bin/sh\ncat >{tmp_path}/last\n")
    program.chmod(0o700)
    config = {"witnesses": [{"file": str(kept)}, {"command": [str(program)]}]}
    with running_daemon(config=config) as daemon:
        assert daemon.client.run(["true"], profile="base").outcome == Exited(code=0)
        daemon.stop()
        key = VerifierKey.parse((daemon.state / "log.pub").read_text())
        heads = list(heads_within(kept.read_bytes()))
        assert (tmp_path / "last").read_bytes() == heads[-1]
        head = open_checkpoint(heads[-1], [key])[0]
        report = verify(daemon.state, key=key, heads=[("kept", one) for one in heads])
        assert report.ok, report.problems
        assert report.consistent == len(heads)
        assert head.size == report.entries  # Also the daemon's last entry, that it stopped.
