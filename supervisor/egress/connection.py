"""One connection of a sandbox, from the door to its end.

What it had asked for decides: without an origin, a name and a rule it is reset. Where a rule has it
inspected, its first bytes pass a gate before anything is dialled, and bytes move through the gate
(`passage`) for as long as it must see them; from then on, or at once, `relay` moves them. Each ends
as exactly one `Flow`, and a denial is told besides.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from supervisor.call.events import Denied, Flow, Verdict, Wall
from supervisor.egress import actions
from supervisor.egress.control import LIMIT_NAME, Secret
from supervisor.egress.dial import DialFailed, DialRefused, Resolves, dial
from supervisor.egress.flows import FlowLog
from supervisor.egress.gates import Gate, make_gate
from supervisor.egress.origins import Origin, Peer
from supervisor.egress.passage import Ended, Passage
from supervisor.egress.plan import Names, Plan
from supervisor.egress.relay import (
    Budget,
    End,
    Relay,
    Relays,
    close_in_order,
    keep_near,
    keep_small,
)
from supervisor.egress.terminate import Terminator
from supervisor.profile.addresses import SYNTHETIC4, SYNTHETIC6, Address
from supervisor.profile.model import EgressRule, Inspect

FLOWS_LARGE = 32
"""How many flows of a call have buffers towards the far side that grow as the kernel likes, to some
megabytes each: that is memory which no call is charged for. Those beyond are slower over long
ways."""

NO_ORIGIN = "straight to the broker's door, or closed before it was looked at"
BUDGET_RULE = "limits.egress"

_NAMES = {
    Inspect.TLS: "tls",
    Inspect.TERMINATE: "tls",
    Inspect.HTTP: "http",
    Inspect.NONE: "connect",
}
"""What a denial is called that a gate gives no name."""


class Looks(Protocol):
    """Who knows what a connection had asked for: `origins.Origins`."""

    def of(self, peer: Peer) -> Origin | None:
        """Give what the connection from `peer` had asked for."""


@dataclass(slots=True, kw_only=True)
class Wiring:
    """What all connections of a call share."""

    plan: Plan
    names: Names
    origins: Looks
    resolver: Resolves
    relays: Relays
    log: FlowLog
    budget: Budget
    secrets: tuple[Secret, ...] = ()
    terminator: Terminator | None = None
    flows: int = 0


@dataclass(slots=True)
class _Told:
    """What the flow's entry will say."""

    name: str = ""
    address: str = ""
    port: int = 0
    rule: str = ""
    sent: int = 0
    received: int = 0
    started_ns: int = field(default_factory=time.time_ns)
    started: float = field(default_factory=time.monotonic)
    pid: int = 0
    program: bytes = b""

    @property
    def place(self) -> str:
        """Write the place as people do."""
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class Connection:
    """One accepted connection; `gone` is called once, when it has ended and was told."""

    def __init__(
        self,
        wiring: Wiring,
        client: socket.socket,
        peer: Peer,
        gone: Callable[[Connection], None],
    ) -> None:
        self._wiring = wiring
        self._client = client
        self._small = wiring.flows >= FLOWS_LARGE
        wiring.flows += 1
        keep_near(client)
        if self._small:
            keep_small(client)
        self._gone = gone
        self._server: socket.socket | None = None
        self._relay: Relay | None = None
        self._told = _Told()
        self._ended = False
        self._stopped = Verdict.STOPPED, ""
        # Looked up before anything else can happen: the row goes with the client's socket.
        self._origin = wiring.origins.of(peer)
        if (origin := self._origin) is not None:
            told = self._told
            told.pid, told.program, told.port = origin.pid, origin.program, origin.port
            told.name = wiring.names.name_of(origin.address) or str(origin.address)
        self.task = asyncio.get_running_loop().create_task(self._serve())
        self.task.add_done_callback(self._served)

    def stop(self, verdict: Verdict = Verdict.STOPPED, reason: str = "") -> None:
        """End it at once."""
        if self._relay is not None:
            self._relay.end(verdict, reason)
            return
        # Its sockets are closed when the task is done: the event loop still looks at them.
        self._stopped = verdict, reason
        self.task.cancel()

    async def _serve(self) -> None:
        try:
            await self._pass()
        except Ended as end:
            self._end(end.verdict, end.reason)
        except OSError as error:
            # Of either socket; a deadline has no text of its own.
            self._end(Verdict.RESET, error.strerror or "nothing moved for too long")

    def _served(self, task: asyncio.Task[None]) -> None:
        """Close what is not relayed; an error that nobody expected ends the broker."""
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler({"exception": error})
        if self._relay is None:
            self._end(*self._stopped)

    async def _pass(self) -> None:
        place, rule = self._decide()
        wiring, told = self._wiring, self._told
        sealed = wiring.plan.has_tls(place)
        gate = make_gate(
            rule, told.name, told.port, wiring.secrets, wiring.terminator, sealed=sealed
        )
        if self._wiring.budget.left <= 0:
            raise Ended(Verdict.BUDGET)
        if gate is None:
            server = await self._dial(place, rule)
        else:
            server = await self._inspect(gate, place, rule)
        self._relay = self._wiring.relays.start(self._client, server, self._relayed)

    async def _inspect(self, gate: Gate, place: str | Address, rule: EgressRule) -> socket.socket:
        def denied(action: actions.Denied) -> None:
            self._deny(action.name, action.reason)

        async def connect() -> socket.socket:
            return await self._dial(place, rule)

        inspect = rule.inspect_at(self._told.port)
        passage = Passage(
            gate,
            self._client,
            self._wiring.relays,
            connect,
            denied,
            name=_NAMES[inspect],
            at_once=inspect is Inspect.NONE,
        )
        try:
            return await passage.run()
        finally:
            self._told.sent, self._told.received = passage.sent, passage.received

    def _decide(self) -> tuple[str | Address, EgressRule]:
        origin, told = self._origin, self._told
        if origin is None:
            raise self._denied("connect", NO_ORIGIN)
        place: str | Address = origin.address
        if origin.address in SYNTHETIC4 or origin.address in SYNTHETIC6:
            place = self._wiring.names.name_of(origin.address)
            if not place:
                raise self._denied("connect", "no name has this address")
        rule = self._wiring.plan.decide(place, origin.port)
        if rule is None:
            raise self._denied("connect", "")
        told.rule = rule.name
        return place, rule

    async def _dial(self, place: str | Address, rule: EgressRule) -> socket.socket:
        try:
            self._server, self._told.address = await dial(
                self._wiring.resolver, place, self._told.port, rule
            )
        except DialRefused as error:
            raise self._denied("dial", str(error)) from None
        except DialFailed as error:
            self._told.address = error.address
            raise Ended(Verdict.FAILED, str(error)) from None
        if self._small:
            keep_small(self._server)
        if self._wiring.budget.left <= 0:
            raise Ended(Verdict.BUDGET)
        return self._server

    def _denied(self, name: str, reason: str) -> Ended:
        self._deny(name, reason)
        return Ended(Verdict.DENIED, reason)

    def _deny(self, name: str, reason: str) -> None:
        told = self._told
        place = told.place if told.name else "the door"
        self._wiring.log.denied(
            Denied(
                wall=Wall.NETWORK,
                name=name,
                detail=f"{place} {reason}".strip(),
                rule=f"egress: {told.rule}" if told.rule else f"egress: no rule for {place}",
                pid=told.pid,
                program=told.program,
            )
        )

    def _relayed(self, end: End) -> None:
        self._told.sent += end.sent
        self._told.received += end.received
        self._tell(end.verdict, end.reason)

    def _end(self, verdict: Verdict, reason: str = "") -> None:
        if self._ended:
            return
        close = close_in_order if verdict is Verdict.CLOSED else socket.socket.close
        for one in (self._client, self._server):
            if one is not None:
                close(one)
        self._tell(verdict, reason)

    def _tell(self, verdict: Verdict, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        self._wiring.flows -= 1
        told = self._told
        self._wiring.log.flow(
            Flow(
                name=told.name,
                address=told.address,
                port=told.port,
                rule=told.rule,
                verdict=verdict,
                reason=reason,
                sent=told.sent,
                received=told.received,
                started_ns=told.started_ns,
                duration_s=time.monotonic() - told.started,
                pid=told.pid,
                program=told.program,
            )
        )
        self._gone(self)


def budget_denial(budget: Budget) -> Denied:
    """Give what is told once, when a call has used up its budget and would move more."""
    return Denied(
        wall=Wall.LIMIT,
        name=LIMIT_NAME,
        used=budget.allowed - budget.left,
        allowed=budget.allowed,
        rule=BUDGET_RULE,
    )
