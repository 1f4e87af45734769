"""Stand between gRPC and every method: identity first, then the message, then the answer.

gRPC turns whatever goes wrong in a deserialiser, a handler or a serialiser into UNKNOWN. So all
three run in here: a request that cannot be read becomes a value that is refused, a response is
serialised before gRPC gets it, and an exception becomes a status with an ErrorInfo. No method runs
before the caller is known, the health check included.

A request can have megabytes, so nothing may keep it once it is answered. gRPC keeps the exception
that ends a refused RPC in the state of that RPC, and the exception its traceback. Where a frame in
there, or the exception that it came from, leads back to the RPC, that is a circle that only a full
garbage collection breaks, long after. So a refusal is raised where no other exception is handled,
and by frames that have let go of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc

from supervisor.api import callers
from supervisor.api.heap import Heap
from supervisor.api.peers import Peer
from supervisor.api.refusal_entries import RefusalEntries, asked, asked_of
from supervisor.api.refusals import Refusals
from supervisor.api.status import BUG, build_status, status_of
from supervisor.call.texts import brief
from supervisor.errors import (
    CapacityError,
    DeadlineExceeded,
    InputUnread,
    InvalidRequest,
    StockadeError,
)

log = logging.getLogger("stockade.api")

Context = grpc.aio.ServicerContext[Any, Any]

METHOD_UNKNOWN = "METHOD_UNKNOWN"
READS_MAX = 16
"""Requests of one caller that are read at a time. gRPC takes a message in only where somebody reads
it, and 64 KiB before that, so what a caller can have in memory half sent is that many messages, not
one for each stream. A request that does not come costs its caller a turn until the deadline."""

EXECUTE = "/supervisor.v1.ToolService/Execute"
COUNTED_HERE = frozenset({"PEER_UNKNOWN", "MALFORMED_REQUEST", "MESSAGE_TOO_LARGE"})
"""What Execute is refused for before its own method runs: all else it counts itself, since the
engine counts what it does not admit."""


class _Refused:
    """Stands in for a request that could not be taken, until somebody can say so."""

    __slots__ = ("_errors",)

    def __init__(self, error: StockadeError) -> None:
        self._errors = [error]

    def take(self) -> StockadeError:
        """Give the error, once: kept, it would lead through its traceback back to here."""
        return self._errors.pop()


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Wraps every handler of the server, and answers for the methods that there are not.

    `identify` takes a request and its method, and raises Unauthenticated; `peer_of` tells what is
    known all the same; `rejected` hears the reason of every refusal that nobody else counts.
    `entries` puts each on record.
    """

    def __init__(
        self,
        identify: Callable[[Context, str], callers.Identity],
        *,
        peer_of: Callable[[Context], Peer | None],
        unary_deadline_s: float,
        message_bytes_max: int,
        rejected: Callable[[str], None],
        entries: RefusalEntries,
    ) -> None:
        self._entries = entries
        self._identify = identify
        self._peer_of = peer_of
        self._unary_deadline_s = unary_deadline_s
        self._message_bytes_max = message_bytes_max
        self._refusals = Refusals(rejected, time.monotonic, entries.chosen.text)
        self._heap = Heap()
        self._reads: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(READS_MAX)
        )

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Give the guarded handler of a method."""
        method = str(handler_call_details.method)
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return self._unknown(method)
        return self._guarded(method, handler)

    def _guarded(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        behaviour = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        encode = handler.response_serializer

        async def argument(requests: AsyncIterator[Any]) -> Any:
            if handler.request_streaming:
                return _checked_each(requests)
            request = await self._within_deadline(method, self._in_turn(requests))
            asked.set(asked_of(request))
            return request

        async def stream(requests: AsyncIterator[Any], context: Context) -> None:
            answer = behaviour(await argument(requests), context)
            if not hasattr(answer, "__aiter__"):
                await answer  # writes by itself, as the health service's Watch does
                return
            async with contextlib.aclosing(answer):
                async for message in answer:
                    await context.write(encode(message))

        async def single(requests: AsyncIterator[Any], context: Context) -> None:
            answer = behaviour(await argument(requests), context)
            if not handler.request_streaming:
                answer = self._within_deadline(method, answer)
            await context.write(encode(await answer))

        # On the wire there is one kind of RPC. As a stream in both directions, a request without
        # its message is seen and refused here, where gRPC's unary handlers would wait for ever.
        # A stream has no deadline of the server's: a call takes as long as its profile allows, an
        # upload as long as bytes come.
        return grpc.stream_stream_rpc_method_handler(
            self._answering(method, stream if handler.response_streaming else single),
            request_deserializer=self._decoder(handler.request_deserializer),
            response_serializer=_once(encode),
        )

    def _unknown(self, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        # A stream handler never waits for a message, so it answers every kind of caller.
        async def refuse(_requests: Any, context: Context) -> None:
            # No class of the tree has this code; the reason is what the log and the count need.
            error = InvalidRequest(METHOD_UNKNOWN, f"there is no method {brief(method)}")
            self._note(self._entries.chosen.text(method), context, error)
            await _abort(
                context,
                build_status(grpc.StatusCode.UNIMPLEMENTED, error.reason, error.message),
            )

        return grpc.stream_stream_rpc_method_handler(self._answering(method, refuse))

    def _answering(self, method: str, behaviour: Any) -> Any:
        async def answer(request: Any, context: Context) -> Any:
            try:
                try:
                    callers.enter(self._identify(context, method))
                    return await behaviour(request, context)
                except (asyncio.CancelledError, grpc.aio.AbortError):
                    self._heap.settle()
                    raise
                except Exception as error:  # noqa: BLE001 - `_status` logs what is not in the tree
                    status = self._status(method, context, error)
                self._heap.settle()
                # Not above: the error, and with it the request, must not become a part of this one.
                if status is None:
                    raise asyncio.CancelledError
                await _abort(context, status)
            finally:
                # gRPC's generator holds the message that it gave last until it is closed.
                await aiter(request).aclose()
                del request, context

        return answer

    def _status(self, method: str, context: Context, error: Exception) -> grpc.Status | None:
        """Note a failure and give its status, None where nobody is there to hear of it. A program
        that ends before its input does is neither a failure nor a refusal."""
        if isinstance(error, grpc.aio.BaseError):
            log.info("%s: the client is gone: %s", method, error)
            return None
        if isinstance(error, InputUnread):
            log.debug("%s: %s", method, error.message)
        elif isinstance(error, StockadeError):
            self._note(method, context, error)
        else:
            log.error("%s failed [%s]", method, BUG, exc_info=error)
        return status_of(error)

    def _note(self, method: str, context: Context, error: StockadeError) -> None:
        peer = self._peer_of(context)
        identity = callers.known()
        where = _where(peer)
        self._refusals.note(
            error,
            method=method,
            who=f"caller {identity.caller.name!r} ({where})" if identity else where,
            # Not the pid: one that is refused may come again as another.
            key=identity.caller.name if identity else _origin(peer),
            profile=str(asked.get({}).get("profile", "")),
            counted=method == EXECUTE and error.reason not in COUNTED_HERE,
        )
        self._entries.note(error, rpc=method, identity=identity, peer=peer)

    async def _in_turn(self, requests: AsyncIterator[Any]) -> Any:
        async with self._reads[callers.current().caller.name]:
            return await _only(requests)

    async def _within_deadline(self, method: str, answer: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._unary_deadline_s) as timer:
                return await answer
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded(
                "DEADLINE_EXCEEDED",
                f"{method} took longer than {self._unary_deadline_s:g} s",
                hint="the daemon's configuration sets this as limits.unary_deadline",
            ) from None

    def _decoder(self, deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def decode(data: bytes) -> Any:
            self._heap.note(len(data))
            if len(data) > self._message_bytes_max:
                return _Refused(_too_large(len(data), self._message_bytes_max))
            try:
                return deserialize(data)
            except Exception as error:  # noqa: BLE001
                # What a parser of foreign bytes may raise is its own affair; all of it means this.
                # As text: a handler that keeps the record would keep the request with the error.
                log.info("a request could not be read: %s", str(error))
                return _Refused(
                    InvalidRequest("MALFORMED_REQUEST", "the request is not a valid message")
                )

        return decode


async def _abort(context: Any, status: grpc.Status) -> NoReturn:
    try:
        await context.abort_with_status(status)
    except grpc.aio.AbortError:
        raise  # how gRPC ends a handler
    except grpc.aio.BaseError as error:
        # The connection broke under the refusal: nobody is there to hear of it.
        raise asyncio.CancelledError from error
    finally:
        del context
    raise AssertionError("abort_with_status returned")


def _where(peer: Peer | None) -> str:
    if peer is None:
        return "nobody that came through the door"
    return f"uid {peer.uid}, pid {peer.pid}" if peer.transport == "unix" else peer.address


def _origin(peer: Peer | None) -> str:
    if peer is None:
        return ""
    return peer.address.rpartition(":")[0] if peer.transport == "tls" else peer.address


def _too_large(size_bytes: int, limit_bytes: int) -> StockadeError:
    # No retry delay: the same message will never fit.
    return CapacityError(
        "MESSAGE_TOO_LARGE",
        f"the message has {size_bytes} bytes and {limit_bytes} are allowed",
        hint="upload large files with WriteBlob and name their digests",
    )


def _once(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda message: message if isinstance(message, bytes) else encode(message)


def _checked(request: Any) -> Any:
    if isinstance(request, _Refused):
        raise request.take()
    return request


async def _checked_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


async def _only(requests: AsyncIterator[Any]) -> Any:
    receiver = aiter(requests)
    try:
        return _checked(await anext(receiver))
    except StopAsyncIteration:
        raise InvalidRequest("MALFORMED_REQUEST", "the request has no message") from None
    finally:
        # There is no other, and what this one holds would stay for as long as the answer takes.
        await receiver.aclose()  # type: ignore[attr-defined]
