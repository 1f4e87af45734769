"""One live call: it moves through the state table, and everything that happens is recorded.

Whatever goes wrong, the way is the same: the first cause of the end wins, the whole cgroup is
killed, the pipes are read to their end, the sandbox is taken down, and the outcome is sealed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

from supervisor.audit.recorder import CallRecorder
from supervisor.audit.store import Store
from supervisor.call.about import begin_call
from supervisor.call.events import (
    Accepted,
    CallEvent,
    Denied,
    Finished,
    Resized,
    Timeline,
    Wall,
)
from supervisor.call.outcome import (
    SIGKILL,
    Exited,
    Failed,
    LimitExceeded,
    LimitKind,
    Outcome,
    Signaled,
    Stopped,
    TimedOut,
    kind,
)
from supervisor.call.state import State, Step, advance
from supervisor.call.types import Caller, CallRequest, InputFile, Stream, Usage
from supervisor.engine.limits import LimitWatch, as_denial
from supervisor.engine.options import EngineObserver, EngineOptions
from supervisor.engine.pumps import StdinWriter, pump_output
from supervisor.engine.subscription import Subscribers
from supervisor.engine.telling import Teller
from supervisor.errors import CallStateError, CapacityError, HostError, StockadeError
from supervisor.profile.model import EffectiveProfile
from supervisor.sandbox import ProgramEnd, Sandbox, SandboxHost
from supervisor.sandbox.files import Collected

log = logging.getLogger("stockade.engine")


RESIZES_MAX = 10_000
"""Of one call's terminal: each is an entry, and many windows are dragged by their corner."""


class LiveCall:
    """A call from admission to its sealed outcome."""

    def __init__(
        self,
        call_id: str,
        caller: Caller,
        request: CallRequest,
        profile: EffectiveProfile,
        *,
        store: Store,
        host: SandboxHost,
        observer: EngineObserver,
        options: EngineOptions,
        executor: concurrent.futures.Executor,
        masking: concurrent.futures.Executor,
    ) -> None:
        self.call_id = call_id
        self.caller = caller
        self.request = request
        self.fingerprint = request.fingerprint()
        self.profile = profile
        self.state = State.PENDING
        self.subscribers = Subscribers(options.subscriber_bytes, options.subscriber_stall_s)
        self.recorder: CallRecorder | None = None
        loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.closed = asyncio.Event()
        self._store = store
        self._host = host
        self._observer = observer
        self._executor = executor
        self._lock = asyncio.Lock()
        self._held: list[CallEvent] = []
        self._cause: Outcome | None = None
        self._signals: dict[int, str] = {}
        self._running = asyncio.Event()
        self._ended = asyncio.Event()
        self._output_bytes = 0
        self._pids_start = 0
        self._resizes = 0
        self._size = (request.terminal.rows, request.terminal.columns) if request.terminal else None
        self._collecting = False
        self._sealing = False
        self._end: ProgramEnd | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._dead = asyncio.Event()
        self._pumps: list[asyncio.Future[None]] = []
        self._watch: LimitWatch | None = None
        self._times = Timeline()
        self._stdin = StdinWriter(self._record_stdin, profile.limits.output_bytes)
        self._teller = Teller(
            profile, observer, self._record, executor=masking, publish=self.publish,
            fail=self._give_up, stop=self.stop_because,
        )  # fmt: skip
        self._sandbox = Sandbox(
            host, call_id, profile, request, self._teller.take, self._teller.lose
        )

    async def admit(self) -> None:
        """Write INTENT; whoever waits on `accepted` goes on afterwards.

        Raises:
            StockadeError: it cannot be recorded; nothing was started.
        """
        try:
            facts = self._host.facts_for(self.profile)
            # Before INTENT, which must not hold them either.
            secrets = await self._sandbox.read_secrets()
            self.recorder = await self._store.begin(
                self.call_id, self.caller, self.request, self.profile, facts, secrets
            )
        except BaseException as error:
            told = CallStateError("ABANDONED", "the first caller went away before the start")
            self.accepted.set_exception(error if isinstance(error, StockadeError) else told)
            # Nobody else may be waiting: an unread exception is not worth a warning.
            self.accepted.exception()
            raise
        self._times = replace(self._times, accepted_ns=self.recorder.intent.time_ns)
        self.subscribers.put(self.first_event())
        self.accepted.set_result(None)

    def first_event(self) -> CallEvent:
        """Give the event that says that INTENT is durable."""
        intent = self._record().intent
        accepted = Accepted(
            profile=self.profile.name, profile_digest=self.profile.digest, mode=self.profile.mode
        )
        return CallEvent(
            call_id=self.call_id, sequence=intent.sequence, time_ns=intent.time_ns, event=accepted
        )

    async def run(self) -> None:
        """Run the admitted call to its end. Raises nothing: every end is an outcome."""
        begin_call(self.call_id, self.request.correlation.traceparent)
        try:
            await self._run()
        except StockadeError as error:
            log.error("call %s: the outcome could not be recorded: %s", self.call_id, error)
            self.subscribers.end(error)
        except Exception as error:
            log.exception("call %s: a bug", self.call_id)
            self.subscribers.end(StockadeError("BUG", repr(error)))
        finally:
            self.state = State.CLOSED
            self._stdin.hang_up()
            self._running.set()
            self.closed.set()
            self.subscribers.end()

    async def _run(self) -> None:
        try:
            await self._start()
            self._end = await self._follow()
        except Exception as error:  # noqa: BLE001 (every end is an outcome)
            self._give_up(error)
        finally:
            self._mark("ended_ns")
            if self._timer is not None:
                self._timer.cancel()
            if self.state is not State.DRAINING:
                self._advance(Step.ENDED if self.state is State.RUNNING else Step.FAILED)
        collected = await self._drain()
        usage = self._usage()
        self._destroy()
        self._mark("destroyed_ns")
        await self._seal(collected, usage)

    async def _start(self) -> None:
        self._advance(Step.ADMITTED)
        self._mark("preparing_ns")
        began_s = time.monotonic()
        # The clock runs from here: what a caller hands in must not hold a call up for ever.
        limit_s = self._timeout_s()
        self._timer = asyncio.get_running_loop().call_later(
            limit_s, self.stop_because, TimedOut(limit_s=limit_s)
        )
        await self._sandbox.prepare(self._content)
        self._sandbox.arm()
        await self._sandbox.try_fence()
        self._advance(Step.ARMED)
        self._mark("armed_ns")
        if self._cause is not None:
            raise StockadeError("STOPPED", "the call was stopped before it ran")
        self.publish(self._record().started(time.monotonic() - began_s))
        self._mark("started_ns")
        await self._sandbox.start()
        self._advance(Step.STARTED)
        # Placed by now; only what is still to be fed is kept.
        self.request = replace(self.request, files=())
        self._running.set()

    async def _follow(self) -> ProgramEnd:
        """Wait for the program's end; the pipes are still being read afterwards."""
        sandbox = self._sandbox
        self._stdin.open(sandbox.stdin_fd, self._close_stdin)
        feed = asyncio.ensure_future(
            self._stdin.feed(self.request.stdin, end=not self.request.stdin_open)
        )
        self.request = replace(self.request, stdin=b"")
        self._watch = LimitWatch(sandbox, self.profile, self._teller.denied)
        watch = asyncio.ensure_future(self._watch.run(self.stop_because))
        count = asyncio.ensure_future(self._count_pids())
        self._pumps = [
            asyncio.ensure_future(self._pump(Stream.STDOUT, sandbox.stdout_fd)),
            asyncio.ensure_future(self._pump(Stream.STDERR, sandbox.stderr_fd)),
        ]
        for task in (feed, watch, count, *self._pumps):
            task.add_done_callback(self._note_failure)
        try:
            return await sandbox.ended()
        finally:
            self._ended.set()
            watch.cancel()
            count.cancel()
            self._stdin.hang_up()
            feed.cancel()

    async def _count_pids(self) -> None:
        """Note what the peak was that started the sandbox; read too late, it is only too high."""
        await self._sandbox.ready()
        self._pids_start = self._sandbox.cgroup.pids_peak()

    def _note_failure(self, task: asyncio.Future[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """End the call because something on its way failed."""
        if isinstance(error, StockadeError):
            self._fail(error)
            return
        log.error("call %s: a bug", self.call_id, exc_info=error)
        self.stop_because(Failed(reason="BUG", message=repr(error)))

    async def _drain(self) -> Collected:
        """Kill what is left, read everything to its end, take the outputs."""
        try:
            await self._sandbox.quiesce()
            self._dead.set()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            if self._watch is not None:
                return await self._look_back(self._watch)
        except Exception as error:  # noqa: BLE001 (the call is still to be sealed)
            self._give_up(error)
        finally:
            # Where a sandbox stays, its pipes have not ended; their numbers are about to become
            # somebody else's.
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)
        return Collected([], [])

    async def _look_back(self, watch: LimitWatch) -> Collected:
        settled = watch.settle(self._cause)
        if settled is not None:
            self.stop_because(settled)
        self._tell_limit()
        self._tell_filter_kill()
        for denied in self._sandbox.socket_denials():
            self._teller.denied(denied)
        if not self.request.outputs:
            return Collected([], [])
        self._collecting = True
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._host.outputs,
                self._sandbox.collect,
                self.request.outputs,
                self._record().files.keep,
            )
        finally:
            self._collecting = False

    def _tell_limit(self) -> None:
        denied = as_denial(self._cause) if self._cause is not None else None
        if isinstance(self._cause, TimedOut):
            wall_ms = int(self._cause.limit_s * 1000)
            denied = as_denial(LimitExceeded(limit=LimitKind.WALL, used=wall_ms, allowed=wall_ms))
        if denied is not None:
            self._teller.denied(denied)

    def _tell_filter_kill(self) -> None:
        """Tell that the filter may have killed the program: for a foreign ABI it does not ask."""
        end = self._end
        if end is not None and end.what == "signal" and end.value == signal.SIGSYS:
            self._teller.denied(
                Denied(
                    wall=Wall.SYSCALL,
                    name="SIGSYS",
                    detail="ended by SIGSYS: a foreign ABI's system call (i386, x32), or its own",
                    rule="syscalls: those of x86_64 only",
                )
            )

    def _destroy(self) -> None:
        try:
            self._sandbox.destroy()
        except (OSError, StockadeError) as error:
            # The walls held to the end; what is left is reaped at the next start, and says so.
            log.error("call %s: could not be taken down whole: %s", self.call_id, error)

    async def _seal(self, collected: Collected, usage: Usage) -> None:
        await self._teller.drain()
        self._sealing = True
        outcome = self._outcome(self._end)
        recorder = self._record()
        finished = Finished(
            outcome=outcome,
            timeline=self._times,
            streams=recorder.streams(),
            outputs=tuple(collected.outputs),
            skipped=tuple(collected.skipped),
            usage=usage,
            denials=recorder.denials,
        )
        event = await recorder.finish(finished)
        self._advance(Step.SEALED)
        self._observer.call_closed(self.profile.name, kind(outcome), self._times)
        self.subscribers.close(event)

    def _outcome(self, end: ProgramEnd | None) -> Outcome:
        if self._cause is not None:
            return self._cause
        if end is None:
            return Failed(reason="BUG", message="the call ended without a cause")
        match end.what:
            case "exit":
                return Exited(code=end.value)
            case "signal" | "killed" if end.value in self._signals:
                return Stopped(by=self._signals[end.value], reason="SIGNAL", signal=end.value)
            case "signal":
                return Signaled(signal=end.value, core_dumped=end.core_dumped)
            case "chdir":
                reason, what = "WORKING_DIRECTORY", self.request.working_directory
            case "exec":
                reason, what = "EXEC_FAILED", self.request.argv[0]
            case "terminal":
                message = f"the program's terminal: {os.strerror(end.value)}"
                return Failed(reason="TERMINAL_FAILED", message=message)
            case "init":
                message = f"the sandbox's init ended with {end.value}; its stderr says why"
                return Failed(reason="INIT_FAILED", message=message)
            case _:
                return Signaled(signal=end.value or SIGKILL)
        text = what.decode(errors="replace")
        return Failed(reason=reason, message=f"{text}: {os.strerror(end.value)}")

    # What others ask of the call.

    def stop_because(self, cause: Outcome) -> None:
        """End the call; the first cause wins."""
        if self._cause is None and not self._sealing:
            self._cause = cause
        if self.state is State.DRAINING:
            self._sandbox.hurry()
        elif self.state is not State.CLOSED:
            self._sandbox.stop()

    def disconnect(self) -> None:
        """End the call because its caller went away."""
        if self.state not in (State.DRAINING, State.CLOSED):
            self.stop_because(Stopped(by=self.caller.name, reason="DISCONNECTED"))

    async def signal(self, by: str, number: int, why: str) -> None:
        """Record a signal and send it; SIGKILL ends the whole call.

        Raises:
            CallStateError: `CALL_CLOSED`.
        """
        if number == SIGKILL and self._collecting:
            # The program has ended; what is left are its outputs.
            self._record().signalled(by, number, why)
            self._sandbox.hurry()
            return
        if number == SIGKILL:
            self._require_open()
            self._record().signalled(by, number, why)
            self.stop_because(Stopped(by=by, reason="SIGNAL", signal=number))
            return
        await self._running.wait()
        self._require_open()
        await self._sandbox.ready()
        self._require_open()
        self._record().signalled(by, number, why)
        self._signals[number] = by
        self._sandbox.signal(number)

    async def resize_terminal(self, rows: int, columns: int) -> None:
        """Record that the terminal gets another size, and give it that.

        Raises:
            CallStateError: `CALL_CLOSED`, `TERMINAL_MISSING`.
            CapacityError: `RESIZES_LIMIT`.
        """
        if self._size is None:
            raise CallStateError("TERMINAL_MISSING", f"call {self.call_id} has no terminal")
        await self._running.wait()
        self._require_open()
        if self._size == (rows, columns):
            return
        if self._resizes >= RESIZES_MAX:
            raise CapacityError(
                "RESIZES_LIMIT", f"a terminal is given another size {RESIZES_MAX} times at most"
            )
        self.publish(self._record().resized(Resized(rows=rows, columns=columns)))
        self._resizes, self._size = self._resizes + 1, (rows, columns)
        self._sandbox.resize_terminal(rows, columns)

    async def write_stdin(self, offset: int, data: bytes, *, end: bool) -> int:
        """Write to standard input; see `StdinWriter.write`."""
        if not self.request.stdin_open:
            raise CallStateError("STDIN_CLOSED", "the request did not keep standard input open")
        return await self._stdin.write(offset, data, end=end)

    def _require_open(self) -> None:
        if self.state in (State.DRAINING, State.CLOSED):
            raise CallStateError("CALL_CLOSED", f"call {self.call_id} has ended")

    def publish(self, event: CallEvent) -> None:
        """Deliver an event that was recorded just now, in the order of the record."""
        if self._lock.locked():
            self._held.append(event)
        else:
            self.subscribers.put(event)

    # Inside.

    def _record(self) -> CallRecorder:
        if self.recorder is None:
            raise StockadeError("BUG", "a call that was not admitted has no record")
        return self.recorder

    async def _record_stdin(self, data: bytes) -> None:
        recorder = self._record()
        try:
            if not recorder.is_slow(Stream.STDIN, len(data)):
                recorder.stdin(data)
                return
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._executor, recorder.stdin, data)
        except StockadeError as error:
            # Whoever wrote is told; the call ends, since what follows would be off the record.
            self._fail(error)
            raise

    def _close_stdin(self) -> None:
        self._sandbox.close_stdin()
        self._end_stream(Stream.STDIN)

    async def _pump(self, stream: Stream, fd: int) -> None:
        async def take(data: bytes) -> None:
            self._count_output(len(data))
            async with self._lock:
                events = await self._record_output(stream, data)
                self._put_in_order(events)
            if events and not self._ended.is_set():
                await self.subscribers.room(events[-1])

        terminal = stream is Stream.STDOUT and self._size is not None
        await pump_output(fd, take, self._ended, self._dead, terminal=terminal)
        async with self._lock:
            self._end_stream(stream)

    def _end_stream(self, stream: Stream) -> None:
        """Record what was held back of a stream, now that nothing follows."""
        try:
            self._record().end(stream)
        except StockadeError as error:
            self._fail(error)

    async def _record_output(self, stream: Stream, data: bytes) -> list[CallEvent]:
        recorder = self._record()
        try:
            if not recorder.is_slow(stream, len(data)):
                return recorder.output(stream, data)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, recorder.output, stream, data)
        except StockadeError as error:
            # What cannot be recorded is not delivered, and the call ends; the rest is counted.
            self._fail(error)
            return []

    def _put_in_order(self, events: list[CallEvent]) -> None:
        held, self._held = self._held, []
        for event in sorted([*events, *held], key=lambda event: event.sequence):
            self.subscribers.put(event)

    def _count_output(self, count: int) -> None:
        self._output_bytes += count
        allowed = self.profile.limits.output_bytes
        if self._output_bytes > allowed:
            self.stop_because(
                LimitExceeded(limit=LimitKind.OUTPUT, used=self._output_bytes, allowed=allowed)
            )

    def _timeout_s(self) -> float:
        asked = self.request.timeout_s
        return self.profile.limits.wall_s if asked is None else asked

    def _fail(self, error: StockadeError) -> None:
        if isinstance(error, HostError):
            # Whoever made the call can do nothing about the host: the hint is its operator's.
            hint = f"; hint: {error.hint}" if error.hint else ""
            log.warning("call %s: %s [%s]%s", self.call_id, error.message, error.reason, hint)
        self.stop_because(Failed(reason=error.reason, message=error.message))

    def _advance(self, step: Step) -> None:
        self.state = advance(self.state, step)

    def _mark(self, phase: str) -> None:
        self._times = replace(self._times, **{phase: time.time_ns()})

    def _usage(self) -> Usage:
        cgroup = self._sandbox.cgroup
        try:
            user_s, system_s = cgroup.cpu()
            return Usage(
                cpu_user_s=user_s,
                cpu_system_s=system_s,
                memory_peak_bytes=cgroup.memory_peak(),
                pids_peak=cgroup.pids_peak(),
                pids_start=self._pids_start,
            )
        except OSError as error:
            self._give_up(error)
            return Usage()

    def _content(self, file: InputFile) -> Iterator[bytes]:
        if file.data is not None:
            yield file.data
            return
        with self._store.locker.open(self.caller.name, file.digest, self.call_id) as reader:
            yield from reader.chunks()
