"""What the client for asyncio does with the sinks of a daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, TypeVar

import grpc

from supervisor.client import rpc
from supervisor.client import sinks as values
from supervisor.errors import StockadeError
from supervisor.v1 import export_pb2

T = TypeVar("T")
TEST_S = 30.0


class _Asks(Protocol):
    """The client, as far as this needs it."""

    @property
    def _stubs(self) -> rpc.Stubs: ...

    async def _unary(
        self, method: Callable[..., Any], request: Any, *, idempotent: bool = True
    ) -> Any: ...

    def _error(self, failure: grpc.RpcError) -> StockadeError: ...

    def _pages(
        self,
        method: Callable[..., Any],
        request: Any,
        field: str,
        limit: int | None = None,
        *,
        of: Callable[[Any], T],
    ) -> AsyncIterator[T]: ...


class AsyncExports:
    """Methods of `AsyncSupervisor`, the twins of those of `Exports`."""

    async def sinks(self: _Asks) -> tuple[values.Sink, ...]:
        """Tell how all sinks do. See `Supervisor.sinks`."""
        response = await self._unary(self._stubs.export.ListSinks, export_pb2.ListSinksRequest())
        return tuple(values.sink(message) for message in response.sinks)

    async def test_sink(
        self: _Asks, name: str, *, wait: float = TEST_S
    ) -> AsyncIterator[values.SinkTest]:
        """Test a sink, for `wait` seconds at most. See `Supervisor.test_sink`."""
        request = values.test_request(name, wait)
        async for step in _stream(self, self._stubs.export.TestSink(request), values.sink_test):
            yield step

    async def replay_sink(
        self: _Asks,
        name: str,
        *,
        index: int | None = None,
        time_ns: int | None = None,
        dry_run: bool = False,
    ) -> values.SinkReplay:
        """Have a sink get entries again. See `Supervisor.replay_sink`."""
        request = values.replay_request(name, index=index, time_ns=time_ns, dry_run=dry_run)
        method = self._stubs.export.ReplaySink
        return values.replay(await self._unary(method, request, idempotent=dry_run))

    def dead_letters(
        self: _Asks,
        name: str,
        uids: Sequence[str] | None = None,
        *,
        limit: int | None = None,
        entries: bool = False,
    ) -> AsyncIterator[values.DeadLetter]:
        """Give the dead letters of a sink. See `Supervisor.dead_letters`."""
        request = export_pb2.ListDeadLettersRequest(sink=name, entries=entries, uids=uids)
        method = self._stubs.export.ListDeadLetters
        return self._pages(method, request, "letters", limit, of=values.dead_letter)

    async def redeliver(
        self: _Asks, name: str, uids: Sequence[str] | None = None
    ) -> AsyncIterator[values.Redelivered]:
        """Send dead letters again. See `Supervisor.redeliver`."""
        request = export_pb2.RedeliverDeadLettersRequest(sink=name, uids=uids, all=uids is None)
        answers = self._stubs.export.RedeliverDeadLetters(request)
        async for some in _stream(self, answers, values.redelivered):
            yield some

    async def discard(self: _Asks, name: str, uids: Sequence[str] | None = None) -> int:
        """Give up on dead letters. See `Supervisor.discard`."""
        request = export_pb2.DiscardDeadLettersRequest(sink=name, uids=uids, all=uids is None)
        method = self._stubs.export.DiscardDeadLetters
        return int((await self._unary(method, request, idempotent=False)).discarded)

    async def reload_sinks(self: _Asks) -> values.SinksReloaded:
        """Read the daemon's sinks again. See `Supervisor.reload_sinks`."""
        method = self._stubs.export.Reload
        response = await self._unary(method, export_pb2.ReloadRequest(), idempotent=False)
        return values.reloaded(response)


async def _stream(client: _Asks, answers: Any, of: Callable[[Any], T]) -> AsyncIterator[T]:
    """Give the messages of something that is not to be done twice."""
    try:
        async for message in answers:
            yield of(message)
    except grpc.RpcError as failure:
        raise client._error(failure) from failure
    finally:
        answers.cancel()
