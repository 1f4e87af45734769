"""What a tool is pointed at: found by the files of a daemon that runs, and of a call that lives."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.bpf.guests import ONE_CALL
from supervisor.errors import HostError, InvalidRequest, NotFound, Unreachable
from supervisor.linux import cgroup
from supervisor.sandbox import SandboxHost
from supervisor.sandbox.tracing import RunningDaemon, Scope, daemons, scope_of
from tests.unit.bpf.test_guests import ids_in
from tests.unit.sandbox.harness import sandbox_host

pytestmark = pytest.mark.root


def with_host(scenario: Callable[[SandboxHost], None]) -> None:
    async def main() -> None:
        async with sandbox_host() as host:
            scenario(host)

    asyncio.run(main())


def test_a_daemon_is_found_while_it_runs() -> None:
    found: list[Path] = []

    def scenario(host: SandboxHost) -> None:
        runtime = host.folder.parent
        found.append(runtime)
        [daemon] = daemons(runtime)
        assert daemon.pid == os.getpid()
        assert daemon.live.exists()
        assert daemon.calls == host.hierarchies.unified / host.parent
        assert daemons(runtime, runtime / "state") == [daemon]
        assert daemons(runtime, runtime / "other") == []
        assert scope_of(None, runtime) == Scope(daemon=daemon)
        # One that was killed leaves all of its files, and no lock.
        left = runtime / "left"
        (left / "bpf").mkdir(parents=True)
        (left / "bpf" / "live").touch()
        (left / "lock").touch()
        assert daemons(runtime) == [daemon]
        shutil.rmtree(left)

    with_host(scenario)
    with pytest.raises(Unreachable) as caught:
        scope_of(None, found[0])
    assert caught.value.reason == "DAEMON_NOT_RUNNING"


def test_a_daemon_whose_map_is_gone_still_runs() -> None:
    def scenario(host: SandboxHost) -> None:
        runtime = host.folder.parent
        [daemon] = daemons(runtime)
        daemon.live.unlink()
        assert daemons(runtime) == [daemon]
        with pytest.raises(HostError) as caught:
            scope_of(None, runtime)
        assert caught.value.reason == "MAP_MISSING"
        assert str(daemon.live) in caught.value.message

    with_host(scenario)


def test_a_call_is_its_cgroup() -> None:
    def scenario(host: SandboxHost) -> None:
        runtime = host.folder.parent
        call = host.cgroup("call")
        number = call.make()
        scope = scope_of("call", runtime)
        assert (scope.folder, scope.cgroup_id) == (call.unified, number)
        assert scope.lives()
        with scope.pinned() as path:
            assert path.parent.parent == scope.daemon.pins
            assert ids_in(path) == {number}
        assert list(scope.daemon.pins.glob(f"{ONE_CALL}*")) == []
        with scope_of(None, runtime).pinned() as path:
            assert path == scope.daemon.live
        call.unified.rmdir()
        assert not scope.lives()
        assert not replace(scope, folder=call.unified.parent).lives()

    with_host(scenario)


@pytest.mark.parametrize("call_id", ["no-such", "", ".", "..", "../..", "a/b"])
def test_what_is_no_live_call(call_id: str) -> None:
    def scenario(host: SandboxHost) -> None:
        with pytest.raises(NotFound) as caught:
            scope_of(call_id, host.folder.parent)
        assert caught.value.reason == "CALL_NOT_LIVE"

    with_host(scenario)


def test_all_calls_of_which_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    two = [RunningDaemon(pid=pid, pins=tmp_path, calls=tmp_path) for pid in (1, 2)]
    monkeypatch.setattr("supervisor.sandbox.tracing.daemons", lambda *_: two)
    with pytest.raises(InvalidRequest) as caught:
        scope_of(None, tmp_path)
    assert caught.value.reason == "DAEMON_AMBIGUOUS"


def test_a_path_that_would_end_the_string_in_which_bcc_puts_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    odd = RunningDaemon(pid=1, pins=tmp_path / 'a"b', calls=tmp_path)
    monkeypatch.setattr("supervisor.sandbox.tracing.daemons", lambda *_: [odd])
    with pytest.raises(InvalidRequest) as caught:
        scope_of(None, tmp_path)
    assert caught.value.reason == "PATH_UNUSABLE"


def test_a_map_that_cannot_be_pinned(tmp_path: Path) -> None:
    daemon = RunningDaemon(pid=1, pins=tmp_path, calls=cgroup.detect().unified)
    scope = Scope(daemon=daemon, folder=daemon.calls, cgroup_id=1)
    with pytest.raises(HostError) as caught, scope.pinned():
        pass
    assert caught.value.reason == "MAP_UNPINNABLE"
