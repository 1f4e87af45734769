"""Links for callers, and what says that there are none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from supervisor.api import callers
from supervisor.api.callers import Grants, Identity
from supervisor.api.console import Console
from supervisor.api.console_service import ConsoleService
from supervisor.call.types import Caller
from supervisor.errors import CallStateError, InvalidRequest
from supervisor.v1 import console_pb2, console_pb2_grpc
from tests.unit.api.harness import connected, refused, run

ABROAD = Identity(
    caller=Caller(name="ci", transport="tls", certificate_name="ci"),
    grants=Grants(caller="ci", profiles=frozenset(), calls="own", audit="own"),
)


def test_there_is_none_where_it_is_off(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            stub: Any = console_pb2_grpc.ConsoleServiceStub(client.channel)
            for ask, request in (
                (stub.OpenSession, console_pb2.OpenSessionRequest()),
                (stub.GetSession, console_pb2.GetSessionRequest()),
            ):
                assert (await refused(ask(request))).reason == "CONSOLE_OFF"

    run(main())


def test_who_comes_from_another_host_says_whose_browser_it_is() -> None:
    async def main() -> None:
        callers.enter(ABROAD)
        service = ConsoleService(
            Console("127.0.0.1:0", lambda *_: ABROAD), entries=cast("Any", None)
        )
        with pytest.raises(InvalidRequest) as caught:
            await service.OpenSession(console_pb2.OpenSessionRequest(), cast("Any", None))
        assert caught.value.reason == "USER_MISSING"

    asyncio.run(main())


def test_the_error_says_what_to_write() -> None:
    with pytest.raises(CallStateError) as caught:
        ConsoleService(None, cast("Any", None))._on()
    assert "console: {listen: 127.0.0.1:7480}" in caught.value.hint
