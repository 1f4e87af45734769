"""What sandboxes share, and the end of those that a former daemon left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from supervisor.bpf import layout
from supervisor.bpf.decode import Refused
from supervisor.bpf.watch import Denial, Told
from supervisor.call.events import Lost
from supervisor.errors import AuditUnavailable, HostError
from supervisor.linux import cgroup
from supervisor.oci.crun import Crun
from supervisor.sandbox import SandboxHost, SandboxOptions, find_cell
from supervisor.sandbox import host as module
from supervisor.sandbox.host import instance_of
from tests.support.leftovers import Footprint
from tests.unit.sandbox.harness import ROOT, sandbox_host, shipped, traces

pytestmark = pytest.mark.root

# A daemon that dies with two sandboxes: one that runs, one that was created and not started.
DIES = """
import asyncio, os, sys
from pathlib import Path
from supervisor.sandbox import SandboxHost, SandboxOptions, find_cell
from tests.unit.sandbox.harness import content, made, request

async def main():
    runtime = Path(sys.argv[1])
    options = SandboxOptions(state=runtime / "state", runtime=runtime, cell=find_cell())
    host = SandboxHost(options)
    host.open()
    for started in (True, False):
        sandbox = made(host, [], wanted=request("sh", "-c", "sleep 600 & sleep 600"))
        await sandbox.prepare(content)
        if started:
            await sandbox.start()
            await sandbox.ready()
    print(host.parent, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


@pytest.fixture
def runtime() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stockade-unit-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def options(runtime: Path) -> SandboxOptions:
    return SandboxOptions(state=runtime / "state", runtime=runtime, cell=find_cell())


@contextlib.contextmanager
def waiting(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that does nothing, with these arguments."""
    command = [sys.executable, "-c", "import time; time.sleep(600)", *arguments]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_a_killed_daemon_left_is_ended(runtime: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", DIES, runtime],
        cwd=ROOT,
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
    parent = dead.stdout.decode().strip()
    hierarchies = cgroup.detect()
    left = cgroup.children(hierarchies, parent)
    assert len(left) == 2
    assert any(cgroup.Cgroup(hierarchies, f"{parent}/{name}").populated() for name in left)

    async def main() -> None:
        host = SandboxHost(options(runtime))
        assert host.parent == parent
        assert len(traces(host)) > 4
        host.open()
        assert host.reaped == 2
        assert traces(host) == []
        assert host.reap() == []
        host.close()

    asyncio.run(main())
    assert cgroup.children(hierarchies, parent) == set()
    assert Footprint(folders=(runtime,), cgroup=parent).leftovers() == []


def test_a_daemon_that_dies_while_it_takes_over_leaves_word(runtime: Path) -> None:
    argv = [sys.executable, "-c", DIES, runtime]
    dead = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, timeout=60)
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()

    async def main() -> None:
        heir = SandboxHost(options(runtime))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(heir, "reap", mock.Mock(side_effect=HostError("NO", "killed")))
            with pytest.raises(HostError, match="killed"):
                heir.open()
        os.close(heir._lock)
        third = SandboxHost(options(runtime))
        third.open()
        lost = Lost(what="probe events", count=0, reason="FENCE_READ")
        assert third.leftover_events("any", [])[-1] == lost
        third.all_told()
        assert third.leftover_events("any", []) == ()
        third.close()

    asyncio.run(main())


def test_what_cannot_be_told_of_a_call_is_lost_and_keeps_no_daemon_from_starting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with sandbox_host() as host:
            host.all_told()
            unknown = Refused(hook=layout.HOOK_CONNECT, name="connect", detail="x")
            denial = Denial(refused=unknown, pid=1, program=b"", count="?")  # type: ignore[arg-type]
            host.leftovers["call-1"] = Told(denials=[denial])
            lost = Lost(what="probe events", count=0, reason="EVENT_MALFORMED")
            assert host.leftover_events("call-1", []) == (lost,)

    asyncio.run(main())
    assert "what call call-1 left cannot be told" in caplog.text


def test_a_second_daemon_on_one_state_is_refused() -> None:
    async def main() -> None:
        async with sandbox_host() as host:
            runtime = host.folder.parent
            with pytest.raises(AuditUnavailable) as caught:
                SandboxHost(options(runtime))
            assert caught.value.reason == "STATE_LOCKED"

    asyncio.run(main())


def test_two_daemons_leave_each_other_alone(runtime: Path) -> None:
    async def main() -> None:
        async with sandbox_host() as one:
            (one.hierarchies.unified / one.parent / "call").mkdir(parents=True)
            async with sandbox_host() as two:
                assert one.parent != two.parent
                assert two.reap() == []
            assert cgroup.children(one.hierarchies, one.parent) == {"call"}
            assert one.reap() == ["call"]

    asyncio.run(main())


def test_a_runtime_of_a_former_daemon_is_ended(runtime: Path) -> None:
    async def main() -> None:
        async with sandbox_host() as host:
            state = str(host.folder / "runc")
            with waiting("--root", state) as theirs, waiting(f"{state}-other") as other:
                host.reap()
                theirs.wait(30)
                assert other.poll() is None

    asyncio.run(main())


def test_a_runtime_is_had_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with sandbox_host() as host:
            assert host.runtime("runc").NAME == "runc"
            assert host.facts_for(replace(shipped(), runtime="runc")) == host.facts
            monkeypatch.setattr(host, "hierarchies", replace(host.hierarchies, pure=False))
            with pytest.raises(HostError) as caught:
                host.runtime("crun")
            assert caught.value.reason == "RUNTIME_NEEDS_CGROUP_V2"
            assert {name: one.standing for name, one in host.runtimes().items()} == {
                "runc": True, "crun": False,
            }  # fmt: skip
            monkeypatch.setattr(host, "hierarchies", replace(host.hierarchies, pure=True))
            monkeypatch.setattr(Crun, "__init__", _missing)
            with pytest.raises(HostError) as caught:
                host.runtime("crun")
            assert caught.value.reason == "PROGRAM_MISSING"

    asyncio.run(main())


def _missing(self: Crun, state: Path) -> None:
    raise HostError("PROGRAM_MISSING", "crun is not installed")


def test_what_crun_left_is_removed_without_crun() -> None:
    async def main() -> None:
        async with sandbox_host() as host:
            (host.folder / "crun/.cache").mkdir()
            (host.folder / "crun/call").mkdir()
            (host.folder / "crun/call/status").touch()
            host.reap()
            assert traces(host) == []

    asyncio.run(main())


def test_what_cannot_be_ended_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REAP_ROUNDS_MAX", 2)

    async def main() -> None:
        async with sandbox_host() as host:
            with monkeypatch.context() as patch:
                patch.setattr(host, "_alive", lambda names: True)
                with pytest.raises(HostError) as caught:
                    host.reap()
                assert caught.value.reason == "LEFTOVER_STAYS"

    asyncio.run(main())


def end_badly(runtime: Path, breaks: Callable[[SandboxHost], tuple[object, str]]) -> HostError:
    """Close a host of which one step fails; give the error. What is left is removed."""
    caught: list[HostError] = []

    async def main() -> None:
        host = SandboxHost(options(runtime))
        host.open()
        target, name = breaks(host)
        kept = getattr(target, name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, name, mock.Mock(side_effect=HostError("NO", f"no {name}")))
            with pytest.raises(HostError) as raised:
                host.close()
        caught.append(raised.value)
        kept()

    asyncio.run(main())
    return caught[0]


def test_an_unmount_that_fails_keeps_nothing_else_from_being_removed(runtime: Path) -> None:
    error = end_badly(runtime, lambda host: (host._bpf, "close"))
    assert (error.reason, "no close" in error.message) == ("STOP_INCOMPLETE", True)
    [folder] = [path for path in runtime.iterdir() if path.is_dir()]
    assert [path.name for path in folder.iterdir()] == ["lock"]
    left = Footprint(folders=(runtime,), cgroup=f"stockade/{folder.name}").leftovers()
    assert left == []
    again(runtime)


def test_who_cannot_be_ended_keeps_the_fence(runtime: Path) -> None:
    error = end_badly(runtime, lambda host: (host, "reap"))
    assert (error.reason, "no reap" in error.message) == ("STOP_INCOMPLETE", True)
    [folder] = [path for path in runtime.iterdir() if path.is_dir()]
    assert (folder / "bpf").is_mount()
    assert list((folder / "bpf").glob("v*/links/fence_connect4"))
    assert not (folder / "seccomp.sock").exists()
    again(runtime)


def again(runtime: Path) -> None:
    """The next daemon takes over what was left, and removes it."""

    async def main() -> None:
        host = SandboxHost(options(runtime))
        host.open()
        host.close()

    asyncio.run(main())
    assert [path.name for path in runtime.iterdir()] == ["uids.lock"]


def test_a_missing_init_is_named(runtime: Path) -> None:
    with pytest.raises(HostError) as caught:
        SandboxHost(
            SandboxOptions(state=runtime / "state", runtime=runtime, cell=runtime / "no-cell")
        )
    assert caught.value.reason == "CELL_MISSING"


@pytest.mark.parametrize(
    ("mode", "below", "reason"),
    [
        (0o700, "run", "FOLDER_CLOSED"),
        (0o733, "run", "FOLDER_NOT_OURS"),
        (0o711, "long" * 25, "RUNTIME_DIR_TOO_LONG"),
    ],
)
def test_a_place_that_does_not_do_is_named_and_left_as_it_was(
    runtime: Path, mode: int, below: str, reason: str
) -> None:
    runtime.chmod(mode)
    with pytest.raises(HostError) as caught:
        SandboxHost(options(runtime / below))
    assert caught.value.reason == reason
    assert list(runtime.iterdir()) == []


def test_a_place_where_nothing_can_be_made_is_named() -> None:
    place = options(Path("/proc/no-such"))
    for use in (SandboxHost, SandboxOptions.mount_pins):
        with pytest.raises(HostError) as caught:
            use(place)
        assert caught.value.reason == "RUNTIME_DIR_UNUSABLE"
        assert "/proc/no-such" in caught.value.message


def test_an_instance_is_named_after_its_state(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert instance_of(tmp_path / "link" / "state") == instance_of(tmp_path / "state")
    assert instance_of(tmp_path / "state") != instance_of(tmp_path / "other")
    assert len(instance_of(tmp_path)) == 12
    assert os.sep not in instance_of(tmp_path)
