"""Encrypted recordings of real calls: nothing plain on disk, read by who may, erased for good."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.verify import verify
from supervisor.client import Stored
from supervisor.errors import CallStateError, HostError, NotFound, NotPermitted
from tests.support.daemon import Daemon, running_daemon
from tests.support.following import is_output, until
from tests.support.plain import where
from tests.support.records import IDENTITY, RECIPIENT

pytestmark = pytest.mark.root

SECRET = b"correct horse battery staple"
SCRIPT = "cat; cat given uploaded; cat given >&2; cp given left"
LOCKED: dict[str, Any] = {"record": {"recipients": [RECIPIENT]}}


def identity_file(folder: Path) -> Path:
    path = folder / "identity"
    path.touch(mode=0o600)
    path.write_text(f"# public key: {RECIPIENT}\n{IDENTITY}\n")
    return path


def reading(folder: Path) -> dict[str, Any]:
    return {"record": {"recipients": [RECIPIENT], "identity": {"file": str(identity_file(folder))}}}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(config=LOCKED, folder=tmp_path) as running:
        yield running


def run(daemon: Daemon) -> str:
    """Run a call with the secret in all that is content; give its id."""
    client = daemon.client
    uploaded = client.write_blob(b"uploaded: " + SECRET * 1000)
    call = client.run(
        ["sh", "-c", SCRIPT],
        profile="base",
        stdin=b"typed: " + SECRET,
        files={"given": b"given: " + SECRET, "uploaded": Stored(digest=uploaded)},
        outputs=["left"],
    )
    assert call.stdout.startswith(b"typed: " + SECRET + b"given: ")
    assert call.outputs["left"] == b"given: " + SECRET
    return call.call_id


def offline(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return daemon.command("audit", "cat", "--dir", str(daemon.state), *arguments)


def test_nothing_of_the_content_is_on_disk_in_plain(tmp_path: Path) -> None:
    found: dict[str, int] = {}
    for name, config in (("locked", LOCKED), ("plain", {})):
        folder = tmp_path / name
        folder.mkdir()
        with running_daemon(config=config, folder=folder) as daemon:
            run(daemon)
            found[f"{name}, serving"] = len(where(daemon.state, SECRET))
            assert daemon.stop() == 0
            found[name] = len(where(daemon.state, SECRET))
    assert (found["locked, serving"], found["locked"]) == (0, 0)
    assert found["plain"] >= 3, "the control must be found"


def test_without_an_identity_the_daemon_says_how_to_read_it(daemon: Daemon) -> None:
    call_id = run(daemon)
    silent = daemon.client.run(["id"], profile="base").call_id  # nothing of its request is content
    told = daemon.command("audit", "cat", call_id)
    assert told.stdout.startswith(b"typed: " + SECRET)  # the key is held for a while
    daemon.stop()
    daemon.start()
    with pytest.raises(CallStateError) as caught:
        list(daemon.client.read_output(call_id, "stdout"))
    assert caught.value.reason == "CONTENT_LOCKED"
    assert f"--identity FILE --dir STATE {call_id}" in caught.value.hint
    for verb in ("cat", "replay", "rerun"):
        done = daemon.command("audit", verb, call_id)
        assert (done.returncode, done.stdout) == (3, b""), verb
        assert b"CONTENT_LOCKED" in done.stderr
    ran = {call.call_id for call in daemon.client.records()}
    done = daemon.command("audit", "rerun", silent)
    assert (done.returncode, done.stdout, b"CONTENT_LOCKED" in done.stderr) == (3, b"", True)
    assert {call.call_id for call in daemon.client.records()} == ran == {call_id, silent}
    identity = identity_file(daemon.folder)
    done = offline(daemon, "--identity", str(identity), call_id)
    assert done.stdout == told.stdout
    done = offline(daemon, "--identity", str(identity), "--output", "left", call_id)
    assert done.stdout == b"given: " + SECRET
    done = offline(daemon, call_id)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"CONTENT_LOCKED" in done.stderr


def test_with_an_identity_everything_works_as_ever(tmp_path: Path) -> None:
    with running_daemon(config=reading(tmp_path), folder=tmp_path) as daemon:
        call_id = run(daemon)
        told = daemon.client.get(call_id).finished
        daemon.stop()
        daemon.start()
        assert daemon.client.get(call_id).finished == told
        assert daemon.command("audit", "cat", "--output", "left", call_id).stdout == (
            b"given: " + SECRET
        )
        done = daemon.command("audit", "replay", "--no-timing", call_id)
        assert done.stdout.startswith(b"typed: " + SECRET)
        done = daemon.command("audit", "rerun", call_id)
        assert (done.returncode, b"nothing differs" in done.stdout) == (0, True), done.stderr
        assert where(daemon.state, SECRET) == []


def test_an_identity_that_cannot_be_had_keeps_the_daemon_from_starting(tmp_path: Path) -> None:
    config = reading(tmp_path)
    (tmp_path / "identity").write_text("no identity\n")
    with Daemon(tmp_path, config=config) as daemon:
        daemon.start(wait=False)
        assert daemon.wait() == HostError.exit_code
        assert "IDENTITY_UNAVAILABLE" in daemon.tail()


def test_erased_is_gone_and_said_by_everybody(tmp_path: Path) -> None:
    with running_daemon(config=reading(tmp_path), folder=tmp_path) as daemon:
        call_id, other = run(daemon), run(daemon)
        sealed = (daemon.state / "keys" / call_id).read_bytes()
        done = daemon.command("audit", "erase", "--why", "asked for", call_id)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr
        said = b"erased by owner on 20"
        assert said in done.stdout
        for verb in ("cat", "replay", "rerun", "show"):
            done = daemon.command("audit", verb, call_id)
            assert said in done.stdout + done.stderr, verb
            assert b"asked for" in done.stdout + done.stderr, verb
            assert done.returncode == (0 if verb == "show" else 3)
        with pytest.raises(NotFound, match="erased by owner") as caught:
            list(daemon.client.read_output(call_id, "stderr"))
        assert caught.value.reason == "CONTENT_ERASED"
        erased = daemon.client.get(call_id).erased
        assert erased is not None
        assert daemon.client.erase(call_id, "again") == erased
        daemon.stop()
        daemon.start()
        done = daemon.command("audit", "cat", call_id)
        assert said in done.stderr
        (entry,) = daemon.client.events(kind="erased")
        assert entry.body()["body"]["why"] == "asked for"  # type: ignore[index,call-overload]
        assert daemon.command("audit", "cat", other).stdout.startswith(b"typed: ")
        daemon.stop()
        report = verify(daemon.state)
        assert (report.problems, report.erased) == ((), 1)
        identity = str(tmp_path / "identity")
        assert said in offline(daemon, "--identity", identity, call_id).stderr
        assert where(daemon.state, sealed, sealed[-32:]) == []


def test_who_may_erase(tmp_path: Path) -> None:
    mine = {"name": "me", "uid": 0, "profiles": ["*"], "audit": "all"}
    config = {**LOCKED, "callers": [mine]}
    with running_daemon(config=config, folder=tmp_path) as daemon:
        call_id = run(daemon)
        with pytest.raises(NotPermitted) as caught:
            daemon.client.erase(call_id, "why")
        assert caught.value.reason == "ERASE_NOT_GRANTED"
        daemon.stop()
        daemon.configure({**LOCKED, "callers": [{**mine, "erase": "own"}]})
        daemon.start()
        assert daemon.client.erase(call_id, "why").by == "me"


def test_without_room_for_its_key_no_call_runs(daemon: Daemon, tmp_path: Path) -> None:
    keys = daemon.state / "keys"
    keys.rmdir()
    with pytest.raises(Exception, match="key of a call") as caught:
        daemon.client.run(["true"], profile="base")
    assert getattr(caught.value, "reason", "") == "RECORD_UNAVAILABLE"
    assert list(daemon.client.records()) == []
    keys.mkdir(mode=0o700)
    run(daemon)


def test_a_call_whose_daemon_is_killed(daemon: Daemon) -> None:
    """What was recorded is there for who has an identity, and nothing of it in plain."""
    script = "cat given; cat; sleep 60"
    with daemon.client.execute(
        ["sh", "-c", script],
        profile="base",
        stdin=SECRET,
        stdin_open=True,
        files={"given": b"given: " + SECRET},
    ) as execution:
        until(execution, is_output)
        call_id = execution.call_id
        daemon.kill()
    part = daemon.state / "blobs" / "part" / call_id
    assert part.stat().st_size > 0
    assert where(daemon.state, SECRET) == []
    daemon.start()
    assert where(daemon.state, SECRET) == []
    finished = daemon.client.get(call_id).finished
    assert finished is not None
    assert {one.digest.sha256 for one in finished.streams} == {""}
    daemon.stop()
    assert verify(daemon.state).problems == ()
    identity = str(identity_file(daemon.folder))
    done = offline(daemon, "--identity", identity, call_id)
    assert done.stdout.startswith(b"given: " + SECRET)
    daemon.start()
    daemon.client.erase(call_id, "why")
    daemon.stop()
    assert verify(daemon.state).problems == ()


def test_no_digest_that_would_tell_guesses_is_on_disk(tmp_path: Path) -> None:
    """Neither where it is read: what is short is found by its digest."""
    digest = hashlib.sha256(b"given: " + SECRET)
    needles = (digest.digest(), digest.hexdigest().encode())
    found: dict[str, bool] = {}
    for name, config in (("locked", LOCKED), ("plain", {})):
        folder = tmp_path / name
        folder.mkdir()
        with running_daemon(config=config, folder=folder) as daemon:
            call_id = run(daemon)
            finished = daemon.client.get(call_id).finished
            assert finished is not None
            (left,) = finished.outputs
            assert left.digest.sha256 == digest.hexdigest()
            assert daemon.client.read_blob(left.digest) == b"given: " + SECRET
            (read,) = daemon.client.events(kind="read", limit=1)
            assert read.body()["body"]["rpc"] == "ReadBlob"  # type: ignore[index,call-overload]
            if config:
                daemon.client.erase(call_id, "why")
                with pytest.raises(NotFound):
                    daemon.client.read_blob(left.digest)
            daemon.stop()
            logged = digest.hexdigest() in daemon.log.read_text()
            found[name] = bool(where(daemon.state, *needles)) or logged
    assert found == {"locked": False, "plain": True}


def test_what_is_held_is_not_erased(daemon: Daemon) -> None:
    client, call_id = daemon.client, run(daemon)
    assert [client.hold(call_id, why="a case"), client.hold(call_id, why="another")] == [1, 2]
    assert client.release(call_id, why="the case is over") == 1
    daemon.stop()
    daemon.start()
    client = daemon.client
    assert client.get(call_id).holds == 1
    with pytest.raises(CallStateError) as caught:
        client.erase(call_id, "asked for")
    assert caught.value.reason == "CONTENT_HELD"
    assert (daemon.state / "keys" / call_id).exists()
    assert client.release(call_id, why="so is the other") == 0
    with pytest.raises(CallStateError) as caught:
        client.release(call_id, why="once more")
    assert caught.value.reason == "NOT_HELD"
    client.erase(call_id, "asked for")
    assert not (daemon.state / "keys" / call_id).exists()
