"""Running, following, stopping: what each caller may do, and what it is told."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from supervisor.call.types import Caller
from supervisor.v1 import tool_pb2, types_pb2
from tests.unit.api.harness import connected, execute_request, foreign_call, refused, run

ME = os.getuid()
REQUEST_ID = "123e4567-e89b-42d3-a456-426614174000"


def entry(**fields: Any) -> dict[str, Any]:
    """Configure this user as the only caller."""
    return {"callers": [{"name": "me", "uid": ME, "profiles": ["python"], **fields}]}


def test_execute_hands_over_caller_and_request(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, entry()) as (running, client):
            await client.execute(
                b"echo",
                b"\xff",
                request_id=REQUEST_ID,
                correlation=types_pb2.Correlation(agent="a1"),
            )
            (call,) = running.engine.calls.values()
            assert call.caller == Caller(
                name="me", transport="unix", uid=ME, gid=os.getgid(), pid=os.getpid()
            )
            assert call.request.argv == (b"echo", b"\xff")
            assert call.request.request_id == REQUEST_ID
            assert call.request.correlation.agent == "a1"
            assert running.engine.subscriptions[0].closed

    run(main())


def test_a_repeat_attaches_and_another_body_conflicts(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            first = await client.execute(b"echo", request_id=REQUEST_ID)
            again = await client.execute(b"echo", request_id=REQUEST_ID.upper())
            assert [event.accepted.attached for event in (first[0], again[0])] == [False, True]
            assert len(running.engine.calls) == 1
            found = await refused(
                client.tool.Execute(execute_request(b"echo", b"2", request_id=REQUEST_ID))
            )
            assert (found.code, found.reason) == (
                grpc.StatusCode.ALREADY_EXISTS,
                "REQUEST_ID_REUSED",
            )

    run(main())


@pytest.mark.parametrize("profile", ["shell", "no-such", ""])
def test_a_profile_without_a_grant(profile: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, entry()) as (running, client):
            found = await refused(client.tool.Execute(execute_request(b"echo", profile=profile)))
            assert (found.code, found.reason) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "PROFILE_NOT_GRANTED",
            )
            assert not running.engine.calls
            labels = {"reason": "PROFILE_NOT_GRANTED"}
            value = running.metrics.registry.get_sample_value("stockade_rejects_total", labels)
            assert value == 1

    run(main())


@pytest.mark.parametrize(
    ("profile", "code", "reason"),
    [
        ("no-such", grpc.StatusCode.NOT_FOUND, "PROFILE_NOT_FOUND"),
        ("broken", grpc.StatusCode.FAILED_PRECONDITION, "PROFILE_INVALID"),
    ],
)
def test_a_profile_that_cannot_be_used(
    profile: str, code: grpc.StatusCode, reason: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with connected(tmp_path, entry(profiles=["*"])) as (_, client):
            found = await refused(client.tool.Execute(execute_request(b"echo", profile=profile)))
            assert (found.code, found.reason) == (code, reason)

    run(main())


def test_nobody_types_into_a_call_of_somebody_else(tmp_path: Path) -> None:
    """What the record has of standard input is what its own caller gave."""

    async def main() -> None:
        async with connected(tmp_path, entry(calls="all")) as (running, client):
            theirs = await foreign_call(running.engine)
            await client.tool.GetCall(tool_pb2.GetCallRequest(call_id=theirs))
            for call in (
                lambda: client.tool.WriteStdin(
                    tool_pb2.WriteStdinRequest(call_id=theirs, data=b"x", end=True)
                ),
                lambda: client.tool.ResizeTerminal(
                    tool_pb2.ResizeTerminalRequest(call_id=theirs, rows=1, columns=1)
                ),
            ):
                found = await refused(call())
                assert (found.code, found.reason) == (
                    grpc.StatusCode.PERMISSION_DENIED,
                    "INPUT_NOT_GRANTED",
                )
            assert running.engine.calls[theirs].sizes == []
            signal = tool_pb2.SignalRequest(call_id=theirs, signal=15, why="enough")
            await client.tool.Signal(signal)

    run(main())


@pytest.mark.parametrize(
    ("encrypted", "audit", "told"),
    [(True, "none", False), (True, "all", True), (False, "none", True)],
)
def test_who_may_only_follow_gets_no_digest_of_encrypted_content(
    encrypted: bool, audit: str, told: bool, tmp_path: Path
) -> None:
    async def main() -> None:
        async with connected(tmp_path, entry(calls="all", audit=audit)) as (running, client):
            theirs = await foreign_call(running.engine)
            running.engine.calls[theirs].encrypted = encrypted
            live = client.tool.Attach(tool_pb2.AttachRequest(call_id=theirs))
            await live.read()
            await client.tool.Signal(tool_pb2.SignalRequest(call_id=theirs, signal=9, why="x"))
            ended = client.tool.Attach(tool_pb2.AttachRequest(call_id=theirs))
            for stream in (live, ended):
                while (answer := await stream.read()) is not grpc.aio.EOF:
                    last = answer.event
                (stdout,) = last.finished.streams
                assert bool(stdout.digest.sha256) == told

    run(main())


def test_a_full_engine_says_when_to_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            running.engine.calls_max = 50
            streams = await asyncio.gather(*(client.begin(b"hang") for _ in range(50)))
            found = await refused(client.tool.Execute(execute_request(b"hang")))
            assert (found.code, found.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "CALLS_LIMIT",
            )
            assert found.retry_after_s == 0.5
            assert len({call_id for call_id, _ in streams}) == 50

    run(main())


def test_calls_per_caller(tmp_path: Path) -> None:
    async def main() -> None:
        config = entry(calls="all") | {"limits": {"calls_per_caller": 2}}
        async with connected(tmp_path, config) as (running, client):
            await foreign_call(running.engine)
            running.engine.delay_s = 0.02
            outcomes = await asyncio.gather(
                *(client.begin(b"hang") for _ in range(4)), return_exceptions=True
            )
            refusals = [found for found in outcomes if isinstance(found, BaseException)]
            assert len(refusals) == 2
            found = await refused(client.tool.Execute(execute_request(b"echo")))
            assert (found.code, found.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "CALLS_LIMIT",
            )
            assert found.infos[0].metadata["scope"] == "caller"
            assert found.retry_after_s is not None

    run(main())


def test_a_repeat_takes_no_place(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, entry() | {"limits": {"calls_per_caller": 1}}) as (
            _,
            client,
        ):
            await client.begin(b"hang", request_id=REQUEST_ID)
            _, again = await client.begin(b"hang", request_id=REQUEST_ID)
            assert not again.done()

    run(main())


@pytest.mark.parametrize("calls", ["own", "all"])
def test_calls_of_others(calls: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, entry(calls=calls)) as (running, client):
            theirs = await foreign_call(running.engine)
            listed = await client.tool.ListCalls(tool_pb2.ListCallsRequest())
            answers = (
                lambda: client.tool.Attach(tool_pb2.AttachRequest(call_id=theirs)),
                lambda: client.tool.GetCall(tool_pb2.GetCallRequest(call_id=theirs)),
                lambda: client.tool.WriteStdin(tool_pb2.WriteStdinRequest(call_id=theirs)),
                lambda: client.tool.ResizeTerminal(
                    tool_pb2.ResizeTerminalRequest(call_id=theirs, rows=1, columns=1)
                ),
                lambda: client.tool.Signal(tool_pb2.SignalRequest(call_id=theirs, signal=9)),
            )
            if calls == "own":
                assert not listed.calls
                for answer in answers:
                    found = await refused(answer())
                    assert (found.code, found.reason) == (
                        grpc.StatusCode.NOT_FOUND,
                        "CALL_NOT_FOUND",
                    )
                assert running.engine.calls[theirs].finished is None
            else:
                assert [call.call_id for call in listed.calls] == [theirs]
                attached, get, _, _, signal = answers
                for answer in (get, signal):
                    await answer()
                assert [e.event.WhichOneof("event") async for e in attached()][-1] == "finished"
                finished = running.engine.calls[theirs].finished
                assert finished is not None
                assert finished.outcome.by == "me"  # type: ignore[union-attr]

    run(main())


def test_attach_from_a_sequence(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            events = await client.execute(b"echo", b"x")
            call_id = events[0].call_id
            for start, first in ((0, 1), (1, 1), (3, 3)):
                request = tool_pb2.AttachRequest(call_id=call_id, from_sequence=start)
                again = [answer.event.sequence async for answer in client.tool.Attach(request)]
                assert again == list(range(first, 5))
            ahead = tool_pb2.AttachRequest(call_id=call_id, from_sequence=99)
            found = await refused(client.tool.Attach(ahead))
            assert (found.code, found.reason) == (grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_AHEAD")
            assert all(subscription.closed for subscription in running.engine.subscriptions)

    run(main())


def test_stdin(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            call_id, _stream = await client.begin(b"hang", stdin_open=True)
            written = await client.tool.WriteStdin(
                tool_pb2.WriteStdinRequest(call_id=call_id, offset=3, data=b"abcd")
            )
            assert written.next_offset == 7
            found = await refused(
                client.tool.WriteStdin(
                    tool_pb2.WriteStdinRequest(call_id=call_id, data=b"x" * ((1 << 20) + 1))
                )
            )
            assert (found.code, found.reason) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "STDIN_CHUNK_TOO_LARGE",
            )

    run(main())


@pytest.mark.parametrize(
    ("signal", "why", "reason"),
    [(0, "", "SIGNAL_INVALID"), (65, "", "SIGNAL_INVALID"), (9, "x" * 2000, "WHY_TOO_LONG")],
)
def test_a_signal_that_is_none(signal: int, why: str, reason: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            call_id, _ = await client.begin(b"hang")
            request = tool_pb2.SignalRequest(call_id=call_id, signal=signal, why=why)
            found = await refused(client.tool.Signal(request))
            assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
            assert running.engine.calls[call_id].finished is None

    run(main())


def test_list_calls_pages(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            ids = [(await client.execute(b"echo"))[0].call_id for _ in range(40)]
            await client.begin(b"hang")
            listed: list[str] = []
            token = ""
            while True:
                page = await client.tool.ListCalls(
                    tool_pb2.ListCallsRequest(page_size=17, page_token=token)
                )
                listed += [call.call_id for call in page.calls]
                token = page.next_page_token
                if not token:
                    break
                assert len(page.calls) == 17
            assert listed[1:] == ids[::-1]
            live = await client.tool.ListCalls(tool_pb2.ListCallsRequest(live_only=True))
            assert [call.state for call in live.calls] == [types_pb2.CALL_STATE_RUNNING]
            none = await client.tool.ListCalls(tool_pb2.ListCallsRequest(profile="shell"))
            assert not none.calls

    run(main())


def test_live_calls_page_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            ids = [(await client.begin(b"hang"))[0] for _ in range(40)]
            listed: list[str] = []
            token = ""
            while True:
                page = await client.tool.ListCalls(
                    tool_pb2.ListCallsRequest(live_only=True, page_size=17, page_token=token)
                )
                listed += [call.call_id for call in page.calls]
                token = page.next_page_token
                if not token:
                    break
                assert len(page.calls) == 17
            assert listed == ids[::-1]

    run(main())


@pytest.mark.parametrize(
    ("request_fields", "reason"),
    [
        ({"live_only": True, "page_token": "mine"}, "PAGE_TOKEN_INVALID"),
        ({"page_size": -1}, "PAGE_SIZE_INVALID"),
        ({"page_size": 1001}, "PAGE_SIZE_INVALID"),
        ({"page_token": "mine"}, "PAGE_TOKEN_INVALID"),
    ],
)
def test_list_calls_refuses(request_fields: dict[str, Any], reason: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            found = await refused(
                client.tool.ListCalls(tool_pb2.ListCallsRequest(**request_fields))
            )
            assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)

    run(main())


def test_get_call(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            events = await client.execute(b"echo", b"x")
            answer = await client.tool.GetCall(tool_pb2.GetCallRequest(call_id=events[0].call_id))
            assert answer.call.state == types_pb2.CALL_STATE_CLOSED
            assert answer.call.finished.exited.code == 0
            assert list(answer.call.argv) == [b"echo", b"x"]
            assert answer.call.caller.uid == ME

    run(main())
