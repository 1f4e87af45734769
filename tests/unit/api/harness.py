"""A running server over an engine in memory, a client of it, and what errors say."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from supervisor.api.config import Configuration
from supervisor.api.metrics import Metrics
from supervisor.api.server import Server
from supervisor.api.translate import call_request
from supervisor.call.types import (
    Caller,
)
from supervisor.v1 import (
    audit_pb2_grpc,
    export_pb2_grpc,
    profile_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
)
from tests.unit.api.fake_sinks import FakeSinks
from tests.unit.api.fakes import FakeEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server with its engine and where it is."""

    engine: FakeEngine
    server: Server
    metrics: Metrics
    address: str
    sinks: FakeSinks

    def channel(self, **options: int) -> grpc.aio.Channel:
        """Connect, as this user, over the unix socket."""
        return grpc.aio.insecure_channel(
            self.address.replace("unix://", "unix:"),
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                *((f"grpc.{name}", value) for name, value in options.items()),
            ],
        )


@contextlib.asynccontextmanager
async def running(
    folder: Path, config: Mapping[str, Any] | None = None, engine: FakeEngine | None = None
) -> AsyncIterator[Running]:
    """Run a server on a unix socket in `folder`, with `config` over the defaults."""
    settings = {"listen": [f"unix://{folder}/s.sock"], "state": str(folder), **(config or {})}
    engine = engine or FakeEngine()
    metrics = Metrics(engine.profiles.names)
    read = Configuration.model_validate(settings)
    sinks = FakeSinks(read)
    server = Server(engine, read, metrics, sinks=sinks)  # type: ignore[arg-type]
    await server.start()
    try:
        yield Running(
            engine=engine,
            server=server,
            metrics=metrics,
            address=f"unix://{folder}/s.sock",
            sinks=sinks,
        )
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def connected(
    folder: Path, config: Mapping[str, Any] | None = None, engine: FakeEngine | None = None
) -> AsyncIterator[tuple[Running, Client]]:
    """Run a server and connect to it as this user."""
    async with running(folder, config, engine) as run, run.channel() as channel:
        yield run, Client(channel)


class Client:
    """The stubs of one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.tool: Any = tool_pb2_grpc.ToolServiceStub(channel)
        self.profile: Any = profile_pb2_grpc.ProfileServiceStub(channel)
        self.audit: Any = audit_pb2_grpc.AuditServiceStub(channel)
        self.export: Any = export_pb2_grpc.ExportServiceStub(channel)

    async def execute(self, *argv: bytes, **fields: Any) -> list[tool_pb2.CallEvent]:
        """Run a program to its end."""
        request = execute_request(*argv, **fields)
        return [response.event async for response in self.tool.Execute(request)]

    async def begin(self, *argv: bytes, **fields: Any) -> tuple[str, Any]:
        """Start a program; give the call's id and the stream, after Accepted and Started."""
        stream = self.tool.Execute(execute_request(*argv, **fields))
        accepted = await stream.read()
        await stream.read()
        return accepted.event.call_id, stream


def execute_request(*argv: bytes, **fields: Any) -> tool_pb2.ExecuteRequest:
    """Give a request under the profile python."""
    fields.setdefault("profile", "python")
    return tool_pb2.ExecuteRequest(command=tool_pb2.Command(argv=argv), **fields)


async def foreign_call(engine: FakeEngine) -> str:
    """Start a call of another caller; give its id."""
    other = Caller(name="other", transport="unix", uid=os.getuid() + 1)
    request = call_request(execute_request(b"hang"), engine.profiles.effective("python"))
    return (await engine.submit(other, request)).call_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a client can know of an error."""

    code: grpc.StatusCode
    infos: tuple[error_details_pb2.ErrorInfo, ...]
    retry_after_s: float | None

    @property
    def reason(self) -> str:
        assert len(self.infos) == 1, self
        assert self.infos[0].domain == "stockade"
        return self.infos[0].reason


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Read the details of a status."""
    infos = []
    retry_after_s = None
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                    info = error_details_pb2.ErrorInfo()
                    detail.Unpack(info)
                    infos.append(info)
                elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                    retry = error_details_pb2.RetryInfo()
                    detail.Unpack(retry)
                    retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return Refusal(code=error.code(), infos=tuple(infos), retry_after_s=retry_after_s)


async def refused(answer: Any) -> Refusal:
    """Give the error of a call; fail where there is none."""
    try:
        if hasattr(answer, "__aiter__"):
            async for _ in answer:
                continue
        else:
            await answer
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    raise AssertionError("the call was not refused")


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine; gRPC's own tasks end with its loop."""
    asyncio.run(main)
