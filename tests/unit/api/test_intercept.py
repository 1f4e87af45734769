"""No RPC of any service ever answers UNKNOWN, and every error carries one ErrorInfo."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from supervisor.api import intercept
from supervisor.api.server import SERVICES
from supervisor.api.status import build_status
from supervisor.errors import AuditUnavailable
from supervisor.v1 import audit_pb2, console_pb2, profile_pb2, tool_pb2, types_pb2
from tests.unit.api.harness import (
    Client,
    Refusal,
    Running,
    connected,
    execute_request,
    refusal,
    refused,
    run,
)

FILES = (tool_pb2, profile_pb2, audit_pb2, console_pb2, health_pb2, reflection_pb2)
RPCS = [
    f"/{service.full_name}/{method.name}"
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
OURS = [rpc for rpc in RPCS if rpc.split("/")[1] in SERVICES]
GARBAGE = b"\xff\xfe\x00garbage"

VALID: dict[str, bytes] = {
    "Execute": execute_request(b"echo").SerializeToString(),
    "Attach": tool_pb2.AttachRequest(call_id="x").SerializeToString(),
    "WriteStdin": tool_pb2.WriteStdinRequest(call_id="x").SerializeToString(),
    "ResizeTerminal": tool_pb2.ResizeTerminalRequest(
        call_id="x", rows=24, columns=80
    ).SerializeToString(),
    "Signal": tool_pb2.SignalRequest(call_id="x", signal=9).SerializeToString(),
    "GetCall": tool_pb2.GetCallRequest(call_id="x").SerializeToString(),
    "ListCalls": b"",
    "WriteBlob": tool_pb2.WriteBlobRequest(
        digest=types_pb2.Digest(sha256="0" * 64, size_bytes=1)
    ).SerializeToString(),
    "ReadBlob": tool_pb2.ReadBlobRequest(
        digest=types_pb2.Digest(sha256="0" * 64, size_bytes=1)
    ).SerializeToString(),
    "ListProfiles": b"",
    "GetProfile": profile_pb2.GetProfileRequest(name="python").SerializeToString(),
    "ExplainProfile": profile_pb2.ExplainProfileRequest(name="python").SerializeToString(),
    "ListRecords": b"",
    "ListEvents": b"",
    "GetCheckpoint": b"",
    "Erase": audit_pb2.EraseRequest(call_id="x", why="y").SerializeToString(),
    "GetReceipt": audit_pb2.GetReceiptRequest(call_id="x").SerializeToString(),
    "GetRecord": audit_pb2.GetRecordRequest(call_id="x").SerializeToString(),
    "GetRetention": b"",
    "AddCheckpoint": audit_pb2.AddCheckpointRequest(checkpoint=b"x").SerializeToString(),
    "HoldContents": audit_pb2.HoldContentsRequest(call_id="x", why="x").SerializeToString(),
    "ReleaseContents": audit_pb2.ReleaseContentsRequest(call_id="x", why="x").SerializeToString(),
    "OpenSession": b"",
    "EnterSession": b"",
    "GetSession": b"",
    "LeaveSession": b"",
    "ReadOutput": audit_pb2.ReadOutputRequest(call_id="x", stream=2).SerializeToString(),
}
"""A request of each RPC that reaches the engine."""


BEHIND = [rpc for rpc in OURS if not rpc.endswith("/AddCheckpoint") and "Console" not in rpc]
"""Those whose request gets as far as the engine: a head is refused before, and there is no console
here."""


def raw(client: Client, rpc: str, requests: Iterable[bytes]) -> Any:
    """Call an RPC with bytes, as a client of any kind may."""
    return client.channel.stream_stream(rpc)(iter(requests))


async def answer(client: Client, rpc: str, requests: Iterable[bytes]) -> Refusal | None:
    """Give the error of an RPC, None where it answers; a stream that stays open answers."""
    stream = raw(client, rpc, requests)
    try:
        async with asyncio.timeout(5):
            async for _ in stream:
                if rpc.endswith("/Watch"):
                    return None
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    return None


def test_the_walk_covers_every_service() -> None:
    assert len(OURS) == 27
    assert set(VALID) == {rpc.split("/")[2] for rpc in OURS}


@pytest.mark.parametrize("rpc", RPCS)
def test_garbage(rpc: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            found = await refused(raw(client, rpc, [GARBAGE]))
            assert (found.code, found.reason) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "MALFORMED_REQUEST",
            )
            assert rejects(running, "MALFORMED_REQUEST") == 1

    run(main())


@pytest.mark.parametrize("rpc", RPCS)
def test_an_empty_request(rpc: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            found = await answer(client, rpc, [b""])
            if found is not None:
                assert found.code is not grpc.StatusCode.UNKNOWN
                assert found.reason
            assert not running.engine.calls

    run(main())


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if not rpc.endswith("/ServerReflectionInfo")])
def test_no_request_at_all(rpc: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            found = await answer(client, rpc, [])
            assert found is not None
            assert found.code is grpc.StatusCode.INVALID_ARGUMENT
            assert found.reason in {"MALFORMED_REQUEST", "DIGEST_INVALID"}

    run(main())


@pytest.mark.parametrize("rpc", BEHIND)
def test_a_bug_behind_the_door(rpc: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            running.engine.failure = RuntimeError("secret detail")
            running.engine.profiles.failure = RuntimeError("secret detail")
            running.engine.store.blobs.writer = None  # type: ignore[assignment]
            found = await refused(raw(client, rpc, [VALID[rpc.split("/")[2]]]))
            assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, "BUG")
            assert "secret" not in str(found.infos)

    run(main())


@pytest.mark.parametrize("rpc", BEHIND)
def test_an_error_of_the_tree_keeps_its_code(rpc: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            failure = AuditUnavailable("JOURNAL_UNAVAILABLE", "no disk", hint="buy one")
            running.engine.failure = failure
            running.engine.profiles.failure = failure

            def writer(_digest: object) -> None:
                raise failure

            running.engine.store.blobs.writer = writer  # type: ignore[assignment]
            found = await refused(raw(client, rpc, [VALID[rpc.split("/")[2]]]))
            assert (found.code, found.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "JOURNAL_UNAVAILABLE",
            )
            assert found.infos[0].metadata["hint"] == "buy one"

    run(main())


@pytest.mark.parametrize("rpc", [*RPCS, "/supervisor.v1.ToolService/Nothing"])
@pytest.mark.parametrize("request_bytes", [b"", GARBAGE], ids=["empty", "garbage"])
def test_an_unknown_caller(rpc: str, request_bytes: bytes, tmp_path: Path) -> None:
    async def main() -> None:
        callers = [{"name": "other", "uid": os.getuid() + 1, "profiles": ["*"]}]
        async with connected(tmp_path, {"callers": callers}) as (running, client):
            found = await refused(raw(client, rpc, [request_bytes]))
            assert (found.code, found.reason) == (
                grpc.StatusCode.UNAUTHENTICATED,
                "PEER_UNKNOWN",
            )
            assert found.infos[0].metadata["uid"] == str(os.getuid())
            assert rejects(running, "PEER_UNKNOWN") == 1
            assert not running.engine.calls

    run(main())


@pytest.mark.parametrize("rpc", ["/supervisor.v1.ToolService/Nothing", "/no.Service/Method", "/x"])
def test_an_unknown_method(rpc: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
                method = getattr(client.channel, kind)(rpc)
                argument = b"x" if kind.startswith("unary") else iter([b"x"])
                found = await refused(method(argument))
                assert (found.code, found.reason) == (
                    grpc.StatusCode.UNIMPLEMENTED,
                    "METHOD_UNKNOWN",
                )

    run(main())


def test_unary_deadline(tmp_path: Path) -> None:
    async def main() -> None:
        config = {"limits": {"unary_deadline": "50ms"}}
        async with connected(tmp_path, config) as (running, client):

            async def slow(*_: object, **__: object) -> int:
                await asyncio.sleep(60)
                return 0

            call_id, stream = await client.begin(b"hang")
            running.engine.write_stdin = slow  # type: ignore[method-assign]
            found = await refused(
                client.tool.WriteStdin(tool_pb2.WriteStdinRequest(call_id=call_id))
            )
            assert (found.code, found.reason) == (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "DEADLINE_EXCEEDED",
            )
            # A stream lives on past it.
            assert not stream.done()

    run(main())


@pytest.mark.parametrize("rpc", ["ToolService/GetCall", "ToolService/Execute"])
def test_a_request_that_never_comes(rpc: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, {"limits": {"unary_deadline": "50ms"}}) as (_, client):
            stream = client.channel.stream_stream(f"/supervisor.v1.{rpc}")()
            found = await refused(stream)  # nothing is sent, and nothing is ended
            assert (found.code, found.reason) == (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "DEADLINE_EXCEEDED",
            )

    run(main())


def test_a_caller_has_only_so_many_requests_read_at_a_time(tmp_path: Path) -> None:
    """The next one waits until one of them has come, and is answered then."""

    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            rpc = "/supervisor.v1.ToolService/ListCalls"
            begun = [client.channel.stream_stream(rpc)() for _ in range(intercept.READS_MAX)]
            for stream in begun:
                await stream.wait_for_connection()
            await asyncio.sleep(0.2)
            waiting = asyncio.create_task(answer(client, rpc, [b""]))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            await begun[0].write(b"")
            assert await waiting is None
            for stream in begun:
                stream.cancel()

    run(main())


REFUSALS = {
    "Execute": execute_request(b"echo", stdin=b"x").SerializeToString(),
    "WriteStdin": tool_pb2.WriteStdinRequest(call_id="x").SerializeToString(),
    "WriteBlob": tool_pb2.WriteBlobRequest(data=b"x").SerializeToString(),
    "malformed": GARBAGE,
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_request_is_gone_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a circle of references holds it until the next collection nor the log."""
    caplog.set_level(logging.INFO)
    messages: list[Any] = []
    decoder = intercept.Guard._decoder

    def watched(guard: intercept.Guard, deserialize: Any) -> Any:
        decode = decoder(guard, deserialize)

        def keep_track(data: bytes) -> Any:
            message = decode(data)
            messages.append(message)
            return message

        return keep_track

    monkeypatch.setattr(intercept.Guard, "_decoder", watched)

    async def main() -> None:
        callers = [{"name": "other", "uid": os.getuid(), "profiles": []}]
        async with connected(tmp_path, {"callers": callers}) as (_, client):
            rpc = kind if kind != "malformed" else "Execute"
            gc.collect()
            gc.disable()
            try:
                for _ in range(3):
                    assert await answer(
                        client, f"/supervisor.v1.ToolService/{rpc}", [REFUSALS[kind]]
                    )
                async with asyncio.timeout(5):
                    # Two each: the list's, and that of the question. Messages take no weak ones.
                    while any(sys.getrefcount(messages[n]) > 2 for n in range(len(messages))):
                        await asyncio.sleep(0.01)
            except TimeoutError:
                held = [gc.get_referrers(message) for message in messages]
                pytest.fail(f"still held by {[[repr(one)[:300] for one in each] for each in held]}")
            finally:
                gc.enable()
            assert len(messages) == 3

    run(main())


def test_a_timeout_of_the_engine_is_not_the_deadline(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            running.engine.failure = TimeoutError()
            found = await refused(client.tool.GetCall(tool_pb2.GetCallRequest(call_id="x")))
            assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, "BUG")

    run(main())


@pytest.mark.parametrize(("size_bytes", "by_us"), [((1 << 20) + 1, True), (3 << 20, False)])
def test_message_too_large(size_bytes: int, by_us: bool, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, {"limits": {"message_size": "1MiB"}}) as (running, client):
            found = await refused(
                client.tool.Execute(execute_request(b"echo", stdin=b"x" * size_bytes))
            )
            assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            if by_us:
                assert found.reason == "MESSAGE_TOO_LARGE"
                assert found.retry_after_s is None
            assert not running.engine.calls

    run(main())


def test_the_largest_message_is_taken(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, {"limits": {"message_size": "1MiB"}}) as (_, client):
            events = await client.execute(b"echo", stdin=b"x" * ((1 << 20) - 200))
            assert events[-1].finished.exited.code == 0

    run(main())


def test_a_response_that_cannot_be_encoded(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            running.engine.write_stdin = lambda *_, **__: asyncio.sleep(0, "no number")  # type: ignore
            running.engine.owner = lambda _: "owner"  # type: ignore[method-assign]
            found = await refused(client.tool.WriteStdin(tool_pb2.WriteStdinRequest(call_id="x")))
            assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, "BUG")

    run(main())


def test_cancellation_reaches_the_subscription(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            call_id, stream = await client.begin(b"hang", kill_on_disconnect=True)
            stream.cancel()
            async with asyncio.timeout(5):
                while not running.engine.subscriptions[0].closed:
                    await asyncio.sleep(0.01)
            finished = running.engine.calls[call_id].finished
            assert finished is not None
            assert finished.outcome.reason == "DISCONNECTED"  # type: ignore[union-attr]

    run(main())


def test_a_client_deadline_closes_the_subscription(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            stream = client.tool.Execute(execute_request(b"hang"), timeout=0.2)
            found = None
            try:
                async for _ in stream:
                    continue
            except grpc.aio.AioRpcError as error:
                found = error.code()
            assert found is grpc.StatusCode.DEADLINE_EXCEEDED
            async with asyncio.timeout(5):
                while not running.engine.subscriptions[0].closed:
                    await asyncio.sleep(0.01)
            # The call itself lives on: it did not ask to be stopped.
            assert next(iter(running.engine.calls.values())).finished is None

    run(main())


def rejects(running: Running, reason: str) -> float:
    """Give the counter of one reason."""
    labels = {"reason": reason}
    return running.metrics.registry.get_sample_value("stockade_rejects_total", labels) or 0


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (grpc.aio.InternalError("the connection is gone"), asyncio.CancelledError),
        (grpc.aio.AbortError(), grpc.aio.AbortError),
        (RuntimeError(), RuntimeError),
    ],
)
def test_a_refusal_that_nobody_can_hear(raised: Exception, expected: type[BaseException]) -> None:
    class Context:
        async def abort_with_status(self, status: object) -> None:
            raise raised

    async def main() -> None:
        with pytest.raises(expected):
            await intercept._abort(Context(), build_status(grpc.StatusCode.NOT_FOUND, "X", "x"))

    run(main())
