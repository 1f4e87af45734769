"""Connections of a broker in this process: what was asked for is said by the test, and every place
is the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import pytest

from supervisor.call.events import Denied, Flow
from supervisor.egress import dial as dial_module
from supervisor.egress.connection import Connection, Wiring, budget_denial
from supervisor.egress.control import Secret
from supervisor.egress.flows import FlowLog
from supervisor.egress.origins import Origin, Peer
from supervisor.egress.plan import Names, Plan
from supervisor.egress.relay import Budget, Relays
from supervisor.egress.resolver import Answer
from supervisor.profile.model import EgressRule
from tests.unit.egress.pairs import tcp_pair, until

HOME = "127.0.0.1"


class Rig:
    """What connections of a test share, and what was told of them."""

    def __init__(self, *rules: EgressRule, budget: int, secrets: tuple[Secret, ...]) -> None:
        self.told: list[Any] = []
        self.origin: Origin | None = None
        self.resolved: list[str] = []
        plan = Plan.of(rules)
        self.names = Names(plan)
        self.budget = Budget(budget)
        self.relays = Relays(self.budget, self._over)
        self.log = FlowLog(self.told.append)
        self.wiring = Wiring(
            plan=plan, names=self.names, origins=self, resolver=self, relays=self.relays,
            log=self.log, budget=self.budget, secrets=secrets,
        )  # fmt: skip
        self.open: list[Connection] = []
        self.failed: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.failed.append(context))

    def of(self, peer: Peer) -> Origin | None:
        return self.origin

    async def resolve(self, name: str) -> Answer:
        self.resolved.append(name)
        return Answer(addresses=(ip_address(HOME),), canonical=name)

    def _over(self) -> None:
        self.log.denied(budget_denial(self.budget))

    def asks(self, place: str, port: int) -> None:
        """Say what the next connection had asked for: a name of the rules, or an address."""
        with contextlib.suppress(ValueError):
            address = ip_address(place)
            self.origin = Origin(address=address, port=port, pid=42, program=b"curl", time_ns=1)
            return
        taken = self.names.take(place)
        assert taken is not None
        self.origin = Origin(address=taken[0], port=port, pid=42, program=b"curl", time_ns=1)

    def connect(self) -> socket.socket:
        """Come in at the door; give the client's end."""
        client, ours = tcp_pair()
        peer = client.getsockname()
        self.open.append(Connection(self.wiring, ours, peer, self.open.remove))
        return client

    @property
    def flows(self) -> list[Flow]:
        return [one for one in self.told if isinstance(one, Flow)]

    @property
    def denials(self) -> list[Denied]:
        return [one for one in self.told if isinstance(one, Denied)]

    async def flow(self) -> Flow:
        """Give the one flow, once it has ended."""
        await until(lambda: self.flows)
        assert self.failed == []
        (flow,) = self.flows
        return flow

    async def close(self) -> None:
        tasks = [one.task for one in self.open]
        for one in list(self.open):
            one.stop()
        if tasks:
            await asyncio.wait(tasks)
        self.relays.close()
        self.log.flush()
        assert self.open == []


def wired(
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[Rig, socket.socket], Awaitable[None]],
    make: Callable[[int], tuple[EgressRule, ...]],
    *,
    budget: int = 1 << 40,
    secrets: tuple[Secret, ...] = (),
) -> None:
    """Run a scenario with a server that listens; `make` gives the rules for its port."""
    monkeypatch.setattr(
        dial_module, "refusal", lambda address, _: "" if str(address) == HOME else "no"
    )

    async def main() -> None:
        with socket.create_server((HOME, 0)) as server:
            server.setblocking(False)
            rig = Rig(*make(server.getsockname()[1]), budget=budget, secrets=secrets)
            try:
                await scenario(rig, server)
            finally:
                await rig.close()

    asyncio.run(main())


async def accepted(server: socket.socket) -> socket.socket:
    """Wait for what is dialled."""
    async with asyncio.timeout(20):
        far, _ = await asyncio.get_running_loop().sock_accept(server)
    return far
