"""The async client does what the sync one does; here it is what waiting is about."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.call.types import Digest
from supervisor.client import (
    AsyncExecution,
    AsyncSupervisor,
    Execution,
    OutcomeError,
    Supervisor,
    Unreachable,
)
from supervisor.client.values import SignedHead
from supervisor.errors import AuditCorrupt, CallStateError, NotFound
from supervisor.v1 import audit_pb2, profile_pb2, tool_pb2, types_pb2
from tests.unit.client import fake_daemon as fake
from tests.unit.client.conftest import FAST
from tests.unit.client.fake_daemon import Abort, FakeDaemon
from tests.unit.client.test_sync import TIRELESS, blobs, breaking, broken, success


def use(daemon: FakeDaemon, do: Callable[[AsyncSupervisor], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with AsyncSupervisor(daemon.address, retry=FAST) as client:
            return await do(client)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("sync", "twin"), [(Supervisor, AsyncSupervisor), (Execution, AsyncExecution)]
)
def test_same_names_and_arguments(sync: type, twin: type) -> None:
    names = {name for name in vars(sync) if not name.startswith("_")}
    assert names <= {name for name in vars(twin) if not name.startswith("_")}
    for name in names:
        if callable(getattr(sync, name)):
            first, second = (inspect.signature(getattr(kind, name)) for kind in (sync, twin))
            assert list(first.parameters.values()) == list(second.parameters.values()), name
    first, second = (inspect.signature(kind) for kind in (sync, twin))
    if sync is Supervisor:
        assert list(first.parameters.values()) == list(second.parameters.values())


def test_run(daemon: FakeDaemon) -> None:
    daemon.play("Execute", success)
    call = use(daemon, lambda client: client.run(["echo"], profile="python"))
    assert (call.stdout, call.ok, call.record) == (b"42\n", True, "cd" * 32)


def test_check_raises(daemon: FakeDaemon) -> None:
    failed = fake.finished(2, exited=types_pb2.Exited(code=3))
    daemon.play("Execute", breaking(fake.accepted(), failed))
    with pytest.raises(OutcomeError) as caught:
        use(daemon, lambda client: client.run(["false"], profile="python", check=True))
    assert caught.value.call.exit_code == 3


def test_gives_up(daemon: FakeDaemon) -> None:
    daemon.play("Execute", breaking(fake.accepted(), abort=broken()))
    daemon.play("Attach", breaking(abort=broken()))
    with pytest.raises(Unreachable) as caught:
        use(daemon, lambda client: client.run(["x"], profile="python"))
    assert caught.value.metadata["call_id"] == fake.CALL_ID
    assert len(daemon.asked("Attach")) == FAST.attempts_max


def test_the_deadline_holds_for_all_attempts_and_for_connecting(tmp_path: Path) -> None:
    async def main(address: str) -> None:
        async with AsyncSupervisor(address, timeout=0.5, retry=TIRELESS) as client:
            await client.get("c")

    with fake.silence(tmp_path) as address, pytest.raises(Unreachable) as caught:
        asyncio.run(main(address))
    assert caught.value.exit_code == 7


def test_no_daemon_is_said_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncSupervisor(f"unix:{tmp_path}/none") as client:
            await client.run(["x"], profile="p")

    with pytest.raises(Unreachable) as caught:
        asyncio.run(main())
    assert caught.value.reason == "SOCKET_MISSING"


def test_a_closed_client_says_so(daemon: FakeDaemon) -> None:
    async def main() -> None:
        client = AsyncSupervisor(daemon.address)
        daemon.play("GetCall", lambda _: tool_pb2.GetCallResponse(call=fake.call()))
        await client.get("c")
        await client.close()
        for use in (
            client.run(["x"], profile="p"),
            client.get("c"),
            client.write_blob(b"x"),
            client.read_blob(Digest.of(b"x")),
            client.attach("c").wait(),
        ):
            with pytest.raises(CallStateError) as caught:
                await use
            assert caught.value.reason == "CLIENT_CLOSED"

    asyncio.run(main())


def test_refusal(daemon: FakeDaemon) -> None:
    daemon.play("Execute", breaking(abort=Abort("NOT_FOUND", "PROFILE_NOT_FOUND")))
    with pytest.raises(NotFound):
        use(daemon, lambda client: client.execute(["x"], profile="python"))


def test_files_out(daemon: FakeDaemon, tmp_path: Path) -> None:
    data = os.urandom(5000)
    blobs(daemon, data, breaks_at=1500)
    file = types_pb2.OutputFile(path=b"a/b", digest=fake.blob(data), mode=0o600)
    daemon.play("Execute", breaking(fake.accepted(), fake.finished(2, outputs=[file])))

    async def do(client: AsyncSupervisor) -> bytes:
        call = await client.run(["x"], profile="p", outputs=["**"])
        assert "a/b" in call.outputs
        assert (list(call.outputs), len(call.outputs)) == (["a/b"], 1)
        await call.outputs.save(tmp_path)
        return await call.outputs.read("a/b")

    assert use(daemon, do) == data == (tmp_path / "a/b").read_bytes()


def test_a_blob_that_is_another(daemon: FakeDaemon) -> None:
    blobs(daemon, b"abd")
    with pytest.raises(AuditCorrupt):
        use(daemon, lambda client: client.read_blob(Digest.of(b"abc")))


def test_the_rest(daemon: FakeDaemon) -> None:
    summary = profile_pb2.ProfileSummary(name="python")
    finding = profile_pb2.ProfileFinding(exposure=profile_pb2.EXPOSURE_CLOSED)
    for method, answer in {
        "GetCall": tool_pb2.GetCallResponse(call=fake.call()),
        "ListCalls": tool_pb2.ListCallsResponse(calls=[fake.call()]),
        "ListRecords": audit_pb2.ListRecordsResponse(records=[fake.call()]),
        "ListEvents": audit_pb2.ListEventsResponse(entries=[audit_pb2.RecordEntry(index=7)]),
        "GetRecord": audit_pb2.GetRecordResponse(
            call=fake.call(profile_digest=Digest.of(b"{}").sha256), profile_json=b"{}"
        ),
        "GetCheckpoint": audit_pb2.GetCheckpointResponse(checkpoint=b"head", key="k"),
        "GetReceipt": audit_pb2.GetReceiptResponse(receipt=b"receipt"),
        "ListProfiles": profile_pb2.ListProfilesResponse(profiles=[summary]),
        "GetProfile": profile_pb2.GetProfileResponse(summary=summary),
        "ExplainProfile": profile_pb2.ExplainProfileResponse(findings=[finding]),
    }.items():
        daemon.play(method, lambda _, answer=answer: answer)
    daemon.play("ReadOutput", lambda _: iter([audit_pb2.ReadOutputResponse(data=b"ab", offset=0)]))

    async def do(client: AsyncSupervisor) -> None:
        assert (await client.get("c")).call_id == fake.CALL_ID
        assert [call.call_id async for call in client.list_calls()] == [fake.CALL_ID]
        assert [call.call_id async for call in client.records(since_ns=1)] == [fake.CALL_ID]
        assert [entry.index async for entry in client.events(kind="read")] == [7]
        assert (await client.record("c")).call.profile == "python"
        assert (await client.recorded_call("c")).profile == "python"
        assert await client.recorded_profile("c") == b"{}"
        assert (await client.checkpoint()) == SignedHead(checkpoint=b"head", key="k")
        assert await client.receipt("c") == b"receipt"
        assert [data async for data in client.read_output("c", "stdout")] == [b"ab"]
        assert [profile.name for profile in await client.profiles()] == ["python"]
        assert (await client.get_profile("python")).summary.name == "python"
        assert (await client.explain("python"))[0].exposure == "closed"
        assert await client.write_blob(b"x") == Digest.of(b"x")

    use(daemon, do)
