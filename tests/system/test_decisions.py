"""What decides is in the log of a real daemon: what is in force, who was refused, who read what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from supervisor.api.refusal_entries import REASON_BURST
from supervisor.client import StockadeError
from supervisor.v1 import tool_pb2, tool_pb2_grpc
from tests.support.daemon import Daemon, running_daemon
from tests.support.users import NOBODY, callers, run_as

STRANGER = 65533
TYPED = "hunter2-in-the-arguments"
FLOOD = 200


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon(config=callers(audit="own")) as running:
        yield running


@pytest.fixture(scope="module")
def call_id(daemon: Daemon) -> str:
    return daemon.client.run(["echo", "hello"], profile="base").call_id


def logged(daemon: Daemon, kind: str, *options: str) -> list[dict[str, Any]]:
    """Give the bodies of the daemon's own entries of one kind, newest first."""
    done = daemon.command("audit", "log", "--json", "--kind", kind, *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(entry["json"])["body"] for entry in json.loads(done.stdout)]


def test_what_is_in_force(daemon: Daemon) -> None:
    (body,) = logged(daemon, "policy")
    granted = {one["name"]: one for one in body["policy"]["callers"]}
    assert granted["little"]["profiles"] == ["base"]
    digests = {one["name"]: one.get("digest") for one in body["policy"]["profiles"]}
    assert digests["base"] == daemon.client.get_profile("base").summary.digest


def test_who_reads_what(daemon: Daemon, call_id: str) -> None:
    assert daemon.command("audit", "show", call_id).returncode == 0
    assert daemon.command("audit", "ls", "--profile", "base", "--denied").returncode == 0
    assert daemon.command("audit", "cat", call_id).stdout == b"hello\n"
    assert daemon.command("audit", "proof", call_id).returncode == 0
    assert [event.event for event in daemon.client.attach(call_id)]
    with daemon.client.execute(["true"], profile="base") as execution:
        silent = [event.event for event in execution]  # it follows its own call, while that happens
    assert silent
    found = logged(daemon, "read")
    reads = [(body["caller"]["name"], body["rpc"], body["of"]) for body in found]
    for rpc, of in (
        ("GetRecord", {"call": call_id, "profile": False}),
        ("ReadOutput", {"call": call_id, "stream": "stdout"}),
        ("GetReceipt", {"call": call_id}),
        ("ListRecords", {"filter": {"profile": "base", "denied_only": True}}),
        ("Attach", {"call": call_id}),
    ):
        assert ("owner", rpc, of) in reads
    assert not any(execution.call_id in str(of) for _, _, of in reads)
    assert logged(daemon, "read")[0]["rpc"] == "ListEvents", "also of this list itself"


def test_who_is_refused(daemon: Daemon, call_id: str) -> None:
    refused = run_as(daemon, NOBODY, "run", "-p", "python", "--", "python3", TYPED)
    assert b"[PROFILE_NOT_GRANTED]" in refused.stderr
    assert run_as(daemon, NOBODY, "audit", "show", call_id).returncode == 3
    assert run_as(daemon, NOBODY, "audit", "log").returncode == 4
    found = {
        body["reason"]: body
        for body in logged(daemon, "refused")
        if body["caller"]["uid"] == NOBODY
    }
    asked = found["PROFILE_NOT_GRANTED"]["asked"]
    assert (asked["profile"], asked["program"], asked["arguments"]) == ("python", "python3", 1)
    assert found["RECORD_NOT_FOUND"]["asked"]["call_id"] == call_id
    assert found["AUDIT_NOT_GRANTED"]["rpc"].endswith("/ListEvents")
    # The control: it can be found where it is. Nothing that was refused has it.
    log = daemon.state / "log"
    assert any(b"PROFILE_NOT_GRANTED" in path.read_bytes() for path in log.iterdir())
    assert not any(TYPED.encode() in path.read_bytes() for path in log.iterdir())


def test_who_is_nobody(daemon: Daemon) -> None:
    assert b"[PEER_UNKNOWN]" in run_as(daemon, STRANGER, "ps").stderr
    (body, *_) = logged(daemon, "unauthenticated")
    assert (body["peer"]["uid"], body["caller"]) == (STRANGER, None)


def test_a_list_for_people(daemon: Daemon, call_id: str) -> None:
    daemon.command("audit", "show", call_id)
    done = daemon.command("audit", "log", "--since", "1h")
    assert done.returncode == 0
    text = done.stdout.decode()
    assert f"GetRecord call={call_id}" in text
    assert "daemon_started" in text


def test_a_flood_is_counted_to_the_last_and_a_change_shows(tmp_path: Path) -> None:
    with running_daemon(config=callers(audit="own"), folder=tmp_path) as daemon:
        with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
            get: Any = tool_pb2_grpc.ToolServiceStub(channel)  # type: ignore[no-untyped-call]
            for _ in range(FLOOD):
                with pytest.raises(grpc.RpcError):
                    get.GetCall(tool_pb2.GetCallRequest(call_id="gone"))
        with pytest.raises(StockadeError):
            daemon.client.get("another")
        assert daemon.stop() == 0
    with running_daemon(config=callers(audit="all"), folder=tmp_path) as daemon:
        named = [body for body in logged(daemon, "refused") if body["asked"]["call_id"] == "gone"]
        assert REASON_BURST <= len(named) < FLOOD / 2
        dropped = logged(daemon, "refusals_dropped")
        assert len(logged(daemon, "refused")) + sum(one["count"] for one in dropped) == FLOOD + 1
        after, before = logged(daemon, "policy")
        assert after["callers_sha256"] != before["callers_sha256"]
        assert after["profiles_sha256"] == before["profiles_sha256"]
        told = daemon.command("audit", "log", "--kind", "policy").stdout.decode()
        (newest, oldest) = told.splitlines()[1:]
        assert "changed: " in newest
        assert "callers" in newest.partition(";")[0]
        assert "changed" not in oldest
        assert daemon.command("audit", "verify", str(daemon.state)).returncode == 0
