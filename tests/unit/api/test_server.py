"""The server as a whole: every RPC answers an error with a reason, health, drain, doors."""

from __future__ import annotations

from pathlib import Path

import grpc

from tests.unit.api.fakes import Client, connected, execute_request, refused, run, running


def test_a_call_from_end_to_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            events = await client.execute(b"echo", b"hello")
            assert [event.WhichOneof("event") for event in events] == [
                "accepted", "started", "output", "finished",
            ]  # fmt: skip
            assert events[2].output.data == b"hello\n"

    run(main())
