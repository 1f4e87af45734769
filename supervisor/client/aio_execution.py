"""A call that is being followed, for asyncio: `AsyncExecution`, the twin of `client.execution`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from signal import SIGKILL
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import grpc

from supervisor.call.events import CallEvent
from supervisor.call.types import STDIN_CHUNK_BYTES_MAX
from supervisor.client import wire
from supervisor.client.collect import AsyncFinishedCall, Collector
from supervisor.client.follow import Follower
from supervisor.client.request import Prepared, read_some, stdin_why
from supervisor.errors import CallStateError, StockadeError

if TYPE_CHECKING:
    from supervisor.client.aio import AsyncSupervisor

END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in grpc-stubs


class AsyncExecution:
    """A call that is being followed: iterate for its events, up to and including Finished.

    Closing it, also by leaving an `async with` block, stops following; the call goes on unless it
    was started with `kill_on_disconnect`. `cancel` stops the call itself.
    """

    def __init__(
        self, client: AsyncSupervisor, follower: Follower, prepared: Prepared | None
    ) -> None:
        self._client = client
        self._follower = follower
        self._closed = False
        self._offset = len(prepared.execute.stdin) if prepared else 0
        self._stdin = prepared.stdin if prepared else None
        self._pump: asyncio.Task[None] | None = None
        self._stdin_error: Exception | None = None
        self._stream: Any = None
        self._first: CallEvent | None = None

    @property
    def call_id(self) -> str:
        """The call's id."""
        return self._follower.call_id

    @property
    def ended(self) -> bool:
        """Whether Finished was seen: there is nothing more to follow."""
        return self._follower.finished

    @property
    def stdin_error(self) -> Exception | None:
        """Why standard input broke off, which stops the call; None where it did not."""
        return self._stdin_error

    async def begin(self) -> None:
        """Wait for the first event, which says that the call is on record."""
        try:
            self._first = await self._next()
        except BaseException:
            await self.close()
            raise
        if self._stdin is not None:
            self._pump = asyncio.create_task(self._write_rest(self._stdin))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[CallEvent]:
        return self

    async def __anext__(self) -> CallEvent:
        event, self._first = self._first, None
        event = event or await self._next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def wait(self) -> AsyncFinishedCall:
        """Read to the end and give the call as one value; standard output and error whole.

        Raises:
            Exception: what broke standard input off, as in `stdin_error`.
        """
        collector = Collector()
        async for event in self:
            collector.take(event)
        if self.stdin_error is not None:
            raise self.stdin_error
        return collector.finish_async(self._client.read_blob)

    async def write_stdin(self, data: bytes) -> None:
        """Append to the program's standard input; waits while it does not read.

        Raises:
            CallStateError: `STDIN_CLOSED`, `CALL_CLOSED`.
        """
        for start in range(0, len(data), STDIN_CHUNK_BYTES_MAX):
            chunk = data[start : start + STDIN_CHUNK_BYTES_MAX]
            self._offset = await self._client.write_stdin(self.call_id, chunk, offset=self._offset)

    async def close_stdin(self) -> None:
        """End the program's standard input."""
        await self._client.write_stdin(self.call_id, b"", offset=self._offset, end=True)

    async def resize_terminal(self, *, rows: int, columns: int) -> None:
        """Give the call's terminal another size; what runs in it gets SIGWINCH.

        Raises:
            CallStateError: `CALL_CLOSED`, `TERMINAL_MISSING`.
        """
        await self._client.resize_terminal(self.call_id, rows=rows, columns=columns)

    async def signal(self, signal: int, *, why: str = "") -> None:
        """Send a signal to the call; SIGKILL ends all of it.

        Raises:
            CallStateError: `CALL_CLOSED`.
        """
        await self._client.signal(self.call_id, signal, why=why)

    async def cancel(self, *, why: str = "cancelled by the client") -> None:
        """Stop the call, all of it; its Finished still comes. No error where it has ended."""
        try:
            await self.signal(SIGKILL, why=why)
        except CallStateError as error:
            if error.reason != "CALL_CLOSED":
                raise

    async def close(self) -> None:
        """Stop following."""
        self._closed = True
        if self._pump is not None:
            self._pump.cancel()
        if self._stream is not None:
            self._stream.cancel()

    async def _next(self) -> CallEvent | None:
        """Give the next event, across broken streams; None after the last."""
        if self._stream is None:
            self._stream = self._client._open(self._follower.request())
        while not (self._closed or self._follower.finished):
            try:
                message = await self._stream.read()
            except grpc.RpcError as failure:
                await self._reopen(self._client._error(failure))
                continue
            if message is END:
                await self._reopen(None)
                continue
            event = self._follower.take(wire.event(message.event))
            if self._follower.stale:
                self._stream.cancel()
                await self._reopen(None)
            elif event is not None:
                self._client._connected = True
                return event
        return None

    async def _reopen(self, error: StockadeError | None) -> None:
        await asyncio.sleep(self._follower.broken(error))
        self._stream = self._client._open(self._follower.request())

    async def _write_rest(self, source: BinaryIO) -> None:
        """Write what is left of a file to the program, or until the program reads no more."""
        try:
            while chunk := await asyncio.to_thread(read_some, source):
                await self.write_stdin(chunk)
            await self.close_stdin()
        except CallStateError:
            return  # The program has closed its input or is gone: as with a broken pipe.
        except (StockadeError, OSError, ValueError) as error:
            self._stdin_error = error
            await self._stop(error)

    async def _stop(self, error: Exception) -> None:
        try:
            await self.cancel(why=stdin_why(error))
        except StockadeError as failure:
            error.add_note(f"the call could not be stopped: {failure}")
