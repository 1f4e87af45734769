"""One live call: the order of its steps, and every way in which it can end."""

from __future__ import annotations

import asyncio
from pathlib import Path

from .harness import kinds, running


def test_a_call_from_intent_to_outcome(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            events = await world.run(b"hello")
            assert kinds(events) == ["Accepted", "Started", "Output", "Finished"]

    asyncio.run(scenario())
