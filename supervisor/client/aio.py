"""The client for asyncio: `AsyncSupervisor`, the twin of `client.sync`.

Same names, same arguments, same behaviour; what waits is awaited. The channel belongs to the
event loop that runs when it is first used.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from pathlib import Path
from signal import SIGKILL
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, Unpack

import grpc

from supervisor.call.types import Correlation, Digest, Stream, Terminal
from supervisor.client import interrupted, rpc, values, wire
from supervisor.client.address import Tls, channel_options, resolve
from supervisor.client.aio_execution import AsyncExecution
from supervisor.client.aio_exports import AsyncExports
from supervisor.client.collect import AsyncFinishedCall, BlobCheck
from supervisor.client.follow import (
    DEFAULT_RETRY,
    Follower,
    Retry,
    jitter,
    telling,
    worth_retrying,
)
from supervisor.client.request import (
    Argument,
    Content,
    File,
    Prepared,
    Upload,
    prepare,
    upload_of,
)
from supervisor.client.status import NO_ANSWER
from supervisor.errors import DeadlineExceeded, InvariantError, StockadeError, Unreachable
from supervisor.v1 import audit_pb2, profile_pb2, tool_pb2

T = TypeVar("T")


class AsyncSupervisor(AsyncExports):
    """A connection to the daemon; an async context manager.

    `address` is `unix:///path` or `host:port`, which needs `tls`; STOCKADE_ADDR or
    unix:///run/stockade/stockade.sock where not given. `timeout` bounds every call that is not a
    stream, in seconds. `agent`, `session`, `workflow` and `traceparent` go into the record of
    each call that does not name its own.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tls: Tls | tuple[str | Path, str | Path, str | Path] | None = None,
        timeout: float = rpc.UNARY_TIMEOUT_S,
        retry: Retry = DEFAULT_RETRY,
        agent: str = "",
        session: str = "",
        workflow: str = "",
        traceparent: str = "",
    ) -> None:
        self.address = resolve(address, tls)
        self._timeout_s = timeout
        self._retry = retry
        self._correlation = Correlation(
            agent=agent, session=session, workflow=workflow, traceparent=traceparent
        )
        self._connected = False
        self._closed = False
        self._channel: grpc.aio.Channel | None = None
        self._opened: rpc.Stubs | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls that were started go on."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close(None)

    @property
    def _stubs(self) -> rpc.Stubs:
        """The services, on a channel of the running event loop, as long as it is open."""
        self._require_open()
        if self._opened is None:
            self._channel = self._open_channel()
            self._opened = rpc.Stubs.on(self._channel)
        return self._opened

    async def run(
        self,
        argv: Sequence[Argument],
        *,
        profile: str,
        env: Mapping[str, str | bytes] | None = None,
        cwd: Argument = "",
        files: Mapping[str, File] | None = None,
        outputs: Iterable[str] = (),
        stdin: bytes | BinaryIO = b"",
        timeout: float | None = None,  # noqa: ASYNC109 - the limit of the call, not of the wait
        agent: str = "",
        session: str = "",
        workflow: str = "",
        traceparent: str = "",
        request_id: str | uuid.UUID | None = None,
        kill_on_disconnect: bool = False,
        terminal: Terminal | None = None,
        check: bool = False,
    ) -> AsyncFinishedCall:
        """Run a program in a sandbox of its own and give everything that came of it.

        `files` maps paths under /work to bytes, to files of this machine, or to what the daemon has
        already (`Stored`); `outputs` are globs under /work. `timeout` is the call's, in seconds:
        longer than the profile allows is an error. How the call ended is in `outcome` and raises
        nothing: not a limit, not a signal, and not a program that could not be started (Failed,
        with EXEC_FAILED as its reason).
        With `check`, every end but exit code 0 raises, as `raise_for_outcome` does.
        In a `terminal`, which the profile has to allow, standard error is in standard output, and
        what is typed has no end: a program that reads on waits, unless 0x04 (Ctrl-D) is typed.

        Where it is cancelled (`task.cancel`, `asyncio.timeout`), it kills the call before it
        raises, in a few seconds at most; a note on the exception says where it could not. Where
        this process dies or the connection is lost for good, the call goes on, unless
        `kill_on_disconnect` is set.

        Raises:
            StockadeError: the daemon refused the call, or the connection is lost for good;
                `metadata["call_id"]` names the call where it was on record by then.
            CallStateError: `CLIENT_CLOSED`, as everything here after `close`.
            OutcomeError: with `check`; the ended call is its `call`.
        """
        prepared = await asyncio.to_thread(
            self._prepare,
            argv,
            profile=profile,
            env=env,
            cwd=cwd,
            files=files,
            outputs=outputs,
            stdin=stdin,
            timeout=timeout,
            agent=agent,
            session=session,
            workflow=workflow,
            traceparent=traceparent,
            request_id=request_id,
            kill_on_disconnect=kill_on_disconnect,
            terminal=terminal,
        )
        call = await self._run(prepared)
        if check:
            call.raise_for_outcome()
        return call

    async def execute(
        self,
        argv: Sequence[Argument],
        *,
        profile: str,
        env: Mapping[str, str | bytes] | None = None,
        cwd: Argument = "",
        files: Mapping[str, File] | None = None,
        outputs: Iterable[str] = (),
        stdin: bytes | BinaryIO = b"",
        stdin_open: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - the limit of the call, not of the wait
        agent: str = "",
        session: str = "",
        workflow: str = "",
        traceparent: str = "",
        request_id: str | uuid.UUID | None = None,
        kill_on_disconnect: bool = False,
        terminal: Terminal | None = None,
    ) -> AsyncExecution:
        """Start a program and give its events as they come; see `run` for the arguments.

        Returns once the call is on record, so `call_id` is known. With `stdin_open`, standard
        input stays open for `write_stdin` until `close_stdin`. The call is nobody's but the
        daemon's: it goes on where this side stops following, is interrupted or dies, unless
        `kill_on_disconnect` is set.

        The last event is Finished: also where the program could not be started, whose outcome is
        then Failed, as in `run`.

        Raises:
            StockadeError: the daemon refused the call. While reading events: the connection is
                lost for good; `metadata["call_id"]` names the call.
        """
        prepared = await asyncio.to_thread(
            self._prepare,
            argv,
            profile=profile,
            env=env,
            cwd=cwd,
            files=files,
            outputs=outputs,
            stdin=stdin,
            stdin_open=stdin_open,
            timeout=timeout,
            agent=agent,
            session=session,
            workflow=workflow,
            traceparent=traceparent,
            request_id=request_id,
            kill_on_disconnect=kill_on_disconnect,
            terminal=terminal,
        )
        return await self._start(prepared)

    def attach(self, call_id: str, from_sequence: int = 1) -> AsyncExecution:
        """Follow a call that was started before, from any of its events on.

        Raises (from the first event on):
            NotFound: `CALL_NOT_FOUND`.
            OutOfRange: `SEQUENCE_AHEAD`.
        """
        return AsyncExecution(
            self, self._follower(call_id=call_id, from_sequence=from_sequence), None
        )

    async def get(self, call_id: str) -> values.Call:
        """Tell where a call is, and how it ended."""
        request = tool_pb2.GetCallRequest(call_id=call_id)
        return wire.call((await self._unary(self._stubs.tool.GetCall, request)).call)

    def list_calls(
        self, *, live_only: bool = False, profile: str = "", limit: int | None = None
    ) -> AsyncIterator[values.Call]:
        """Give calls, newest first; at most `limit`."""
        request = tool_pb2.ListCallsRequest(live_only=live_only, profile=profile)
        return self._pages(self._stubs.tool.ListCalls, request, "calls", limit, of=wire.call)

    async def signal(self, call_id: str, signal: int = SIGKILL, *, why: str = "") -> None:
        """Send a signal to a running call; SIGKILL ends all of it.

        Raises:
            CallStateError: `CALL_CLOSED`.
        """
        request = tool_pb2.SignalRequest(call_id=call_id, signal=signal, why=why)
        await self._unary(self._stubs.tool.Signal, request, idempotent=False)

    async def resize_terminal(self, call_id: str, *, rows: int, columns: int) -> None:
        """Give a call's terminal another size.

        Raises:
            CallStateError: `CALL_CLOSED`, `TERMINAL_MISSING`.
            CapacityError: `RESIZES_LIMIT`.
        """
        request = tool_pb2.ResizeTerminalRequest(call_id=call_id, rows=rows, columns=columns)
        await self._unary(self._stubs.tool.ResizeTerminal, request)

    async def profiles(self) -> tuple[values.ProfileSummary, ...]:
        """Give the profiles that this caller may use."""
        response = await self._unary(
            self._stubs.profile.ListProfiles, profile_pb2.ListProfilesRequest()
        )
        return tuple(wire.profile_summary(summary) for summary in response.profiles)

    async def get_profile(self, name: str) -> values.Profile:
        """Give an effective profile: every value, with where it comes from."""
        request = profile_pb2.GetProfileRequest(name=name)
        return wire.profile(await self._unary(self._stubs.profile.GetProfile, request))

    async def explain(self, name: str) -> tuple[values.Finding, ...]:
        """Say wall by wall what a call under this profile could do at worst."""
        request = profile_pb2.ExplainProfileRequest(name=name)
        response = await self._unary(self._stubs.profile.ExplainProfile, request)
        return tuple(wire.finding(finding) for finding in response.findings)

    def records(
        self, *, limit: int | None = None, **wanted: Unpack[rpc.Wanted]
    ) -> AsyncIterator[values.Call]:
        """Give recorded calls, newest first; at most `limit`, and those for which all holds that
        is `wanted`: see `Wanted`."""
        request = rpc.records_request(wanted)
        return self._pages(self._stubs.audit.ListRecords, request, "records", limit, of=wire.call)

    async def record(self, call_id: str, from_sequence: int = 1) -> values.Record:
        """Give the whole account of one call, every entry as its exact bytes."""
        entries: list[values.RecordEntry] = []
        following = from_sequence
        while following:
            request = audit_pb2.GetRecordRequest(call_id=call_id, from_sequence=following)
            response = await self._unary(self._stubs.audit.GetRecord, request)
            entries += [wire.entry(entry) for entry in response.entries]
            following = response.next_sequence if response.entries else 0
        return values.Record(call=wire.call(response.call), entries=tuple(entries))

    async def recorded_call(self, call_id: str) -> values.Call:
        """Tell of a recorded call in short, without its entries: `get` for who reads records."""
        request = audit_pb2.GetRecordRequest(call_id=call_id, from_sequence=rpc.SEQUENCE_MAX)
        return wire.call((await self._unary(self._stubs.audit.GetRecord, request)).call)

    async def recorded_profile(self, call_id: str) -> bytes:
        """Give the canonical JSON of the profile that a recorded call ran under, as it was then.

        Raises:
            AuditCorrupt: `DIGEST_MISMATCH`.
        """
        request = audit_pb2.GetRecordRequest(
            call_id=call_id, from_sequence=rpc.SEQUENCE_MAX, profile=True
        )
        return wire.recorded_profile(await self._unary(self._stubs.audit.GetRecord, request))

    def events(
        self, *, limit: int | None = None, **wanted: Unpack[rpc.EventsWanted]
    ) -> AsyncIterator[values.RecordEntry]:
        """Give the daemon's own entries, newest first: what was in force, who was refused, who read
        the record. Only for callers with `audit: all`."""
        request = rpc.events_request(wanted)
        return self._pages(self._stubs.audit.ListEvents, request, "entries", limit, of=wire.entry)

    async def checkpoint(self) -> values.SignedHead:
        """Give the signed head of the log: keep it somewhere else, and a log that was rewritten
        shows."""
        request = audit_pb2.GetCheckpointRequest()
        response = await self._unary(self._stubs.audit.GetCheckpoint, request)
        return values.SignedHead(checkpoint=response.checkpoint, key=response.key)

    async def receipt(self, call_id: str) -> bytes:
        """Give the receipt of a call that has ended (C2SP tlog-proof), with its OUTCOME entry.

        Raises:
            CallStateError: `CALL_NOT_CLOSED`.
            AuditUnavailable: `TREE_BEHIND`.
        """
        request = audit_pb2.GetReceiptRequest(call_id=call_id)
        return bytes((await self._unary(self._stubs.audit.GetReceipt, request)).receipt)

    async def retention(self) -> values.Retention:
        """Tell which contents would be removed now, and why not more. Only for callers with
        `audit: all`.

        Raises:
            CallStateError: `RETENTION_OFF`.
        """
        request = audit_pb2.GetRetentionRequest()
        return wire.retention(await self._unary(self._stubs.audit.GetRetention, request))

    async def hold(self, call_id: str, *, why: str) -> int:
        """Keep what a call left; give how many hold it now. See `Supervisor.hold`."""
        request = audit_pb2.HoldContentsRequest(call_id=call_id, why=why)
        return int((await self._unary(self._stubs.audit.HoldContents, request)).holds)

    async def release(self, call_id: str, *, why: str) -> int:
        """Take one hold back; give how many are left. See `Supervisor.release`."""
        request = audit_pb2.ReleaseContentsRequest(call_id=call_id, why=why)
        return int((await self._unary(self._stubs.audit.ReleaseContents, request)).holds)

    async def erase(self, call_id: str, why: str) -> values.Erased:
        """Erase the content of an encrypted call; give who did it first. See `Supervisor.erase`."""
        request = audit_pb2.EraseRequest(call_id=call_id, why=why)
        return wire.erased((await self._unary(self._stubs.audit.Erase, request)).erased)

    async def read_output(self, call_id: str, stream: Stream | str) -> AsyncIterator[bytes]:
        """Give the recorded bytes of one stream, in order."""
        number = wire.STREAM_NUMBERS[Stream(stream)]
        request = audit_pb2.ReadOutputRequest(call_id=call_id, stream=number)
        done = 0
        async for message in self._read_stream(self._stubs.audit.ReadOutput, lambda: request):
            data, done = wire.not_given(message, done)
            if data:
                yield data

    async def write_blob(self, content: Content) -> Digest:
        """Upload bytes or a file for a later call and give the digest that names it."""
        upload = await asyncio.to_thread(upload_of, content)
        await self._upload(upload)
        return upload.digest

    async def read_blob(self, digest: Digest) -> bytes:
        """Give content by its digest. Raises as `Supervisor.read_blob` does."""
        return b"".join([piece async for piece in self.stream_blob(digest)])

    async def stream_blob(self, digest: Digest) -> AsyncIterator[bytes]:
        """Give content by its digest, piece by piece; the last step checks the digest."""
        check = BlobCheck(digest)
        message = wire.digest_message(digest)

        def request() -> tool_pb2.ReadBlobRequest:
            return tool_pb2.ReadBlobRequest(digest=message, offset=check.offset)

        async for response in self._read_stream(self._stubs.tool.ReadBlob, request):
            if response.HasField("content"):
                check.expect(wire.digest(response.content))
            check.take(response.data)
            yield response.data
        check.close()

    async def write_stdin(
        self, call_id: str, data: bytes, *, offset: int, end: bool = False
    ) -> int:
        """Append to the standard input of a running call and give the next offset.

        Waits as long as the program does not read: a deadline on the way is no reason to stop,
        as `offset` makes the write safe to repeat.

        Raises:
            CallStateError: `STDIN_CLOSED`, `CALL_CLOSED`.
        """
        request = tool_pb2.WriteStdinRequest(call_id=call_id, offset=offset, data=data, end=end)
        while True:
            try:
                return int((await self._unary(self._stubs.tool.WriteStdin, request)).next_offset)
            except DeadlineExceeded:
                continue
            except Unreachable as error:
                if error.reason != NO_ANSWER:
                    raise

    def _prepare(
        self,
        argv: Sequence[Argument],
        *,
        agent: str,
        session: str,
        workflow: str,
        traceparent: str,
        **options: Any,
    ) -> Prepared:
        correlation = rpc.correlation(
            self._correlation,
            agent=agent,
            session=session,
            workflow=workflow,
            traceparent=traceparent,
        )
        return prepare(argv, correlation=correlation, **options)

    async def _start(self, prepared: Prepared) -> AsyncExecution:
        for upload in prepared.uploads:
            await self._upload(upload)
        execution = AsyncExecution(self, self._follower(execute=prepared.execute), prepared)
        await execution.begin()
        return execution

    async def _run(self, prepared: Prepared) -> AsyncFinishedCall:
        """Follow a call to its end, and kill it where something else ends the wait."""
        execution: AsyncExecution | None = None
        try:
            execution = await self._start(prepared)
            async with execution:
                return await execution.wait()
        except (StockadeError, GeneratorExit):
            raise  # Told by the daemon, or nobody can be reached; or there is no loop any more.
        except BaseException as interruption:
            request_id = prepared.execute.request_id
            await interrupted.stop_async(self, execution, request_id, interruption)
            raise

    def _open_channel(self) -> grpc.aio.Channel:
        options = channel_options()
        if self.address.tls is None:
            return grpc.aio.insecure_channel(self.address.target, options=options)
        credentials = rpc.credentials(self.address.tls)
        return grpc.aio.secure_channel(self.address.target, credentials, options=options)

    def _follower(self, **place: Any) -> Follower:
        return Follower(retry=self._retry, connected=self._connected, **place)

    def _open(self, request: tool_pb2.ExecuteRequest | tool_pb2.AttachRequest) -> Any:
        if isinstance(request, tool_pb2.ExecuteRequest):
            return self._stubs.tool.Execute(request)
        return self._stubs.tool.Attach(request)

    def _require_open(self) -> None:
        if self._closed:
            raise rpc.closed()

    def _error(self, failure: grpc.RpcError) -> StockadeError:
        return rpc.closed() if self._closed else rpc.error_of(self.address, failure)

    async def _unary(
        self,
        method: Callable[..., Any],
        request: Any,
        *,
        idempotent: bool = True,
        end_s: float = math.inf,
    ) -> Any:
        """Call a method once, or again where it may be repeated and the line broke."""
        end_s = min(end_s, time.monotonic() + self._timeout_s)

        def once() -> Any:
            return method(request, timeout=max(0.0, end_s - time.monotonic()))

        return await self._attempt(once, idempotent, end_s)

    async def _upload(self, upload: Upload) -> None:
        """Upload content; repeating it is safe, since its digest is its name."""
        try:
            await self._attempt(
                lambda: self._stubs.tool.WriteBlob(upload.messages()), idempotent=True
            )
        except StockadeError as error:
            upload.explain(error)
            raise

    async def _attempt(
        self, once: Callable[[], Awaitable[Any]], idempotent: bool, end_s: float = math.inf
    ) -> Any:
        attempt = 0
        first: StockadeError | None = None
        while True:
            self._require_open()
            try:
                response = await once()
            except grpc.RpcError as failure:
                attempt += 1
                first = telling(first, self._error(failure))
                await self._wait_or_raise(first, attempt, idempotent, end_s)
            else:
                self._connected = True
                return response

    async def _read_stream(
        self, method: Callable[..., Any], request: Callable[[], Any]
    ) -> AsyncIterator[Any]:
        """Give the messages of a stream that only reads; `request` names the place to go on."""
        attempt = 0
        first: StockadeError | None = None
        while True:
            self._require_open()
            try:
                async for message in method(request()):
                    attempt, first = 0, None
                    self._connected = True
                    yield message
            except grpc.RpcError as failure:
                attempt += 1
                first = telling(first, self._error(failure))
                await self._wait_or_raise(first, attempt, idempotent=True)
            else:
                return

    async def _wait_or_raise(
        self, error: StockadeError, attempt: int, idempotent: bool, end_s: float = math.inf
    ) -> None:
        patient = self._connected or attempt > 1
        if not idempotent or attempt > self._retry.attempts_max:
            raise error
        if not worth_retrying(error, connected=patient):
            raise error
        delay_s = self._retry.delay(attempt, jitter)
        if time.monotonic() + delay_s >= end_s:
            raise error
        await asyncio.sleep(delay_s)

    async def _pages(
        self,
        method: Callable[..., Any],
        request: Any,
        field: str,
        limit: int | None = None,
        end_s: float = math.inf,
        *,
        of: Callable[[Any], T],
    ) -> AsyncIterator[T]:
        left = limit
        while left is None or left > 0:
            request.page_size = rpc.PAGE_SIZE if left is None else min(left, rpc.PAGE_SIZE)
            response = await self._unary(method, request, end_s=end_s)
            for message in getattr(response, field):
                yield of(message)
            if left is not None:
                left -= len(getattr(response, field))
            if not response.next_page_token:
                return
            if response.next_page_token == request.page_token:
                raise InvariantError("PAGE_LOOP", "the daemon's next page is the one it just gave")
            request.page_token = response.next_page_token
