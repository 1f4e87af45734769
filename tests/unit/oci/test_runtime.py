"""The real runc, in containers that are as small as can be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import RuntimeFailed
from supervisor.linux import cgroup, process
from supervisor.oci import runtime
from supervisor.oci.runtime import Runc, StandardFds

pytestmark = pytest.mark.root

POLL_S = 0.005
CGROUPS = "stockade-tests"


@dataclass(slots=True)
class Bench:
    """A runc with one container to be: its bundle, its pipes, its cgroup."""

    runc: Runc
    state: Path
    bundle: Path
    name: str
    fds: StandardFds
    cgroup: cgroup.Cgroup
    out: int
    word: int
    spec: dict[str, Any] = field(default_factory=dict)

    async def create(self) -> int:
        (self.bundle / "config.json").write_text(json.dumps(self.spec))
        return await self.runc.create(self.name, self.bundle, self.fds)

    def containers(self) -> list[str]:
        """List what is in the state folder."""
        return sorted(entry.name for entry in self.state.iterdir())

    def processes(self) -> list[str]:
        """List the command lines that name our state folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found += [line] if str(self.state) in line else []
        return found


@contextlib.contextmanager
def pipe(ends: contextlib.ExitStack) -> Iterator[tuple[int, int]]:
    read, write = os.pipe2(os.O_CLOEXEC)
    ends.callback(os.close, read)
    ends.callback(os.close, write)
    yield read, write


def spec_for(root: Path, cgroup_path: str, *argv: str) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "user": {"uid": 65534, "gid": 65534}, "args": list(argv), "env": [], "cwd": "/",
            "noNewPrivileges": True,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        ],
        "linux": {
            "cgroupsPath": cgroup_path,
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
        },
    }  # fmt: skip


@contextlib.asynccontextmanager
async def bench(tmp_path: Path, *argv: str) -> AsyncIterator[Bench]:
    root = tmp_path / "root"
    for name in ("proc", "usr", "dev"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    state, bundle = tmp_path / "state", tmp_path / "bundle"
    state.mkdir()
    bundle.mkdir()
    process.become_subreaper()
    name = str(uuid.uuid4())
    group = cgroup.Cgroup(cgroup.detect(), f"{CGROUPS}-{name}")
    with contextlib.ExitStack() as ends:
        pipes = [ends.enter_context(pipe(ends)) for _ in range(4)]
        fds = StandardFds(
            stdin=pipes[0][0], stdout=pipes[1][1], stderr=pipes[2][1], status=pipes[3][1]
        )
        made = Bench(
            Runc(state), state, bundle, name, fds, group, pipes[1][0], pipes[3][0],
            spec_for(root, f"/{group.path}", *argv),
        )  # fmt: skip
        try:
            yield made
        finally:
            group.destroy()
            process.reap_strangers()


async def until_gone(which: Bench) -> None:
    while which.processes():
        await asyncio.sleep(POLL_S)


def test_it_says_what_it_is(tmp_path: Path) -> None:
    assert Runc(tmp_path).version.startswith("runc version ")


def test_a_container_waits_until_it_is_let_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, "/usr/bin/echo", "let go") as one:
            pid = await one.create()
            pidfd = process.adopt(pid)
            try:
                assert one.containers() == [one.name]
                assert pid in one.cgroup.processes()
                os.set_blocking(one.out, False)
                with pytest.raises(BlockingIOError):
                    os.read(one.out, 100)
                await one.runc.start(one.name, pidfd)
                assert await process.wait(pidfd) == 0
            finally:
                os.close(pidfd)
            assert os.read(one.out, 100) == b"let go\n"
            one.runc.remove(one.name)
            assert one.containers() == []
            one.runc.remove(one.name)  # more than once does no harm

    asyncio.run(scenario())


def test_descriptor_three_is_the_status_pipe_and_there_is_no_fourth(tmp_path: Path) -> None:
    async def scenario() -> None:
        script = "echo word >&3; ls /proc/self/fd"
        async with bench(tmp_path, "/bin/sh", "-c", script) as one:
            pidfd = process.adopt(await one.create())
            await one.runc.start(one.name, pidfd)
            assert await process.wait(pidfd) == 0
            os.close(pidfd)
            # ls itself has the folder open as 4.
            assert os.read(one.out, 100).split() == [b"0", b"1", b"2", b"3", b"4"]
            assert os.read(one.word, 100) == b"word\n"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "spoil",
    [
        {"root": {"path": "/nowhere/at/all"}},
        {"mounts": [{"destination": "/x", "type": "bind", "source": "/nowhere/at/all"}]},
        {"process": {"args": [], "cwd": "/"}},
        {"linux": {"namespaces": [{"type": "nonsense"}]}},
    ],
    ids=["root", "mount", "no program", "namespace"],
)
def test_a_bundle_that_cannot_be_leaves_nothing(tmp_path: Path, spoil: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, "/usr/bin/true") as one:
            one.spec.update(spoil)
            with pytest.raises(RuntimeFailed) as raised:
                await one.create()
            assert raised.value.reason == "OCI_CREATE_FAILED"
            await until_gone(one)
            assert one.cgroup.processes() == []
            one.runc.remove(one.name)
            assert one.containers() == []

    asyncio.run(scenario())


def test_the_error_has_the_runtime_s_words_and_a_command_to_replay(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, "/usr/bin/true") as one:
            one.spec["root"] = {"path": "/nowhere/at/all"}
            with pytest.raises(RuntimeFailed) as raised:
                await one.create()
            assert "/nowhere/at/all" in raised.value.message
            command = shlex.split(raised.value.hint.removeprefix("replay: "))
            assert Path(command[0]).name == "runc"
            assert {"create", str(one.state), str(one.bundle), one.name} <= set(command)

    asyncio.run(scenario())


def test_no_word_from_the_runtime_is_said_too(tmp_path: Path) -> None:
    assert runtime._said(tmp_path / "none") == "nothing was logged"
    (tmp_path / "log").write_bytes(b'{"msg": "first"}\nnot JSON\n\xff\n{"level": "error"}\n')
    said = runtime._said(tmp_path / "log")
    assert said.startswith("first; not JSON; ")
    assert '{"level": "error"}' in said


def test_an_endless_log_is_cut(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * (runtime.MESSAGE_BYTES_MAX * 3))
    assert len(runtime._said(tmp_path / "log")) == runtime.MESSAGE_BYTES_MAX


@pytest.mark.parametrize("word", [b"[1, 2]\n", b"7\n", b"null\n"])
def test_a_log_line_that_is_no_object(tmp_path: Path, word: bytes) -> None:
    (tmp_path / "log").write_bytes(word)
    assert runtime._said(tmp_path / "log") == word.decode().strip()


def test_an_init_that_died_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noticed by itself, and not by the clock."""
    monkeypatch.setattr(runtime, "START_TIMEOUT_S", 3600)

    async def scenario() -> None:
        async with bench(tmp_path, "/usr/bin/echo", "never") as one:
            pid = await one.create()
            pidfd = process.adopt(pid)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(RuntimeFailed) as raised:
                await one.runc.start(one.name, pidfd)
            assert raised.value.reason == "OCI_START_FAILED"
            assert await process.wait(pidfd) == -signal.SIGKILL
            os.close(pidfd)

    asyncio.run(scenario())


def test_a_container_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(RuntimeFailed) as raised:
        asyncio.run(Runc(tmp_path / "state").start("nobody", -1))
    assert raised.value.reason == "OCI_START_FAILED"


def test_a_container_is_let_go_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, "/usr/bin/sleep", "60") as one:
            pidfd = process.adopt(await one.create())
            await one.runc.start(one.name, pidfd)
            with pytest.raises(RuntimeFailed) as raised:
                await one.runc.start(one.name, pidfd)
            assert raised.value.reason == "OCI_START_FAILED"
            one.cgroup.kill()
            assert await process.wait(pidfd) == -signal.SIGKILL
            os.close(pidfd)

    asyncio.run(scenario())


@contextlib.contextmanager
def hanging(one: Bench, tmp_path: Path) -> Iterator[Callable[[], bool]]:
    """Let `runc create` wait for a hook that ends with this block; say whether it has come to
    that."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    hook = {"path": "/usr/bin/cat", "args": ["cat", str(fifo)]}
    one.spec["hooks"] = {"prestart": [hook]}
    writers: list[int] = []

    def reached() -> bool:
        with contextlib.suppress(OSError):  # ENXIO: nobody reads yet
            writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        return bool(writers)

    try:
        yield reached
    finally:
        for fd in writers:
            os.close(fd)


def test_a_runtime_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "CREATE_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with bench(tmp_path, "/usr/bin/true") as one:
            with hanging(one, tmp_path) as reached:
                creating = asyncio.ensure_future(one.create())
                while not creating.done():
                    reached()
                    await asyncio.sleep(POLL_S)
                with pytest.raises(RuntimeFailed) as raised:
                    await creating
                assert raised.value.reason == "OCI_CREATE_FAILED"
                await until_gone(one)

    asyncio.run(scenario())


def test_a_runtime_that_hangs_goes_with_its_caller(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, "/usr/bin/true") as one:
            with hanging(one, tmp_path) as reached:
                creating = asyncio.ensure_future(one.create())
                while not reached():
                    await asyncio.sleep(POLL_S)
                assert one.processes()
                creating.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await creating
                await until_gone(one)

    asyncio.run(scenario())


@pytest.mark.parametrize("turns", [1, 3, 10, 30])
def test_a_caller_that_goes_away_during_create(tmp_path: Path, turns: int) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, "/usr/bin/sleep", "60") as one:
            creating = asyncio.ensure_future(one.create())
            for _ in range(turns):
                await asyncio.sleep(POLL_S / 5)
            creating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                pid = await creating
                process.disown(pid)
            await until_gone(one)
            # The end of the cgroup is the end of whatever the runtime had begun.
            one.cgroup.destroy()
            assert one.cgroup.processes() == []
            one.runc.remove(one.name)
            assert one.containers() == []

    asyncio.run(scenario())
