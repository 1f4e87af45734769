"""A call's broker: what runs in the confined child, from its first word to its last.

It is told its policy in a memfd, tells the daemon what happens over a socket (`control`), and ends
when it is asked to, when the daemon has gone, or at the first error that nobody expected: the
kernel then resets all that it had open.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import resource
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from supervisor.call.events import Verdict
from supervisor.egress import connection, dns, relay
from supervisor.egress.confine import flows_of
from supervisor.egress.connection import Connection, Wiring
from supervisor.egress.control import (
    MESSAGE_BYTES_MAX,
    POLICY_BYTES_MAX,
    Done,
    NameTaken,
    Policy,
    Ready,
    decode_policy,
    decode_request,
)
from supervisor.egress.door import Door
from supervisor.egress.flows import FlowLog
from supervisor.egress.origins import Origins, Peer
from supervisor.egress.outbox import Outbox
from supervisor.egress.plan import Names, Plan
from supervisor.egress.relay import Budget, Relays
from supervisor.egress.resolver import Resolver, host_nameservers
from supervisor.egress.terminate import Terminator
from supervisor.linux.bpfmap import lookup

DRAIN_S = 0.5
"""For flows to end by themselves after the program, whose side of them is closed by then."""

FLUSH_S = 8.0
"""For the last messages to be taken by the daemon; it waits a little longer (`client.FINISH_S`)."""

OK, BROKEN, ALONE = 0, 1, 2
"""How the child ends: asked to, by an error, without a daemon."""


class DaemonGone(Exception):
    """The other end of the control socket is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The descriptors of a child, by what they are."""

    control: socket.socket
    policy: Policy
    origins_fd: int
    tcp: Sequence[socket.socket]
    dns_udp: Sequence[socket.socket]
    dns_tcp: Sequence[socket.socket]
    terminator: Terminator | None


def preload() -> None:
    """Load what is else loaded on first use: a confined child can open no file."""
    for codec in ("idna", "latin-1", "ascii", "utf-8"):
        codecs.lookup(codec)


def run(given: Given) -> int:
    """Be a broker; give the exit code."""
    return asyncio.run(_run(given))


def prepare(first_fd: int, count: int) -> Given:
    """Take `count` descriptors from `first_fd` on for what they are, while there are files.

    Raises:
        ControlError, OSError, ValueError: the daemon gave what it should not.
    """
    control = socket.socket(fileno=first_fd)
    with open(first_fd + 1, "rb") as memfd:  # noqa: PTH123 (no path)
        policy = decode_policy(memfd.read(POLICY_BYTES_MAX + 1))
    listening = policy.listening
    listeners = [socket.socket(fileno=fd) for fd in range(first_fd + 3, first_fd + count)]
    if len(listeners) != listening.tcp + listening.dns_udp + listening.dns_tcp:
        raise ValueError(f"{len(listeners)} listeners, where the policy says {listening}")
    udp_end = listening.tcp + listening.dns_udp
    if not policy.resolvers:
        policy = replace(policy, resolvers=host_nameservers())
    return Given(
        control=control,
        policy=policy,
        origins_fd=first_fd + 2,
        tcp=listeners[: listening.tcp],
        dns_udp=listeners[listening.tcp : udp_end],
        dns_tcp=listeners[udp_end:],
        terminator=_terminator(policy),
    )


def _terminator(policy: Policy) -> Terminator | None:
    if policy.authority is None:
        return None
    return Terminator(policy.authority, policy.authorities)


async def _run(given: Given) -> int:
    broker = CallBroker(given)
    try:
        await broker.serve()
    except DaemonGone:
        return ALONE
    except Exception as error:  # noqa: BLE001 (whatever it is: it is said, and nothing goes on)
        broker.outbox.last_word(f"{type(error).__name__}: {error}"[:1000])
        return BROKEN
    return OK


class CallBroker:
    """All of one call's egress."""

    def __init__(self, given: Given) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._unexpected)
        self._end: asyncio.Future[bool] = self._loop.create_future()
        self._none_left = asyncio.Event()
        self._control = given.control
        self._control.setblocking(False)
        self.outbox = Outbox(self._control, self._room_again)
        policy = given.policy
        plan = Plan.of(policy.rules)
        self._budget = Budget(policy.egress_bytes)
        self._log = FlowLog(self.outbox.send)
        self._relays = Relays(self._budget, self._over_budget)
        self._connections: set[Connection] = set()
        self._flows_max = min(
            policy.flows_max, flows_of(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        )
        if self._flows_max < 1:
            raise ValueError("no descriptors for even one flow")
        names = Names(plan)
        self._resolver = Resolver(policy.resolvers)
        self._wiring = Wiring(
            plan=plan,
            names=names,
            origins=Origins(policy.call, given.origins_fd, lookup),
            resolver=self._resolver,
            secrets=policy.secrets,
            terminator=given.terminator,
            relays=self._relays,
            log=self._log,
            budget=self._budget,
        )
        self._door = Door(given.tcp, self._accepted, self._room)
        answerer = dns.Answerer(names, tell=self._log.denied, taken=self._taken)
        self._names = dns.Server(answerer, udp=given.dns_udp, tcp=given.dns_tcp)

    async def serve(self) -> None:
        """Serve until the daemon asks for the end; all is told then.

        Raises:
            DaemonGone: it asks for nothing any more.
        """
        self._loop.add_reader(self._control.fileno(), self._asked)
        self._door.look()
        self._names.start()
        self.outbox.send(Ready())
        drain = await self._end
        if drain:
            await self._drained()
        self._door.close()
        self._names.close()
        ending = [one.task for one in self._connections]
        for one in list(self._connections):
            one.stop()
        if ending:
            await asyncio.wait(ending)
        self._relays.close()
        self._resolver.close()
        self._log.flush()
        self.outbox.send(Done())
        try:
            async with asyncio.timeout(FLUSH_S):
                await self.outbox.empty()
        except TimeoutError:
            # Without our `Done` it tells that flows are lost: no reason to fail a call that is
            # over.
            raise DaemonGone from None

    async def _drained(self) -> None:
        """Let flows end by themselves for a moment: what a program sent just before it ended is
        still to arrive, as it would without us."""
        # Whoever connected last may still wait to be accepted: that takes the loop a turn or two.
        self._door.look()
        for _ in range(2):
            await asyncio.sleep(0)
        self._none_left.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await self._none_left.wait()

    def _asked(self) -> None:
        try:
            data = self._control.recv(MESSAGE_BYTES_MAX)
            if not data:
                raise DaemonGone
            drain = decode_request(data).drain
        except BlockingIOError:
            return
        except Exception as error:  # noqa: BLE001 (raised again in `serve`)
            self._break(error)
            return
        if not self._end.done():
            self._end.set_result(drain)

    def _unexpected(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An error in a callback or a task: it ends the broker."""
        self._break(context.get("exception") or RuntimeError(str(context.get("message"))))

    def _break(self, error: BaseException) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    def _room(self) -> bool:
        return len(self._connections) < self._flows_max and not self.outbox.much

    def _room_again(self) -> None:
        self._door.look()

    def _accepted(self, client: socket.socket, peer: Peer) -> None:
        relay.prepare(client)
        self._connections.add(Connection(self._wiring, client, peer, self._gone))

    def _gone(self, one: Connection) -> None:
        self._connections.discard(one)
        if not self._connections:
            self._none_left.set()
        self._door.look()

    def _taken(self, name: str, number: int) -> None:
        self.outbox.send(NameTaken(name=name, number=number))

    def _over_budget(self) -> None:
        """Every relay has ended: end what is not relayed yet, too, and say so once."""
        self._log.denied(connection.budget_denial(self._budget))
        for one in list(self._connections):
            one.stop(Verdict.BUDGET)
