"""Health follows the engine, for every service by name, and stays down after a drain."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from supervisor.api.server import SERVICES
from tests.unit.api.fakes import FakeEngine
from tests.unit.api.harness import Client, connected, refused, run

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def check(client: Client, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(client.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_it_flips_and_comes_back(service: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            stub = health_pb2_grpc.HealthStub(client.channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=service))
            assert (await watch.read()).status == SERVING
            running.engine.health_problems = ("JOURNAL_UNAVAILABLE: the disk is full",)
            assert (await watch.read()).status == NOT_SERVING
            assert await check(client, service) == NOT_SERVING
            value = running.metrics.registry.get_sample_value
            labels = {"problem": "JOURNAL_UNAVAILABLE"}
            assert value("stockade_health_problem", labels) == 1
            assert value("stockade_healthy") == 0
            running.engine.health_problems = ()
            assert (await watch.read()).status == SERVING
            assert value("stockade_health_problem", labels) is None
            assert value("stockade_healthy") == 1

    run(main())


def test_it_is_right_from_the_first_answer_on(tmp_path: Path) -> None:
    async def main() -> None:
        engine = FakeEngine()
        engine.health_problems = ("no wall",)
        async with connected(tmp_path, engine=engine) as (_, client):
            assert await check(client) == NOT_SERVING

    run(main())


def test_an_engine_that_cannot_say_is_not_healthy(tmp_path: Path) -> None:
    class Silent(FakeEngine):
        @property
        def healthy(self) -> bool:
            raise RuntimeError

    async def main() -> None:
        async with connected(tmp_path, engine=Silent()) as (_, client):
            assert await check(client) == NOT_SERVING

    run(main())


def test_a_drain_is_not_serving(tmp_path: Path) -> None:
    async def main() -> None:
        engine = FakeEngine()
        async with connected(tmp_path, engine=engine) as (running, client):
            seen: list[int] = []

            async def drain(grace_s: float) -> None:
                seen.append(await check(client))
                await asyncio.sleep(0.6)  # the engine is healthy meanwhile
                seen.append(await check(client))

            engine.drain = drain  # type: ignore[method-assign]
            await running.server.stop()
            assert seen == [NOT_SERVING, NOT_SERVING]

    run(main())


def test_all_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            stub = health_pb2_grpc.HealthStub(client.channel)
            answer = await stub.List(health_pb2.HealthListRequest())
            assert {name: found.status for name, found in answer.statuses.items()} == dict.fromkeys(
                ("", *SERVICES), SERVING
            )

    run(main())


def test_a_service_that_there_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            stub = health_pb2_grpc.HealthStub(client.channel)
            found = await refused(stub.Check(health_pb2.HealthCheckRequest(service="x")))
            assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "SERVICE_UNKNOWN")

    run(main())
