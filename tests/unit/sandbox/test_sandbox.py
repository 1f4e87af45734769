"""One sandbox, with the real runtime: its life, and failures at each step that leave nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any

import pytest

from supervisor.call.events import Denied, Processes, ProgramStarted
from supervisor.call.types import Digest, InputFile
from supervisor.errors import (
    CapacityError,
    HostError,
    InvalidRequest,
    InvariantError,
    RuntimeFailed,
    StockadeError,
)
from supervisor.oci.runtime import Runc
from supervisor.sandbox import Sandbox, SandboxHost
from supervisor.sandbox import sandbox as module
from supervisor.sandbox.files import Collected
from supervisor.sandbox.listener import NotifyListener
from supervisor.sandbox.sandbox import ProgramEnd, _parse_end
from tests.unit.sandbox.harness import content, made, request, sandbox_host, shipped, traces

Scenario = Callable[[SandboxHost], Coroutine[Any, Any, None]]


def on_host(scenario: Scenario) -> None:
    async def main() -> None:
        async with sandbox_host() as host:
            await asyncio.wait_for(scenario(host), 60)

    asyncio.run(main())


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


# What cell says.


@pytest.mark.parametrize(
    ("line", "status", "end"),
    [
        ("ready\nexit 7\n", 7, ProgramEnd(what="exit", value=7)),
        ("ready\nsignal 9 0\n", 137, ProgramEnd(what="signal", value=9)),
        ("ready\nsignal 6 1\n", 134, ProgramEnd(what="signal", value=6, core_dumped=True)),
        ("ready\nexec 2\n", 127, ProgramEnd(what="exec", value=2)),
        ("ready\nchdir 13\n", 126, ProgramEnd(what="chdir", value=13)),
        ("ready\n", -9, ProgramEnd(what="killed", value=9)),
        ("", -9, ProgramEnd(what="killed", value=9)),
        ("", 1, ProgramEnd(what="init", value=1)),
        ("", 0, ProgramEnd(what="init", value=0)),
        ("ready\nexit\n", -9, ProgramEnd(what="killed", value=9)),
        ("ready\nexit 0 0\n", 125, ProgramEnd(what="init", value=125)),
        ("ready\nexit -1\n", 125, ProgramEnd(what="init", value=125)),
        ("ready\nkilled 0\n", 125, ProgramEnd(what="init", value=125)),
        ("ready\ninit 0\n", -9, ProgramEnd(what="killed", value=9)),
        ("exit 0\nexit 1\n", 0, ProgramEnd(what="init", value=0)),
        ("\ufffd\ufffd", 0, ProgramEnd(what="init", value=0)),
    ],
)
def test_the_word_of_the_init(line: str, status: int, end: ProgramEnd) -> None:
    """A program that takes the init over can lie about its end, and no more than that."""
    assert _parse_end(line, status) == end


# A life.


@pytest.mark.root
def test_from_prepare_to_destroy() -> None:
    async def scenario(host: SandboxHost) -> None:
        told: list[Any] = []
        data = b"input"
        wanted = request(
            "sh", "-c", "cat in/put; echo result > out; unshare -U true; exit 3",
            files=(InputFile(path=b"in/put", digest=Digest.of(data), data=data),),
        )  # fmt: skip
        (await host.fence.watch(1)).close()  # its ring stays, for the next call
        before = open_fds()
        sandbox = made(host, told, wanted=wanted)
        with pytest.raises(InvariantError):
            sandbox.arm()
        with pytest.raises(InvariantError):
            await sandbox.try_fence()
        await sandbox.prepare(content)
        sandbox.arm()
        await sandbox.try_fence()
        assert sandbox.cgroup.populated()
        assert [use.full for use in sandbox.disk_use()] == [False, False]
        await sandbox.start()
        await sandbox.ready()
        sandbox.close_stdin()
        sandbox.close_stdin()
        assert await sandbox.ended() == ProgramEnd(what="exit", value=3)
        await sandbox.quiesce()
        assert os.read(sandbox.stdout_fd, 100) == b"input"
        assert sandbox.denials == 1
        denied = [one for one in told if isinstance(one, Denied)]
        assert [(one.name, one.program) for one in denied] == [("unshare", b"unshare")]
        paths = [
            event.path
            for one in told
            if isinstance(one, Processes)
            for event in one.events
            if isinstance(event, ProgramStarted)
        ]
        assert paths[:2] == [b"/.stockade/cell", b"/usr/bin/dash"]
        assert b"/usr/bin/unshare" in paths
        kept: list[bytes] = []

        def store(chunks: Any) -> Digest:
            kept.append(b"".join(chunks))
            return Digest.of(kept[-1])

        collected = sandbox.collect(["out"], store)
        assert [one.path for one in collected.outputs] == [b"out"]
        assert kept == [b"result\n"]
        assert list(sandbox.socket_denials()) == []
        assert not sandbox.signal(15)
        sandbox.destroy()
        sandbox.destroy()
        assert traces(host) == []
        assert open_fds() == before

    on_host(scenario)


@pytest.mark.root
def test_a_killed_sandbox() -> None:
    async def scenario(host: SandboxHost) -> None:
        sandbox = made(host, [], wanted=request("sleep", "600"))
        await sandbox.prepare(content)
        await sandbox.start()
        await sandbox.ready()
        assert sandbox.signal(9)
        assert await sandbox.ended() == ProgramEnd(what="killed", value=9)
        await sandbox.quiesce()
        sandbox.destroy()
        assert traces(host) == []

    on_host(scenario)


class Refusing(list[Any]):
    """A record that cannot take what is told of one kind."""

    def __init__(self, kind: type[object]) -> None:
        self.kind = kind

    def extend(self, events: Iterable[object]) -> None:
        if any(isinstance(event, self.kind) for event in events):
            raise RuntimeError("it cannot be told")


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "script"),
    [(Denied, "unshare -U true; sleep 600"), (Processes, "sleep 600")],
    ids=["denials", "programs"],
)
def test_a_call_does_not_go_on_where_it_cannot_be_told(kind: type[object], script: str) -> None:
    async def scenario(host: SandboxHost) -> None:
        sandbox = made(host, Refusing(kind), wanted=request("sh", "-c", script))
        await sandbox.prepare(content)
        sandbox.arm()
        await sandbox.try_fence()
        await sandbox.start()
        assert await sandbox.ended() == ProgramEnd(what="killed", value=9)
        with pytest.raises(RuntimeError, match="it cannot be told"):
            await sandbox.quiesce()
        sandbox.destroy()
        assert traces(host) == []

    on_host(scenario)


@pytest.mark.root
def test_a_sandbox_that_is_taken_down_before_it_started() -> None:
    async def scenario(host: SandboxHost) -> None:
        sandbox = made(host, [])
        await sandbox.prepare(content)
        await sandbox.quiesce()
        sandbox.destroy()
        assert traces(host) == []

    on_host(scenario)


@pytest.mark.root
def test_two_sandboxes_share_nothing() -> None:
    async def scenario(host: SandboxHost) -> None:
        pair = [made(host, [], wanted=request("sleep", "600")) for _ in range(2)]
        for sandbox in pair:
            await sandbox.prepare(content)
            sandbox.arm()
        one, two = pair
        assert one._uid_base != two._uid_base
        for name in ("net", "pid", "mnt", "ipc", "uts", "user", "cgroup"):
            links = {os.readlink(f"/proc/{each._pid}/ns/{name}") for each in pair}  # noqa: PTH115
            assert len(links) == 2, name
        one.kill()
        await one.quiesce()
        one.destroy()
        assert two.cgroup.populated()
        await two.quiesce()
        two.destroy()
        assert traces(host) == []

    on_host(scenario)


# Failures.


def _raise(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: object, **options: object) -> Any:
        raise error

    return fail


Inject = Callable[[pytest.MonkeyPatch, SandboxHost], None]
FULL = OSError(28, "No space left on device")

STEPS: dict[str, tuple[Inject, type[BaseException]]] = {
    "ids": (
        lambda patch, host: patch.setattr(
            host.uids, "lease", _raise(CapacityError("UID_RANGES_EXHAUSTED", "none"))
        ),
        CapacityError,
    ),
    "root folder": (
        lambda patch, host: patch.setattr(
            host.roots, "path", _raise(HostError("READ_PATH_MISSING", "none"))
        ),
        HostError,
    ),
    "spec": (
        lambda patch, host: patch.setattr(
            module, "build_spec", _raise(InvalidRequest("ARGV_TOO_LONG", "too long"))
        ),
        InvalidRequest,
    ),
    "bundle": (lambda patch, host: patch.setattr(module.json, "dumps", _raise(FULL)), OSError),
    "pipes": (
        lambda patch, host: patch.setattr(module, "make_pipe", _raise(OSError(24, "too many"))),
        OSError,
    ),
    "create": (
        lambda patch, host: patch.setattr(
            Runc, "create", _raise(RuntimeFailed("OCI_CREATE_FAILED", "no"))
        ),
        RuntimeFailed,
    ),
    "create, cancelled": (
        lambda patch, host: patch.setattr(Runc, "create", _raise(asyncio.CancelledError())),
        asyncio.CancelledError,
    ),
    "adopt": (
        lambda patch, host: patch.setattr(
            module.process, "adopt", _raise(ProcessLookupError(3, "gone"))
        ),
        RuntimeFailed,
    ),
    "handover": (
        lambda patch, host: patch.setattr(
            NotifyListener, "take", _raise(RuntimeFailed("SECCOMP_NOT_HANDED_OVER", "no"))
        ),
        RuntimeFailed,
    ),
    "watcher": (
        lambda patch, host: patch.setattr(module, "DenialWatcher", _raise(FULL)),
        OSError,
    ),
    "mounts": (
        lambda patch, host: patch.setattr(Sandbox, "_hold_mounts", _raise(FULL)),
        RuntimeFailed,
    ),
    "fence": (
        lambda patch, host: patch.setattr(
            host.fence, "watch", _raise(HostError("WALL_NOT_STANDING", "fence"))
        ),
        HostError,
    ),
    "files": (
        lambda patch, host: patch.setattr(
            module, "place_inputs", _raise(InvalidRequest("FILES_TOO_LARGE", "full"))
        ),
        InvalidRequest,
    ),
}


@pytest.mark.root
@pytest.mark.parametrize(("inject", "kind"), STEPS.values(), ids=list(STEPS))
def test_a_failure_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, inject: Inject, kind: type[BaseException]
) -> None:
    async def scenario(host: SandboxHost) -> None:
        data = b"x"
        file = InputFile(path=b"x", digest=Digest.of(data), data=data)
        warm = made(host, [])  # what is made once for all stays; this makes it
        await warm.prepare(content)
        await warm.quiesce()
        warm.destroy()
        before = open_fds()
        sandbox = made(host, [], wanted=request("true", files=(file,)))
        with monkeypatch.context() as patch:
            inject(patch, host)
            with pytest.raises(kind):
                await sandbox.prepare(content)
        await sandbox.quiesce()
        sandbox.destroy()
        assert traces(host) == []
        assert open_fds() == before
        again = made(host, [])
        await again.prepare(content)
        again.arm()
        await again.quiesce()
        again.destroy()

    on_host(scenario)


@pytest.mark.root
@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.01, 0.015, 0.02, 0.03])
def test_a_caller_that_goes_away_meanwhile(delay_s: float) -> None:
    """Cancelled somewhere on its way: however far it was, all of it is taken down."""

    async def scenario(host: SandboxHost) -> None:
        sandbox = made(host, [], wanted=request("sleep", "600"))
        preparing = asyncio.ensure_future(sandbox.prepare(content))
        await asyncio.sleep(delay_s)
        preparing.cancel()
        await asyncio.gather(preparing, return_exceptions=True)
        await sandbox.quiesce()
        sandbox.destroy()
        await _until(lambda: traces(host) == [])

    on_host(scenario)


async def _until(done: Callable[[], bool]) -> None:
    while not done():
        await asyncio.sleep(0.01)


@pytest.mark.root
def test_a_kill_that_the_filter_does_not_know_is_refused() -> None:
    async def scenario(host: SandboxHost) -> None:
        profile = shipped()
        kill = replace(profile.syscalls, kill=frozenset({"no_such_call"}))
        sandbox = made(host, [], profile=replace(profile, syscalls=kill))
        with pytest.raises(HostError) as caught:
            await sandbox.prepare(content)
        assert caught.value.reason == "SYSCALL_UNKNOWN_HERE"
        sandbox.destroy()
        assert traces(host) == []

    on_host(scenario)


@pytest.mark.root
def test_processes_that_stay_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KILL_POLLS_MAX", 2)

    async def scenario(host: SandboxHost) -> None:
        sandbox = made(host, [])
        await sandbox.prepare(content)
        with monkeypatch.context() as patch:
            patch.setattr(type(sandbox.cgroup), "kill", lambda cgroup: None)
            with pytest.raises(StockadeError) as caught:
                await sandbox.quiesce()
            assert caught.value.reason == "SANDBOX_STAYS"
            with pytest.raises(OSError, match="cannot be ended") as busy:
                sandbox.destroy()
            assert busy.value.filename == str(sandbox.cgroup.unified)
            assert list((host.folder / "bundles").iterdir()) == []
        assert host.reap() == [sandbox.cgroup.path.rpartition("/")[2]]
        assert traces(host) == []

    on_host(scenario)


@pytest.mark.root
def test_outputs_of_what_was_never_prepared() -> None:
    async def scenario(host: SandboxHost) -> None:
        sandbox = made(host, [])
        assert sandbox.collect(["**"], lambda chunks: Digest.of(b"")) == Collected([], [])
        assert sandbox.denials == 0
        assert list(sandbox.socket_denials()) == []
        await sandbox.quiesce()
        sandbox.destroy()

    on_host(scenario)
