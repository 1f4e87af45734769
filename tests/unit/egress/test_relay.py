"""Bytes through pipes: whole, in order, exactly counted; ends and errors as they came."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from supervisor.call.events import Verdict
from supervisor.egress import relay as relay_module
from supervisor.egress.relay import (
    RESET_ON_CLOSE,
    Budget,
    End,
    Plumbing,
    Relays,
    close_in_order,
    prepare,
)
from supervisor.egress.watch import URGENT_REASON
from tests.unit.egress.pairs import receive, send, tcp_pair, until

MANY = 5 << 20


class Rig:
    """A relay between two sockets of a test."""

    def __init__(self, budget: int = 1 << 40, **options: float) -> None:
        self.over = 0
        self.plumbing = Plumbing()
        self.relays = Relays(Budget(budget), self._over, self.plumbing, **options)
        self.ends: list[End] = []

    def _over(self) -> None:
        self.over += 1

    def start(self) -> tuple[socket.socket, socket.socket]:
        client, near = tcp_pair()
        server, far = tcp_pair()
        self.relays.start(near, far, self.ends.append)
        return client, server


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def with_rig(scenario: Callable[[Rig], Awaitable[None]], **options: float) -> None:
    async def main() -> None:
        before = open_fds()
        rig = Rig(**options)  # type: ignore[arg-type]
        try:
            await scenario(rig)
        finally:
            rig.relays.close()
        assert open_fds() == before

    asyncio.run(main())


def test_all_bytes_arrive_in_order_both_ways() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = rig.start()
        up, down = random.randbytes(MANY), random.randbytes(MANY + 1)
        got = await asyncio.gather(
            send(client, up), send(server, down), receive(server, MANY), receive(client, MANY + 1)
        )
        assert (got[2], got[3]) == (up, down)
        client.close()
        server.close()
        await until(lambda: rig.ends)
        assert rig.ends == [End(verdict=Verdict.CLOSED, sent=MANY, received=MANY + 1)]
        assert len(rig.relays) == 0

    with_rig(scenario)


def test_an_end_is_passed_on_and_the_other_way_goes_on() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = rig.start()
        await send(client, b"ask")
        client.shutdown(socket.SHUT_WR)
        assert await receive(server) == b"ask"
        await send(server, b"answer")
        assert await receive(client, 6) == b"answer"
        assert not rig.ends
        server.close()
        assert await receive(client) == b""
        await until(lambda: rig.ends)
        client.close()

    with_rig(scenario)


@pytest.mark.parametrize("by_client", [True, False])
def test_a_reset_is_passed_on(by_client: bool) -> None:
    async def scenario(rig: Rig) -> None:
        client, server = rig.start()
        one, other = (client, server) if by_client else (server, client)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        one.close()
        with pytest.raises(ConnectionResetError):
            await receive(other)
        await until(lambda: rig.ends)
        assert rig.ends[0].verdict is Verdict.RESET
        side = "the sandbox's side" if by_client else "the far side"
        assert rig.ends[0].reason == f"{side}: Connection reset by peer"
        other.close()

    with_rig(scenario)


@pytest.mark.parametrize("by_client", [True, False])
def test_urgent_data_ends_a_flow(by_client: bool) -> None:
    async def scenario(rig: Rig) -> None:
        client, server = rig.start()
        one, other = (client, server) if by_client else (server, client)
        one.send(b"!", socket.MSG_OOB)
        one.close()
        await until(lambda: rig.ends)
        # Else it would be an end in order, as if nothing had been left out.
        assert (rig.ends[0].verdict, rig.ends[0].reason) == (Verdict.RESET, URGENT_REASON)
        with pytest.raises(ConnectionResetError):
            await receive(other)
        other.close()

    with_rig(scenario)


async def fill(end: socket.socket) -> int:
    """Send until nobody takes any more."""
    sent, quiet = 0, 0
    while quiet < 20:
        with contextlib.suppress(BlockingIOError):
            sent += end.send(bytes(1 << 20))
            quiet = 0
            continue
        quiet += 1
        await asyncio.sleep(0.01)
    return sent


def test_who_does_not_read_stops_who_writes_and_gets_all_in_the_end() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = rig.start()
        sent = await fill(server)
        assert sent < 64 << 20
        taken = asyncio.create_task(receive(client))
        server.close()
        assert len(await taken) == sent
        client.close()
        await until(lambda: rig.ends)
        assert rig.ends[0].received == sent

    with_rig(scenario)


def test_a_reset_is_seen_while_nothing_can_be_moved() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = rig.start()
        await fill(server)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        server.close()
        await until(lambda: rig.ends)
        assert rig.ends[0].verdict is Verdict.RESET
        client.close()

    with_rig(scenario)


@pytest.mark.parametrize("budget", [0, 1, 1000, relay_module.PIPE_BYTES + 1])
def test_not_one_byte_more_than_the_budget(budget: int) -> None:
    async def scenario(rig: Rig) -> None:
        (client, server), (idle, idle_server) = rig.start(), rig.start()
        await send(server, bytes(budget))
        assert len(await receive(client, budget)) == budget
        assert not rig.over
        await send(server, b"x")
        await until(lambda: len(rig.ends) == 2)
        assert rig.over == 1
        assert {end.verdict for end in rig.ends} == {Verdict.BUDGET}
        assert sum(end.received + end.sent for end in rig.ends) == budget
        with pytest.raises(ConnectionResetError):
            await receive(client)
        for one in (client, server, idle, idle_server):
            one.close()

    with_rig(scenario, budget=budget)


def test_both_ways_and_all_flows_share_the_budget() -> None:
    async def scenario(rig: Rig) -> None:
        pairs = [rig.start() for _ in range(4)]
        for client, server in pairs:
            with contextlib.suppress(ConnectionResetError):
                await asyncio.gather(send(client, bytes(30_000)), send(server, bytes(30_000)))
        await until(lambda: len(rig.ends) == 4)
        assert sum(end.received + end.sent for end in rig.ends) <= 100_000
        assert rig.over == 1
        for pair in pairs:
            for one in pair:
                one.close()

    with_rig(scenario, budget=100_000)


def test_an_end_after_the_last_byte_of_the_budget_is_an_end_in_order() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = rig.start()
        await send(server, bytes(1000))
        server.close()
        assert len(await receive(client)) == 1000
        client.close()
        await until(lambda: rig.ends)
        assert rig.ends[0].verdict is Verdict.CLOSED
        assert not rig.over

    with_rig(scenario, budget=1000)


def test_a_budget_is_not_overspent() -> None:
    budget = Budget(5)
    budget.spend(5)
    with pytest.raises(ValueError, match="1 bytes of 0"):
        budget.spend(1)


def test_what_does_nothing_for_long_is_ended() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = rig.start()
        await until(lambda: rig.ends)
        assert (rig.ends[0].verdict, rig.ends[0].reason) == (Verdict.RESET, "idle for 0 s")
        client.close()
        server.close()

    with_rig(scenario, idle_s=0.05, check_s=0.01)


def test_nothing_goes_on_for_ever() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = rig.start()
        await until(lambda: rig.ends)
        assert rig.ends[0].reason == "open for 0 s"
        client.close()
        server.close()

    with_rig(scenario, flow_s=0.05, check_s=0.01)


def test_stopping_resets_both_sides_and_drops_what_was_under_way() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = rig.start()
        await fill(server)
        rig.relays.stop(Verdict.STOPPED)
        assert [end.verdict for end in rig.ends] == [Verdict.STOPPED]
        with pytest.raises(ConnectionResetError):
            await receive(client)
            await receive(client)
        client.close()
        server.close()

    with_rig(scenario)


def test_pipes_are_used_again_and_few_are_large() -> None:
    plumbing = Plumbing(pipes_max=1)
    first, second = plumbing.take(), plumbing.take()
    plumbing.give(second)
    plumbing.give(first)
    assert plumbing.take() is first
    plumbing.drop(first)
    third = plumbing.take()
    plumbing.give(third)
    assert plumbing.take() is third
    plumbing.give(third)
    plumbing.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(third.read)


def test_pipes_are_lent_only_while_they_hold_something() -> None:
    async def scenario(rig: Rig) -> None:
        pairs = [rig.start() for _ in range(20)]
        for client, server in pairs:
            await send(client, b"x")
            assert await receive(server, 1) == b"x"
        assert len(rig.plumbing._large) == 1
        for pair in pairs:
            for one in pair:
                one.close()

    with_rig(scenario)


def test_a_prepared_socket_is_reset_unless_it_is_closed_in_order() -> None:
    async def main() -> None:
        theirs, ours = tcp_pair()
        ours.close()
        with pytest.raises(ConnectionResetError):
            await receive(theirs)
        theirs.close()
        theirs, ours = tcp_pair()
        prepare(ours)
        close_in_order(ours)
        assert await receive(theirs) == b""
        theirs.close()

    asyncio.run(main())
