"""A call that is being followed, for programs that wait: `Execution`.

It takes its stream up again where it broke, and feeds the program a standard input that did not fit
into the request. One `Execution` is for one thread, except that `write_stdin`, `signal` and
`cancel` may come from others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from signal import SIGKILL
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

import grpc

from supervisor.call.events import CallEvent
from supervisor.call.types import STDIN_CHUNK_BYTES_MAX
from supervisor.client import wire
from supervisor.client.collect import Collector, FinishedCall
from supervisor.client.follow import Follower
from supervisor.client.request import Prepared, read_some, stdin_why
from supervisor.errors import CallStateError, StockadeError

if TYPE_CHECKING:
    from supervisor.client.sync import Supervisor


class Execution:
    """A call that is being followed: iterate for its events, up to and including Finished.

    Closing it, also by leaving a `with` block, stops following; the call goes on unless it was
    started with `kill_on_disconnect`. `cancel` stops the call itself.
    """

    def __init__(self, client: Supervisor, follower: Follower, prepared: Prepared | None) -> None:
        self._client = client
        self._follower = follower
        self._closed = False
        self._offset = len(prepared.execute.stdin) if prepared else 0
        self._pump: _Pump | None = None
        self._stream = client._open(follower.request())
        # Execute's first event comes at once and says that the call is on record; an Attach to a
        # quiet call may have none for a long time.
        self._first = self._begin() if prepared is not None else None
        if prepared is not None and prepared.stdin is not None:
            self._pump = _Pump(self, prepared.stdin)
            self._pump.start()

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
        return self._pump.error if self._pump is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[CallEvent]:
        return self

    def __next__(self) -> CallEvent:
        event, self._first = self._first, None
        event = event or self._next()
        if event is None:
            raise StopIteration
        return event

    def wait(self) -> FinishedCall:
        """Read to the end and give the call as one value; standard output and error whole.

        Raises:
            Exception: what broke standard input off, as in `stdin_error`.
        """
        collector = Collector()
        for event in self:
            collector.take(event)
        if self.stdin_error is not None:
            raise self.stdin_error
        return collector.finish(self._client.read_blob)

    def write_stdin(self, data: bytes) -> None:
        """Append to the program's standard input; waits while it does not read.

        Raises:
            CallStateError: `STDIN_CLOSED`, `CALL_CLOSED`.
        """
        for start in range(0, len(data), STDIN_CHUNK_BYTES_MAX):
            chunk = data[start : start + STDIN_CHUNK_BYTES_MAX]
            self._offset = self._client.write_stdin(self.call_id, chunk, offset=self._offset)

    def close_stdin(self) -> None:
        """End the program's standard input."""
        self._client.write_stdin(self.call_id, b"", offset=self._offset, end=True)

    def resize_terminal(self, *, rows: int, columns: int) -> None:
        """Give the call's terminal another size; what runs in it gets SIGWINCH.

        Raises:
            CallStateError: `CALL_CLOSED`, `TERMINAL_MISSING`.
        """
        self._client.resize_terminal(self.call_id, rows=rows, columns=columns)

    def signal(self, signal: int, *, why: str = "") -> None:
        """Send a signal to the call; SIGKILL ends all of it.

        Raises:
            CallStateError: `CALL_CLOSED`.
        """
        self._client.signal(self.call_id, signal, why=why)

    def cancel(self, *, why: str = "cancelled by the client") -> None:
        """Stop the call, all of it; its Finished still comes. No error where it has ended."""
        try:
            self.signal(SIGKILL, why=why)
        except CallStateError as error:
            if error.reason != "CALL_CLOSED":
                raise

    def close(self) -> None:
        """Stop following."""
        self._closed = True
        self._stream.cancel()

    def _begin(self) -> CallEvent | None:
        try:
            return self._next()
        except BaseException:
            self.close()
            raise

    def _next(self) -> CallEvent | None:
        """Give the next event, across broken streams; None after the last."""
        while not (self._closed or self._follower.finished):
            try:
                event = self._follower.take(wire.event(next(self._stream).event))
            except StopIteration:
                self._reopen(None)
                continue
            except grpc.RpcError as failure:
                if not self._closed:
                    self._reopen(self._client._error(failure))
                continue
            if self._follower.stale:
                self._stream.cancel()
                self._reopen(None)
            elif event is not None:
                self._client._connected = True
                return event
        return None

    def _reopen(self, error: StockadeError | None) -> None:
        time.sleep(self._follower.broken(error))
        self._stream = self._client._open(self._follower.request())


class _Pump(threading.Thread):
    """Writes what is left of a file to the program's standard input, while it runs."""

    def __init__(self, execution: Execution, source: BinaryIO) -> None:
        super().__init__(name="stockade-stdin", daemon=True)
        self.error: Exception | None = None
        self._execution = execution
        self._source = source

    def run(self) -> None:
        """Write to the end, or until the program reads no more."""
        try:
            while chunk := read_some(self._source):
                self._execution.write_stdin(chunk)
            self._execution.close_stdin()
        except CallStateError:
            return  # The program has closed its input or is gone: as with a broken pipe.
        except (StockadeError, OSError, ValueError) as error:
            self.error = error
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        try:
            self._execution.cancel(why=stdin_why(error))
        except StockadeError as failure:
            error.add_note(f"the call could not be stopped: {failure}")
