"""An engine over a real record and made-up sandboxes: real pipes, and programs in Python."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import time
from collections import defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from supervisor.call.events import (
    CallEvent,
    Denied,
    Event,
    Finished,
    KeepAlive,
    Lost,
    Processes,
    Timeline,
    Watched,
)
from supervisor.call.state import State
from supervisor.call.types import Caller, CallRequest, Digest, InputFile, Json
from supervisor.engine import engine as engine_module
from supervisor.engine import live as live_module
from supervisor.engine.engine import Engine
from supervisor.engine.options import EngineOptions
from supervisor.engine.subscription import Subscription
from supervisor.errors import NotFound
from supervisor.linux.fds import make_pipe, wait_readable, wait_writable
from supervisor.linux.mounts import BpfFolder
from supervisor.profile.model import EffectiveProfile
from supervisor.profile.walls import WallState
from supervisor.sandbox import ProgramEnd, SandboxOptions
from supervisor.sandbox.files import Collected
from supervisor.sandbox.sandbox import DiskUse
from tests.support.records import CALLER, HOST, make_profile, make_request, opened

EXIT_0 = ProgramEnd(what="exit", value=0)
KILLED = ProgramEnd(what="killed", value=9)


class FakeCgroup:
    """Figures that a test may set."""

    def __init__(self) -> None:
        self.kills = 0
        self.peak = 4096
        self.refused = 0
        self.cpu_s = (0.0, 0.0)

    def oom_kills(self) -> int:
        return self.kills

    def memory_peak(self) -> int:
        return self.peak

    def pids_refused(self) -> int:
        return self.refused

    def pids_peak(self) -> int:
        return 3

    def cpu(self) -> tuple[float, float]:
        return self.cpu_s


class FakeSandbox:
    """Does what a sandbox does, as far as the engine can see, and writes down what it was asked."""

    def __init__(
        self,
        host: FakeHost,
        call_id: str,
        profile: EffectiveProfile,
        request: CallRequest,
        tell: Callable[[Sequence[Event]], None],
        lose: Callable[[int], None],
    ) -> None:
        self.lose = lose
        self.host, self.call_id, self.profile, self.request = host, call_id, profile, request
        self.tell: Callable[..., None] = lambda *events: tell(events)
        self.cgroup = FakeCgroup()
        self.log: list[str] = []
        self.inputs: dict[bytes, bytes] = {}
        self.signals: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.disks: list[DiskUse] = []
        self.left: dict[bytes, bytes] = {}
        self.stdin_fd = self.stdout_fd = self.stderr_fd = -1
        self._theirs: list[int] = []
        self._killed = asyncio.Event()
        self._program: asyncio.Task[ProgramEnd] | None = None
        host.sandboxes.append(self)

    async def _step(self, name: str) -> None:
        self.log.append(name)
        self.host.log.append((name, self.host.recorded_calls()))
        if name in self.host.gates:
            await self.host.gates[name].wait()
        self.fail_at(name)

    def fail_at(self, name: str) -> None:
        if name in self.host.failures:
            raise self.host.failures[name]

    async def read_secrets(self) -> dict[str, bytes]:
        return self.host.secret_values

    async def prepare(self, content: Callable[[InputFile], Iterator[bytes]]) -> None:
        await self._step("prepare")
        pipes = [make_pipe() for _ in range(3)]
        for pipe in pipes:
            os.set_blocking(pipe.read, False)
            os.set_blocking(pipe.write, False)
        stdin, stdout, stderr = pipes
        self._theirs = [stdin.read, stdout.write, stderr.write]
        self.stdin_fd, self.stdout_fd, self.stderr_fd = stdin.write, stdout.read, stderr.read
        self.inputs = {file.path: b"".join(content(file)) for file in self.request.files}
        await self._step("prepared")

    def arm(self) -> None:
        self.log.append("arm")
        self.fail_at("arm")

    async def try_fence(self) -> None:
        await self._step("try_fence")

    async def start(self) -> None:
        await self._step("start")
        program = self.host.programs[self.request.argv[0]]
        self._program = asyncio.ensure_future(program(self))

    async def ended(self) -> ProgramEnd:
        self.fail_at("ended")
        assert self._program is not None
        killed = asyncio.ensure_future(self._killed.wait())
        await asyncio.wait([self._program, killed], return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        return KILLED if self._killed.is_set() else self._program.result()

    async def ready(self) -> None:
        self.log.append("ready")

    def signal(self, number: int) -> bool:
        self.signals.append(number)
        return True

    def resize_terminal(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))

    def stop(self) -> None:
        self.kill()

    def kill(self) -> None:
        self.log.append("kill")
        self._killed.set()

    async def quiesce(self) -> None:
        self.kill()
        await self._step("quiesce")
        if self._program is not None and not self._program.done():
            self._program.cancel()
            await asyncio.wait([self._program])
        self._close_theirs()

    def _close_theirs(self) -> None:
        for fd in self._theirs:
            os.close(fd)
        self._theirs = []

    def destroy(self) -> None:
        self.log.append("destroy")
        self._close_theirs()
        for fd in (self.stdout_fd, self.stderr_fd):
            if fd >= 0:
                os.close(fd)
        self.close_stdin()
        self.stdout_fd = self.stderr_fd = -1
        self.fail_at("destroy")

    def close_stdin(self) -> None:
        if self.stdin_fd >= 0:
            os.close(self.stdin_fd)
            self.stdin_fd = -1

    def disk_use(self) -> list[DiskUse]:
        self.fail_at("disk_use")
        return self.disks

    def socket_denials(self) -> Iterator[Denied]:
        self.fail_at("socket_denials")
        yield from ()

    def netlink_use(self) -> tuple[int, int]:
        return 0, 0

    def hurry(self) -> None:
        self.log.append("hurry")

    def collect(
        self, patterns: Iterable[str], store: Callable[[Iterator[bytes]], Digest]
    ) -> Collected:
        self.log.append("collect")
        self.fail_at("collect")
        while "collect" in self.host.held and "hurry" not in self.log:
            time.sleep(0.005)
        from supervisor.call.types import OutputFile

        found = [
            OutputFile(path=path, digest=store(iter([data])), mode=0o644)
            for path, data in self.left.items()
        ]
        return Collected(found, [])

    # What programs use.

    async def out(self, data: bytes, stream: int = 1) -> None:
        """Write to stdout (1) or stderr (2) as a program would: until it is in the pipe."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._theirs[stream], view) :]
            except BlockingIOError:
                await wait_writable(self._theirs[stream])

    async def read(self, count: int = 65536) -> bytes:
        """Read from stdin."""
        while True:
            try:
                return os.read(self._theirs[0], count)
            except BlockingIOError:
                await wait_readable(self._theirs[0])

    def close_their_stdin(self) -> None:
        """Close stdin as a program does that will not read."""
        os.close(self._theirs[0])
        self._theirs[0] = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


Program = Callable[[FakeSandbox], Awaitable[ProgramEnd]]


async def do_nothing(sandbox: FakeSandbox) -> ProgramEnd:
    return EXIT_0


async def say_hello(sandbox: FakeSandbox) -> ProgramEnd:
    await sandbox.out(b"hello\n")
    return EXIT_0


async def hang(sandbox: FakeSandbox) -> ProgramEnd:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def echo(sandbox: FakeSandbox) -> ProgramEnd:
    while data := await sandbox.read():
        await sandbox.out(data)
    return EXIT_0


class FakeFence:
    """Probes that stand until somebody says otherwise."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def faults(self) -> list[str]:
        return list(self.missing)

    def strays(self) -> dict[str, int]:
        return {"connect": 3}


class FakeHost:
    """What the sandboxes of one engine share: what they run, where they fail, where they wait."""

    def __init__(self) -> None:
        self.facts: Mapping[str, Json] = HOST
        self.sandboxes: list[FakeSandbox] = []
        self.programs: dict[bytes, Program] = {
            b"true": do_nothing, b"hello": say_hello, b"hang": hang, b"cat": echo,
        }  # fmt: skip
        self.failures: dict[str, Exception] = {}
        self.gates: dict[str, asyncio.Event] = defaultdict(_open_gate)
        self.log: list[tuple[str, set[str]]] = []
        self.recorded_calls: Callable[[], set[str]] = set
        self.opened = self.closed = 0
        self.reaped = 3
        self.brokers_ended = False
        self.fence = FakeFence()
        self.secret_values: dict[str, bytes] = {}
        self.modes: dict[str, str] = {}
        self.left: dict[str, tuple[Denied | Processes | Watched | Lost, ...]] = {}
        self.held: set[str] = set()
        self.outputs = concurrent.futures.ThreadPoolExecutor(1)

    def fence_faults(self) -> list[str]:
        return self.fence.faults()

    def leftover_events(
        self, call_id: str, recorded: Iterable[object], mode: str = "enforce"
    ) -> tuple[Denied | Processes | Watched | Lost, ...]:
        self.modes[call_id] = mode
        return self.left.pop(call_id, ())

    def all_told(self) -> None:
        self.left.clear()

    def facts_for(self, profile: EffectiveProfile) -> Mapping[str, Json]:
        return {**self.facts, "runtime": profile.runtime}

    def runtimes(self) -> dict[str, WallState]:
        return {"runc": WallState(standing=True, why="runc 1")}

    def runtime(self, name: str) -> str:
        if name in self.failures:
            raise self.failures[name]
        return name

    def walls(self) -> dict[str, WallState]:
        return {
            "guard": WallState(standing=False, why="no BPF LSM", hint="lsm=bpf"),
            "cgroup-v2": WallState(standing=True),
        }

    def open(self) -> None:
        self.opened += 1
        if "open" in self.failures:
            raise self.failures["open"]

    async def end_brokers(self) -> None:
        self.brokers_ended = True

    def close(self) -> None:
        self.closed += 1
        if "close" in self.failures:
            raise self.failures["close"]

    @property
    def sandbox(self) -> FakeSandbox:
        """Give the only sandbox that there was."""
        [one] = self.sandboxes
        return one


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


class FakeProfiles:
    """One profile, by any name but "missing"."""

    def __init__(self, profile: EffectiveProfile) -> None:
        self.profile = profile

    def effective(self, name: str) -> EffectiveProfile:
        if name == "missing":
            raise NotFound("PROFILE_NOT_FOUND", "missing")
        return replace(self.profile, name=name)


class Figures:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.closed: list[tuple[str, str, Timeline]] = []
        self.rejected: list[str] = []
        self.denials: list[tuple[str, str, int]] = []
        self.made: list[tuple[str, int]] = []
        self.flows: list[tuple[str, int, int]] = []
        self.live: list[int] = []
        self.admitted: list[tuple[float, float]] = []
        self.losses: list[tuple[str, str, int]] = []
        self.ended_orphans: list[tuple[str, int]] = []
        self.strays_seen: dict[str, int] = {}

    def call_closed(self, profile: str, outcome: str, timeline: Timeline) -> None:
        self.closed.append((profile, outcome, timeline))

    def call_rejected(self, reason: str) -> None:
        self.rejected.append(reason)

    def call_admitted(self, policy_s: float, record_s: float) -> None:
        self.admitted.append((policy_s, record_s))

    def denied(self, wall: str, name: str, count: int) -> None:
        self.denials.append((wall, name, count))

    def watched(self, name: str, count: int) -> None:
        self.made.append((name, count))

    def flow(self, verdict: str, sent: int, received: int) -> None:
        self.flows.append((verdict, sent, received))

    def lost(self, what: str, reason: str, count: int) -> None:
        self.losses.append((what, reason, count))

    def orphans(self, kind: str, count: int) -> None:
        self.ended_orphans.append((kind, count))

    def live_calls(self, count: int) -> None:
        self.live.append(count)

    def strays(self, counts: Mapping[str, int]) -> None:
        self.strays_seen = dict(counts)


class World:
    """An engine and what it stands on."""

    def __init__(self, engine: Engine, host: FakeHost, figures: Figures) -> None:
        self.engine, self.host, self.figures = engine, host, figures
        self.store = engine.store

    async def submit(
        self, program: bytes = b"true", *, caller: Caller = CALLER, **changes: Any
    ) -> Subscription:
        request_id = changes.pop("request_id", f"request-{len(self.host.sandboxes)}")
        request = make_request(request_id, argv=(program,), **changes)
        return await self.engine.submit(caller, request)

    async def run(self, program: bytes = b"true", **changes: Any) -> list[CallEvent]:
        """Run a call to its end; give its events."""
        return await collect(await self.submit(program, **changes))

    async def finished(self, program: bytes = b"true", **changes: Any) -> Finished:
        """Run a call to its end; give that."""
        return end_of(await self.run(program, **changes))


@contextlib.asynccontextmanager
async def running(
    directory: Path,
    *,
    profile: EffectiveProfile | None = None,
    start: bool = True,
    **options: Any,
) -> AsyncIterator[World]:
    """Have an engine run over a store in `directory`."""
    host, figures = FakeHost(), Figures()

    def make_host(where: SandboxOptions, bpf: BpfFolder | None) -> FakeHost:
        return host

    with (
        mock.patch.object(engine_module, "SandboxHost", make_host),
        mock.patch.object(live_module, "Sandbox", FakeSandbox),
    ):
        async with opened(directory) as store:
            host.recorded_calls = lambda: {
                summary.call_id for summary in store.list_calls(limit=100)[0]
            }
            engine = Engine(
                store=store,
                profiles=FakeProfiles(profile or make_profile()),  # type: ignore[arg-type]
                state=directory,
                runtime=directory,
                observer=figures,
                options=EngineOptions(**options),
            )
            if start:
                await engine.start()
            try:
                yield World(engine, host, figures)
            finally:
                await engine.drain(0)


async def collect(subscription: Subscription) -> list[CallEvent]:
    """Give every event to the end, keep-alives aside, and close."""
    events = [event async for event in subscription if not isinstance(event.event, KeepAlive)]
    await subscription.close()
    return events


async def until(subscription: Subscription, kind: type[object]) -> CallEvent:
    """Read up to an event of that kind; the subscription can be read on."""
    async for event in subscription:
        if isinstance(event.event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")


def end_of(events: list[CallEvent]) -> Finished:
    """Give how a call ended."""
    last = events[-1].event
    assert isinstance(last, Finished), last
    return last


def kinds(events: list[CallEvent]) -> list[str]:
    """Name the events."""
    return [type(event.event).__name__ for event in events]


async def settle(condition: Callable[[], object]) -> None:
    """Let the loop go on until something is so; pytest's own timeout ends it otherwise."""
    while not condition():
        await asyncio.sleep(0.001)


def sealed(world: World, call_id: str) -> Finished:
    """Give the outcome as the record has it, and see that nothing is left live."""
    summary, state = world.engine.get(call_id)
    assert state is State.CLOSED
    assert world.engine.list(live_only=True) == ([], "")
    assert summary.finished is not None
    return summary.finished
