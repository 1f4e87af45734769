"""A real call that writes three times its cap: the beginning and the end are on record, a secret
across neither border shows, and everybody who reads names the gap."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.audit.verify import verify
from supervisor.call.types import Digest, Stream, StreamSummary
from supervisor.client import FinishedCall
from supervisor.client.collect import Collector
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import with_profiles
from tests.support.records import IDENTITY, RECIPIENT

pytestmark = pytest.mark.root

KIB = 1024
CAP = 256 * KIB
TAIL = CAP // 8
SIZE = 3 * CAP
SECRET = b"ghp_" + b"K7" * 18
PROFILES = {
    "capped": "record: {stdin: 256KiB, stdout: 256KiB}",
    "as-it-is": "record: {stdin: 256KiB, stdout: 256KiB, redact: {off: A control}}",
}


def content(*, secrets: bool) -> bytes:
    """Give lines; with `secrets`, one across the cap and one across where the end begins."""
    data = bytearray(b"".join(b"%07d\n" % number for number in range(SIZE // 8)))
    for place in (CAP - 20, SIZE - TAIL - 20) if secrets else ():
        data[place : place + len(SECRET) + 2] = b" " + SECRET + b" "
    return bytes(data)


@pytest.fixture(scope="module", params=["plain", "encrypted"])
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("tails")
    config = with_profiles(folder / "profiles", **PROFILES)
    if request.param == "encrypted":
        identity = folder / "identity"
        identity.touch(mode=0o600)
        identity.write_text(f"{IDENTITY}\n")
        config = {
            **config,
            "record": {"recipients": [RECIPIENT], "identity": {"file": str(identity)}},
        }
    with running_daemon(config=config, folder=folder) as running:
        yield running


def run(daemon: Daemon, profile: str, data: bytes) -> FinishedCall:
    call = daemon.client.run(["cat", "given"], profile=profile, files={"given": data})
    assert call.stdout == data, "the caller gets all of it, as it was"
    return call


def stdout_of(call: FinishedCall) -> StreamSummary:
    return next(one for one in call.finished.streams if one.stream is Stream.STDOUT)


def recorded(daemon: Daemon, call_id: str, stream: Stream = Stream.STDOUT) -> bytes:
    return b"".join(daemon.client.read_output(call_id, stream))


def test_the_beginning_and_the_end_are_on_record(daemon: Daemon) -> None:
    data = content(secrets=False)
    call = run(daemon, "capped", data)
    summary = stdout_of(call)
    assert summary.digest == Digest.of(data)
    assert (summary.stored_bytes, summary.tail_bytes) == (CAP + TAIL, TAIL)
    assert recorded(daemon, call.call_id) == data[:CAP] + data[-TAIL:]
    assert daemon.client.get(call.call_id).finished == call.finished
    assert verify(daemon.state).ok


def test_readers_name_the_gap(daemon: Daemon) -> None:
    data = content(secrets=False)
    call = run(daemon, "capped", data)
    gap = f"bytes {CAP} to {SIZE - TAIL}"
    done = daemon.command("audit", "cat", call.call_id)
    assert done.stdout == data[:CAP] + data[-TAIL:]
    assert gap in done.stderr.decode()
    done = daemon.command("audit", "replay", "--no-timing", call.call_id)
    assert done.stdout == data[:CAP] + data[-TAIL:]
    assert gap in done.stderr.decode()
    done = daemon.command("audit", "replay", "--export", "asciicast", call.call_id)
    lines = [json.loads(line) for line in done.stdout.splitlines()[1:]]
    markers = [line for line in lines if line[1] == "m"]
    assert any(gap in line[2] for line in markers), markers
    assert gap in daemon.command("audit", "show", call.call_id).stdout.decode()
    late = Collector()
    for event in daemon.client.attach(call.call_id):
        late.take(event)
    again = late.finish(daemon.client.read_blob)
    assert (again.stdout, again.stdout_truncated) == (data[:CAP], True)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_secret_across_a_border_of_the_gap_does_not_show(daemon: Daemon, profile: str) -> None:
    """Without redaction the halves of it are on record: the control."""
    data = content(secrets=True)
    call = run(daemon, profile, data)
    on_record = recorded(daemon, call.call_id)
    shows = [SECRET[:12] in on_record, SECRET[-12:] in on_record]
    if profile == "as-it-is":
        assert shows == [True, True]
        assert on_record == data[:CAP] + data[-TAIL:]
        return
    assert shows == [False, False]
    assert on_record.startswith(data[: CAP - 20])
    assert on_record.endswith(data[-TAIL + 100 :])
    summary = stdout_of(call)
    assert summary.digest == Digest.of(data)
    assert 0 < summary.tail_bytes <= TAIL
    assert verify(daemon.state).ok


def test_standard_input_that_has_a_gap_is_not_given_again(daemon: Daemon) -> None:
    data = os.urandom(SIZE)
    call = daemon.client.run(["sh", "-c", "cat >/dev/null"], profile="capped", stdin=data)
    assert recorded(daemon, call.call_id, Stream.STDIN) == data[:CAP] + data[-TAIL:]
    done = daemon.command("audit", "rerun", call.call_id)
    assert done.returncode != 0
    assert f"{CAP} to {SIZE - TAIL} are missing" in done.stderr.decode()


def test_a_call_of_a_daemon_that_stops_keeps_its_end(tmp_path: Path) -> None:
    data = content(secrets=False)
    config = with_profiles(tmp_path / "profiles", **PROFILES)
    with running_daemon(config=config, folder=tmp_path) as daemon:
        script = "cat given; echo; sleep 1000"
        files = {"given": data}
        with daemon.client.execute(["sh", "-c", script], profile="capped", files=files) as running:
            seen = 0
            for event in running:
                seen += len(getattr(event.event, "data", b""))
                if seen == SIZE + 1:
                    break
            assert daemon.stop() == 0
            call_id = running.call_id
        daemon.start()
        whole = data + b"\n"
        assert recorded(daemon, call_id) == whole[:CAP] + whole[-TAIL:]
        assert verify(daemon.state).ok
