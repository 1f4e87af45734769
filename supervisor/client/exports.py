"""What the sync client does with the sinks of a daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

    def _unary(
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
    ) -> Iterator[T]: ...


class Exports:
    """Methods of `Supervisor`. All but `sinks` and `dead_letters` are for callers with `exports:
    manage`."""

    def sinks(self: _Asks) -> tuple[values.Sink, ...]:
        """Tell how all sinks do, by their names. For callers with `exports: see` or `audit: all`.

        Raises:
            NotPermitted: `EXPORTS_NOT_GRANTED`.
        """
        response = self._unary(self._stubs.export.ListSinks, export_pb2.ListSinksRequest())
        return tuple(values.sink(message) for message in response.sinks)

    def test_sink(self: _Asks, name: str, *, wait: float = TEST_S) -> Iterator[values.SinkTest]:
        """Put an entry on record and follow it until the sink has acknowledged it, for `wait`
        seconds at most; the last that is given says how it went.

        Raises:
            NotFound: `SINK_UNKNOWN`.
            AuditUnavailable: `RECORD_FULL`.
        """
        request = values.test_request(name, wait)
        yield from _stream(self, self._stubs.export.TestSink(request), values.sink_test)

    def replay_sink(
        self: _Asks,
        name: str,
        *,
        index: int | None = None,
        time_ns: int | None = None,
        dry_run: bool = False,
    ) -> values.SinkReplay:
        """Have a sink get everything from an entry on again, or from the first one that was written
        at a time or later; tell what that is. With `dry_run`, do no more than tell.

        Raises:
            NotFound: `SINK_UNKNOWN`.
            OutOfRange: `REPLAY_BEYOND_LOG`, `REPLAY_AHEAD`.
            InvalidRequest: `REPLAY_FROM_MISSING`.
        """
        request = values.replay_request(name, index=index, time_ns=time_ns, dry_run=dry_run)
        method = self._stubs.export.ReplaySink
        return values.replay(self._unary(method, request, idempotent=dry_run))

    def dead_letters(
        self: _Asks,
        name: str,
        uids: Sequence[str] | None = None,
        *,
        limit: int | None = None,
        entries: bool = False,
    ) -> Iterator[values.DeadLetter]:
        """Give the dead letters of a sink, those of `uids` or all, in the order of the log; at most
        `limit`. With `entries`, also of which kind and call their entries are. Who may see sinks
        may see them.

        Raises:
            NotFound: `SINK_UNKNOWN`, `LETTER_UNKNOWN`.
            AuditCorrupt: `LETTERS_DAMAGED`.
        """
        request = export_pb2.ListDeadLettersRequest(sink=name, entries=entries, uids=uids)
        method = self._stubs.export.ListDeadLetters
        return self._pages(method, request, "letters", limit, of=values.dead_letter)

    def redeliver(
        self: _Asks, name: str, uids: Sequence[str] | None = None
    ) -> Iterator[values.Redelivered]:
        """Send dead letters again, those of `uids` or all; give what becomes of some at a time, at
        first how many there are.

        Raises:
            NotFound: `SINK_UNKNOWN`, `LETTER_UNKNOWN`.
            CallStateError: `SINK_NOT_RUNNING`.
        """
        request = export_pb2.RedeliverDeadLettersRequest(sink=name, uids=uids, all=uids is None)
        answers = self._stubs.export.RedeliverDeadLetters(request)
        yield from _stream(self, answers, values.redelivered)

    def discard(self: _Asks, name: str, uids: Sequence[str] | None = None) -> int:
        """Give up on dead letters, those of `uids` or all; give how many there were.

        Raises:
            NotFound: `SINK_UNKNOWN`, `LETTER_UNKNOWN`.
        """
        request = export_pb2.DiscardDeadLettersRequest(sink=name, uids=uids, all=uids is None)
        method = self._stubs.export.DiscardDeadLetters
        return int(self._unary(method, request, idempotent=False).discarded)

    def reload_sinks(self: _Asks) -> values.SinksReloaded:
        """Have the daemon read its configuration again, and have the sinks of that.

        Raises:
            ProfileError: `CONFIG_INVALID`, `CONFIG_MISSING`, `POLICY_WRITABLE`; nothing changed.
            HostError: `SECRET_UNAVAILABLE`; nothing changed.
        """
        method = self._stubs.export.Reload
        return values.reloaded(self._unary(method, export_pb2.ReloadRequest(), idempotent=False))


def _stream(client: _Asks, answers: Any, of: Callable[[Any], T]) -> Iterator[T]:
    """Give the messages of something that is not to be done twice."""
    try:
        for message in answers:
            yield of(message)
    except grpc.RpcError as failure:
        raise client._error(failure) from failure
    finally:
        answers.cancel()
