"""grpc.health.v1, driven by the engine: NOT_SERVING as soon as a wall or the record is down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from grpc_health.v1 import _async as grpc_health_aio
from grpc_health.v1 import health_pb2

from supervisor.call.texts import brief
from supervisor.errors import NotFound

log = logging.getLogger("stockade.api")

POLL_S = 0.2
"""A lost fence is told within a second, of which its watch takes the rest (engine, FENCE_S)."""

STOPPING = "SHUTTING_DOWN"
"""The engine's word for a drain."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(grpc_health_aio.HealthServicer):  # type: ignore[misc] # grpc_health has no types
    """The health service: "" and each of `services` have the same answer.

    One daemon has one record and one set of walls, so one service cannot be fit alone.
    """

    def __init__(self, services: Iterable[str]) -> None:
        super().__init__()
        self._names = ("", *services)
        self._serving: bool | None = None  # nothing was said yet
        self._server_status = dict.fromkeys(self._names, NOT_SERVING)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the RPC's name
        """Tell how one service is.

        Raises:
            NotFound: `SERVICE_UNKNOWN`.
        """
        if request.service not in self._names:
            raise NotFound("SERVICE_UNKNOWN", f"there is no service {brief(request.service)!r}")
        return await super().Check(request, context)

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802 - the RPC's name
        """Tell how each service is."""
        return health_pb2.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=self._server_status[name])
                for name in self._names
            }
        )

    async def follow(self, problems: Callable[[], tuple[str, ...]]) -> None:
        """Keep the answer in step with `problems`, until cancelled."""
        while True:
            await self.update(problems())
            await asyncio.sleep(POLL_S)

    async def update(self, problems: tuple[str, ...]) -> None:
        """Answer SERVING where there are no problems."""
        serving = not problems
        if serving == self._serving:
            return
        self._serving = serving
        if serving:
            log.info("health: SERVING")
        else:
            # A stop that was asked for is no error.
            level = logging.INFO if set(problems) <= {STOPPING} else logging.ERROR
            log.log(level, "health: NOT_SERVING: %s", "; ".join(problems))
        for name in self._names:
            await self.set(name, SERVING if serving else NOT_SERVING)
