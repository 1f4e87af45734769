"""Sinks in memory: one that takes all that it gets, one that takes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from supervisor.api.config import Configuration
from supervisor.api.sinks import Reloaded
from supervisor.export.channel import ChannelClosed
from supervisor.export.exporter import Lag, SinkState
from supervisor.export.letters import Letter

FAILING_SINCE = 1_700_000_100.0
ACKNOWLEDGED_AT = 1_700_000_050.5


def letter(index: int, why: str = "it is too large") -> Letter:
    """Give a dead letter of an entry."""
    return Letter(index=index, uid=f"{index}-ab-0", why=why, time_ns=1_700_000_000_000_000_000)


class FakeExporter:
    """`siem` has acknowledged 400 entries and acknowledges each at once, `lake` fails at 100. What
    is sent again is refused where `refuses` has its entry."""

    def __init__(self) -> None:
        said = {"events": 450, "retries": 2}
        failing = {"failing_since": FAILING_SINCE, "why": "the door is shut\n", "failures": 3}
        self._states = {
            "siem": SinkState(
                name="siem",
                kind="syslog",
                format="ocsf",
                index=400,
                running=True,
                said=said,
                acknowledged_at=ACKNOWLEDGED_AT,
            ),
            "lake": SinkState(
                name="lake", kind="s3", format="ocsf-1.1", index=100, running=True, said=failing
            ),
        }
        self.dead: dict[str, list[Letter]] = {"siem": [], "lake": []}
        self.refuses: dict[int, str] = {}
        self.done: list[tuple[object, ...]] = []
        self.broken: Exception | None = None
        self.waits: set[str] = {"lake"}
        self.moved = asyncio.Event()

    @property
    def states(self) -> Sequence[SinkState]:
        return list(self._states.values())

    def state(self, name: str) -> SinkState:
        return self._states[name]

    def remove(self, name: str) -> None:
        del self._states[name]
        self.moved.set()

    def durable(self) -> int:
        return 1000

    async def lag(self, name: str) -> Lag:
        entries = 1000 - self._states[name].index
        return Lag(entries, entries * 300, 1.5)

    async def replay(self, name: str, index: int) -> None:
        if self.broken is not None:
            raise self.broken
        self._states[name].replaying_from = index
        self.done.append(("replay", name, index))

    def letters(self, name: str) -> list[Letter]:
        if self.broken is not None:
            raise self.broken
        return list(self.dead[name])

    async def redeliver(
        self, name: str, uids: Sequence[str] | None = None
    ) -> Sequence[tuple[Letter, str]]:
        if not self._states[name].running:
            raise ChannelClosed("it ended")
        self.done.append(("redeliver", name, tuple(uids or ())))
        chosen = self._taken(name, uids)
        found = [(one, self.refuses.get(one.index, "")) for one in chosen]
        self.dead[name] += [replace(one, why=why) for one, why in found if why]
        return found

    async def discard(self, name: str, uids: Sequence[str] | None = None) -> int:
        self.done.append(("discard", name, tuple(uids or ())))
        return len(self._taken(name, uids))

    def _taken(self, name: str, uids: Sequence[str] | None) -> list[Letter]:
        waiting = {one.uid: one for one in self.dead[name]}
        chosen = list(waiting.values()) if uids is None else [waiting[uid] for uid in uids]
        self.dead[name] = [one for one in self.dead[name] if one not in chosen]
        return chosen

    async def wait_acknowledged(self, name: str, index: int) -> None:
        while name in self.waits or name not in self._states:
            self._states[name]  # raises
            await self.moved.wait()
            self.moved.clear()


class FakeSinks:
    """What the configuration has of them; `failure` is why it cannot be read again."""

    def __init__(self, config: Configuration) -> None:
        self.config = config
        self.exporter = FakeExporter()
        self.failure: Exception | None = None
        self.reloaded = 0

    async def reload(self) -> Reloaded:
        if self.failure is not None:
            raise self.failure
        self.reloaded += 1
        return Reloaded(added=("new",), changed=("lake",), unchanged=("siem",), ignored=("limits",))
