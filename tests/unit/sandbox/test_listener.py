"""The handover of notify descriptors: matched by the call's id, and never left open."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import RuntimeFailed
from supervisor.sandbox import listener as module
from supervisor.sandbox.listener import NotifyListener

Scenario = Callable[[NotifyListener], Coroutine[Any, Any, None]]


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # short: a socket's path is limited
        yield Path(folder) / "seccomp.sock"


@contextlib.asynccontextmanager
async def listening(path: Path) -> AsyncIterator[NotifyListener]:
    listener = NotifyListener(path)
    listener.open()
    try:
        yield listener
    finally:
        listener.close()


def run(path: Path, scenario: Scenario) -> None:
    async def main() -> None:
        before = open_pipes()
        async with listening(path) as listener:
            await asyncio.wait_for(scenario(listener), 30)
        assert open_pipes() == before

    asyncio.run(main())


def open_pipes() -> int:
    """Count the open descriptors that could be ones that were handed over."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(entry.readlink()).startswith("pipe:")
    return count


async def taken(listener: NotifyListener, call_id: str) -> int:
    """Take a descriptor for a call whose init lives on: this process."""
    alive = os.pidfd_open(os.getpid())
    try:
        return await listener.take(call_id, alive)
    finally:
        os.close(alive)


def hand_over(path: Path, call_id: str, names: list[str] | None = None, raw: bytes = b"") -> None:
    """Do what the runtime does: send the state and as many descriptors as it has names."""
    names = ["seccompFd"] if names is None else names
    state = raw or json.dumps({"metadata": call_id, "fds": names, "pid": 1}).encode()
    read, write = os.pipe()
    with socket.socket(socket.AF_UNIX) as runtime:
        runtime.connect(str(path))
        socket.send_fds(runtime, [state], [read] * max(1, len(names)))
    os.close(read)
    os.close(write)


def test_only_root_reaches_it(path: Path) -> None:
    async def scenario(_: NotifyListener) -> None:
        assert path.stat().st_mode & 0o777 == 0o600

    run(path, scenario)
    assert not path.exists()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    path.write_text("stale")

    async def scenario(_: NotifyListener) -> None:
        assert path.is_socket()

    run(path, scenario)


@pytest.mark.parametrize("first", ["taken", "sent"])
def test_a_descriptor_is_given_to_its_call(path: Path, first: str) -> None:
    async def scenario(listener: NotifyListener) -> None:
        listener.expect("one")
        listener.expect("two")
        if first == "sent":
            hand_over(path, "two")
            hand_over(path, "one")
            await asyncio.sleep(0.01)
            fds = [await taken(listener, "one"), await taken(listener, "two")]
        else:
            taking = asyncio.gather(taken(listener, "one"), taken(listener, "two"))
            await asyncio.sleep(0)
            hand_over(path, "two")
            hand_over(path, "one")
            fds = list(await taking)
        assert fds[0] != fds[1]
        for fd in fds:
            assert not os.get_inheritable(fd)
            os.close(fd)
        listener.forget("one")
        listener.forget("two")

    run(path, scenario)


@pytest.mark.parametrize(
    ("call_id", "names", "raw"),
    [
        ("unknown", None, b""),
        ("one", ["other", "another"], b""),
        ("one", [], b""),
        ("one", None, b"not JSON"),
        ("one", None, b"[]"),
        ("one", None, b'{"metadata": "one"}'),
        ("one", None, b'{"metadata": "one", "fds": 7}'),
    ],
)
def test_what_fits_no_call_is_closed(
    path: Path, call_id: str, names: list[str] | None, raw: bytes
) -> None:
    async def scenario(listener: NotifyListener) -> None:
        waiting = listener.expect("one")
        hand_over(path, call_id, names, raw)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        # It still serves those who come next.
        hand_over(path, "one")
        os.close(await taken(listener, "one"))

    run(path, scenario)


def test_a_second_descriptor_for_one_call_is_closed(path: Path) -> None:
    async def scenario(listener: NotifyListener) -> None:
        listener.expect("one")
        hand_over(path, "one", ["other", "seccompFd", "seccompFd"])
        hand_over(path, "one")
        await asyncio.sleep(0.01)
        os.close(await taken(listener, "one"))

    run(path, scenario)


def test_a_descriptor_that_nobody_took_is_closed(path: Path) -> None:
    async def scenario(listener: NotifyListener) -> None:
        listener.expect("one")
        hand_over(path, "one")
        await asyncio.sleep(0.01)
        listener.forget("one")
        listener.forget("one")

    run(path, scenario)


def test_a_descriptor_that_comes_too_late_is_closed(path: Path) -> None:
    async def scenario(listener: NotifyListener) -> None:
        listener.expect("one")
        listener.forget("one")
        hand_over(path, "one")
        await asyncio.sleep(0.01)

    run(path, scenario)


def test_no_handover_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDOVER_TIMEOUT_S", 0.01)

    async def scenario(listener: NotifyListener) -> None:
        listener.expect("one")
        with pytest.raises(RuntimeFailed) as caught:
            await taken(listener, "one")
        assert caught.value.reason == "SECCOMP_NOT_HANDED_OVER"
        listener.forget("one")

    run(path, scenario)


def test_an_init_that_is_gone_hands_nothing_over(path: Path) -> None:
    async def scenario(listener: NotifyListener) -> None:
        listener.expect("one")
        with subprocess.Popen(["sleep", "600"]) as init:
            pidfd = os.pidfd_open(init.pid)
            taking = asyncio.ensure_future(listener.take("one", pidfd))
            await asyncio.sleep(0)
            init.kill()
            with pytest.raises(RuntimeFailed) as caught:
                await taking
            assert caught.value.reason == "SANDBOX_GONE"
            os.close(pidfd)
        hand_over(path, "one")
        await asyncio.sleep(0.01)
        listener.forget("one")

    run(path, scenario)


def test_a_peer_that_says_nothing_holds_nobody_up(path: Path) -> None:
    async def scenario(listener: NotifyListener) -> None:
        listener.expect("one")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(path))
            await asyncio.sleep(0.01)
            hand_over(path, "one")
            os.close(await taken(listener, "one"))
        await asyncio.sleep(0.01)
        assert not listener._silent

    run(path, scenario)


def test_a_runtime_that_connects_long_before_it_hands_over(path: Path) -> None:
    """Crun does: it connects while it creates, and has the descriptor once it has started."""

    async def scenario(listener: NotifyListener) -> None:
        listener.expect("one")
        with socket.socket(socket.AF_UNIX) as runtime:
            runtime.connect(str(path))
            await asyncio.sleep(0.05)
            read, write = os.pipe()
            state = json.dumps({"metadata": "one", "fds": ["seccompFd"]}).encode()
            socket.send_fds(runtime, [state], [read])
            os.close(read)
            os.close(write)
            os.close(await taken(listener, "one"))

    run(path, scenario)


def test_who_is_connected_at_the_end_is_hung_up_on(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:

        async def scenario(_: NotifyListener) -> None:
            silent.connect(str(path))
            await asyncio.sleep(0.01)

        run(path, scenario)
        silent.settimeout(30)
        assert silent.recv(1) == b""


def test_who_waits_at_the_end_is_told(path: Path) -> None:
    async def main() -> None:
        listener = NotifyListener(path)
        listener.open()
        listener.expect("one")
        taking = asyncio.ensure_future(taken(listener, "one"))
        await asyncio.sleep(0)
        listener.close()
        with pytest.raises(asyncio.CancelledError):
            await taking

    asyncio.run(main())
