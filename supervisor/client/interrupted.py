"""Stop the call of a `run` that was interrupted, for both clients.

Who waits with `run` wants the result or no call. The interruption may come before the daemon has
told the call's id; then it is looked for by its request id. All of it takes a few seconds at most,
and what goes wrong becomes a note on the interruption, which is what the caller has to see.
"""

from __future__ import annotations

import asyncio
import time
from signal import SIGKILL
from typing import TYPE_CHECKING

from supervisor.client import wire
from supervisor.errors import StockadeError
from supervisor.v1 import tool_pb2

if TYPE_CHECKING:
    from supervisor.client.aio import AsyncSupervisor
    from supervisor.client.aio_execution import AsyncExecution
    from supervisor.client.execution import Execution
    from supervisor.client.sync import Supervisor

STOP_S = 5.0
WHY = "run() was interrupted"

LOOKS = 3
"""How often an unknown call is looked for: the daemon may be just accepting it."""

LOOK_EVERY_S = 0.1

_kills: set[asyncio.Task[None]] = set()
"""What a second interruption left alone: the event loop holds its tasks weakly."""


def stop(
    client: Supervisor, execution: Execution | None, request_id: str, interruption: BaseException
) -> None:
    """Kill the call of an interrupted `run`; `execution` is None where it is not known yet."""
    end_s = time.monotonic() + STOP_S
    if execution is not None and execution.ended:
        return
    try:
        call_id = execution.call_id if execution is not None else _find(client, request_id, end_s)
        if call_id:
            signal = client._stubs.tool.Signal
            client._unary(signal, _kill(call_id), idempotent=False, end_s=end_s)
    except StockadeError as failure:
        _note(interruption, failure)


async def stop_async(
    client: AsyncSupervisor,
    execution: AsyncExecution | None,
    request_id: str,
    interruption: BaseException,
) -> None:
    """Do as `stop`; a second cancellation ends the waiting, and not what is waited for."""
    if execution is not None and execution.ended:
        return
    task = asyncio.create_task(_stop(client, execution, request_id, interruption))
    _kills.add(task)
    task.add_done_callback(_kills.discard)
    await asyncio.wait({task}, timeout=STOP_S)


async def _stop(
    client: AsyncSupervisor,
    execution: AsyncExecution | None,
    request_id: str,
    interruption: BaseException,
) -> None:
    end_s = time.monotonic() + STOP_S
    try:
        known = execution.call_id if execution is not None else ""
        call_id = known or await _find_async(client, request_id, end_s)
        if call_id:
            signal = client._stubs.tool.Signal
            await client._unary(signal, _kill(call_id), idempotent=False, end_s=end_s)
    except StockadeError as failure:
        _note(interruption, failure)


def _find(client: Supervisor, request_id: str, end_s: float) -> str:
    """Give the id of the live call that began with this request, or "" where there is none."""
    for look in range(LOOKS):
        time.sleep(LOOK_EVERY_S if look else 0)
        request = tool_pb2.ListCallsRequest(live_only=True)
        for call in client._pages(
            client._stubs.tool.ListCalls, request, "calls", end_s=end_s, of=wire.call
        ):
            if call.request_id == request_id:
                return call.call_id
    return ""


async def _find_async(client: AsyncSupervisor, request_id: str, end_s: float) -> str:
    for look in range(LOOKS):
        await asyncio.sleep(LOOK_EVERY_S if look else 0)
        request = tool_pb2.ListCallsRequest(live_only=True)
        pages = client._pages(
            client._stubs.tool.ListCalls, request, "calls", end_s=end_s, of=wire.call
        )
        async for call in pages:
            if call.request_id == request_id:
                return call.call_id
    return ""


def _kill(call_id: str) -> tool_pb2.SignalRequest:
    return tool_pb2.SignalRequest(call_id=call_id, signal=SIGKILL, why=WHY)


def _note(interruption: BaseException, failure: StockadeError) -> None:
    if failure.reason != "CALL_CLOSED":
        interruption.add_note(f"the call could not be stopped: {failure}")
