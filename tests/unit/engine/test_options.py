"""What the engine is told, and whom it tells."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from supervisor.call.events import Denied, Lost, Timeline, Wall, Watched
from supervisor.engine.options import EngineObserver, EngineOptions, NoObserver
from supervisor.errors import CapacityError, NotFound
from supervisor.sandbox import ProgramEnd
from tests.support.records import FLOW

from .harness import EXIT_0, FakeSandbox, running


def test_defaults_have_a_limit_for_everything() -> None:
    options = EngineOptions()
    for name in EngineOptions.__slots__:
        assert 0 < getattr(options, name) < float("inf"), name


def test_nobody_can_be_told() -> None:
    nobody: EngineObserver = NoObserver()
    assert nobody.call_closed("p", "exited", Timeline()) is None  # type: ignore[func-returns-value]
    for method in ("call_rejected", "denied", "watched", "flow", "live_calls", "lost", "orphans",
                   "call_admitted"):  # fmt: skip
        assert callable(getattr(nobody, method))


def test_the_observer_is_told(tmp_path: Path) -> None:
    async def try_mount(sandbox: FakeSandbox) -> ProgramEnd:
        sandbox.tell(Denied(wall=Wall.SYSCALL, name="mount", count=3))
        sandbox.tell(Watched(name="getppid", count=5))
        sandbox.tell(FLOW)
        sandbox.tell(Lost(what="exec", count=2, reason="RING_FULL"))
        return EXIT_0

    async def scenario() -> None:
        async with running(tmp_path, calls_max=1) as world:
            world.host.programs[b"try-mount"] = try_mount
            await world.run(b"try-mount")
            with pytest.raises(NotFound):
                await world.submit(profile="missing")
            await world.submit(b"hang")
            with pytest.raises(CapacityError):
                await world.submit()
            figures = world.figures
            assert figures.denials == [("syscall", "mount", 3)]
            assert figures.made == [("getppid", 5)]
            assert figures.flows == [("reset", FLOW.sent, FLOW.received)]
            assert figures.losses == [("exec", "RING_FULL", 2)]
            assert figures.ended_orphans == [("sandbox", 3)]
            assert len(figures.admitted) == 2
            assert all(policy_s >= 0 < record_s for policy_s, record_s in figures.admitted)
            assert figures.rejected == ["PROFILE_NOT_FOUND", "CALLS_LIMIT"]
            assert figures.live == [1, 0, 1]
            [(profile, outcome, timeline)] = figures.closed
            assert (profile, outcome) == ("python", "exited")
            phases = [
                timeline.accepted_ns, timeline.preparing_ns, timeline.armed_ns,
                timeline.started_ns, timeline.ended_ns, timeline.destroyed_ns,
            ]  # fmt: skip
            assert all(phases)
            assert phases[1:] == sorted(phases[1:])

    asyncio.run(scenario())
