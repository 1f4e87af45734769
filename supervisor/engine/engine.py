"""Admit calls, keep the live ones, end what a former daemon left, and stop in order."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path

from supervisor.audit.index import CallSummary
from supervisor.audit.search import CallFilter
from supervisor.audit.store import Store
from supervisor.call.events import CallEvent
from supervisor.call.outcome import Failed, Stopped
from supervisor.call.state import State
from supervisor.call.types import Caller, CallRequest
from supervisor.engine.limits import over_locks
from supervisor.engine.live import LiveCall
from supervisor.engine.options import EngineObserver, EngineOptions, NoObserver
from supervisor.engine.subscription import Queue, Subscription
from supervisor.errors import (
    CallStateError,
    CapacityError,
    HostError,
    InputUnread,
    InvalidRequest,
    NotPermitted,
    OutOfRange,
    RequestConflict,
    ShuttingDown,
    StockadeError,
)
from supervisor.linux.credentials import cgroup_of
from supervisor.linux.locks import holders
from supervisor.linux.mounts import BpfFolder
from supervisor.linux.process import reap_strangers, trim_heap
from supervisor.profile.load import ProfileSet
from supervisor.profile.model import EffectiveProfile
from supervisor.profile.walls import WallState, missing
from supervisor.sandbox import EgressOptions, SandboxHost, SandboxOptions

RECORD_LOOK_S = 0.2
"""How often a drain looks whether the record still takes entries."""

log = logging.getLogger("stockade.engine")

SIGNAL_MAX = 64
SIGSTOP = 19
REAP_S = 5.0
FENCE_S = 0.4
"""Between two looks at the probes: a missing one is noticed within a second."""

LOCKS_S = 1.0
LARGE_BYTES = 1 << 20


class Engine:
    """What runs calls. Everything here belongs to one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        profiles: ProfileSet,
        state: Path,
        runtime: Path,
        bpf: BpfFolder | None = None,
        observer: EngineObserver | None = None,
        options: EngineOptions | None = None,
        egress: EgressOptions | None = None,
    ) -> None:
        self.store = store
        self.profiles = profiles
        self._observer: EngineObserver = observer or NoObserver()
        self._options = options or EngineOptions()
        self._where = SandboxOptions(state=state, runtime=runtime, egress=egress or EgressOptions())
        self._bpf = bpf
        self._wall_faults: list[str] = []
        self._host: SandboxHost | None = None
        self._live: dict[str, LiveCall] = {}
        self._requests: dict[tuple[str, str], LiveCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._executor = concurrent.futures.ThreadPoolExecutor(self._options.pump_threads, "pump")
        self._masking = concurrent.futures.ThreadPoolExecutor(1, "masking")
        # A thread for each watch: what holds up one, or the calls, must not hold up another.
        self._lock_thread = concurrent.futures.ThreadPoolExecutor(1, "locks")
        self._fence_thread = concurrent.futures.ThreadPoolExecutor(1, "fence")

    async def start(self) -> None:
        """End what a former daemon left, close its calls, and say on record that this one began.

        Raises:
            StockadeError: this host cannot raise the walls, or the record cannot be written.
        """
        self._host = SandboxHost(self._where, self._bpf)
        self._host.open()
        self._observer.orphans("sandbox", self._host.reaped)
        for call in self.store.interrupted:
            await self.store.close_interrupted(
                call,
                "the daemon ended while the call lived",
                events=self._host.leftover_events(
                    call.call_id,
                    # What it wrote is no matter here, and may be encrypted.
                    [one.event for one in self.store.events(call.call_id, content=False)],
                    call.mode,
                ),
            )
        self._host.all_told()
        await self.store.note("daemon_started", {"host": self._host.facts, "pid": os.getpid()})
        for watch in (self._reap_strangers, self._watch_locks, self._watch_fence):
            self._spawn(self._keep(watch))

    async def drain(self, grace_s: float) -> None:
        """Take no new calls, let the live ones end for a while, as long as what they do can be
        recorded; kill the rest, clean up.

        Raises:
            HostError: `STOP_INCOMPLETE`: not everything could be removed from the host.
            StockadeError: the record can no longer be written.
        """
        self._draining = True
        waiting = {asyncio.ensure_future(call.closed.wait()) for call in self._live.values()}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while waiting and self.store.healthy:
                    _, waiting = await asyncio.wait(waiting, timeout=RECORD_LOOK_S)
        for one in waiting:
            one.cancel()
        for call in self._live.values():
            call.stop_because(Stopped(by="daemon", reason="SHUTDOWN"))
        while self._live:
            await asyncio.gather(*[call.closed.wait() for call in self._live.values()])
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        host, self._host = self._host, None
        # Each is done, also where one before it fails.
        with contextlib.ExitStack() as stack:
            for thread in (self._lock_thread, self._fence_thread):
                stack.callback(thread.shutdown, wait=False)
            stack.callback(self._executor.shutdown)
            stack.callback(self._masking.shutdown)
            if host is not None:
                stack.callback(host.close)
                await host.end_brokers()
                if self.store.healthy:
                    await self.store.note("daemon_stopped", {"pid": os.getpid()})

    @property
    def health_problems(self) -> tuple[str, ...]:
        """Say why no call can be taken now; empty where one can."""
        problems = []
        if self._host is None:
            problems.append("NOT_STARTED")
        if self._draining:
            problems.append("SHUTTING_DOWN")
        if self._wall_faults:
            problems.append("WALL_NOT_STANDING")
        try:
            self.store.check_admission(len(self._live))
        except StockadeError as error:
            problems.append(error.reason)
        return tuple(problems)

    def walls(self) -> Mapping[str, WallState]:
        """Say which of `HOST_WALLS` stand on this host, now, and which runtimes it has; none before
        the start."""
        if self._host is None:
            return {}
        return {**self._host.walls(), **self._host.runtimes()}

    @property
    def healthy(self) -> bool:
        """Say whether a call can be taken now."""
        return not self.health_problems

    async def submit(self, caller: Caller, request: CallRequest) -> Subscription:
        """Admit a call and run it; INTENT is durable when this returns. A repeat attaches.

        Raises:
            StockadeError: nothing was started.
        """
        began_s = time.monotonic()
        try:
            known = self._find_repeat(caller, request)
            if known is not None:
                return await self._attach_repeat(known, request)
            call = self._admit(caller, request)
        except StockadeError as error:
            self._observer.call_rejected(error.reason)
            raise
        judged_s = time.monotonic()
        try:
            await call.admit()
        except BaseException as error:
            self._forget(call)
            if isinstance(error, StockadeError):
                self._observer.call_rejected(error.reason)
            raise
        self._observer.call_admitted(judged_s - began_s, time.monotonic() - judged_s)
        self._spawn(self._run(call))
        queue = call.subscribers.add()
        return self._subscription(call, queue, (call.first_event(),), attached=False)

    def _find_repeat(self, caller: Caller, request: CallRequest) -> LiveCall | str | None:
        live = self._requests.get((caller.name, request.request_id))
        if live is not None:
            _require_same(request, live.fingerprint)
            return live
        found = self.store.find_request(caller.name, request.request_id)
        if found is None:
            return None
        _require_same(request, found[1])
        return found[0]

    async def _attach_repeat(self, known: LiveCall | str, request: CallRequest) -> Subscription:
        if isinstance(known, LiveCall):
            await asyncio.shield(known.accepted)
            known_id = known.call_id
        else:
            known_id = known
        return self._follow(known_id, 1, kill_on_disconnect=request.kill_on_disconnect)

    def _admit(self, caller: Caller, request: CallRequest) -> LiveCall:
        if self._draining or self._host is None:
            raise ShuttingDown("SHUTTING_DOWN", "the daemon takes no new calls", retry_after_s=1.0)
        if len(self._live) >= self._options.calls_max:
            raise CapacityError(
                "CALLS_LIMIT",
                f"{len(self._live)} calls live, which is the limit",
                hint="try again later, or raise limits.calls in the configuration",
                retry_after_s=self._options.retry_after_s,
            )
        if self._wall_faults:
            raise HostError(
                "WALL_NOT_STANDING",
                "; ".join(self._wall_faults),
                hint="restart the daemon: it puts its probes in place again",
            )
        profile = self.profiles.effective(request.profile)
        if profile.require:
            _require_walls(profile, self._host.walls())
        _require_runtime(profile, self._host)
        if request.terminal is not None:
            _require_terminal(profile)
        if len(request.stdin) > profile.limits.output_bytes:
            raise InvalidRequest(
                "STDIN_TOO_LARGE",
                f"{len(request.stdin)} bytes of standard input; limits.output bounds it as well: "
                f"{profile.limits.output_bytes}",
                hint="hand large input over in files",
            )
        self.store.check_admission(len(self._live))
        call = LiveCall(
            new_call_id(),
            caller,
            request,
            profile,
            store=self.store,
            host=self._host,
            observer=self._observer,
            options=self._options,
            executor=self._executor,
            masking=self._masking,
        )
        self._live[call.call_id] = call
        self._requests[caller.name, request.request_id] = call
        self._observer.live_calls(len(self._live))
        return call

    async def _run(self, call: LiveCall) -> None:
        # Buffers of this size go back to the host only when somebody asks (malloc_trim(3)).
        large = len(call.request.stdin) + sum(len(file.data or b"") for file in call.request.files)
        try:
            await call.run()
        finally:
            self._forget(call)
            if large > LARGE_BYTES:
                trim_heap()

    def _forget(self, call: LiveCall) -> None:
        self._live.pop(call.call_id, None)
        self._requests.pop((call.caller.name, call.request.request_id), None)
        # Also of a call that was never admitted: a drain may be waiting for it.
        call.closed.set()
        self._observer.live_calls(len(self._live))

    async def attach(self, call_id: str, from_sequence: int) -> Subscription:
        """Follow a call that was started before.

        Raises:
            NotFound: `CALL_NOT_FOUND`.
            OutOfRange: `SEQUENCE_AHEAD`.
        """
        call = self.store.get_call(call_id)
        last = call.last_sequence
        # After the outcome comes nothing: a stream without Finished would look broken.
        if from_sequence > (last if call.finished is not None else last + 1):
            raise OutOfRange("SEQUENCE_AHEAD", f"sequence {from_sequence}: the call is at {last}")
        return self._follow(call_id, from_sequence, kill_on_disconnect=False)

    def _follow(
        self, call_id: str, from_sequence: int, *, kill_on_disconnect: bool
    ) -> Subscription:
        call = self._live.get(call_id)
        if call is None or call.recorder is None:
            recorded = self.store.events(call_id, from_sequence)
            return self._subscription(None, None, recorded, attached=True, call_id=call_id)
        # What is published from here on goes to the queue, what was before is read back: an
        # output that is being recorded just now is in one of the two.
        last = call.subscribers.last_sequence
        queue = call.subscribers.add()
        recorded = itertools.takewhile(
            lambda event: event.sequence <= last, self.store.events(call_id, from_sequence)
        )
        return self._subscription(
            call,
            queue,
            recorded,
            attached=True,
            first=from_sequence,
            kill_on_disconnect=kill_on_disconnect,
        )

    def _subscription(
        self,
        call: LiveCall | None,
        queue: Queue | None,
        recorded: Iterable[CallEvent],
        *,
        attached: bool,
        call_id: str = "",
        first: int = 1,
        kill_on_disconnect: bool | None = None,
    ) -> Subscription:
        on_close: Callable[[], None] = lambda: None  # noqa: E731
        if call is not None and queue is not None:
            kills = (
                call.request.kill_on_disconnect
                if kill_on_disconnect is None
                else kill_on_disconnect
            )

            def on_close() -> None:
                call.subscribers.remove(queue)
                if kills:
                    call.disconnect()

        return Subscription(
            call.call_id if call is not None else call_id,
            recorded=recorded,
            queue=queue,
            keep_alive_s=self._options.keep_alive_s,
            attached=attached,
            first=first,
            on_close=on_close,
        )

    async def write_stdin(self, call_id: str, *, offset: int, data: bytes, end: bool) -> int:
        """Append to a live call's standard input; give the next offset.

        Raises:
            NotFound: `CALL_NOT_FOUND`.
            CallStateError: `CALL_CLOSED`, `STDIN_CLOSED`; `InputUnread`, where the program is gone.
            OutOfRange: `STDIN_OFFSET`.
        """
        try:
            call = self._require_live(call_id)
        except CallStateError as error:
            raise InputUnread(error.reason, error.message) from None
        return await call.write_stdin(offset, data, end=end)

    async def resize_terminal(self, call_id: str, *, rows: int, columns: int) -> None:
        """Give a live call's terminal another size.

        Raises:
            NotFound: `CALL_NOT_FOUND`.
            CallStateError: `CALL_CLOSED`, `TERMINAL_MISSING`.
            CapacityError: `RESIZES_LIMIT`.
        """
        await self._require_live(call_id).resize_terminal(rows, columns)

    async def signal(self, call_id: str, *, by: str, signal: int, why: str) -> None:
        """Send a signal to a live call.

        Raises:
            InvalidRequest: `SIGNAL_INVALID`.
            NotFound: `CALL_NOT_FOUND`.
            CallStateError: `CALL_CLOSED`.
        """
        if not 1 <= signal <= SIGNAL_MAX:
            raise InvalidRequest("SIGNAL_INVALID", f"{signal} is no signal: 1 to {SIGNAL_MAX}")
        if signal == SIGSTOP:
            raise InvalidRequest(
                "SIGNAL_INVALID",
                "SIGSTOP cannot be passed on: it would stop the sandbox's init, not the program",
            )
        await self._require_live(call_id).signal(by, signal, why)

    def _require_live(self, call_id: str) -> LiveCall:
        call = self._live.get(call_id)
        if call is None or call.recorder is None:
            self.store.get_call(call_id)
            raise CallStateError("CALL_CLOSED", f"call {call_id} has ended")
        return call

    def get(self, call_id: str) -> tuple[CallSummary, State]:
        """Give a call and where it is.

        Raises:
            NotFound: `CALL_NOT_FOUND`.
        """
        return self._with_state(self.store.get_call(call_id))

    def list(
        self,
        *,
        caller: str | None = None,
        profile: str = "",
        live_only: bool = False,
        limit: int = 100,
        page_token: str = "",
    ) -> tuple[builtins.list[tuple[CallSummary, State]], str]:
        """List calls, newest first, with where they are and the token of the next page.

        Raises:
            InvalidRequest: `PAGE_TOKEN_INVALID`.
        """
        if live_only:
            found = [self.store.get_call(call_id) for call_id in self._recorded()]
            wanted = [
                summary
                for summary in found
                if caller in (None, summary.caller.name) and profile in ("", summary.profile)
            ]
            wanted.sort(key=lambda summary: summary.accepted_ns, reverse=True)
            return [self._with_state(summary) for summary in wanted[:limit]], ""
        summaries, token = self.store.list_calls(
            CallFilter(caller=caller or "", profile=profile), limit=limit, page_token=page_token
        )
        return [self._with_state(summary) for summary in summaries], token

    def owner(self, call_id: str) -> str:
        """Give the name of the caller that a call belongs to.

        Raises:
            NotFound: `CALL_NOT_FOUND`.
        """
        return self.store.get_call(call_id).caller.name

    def _recorded(self) -> builtins.list[str]:
        return [call_id for call_id, call in self._live.items() if call.recorder is not None]

    def _with_state(self, summary: CallSummary) -> tuple[CallSummary, State]:
        call = self._live.get(summary.call_id)
        return summary, call.state if call is not None else State.CLOSED

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, watch: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run a watch of the daemon's own; one that fails watches nothing any more, so no call may
        go on without it."""
        try:
            await watch()
        except Exception as error:
            name = watch.__name__.strip("_")
            log.exception("%s: a bug", name)
            self._give_up([f"{name} ended: {error!r}"])

    def _give_up(self, faults: Sequence[str]) -> None:
        """End every call, and take none, because of a wall that does not stand any more."""
        self._wall_faults += faults
        why = "; ".join(faults)
        log.critical("a wall does not stand any more, no call is taken: %s", why)
        for call in self._live.values():
            call.stop_because(Failed(reason="WALL_NOT_STANDING", message=why))

    async def _watch_locks(self) -> None:
        """End calls that hold more file locks than any program needs: see `linux.locks`."""
        while self._host is not None:
            await asyncio.sleep(LOCKS_S)
            if self._live:
                try:
                    counts, whole = await asyncio.get_running_loop().run_in_executor(
                        self._lock_thread, _count_locks, set(self._live)
                    )
                except (OSError, ValueError) as error:
                    # A host without descriptors now may have some in a second. The watch goes on:
                    # ended, it would bound nothing any more and nobody would know.
                    log.warning("file locks could not be counted: %s", error)
                    continue
                for call_id, outcome in over_locks(counts, whole=whole).items():
                    if (call := self._live.get(call_id)) is not None:
                        call.stop_because(outcome)

    async def _watch_fence(self) -> None:
        """See that the probes stay where they were put; where one is gone, end every call."""
        while self._host is not None:
            await asyncio.sleep(FENCE_S)
            if self._host is None:
                return
            faults, strays = await asyncio.get_running_loop().run_in_executor(
                self._fence_thread, _look_at, self._host
            )
            self._observer.strays(strays)
            if faults:
                self._give_up(faults)
                return

    async def _reap_strangers(self) -> None:
        """Reap orphans that came to us as their subreaper, so that no zombie stays."""
        while self._host is not None:
            await asyncio.sleep(REAP_S)
            if self._host is not None:
                self._observer.orphans("process", reap_strangers())


def _look_at(host: SandboxHost) -> tuple[list[str], dict[str, int]]:
    """Give what is wrong with the probes, and the denials that belong to no call. Blocks."""
    return host.fence_faults(), host.fence.strays()


def _count_locks(call_ids: set[str]) -> tuple[dict[str, int], bool]:
    """Count the record locks that each of these calls holds, as `holders` does. Blocks."""
    counts = dict.fromkeys(call_ids, 0)
    found, whole = holders()
    for pid, held in found.items():
        try:
            call_id = cgroup_of(pid)[""].rpartition("/")[2]
        except (OSError, KeyError):
            continue  # it has ended, and its locks with it: see the rule on clone
        if call_id in counts:
            counts[call_id] += held
    return counts, whole


def _require_walls(profile: EffectiveProfile, host: Mapping[str, WallState]) -> None:
    lacking = missing(profile.require, host)
    if lacking:
        said = "; ".join(f"{name} is not on this host: {it.why}" for name, it in lacking.items())
        ways = [it.hint for it in lacking.values() if it.hint]
        raise HostError(
            "WALL_MISSING",
            f"the profile {profile.name} requires {', '.join(lacking)}; {said}",
            hint="; ".join([*ways, "or use a profile that does without"]),
            metadata={"wall": ",".join(lacking), "profile": profile.name},
        )


def _require_runtime(profile: EffectiveProfile, host: SandboxHost) -> None:
    try:
        host.runtime(profile.runtime)
    except HostError as error:
        raise HostError(
            error.reason,
            f"the profile {profile.name} names runtime: {profile.runtime}; {error.message}",
            hint=error.hint,
            metadata={"runtime": profile.runtime, "profile": profile.name},
        ) from error


def _require_terminal(profile: EffectiveProfile) -> None:
    if not profile.terminal:
        raise NotPermitted(
            "TERMINAL_DENIED",
            f"the profile {profile.name} gives no terminal",
            hint="write `terminal: allow` into the profile, or do without a terminal",
            metadata={"profile": profile.name},
        )


def _require_same(request: CallRequest, fingerprint: str) -> None:
    if request.fingerprint() != fingerprint:
        raise RequestConflict(
            "REQUEST_ID_REUSED",
            f"request_id {request.request_id} was used before for another request",
            hint="use a new UUID for a new request",
        )


def new_call_id() -> str:
    """Make an id that sorts by time (UUID version 7, RFC 9562)."""
    milliseconds = time.time_ns() // 1_000_000
    number = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10))
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
