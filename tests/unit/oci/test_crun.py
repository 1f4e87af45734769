"""crun's client object against a stand-in for the program.

crun refuses hosts whose cgroups are hybrid, as a development machine's may be, so what it really
does is tested in guests only: tests/vm/guest_runtimes.py. The stand-in keeps to what was read in
crun 1.8: `create` leaves an init that `start` lets go on to the program, and that is cell, which
waits for a byte on descriptor 4.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.errors import HostError, RuntimeFailed
from supervisor.linux import process
from supervisor.oci import runtime
from supervisor.oci.crun import Crun
from supervisor.oci.runtime import StandardFds

STAND_IN = """#!/bin/sh
[ "$1" = --version ] && { echo "crun version 0"; echo "more"; exit; }
root=$2 log=$4; shift 6
echo "$*" >>"$root/../said"
[ -e "$root/../refuse-$1" ] && { echo '{"msg": "refused", "level": "error"}' >"$log"; exit 1; }
[ "$1" = start ] && exit
mkdir "$root/$8"
sh -c '[ -n "$(head -c 1 <&4)" ] && echo let go' 3>&- &
echo $! >"$5"
"""


@dataclass(slots=True, kw_only=True)
class Bench:
    """A stand-in with a container to be."""

    crun: Crun
    folder: Path
    fds: StandardFds
    out: int

    async def create(self) -> int:
        """Create the container "one"; give a pidfd of its init."""
        pid = await self.crun.create("one", self.folder / "bundle", self.fds)
        return process.adopt(pid)

    def said(self) -> list[str]:
        """List the verbs that it was run with."""
        return [line.split()[0] for line in (self.folder / "said").read_text().splitlines()]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "crun"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    monkeypatch.setattr(runtime, "find_program", lambda _: str(path))
    return path


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_CLOEXEC)
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@contextlib.asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    for name in ("state", "bundle"):
        (folder / name).mkdir()
    process.become_subreaper()
    before = descriptors()
    with pipe() as stdin, pipe() as out, pipe() as status:
        os.set_blocking(out[0], False)
        fds = StandardFds(stdin=stdin[0], stdout=out[1], stderr=out[1], status=status[1])
        one = Bench(crun=Crun(folder / "state"), folder=folder, fds=fds, out=out[0])
        yield one
        one.crun.remove("one")
        assert list((folder / "state").iterdir()) == []
    assert descriptors() == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_it_says_what_it_is(program: Path, tmp_path: Path) -> None:
    assert Crun(tmp_path).version == "crun version 0"


def test_a_program_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crun, "NAME", "no-such-runtime")
    with pytest.raises(HostError) as caught:
        Crun(tmp_path)
    assert caught.value.reason == "PROGRAM_MISSING"


def test_a_container_waits_at_its_gate_until_it_is_let_go(program: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as one:
            pidfd = await one.create()
            assert one.said() == ["create", "start"]
            with pytest.raises(BlockingIOError):
                os.read(one.out, 1)
            await one.crun.start("one", pidfd)
            assert await process.wait(pidfd) == 0
            assert os.read(one.out, 100) == b"let go\n"
            with pytest.raises(RuntimeFailed) as caught:
                await one.crun.start("one", pidfd)
            assert caught.value.reason == "OCI_START_FAILED"
            os.close(pidfd)

    asyncio.run(scenario())


def test_a_container_that_is_removed_is_never_let_go(program: Path, tmp_path: Path) -> None:
    """As where the daemon ends: the gate's other end closes."""

    async def scenario() -> None:
        async with bench(tmp_path) as one:
            pidfd = await one.create()
            one.crun.remove("one")
            one.crun.remove("one")  # more than once does no harm
            assert await process.wait(pidfd) == 1
            with pytest.raises(BlockingIOError):
                os.read(one.out, 1)
            os.close(pidfd)

    asyncio.run(scenario())


def test_an_init_that_died_before_the_start(program: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as one:
            pidfd = await one.create()
            children = Path(f"/proc/{_pid(tmp_path)}/task/{_pid(tmp_path)}/children").read_text()
            for pid in (_pid(tmp_path), *map(int, children.split())):
                os.kill(pid, signal.SIGKILL)
            assert await process.wait(pidfd) == -signal.SIGKILL
            while True:  # the last holder of the gate may take a moment to go
                with contextlib.suppress(ProcessLookupError):
                    process.reap_strangers()
                if not any(_is_there(int(pid)) for pid in children.split()):
                    break
                await asyncio.sleep(0.01)
            with pytest.raises(RuntimeFailed) as caught:
                await one.crun.start("one", pidfd)
            assert caught.value.reason == "OCI_START_FAILED"
            os.close(pidfd)

    asyncio.run(scenario())


def _pid(folder: Path) -> int:
    return int((folder / "bundle/pid").read_text())


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("verb", ["create", "start"])
def test_a_verb_that_fails(program: Path, tmp_path: Path, verb: str) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as one:
            (tmp_path / f"refuse-{verb}").touch()
            with pytest.raises(RuntimeFailed) as caught:
                await one.create()
            assert caught.value.reason == "OCI_CREATE_FAILED"
            assert f"crun {verb} ended with 1: refused" in caught.value.message
            command = shlex.split(caught.value.hint.removeprefix("replay: "))
            assert {verb, "one", str(tmp_path / "state")} <= set(command)
            if verb == "start":
                os.kill(_pid(tmp_path), signal.SIGKILL)

    asyncio.run(scenario())
