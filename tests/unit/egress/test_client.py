"""The daemon's side: it starts brokers, believes nothing of what they say, and ends them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.call.events import Flow, Lost, Verdict
from supervisor.egress import client as client_module
from supervisor.egress.client import Broker, Order, Zygote
from supervisor.egress.control import (
    MESSAGE_BYTES_MAX,
    Done,
    Failed,
    Finish,
    Message,
    Ready,
    decode_request,
    encode,
)
from supervisor.errors import BrokerFailed
from supervisor.linux.netns import Listeners
from supervisor.sandbox.uids import FIRST_ID
from tests.support.brokers import rule
from tests.unit.egress.pairs import until

FLOW = Flow(name="a", address="", port=1, rule="r", verdict=Verdict.CLOSED)


class Fake:
    """A broker that says what a test wants; its process sleeps."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(["/bin/sleep", "1000"])
        self.told: list[Any] = []
        self.failed: list[Exception] = []
        pidfd = os.pidfd_open(self.process.pid)
        self.broker = Broker(ours, pidfd, self.told.append, self.failed.append)

    def say(self, *messages: Message | bytes) -> None:
        for message in messages:
            self.theirs.send(message if isinstance(message, bytes) else encode(message))

    def close(self) -> None:
        self.theirs.close()
        self.broker.close()
        self.process.kill()
        self.process.wait()

    @property
    def reasons(self) -> list[str]:
        return [error.reason for error in self.failed if isinstance(error, BrokerFailed)]


def with_fake(scenario: Callable[[Fake], Awaitable[None]]) -> None:
    async def main() -> None:
        fake = Fake()
        try:
            await scenario(fake)
        finally:
            fake.close()

    asyncio.run(main())


def test_what_it_tells_is_told() -> None:
    async def scenario(fake: Fake) -> None:
        fake.say(Ready(), FLOW)
        await fake.broker.ready()
        await until(lambda: fake.told)
        assert fake.told == [FLOW]
        assert fake.broker.alive

    with_fake(scenario)


@pytest.mark.parametrize(
    "said",
    [
        b"{}", b"nonsense", b"x" * (MESSAGE_BYTES_MAX + 1), Ready(), Done(),
        encode(FLOW).replace(b'"port":1', b'"port":-1'),
    ],
    ids=["empty", "nonsense", "long", "twice", "unasked", "malformed"],
)  # fmt: skip
def test_what_it_may_not_say_ends_it(said: Message | bytes) -> None:
    async def scenario(fake: Fake) -> None:
        fake.say(Ready())
        await fake.broker.ready()
        fake.say(said, FLOW)
        await until(lambda: fake.failed)
        assert fake.reasons == ["BROKER_MESSAGE_INVALID"]
        assert fake.told == []
        assert not fake.broker.alive
        assert fake.process.wait(20) == -signal.SIGKILL

    with_fake(scenario)


def test_it_tells_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "EVENTS_MAX", 2)

    async def scenario(fake: Fake) -> None:
        fake.say(Ready(), FLOW, FLOW, FLOW)
        await until(lambda: fake.failed)
        assert fake.told == [FLOW, FLOW]

    with_fake(scenario)


def test_it_tells_no_more_bytes_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "EVENT_BYTES_MAX", len(encode(Ready()) + encode(FLOW)))

    async def scenario(fake: Fake) -> None:
        fake.say(Ready(), FLOW, FLOW)
        await until(lambda: fake.failed)
        assert fake.told == [FLOW]
        assert fake.reasons == ["BROKER_MESSAGE_INVALID"]

    with_fake(scenario)


def test_many_words_leave_others_their_turn() -> None:
    async def scenario(fake: Fake) -> None:
        fake.say(Ready(), *[FLOW] * 20)
        await fake.broker.ready()
        turns = 0
        while len(fake.told) < 20:
            assert len(fake.told) <= (turns + 2) * client_module.BATCH_MAX
            await asyncio.sleep(0)
            turns += 1

    with_fake(scenario)


def test_its_last_word_writes_no_lines_of_a_log() -> None:
    async def scenario(fake: Fake) -> None:
        fake.say(Ready(), Failed(reason="x\n2026-01-01 INFO all is well\x1b[2J"))
        await until(lambda: fake.failed)
        assert str(fake.failed[0]).isprintable()

    with_fake(scenario)


def test_nothing_is_told_before_it_is_ready() -> None:
    async def scenario(fake: Fake) -> None:
        fake.say(FLOW)
        with pytest.raises(BrokerFailed) as caught:
            await fake.broker.ready()
        assert caught.value.reason == "BROKER_MESSAGE_INVALID"
        assert fake.failed == []

    with_fake(scenario)


def test_one_that_fails_at_its_start_says_why() -> None:
    async def scenario(fake: Fake) -> None:
        fake.say(Failed(reason="NotConfined: why"))
        with pytest.raises(BrokerFailed, match="NotConfined: why"):
            await fake.broker.ready()

    with_fake(scenario)


def test_one_that_dies_at_its_start_was_not_started() -> None:
    async def scenario(fake: Fake) -> None:
        fake.theirs.close()
        with pytest.raises(BrokerFailed, match="ended before") as caught:
            await fake.broker.ready()
        assert caught.value.reason == "BROKER_NOT_STARTED"
        assert fake.failed == []

    with_fake(scenario)


def test_one_that_is_never_ready_was_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "READY_S", 0.05)

    async def scenario(fake: Fake) -> None:
        with pytest.raises(BrokerFailed, match="not ready"):
            await fake.broker.ready()

    with_fake(scenario)


def test_one_that_dies_ends_its_call() -> None:
    async def scenario(fake: Fake) -> None:
        fake.say(Ready(), FLOW)
        fake.theirs.close()
        await until(lambda: fake.failed)
        assert fake.told == [FLOW, Lost(what="flow", count=0, reason="BROKER_GONE")]
        assert fake.reasons == ["BROKER_GONE"]
        await fake.broker.finish()
        assert len(fake.told) == 2

    with_fake(scenario)


def test_one_that_gives_up_ends_its_call() -> None:
    async def scenario(fake: Fake) -> None:
        fake.say(Ready(), Failed(reason="why"))
        await until(lambda: fake.failed)
        assert fake.reasons == ["BROKER_FAILED"]
        assert "why" in str(fake.failed[0])
        assert fake.process.wait(20) == -signal.SIGKILL

    with_fake(scenario)


def test_at_its_end_it_tells_what_is_left() -> None:
    async def scenario(fake: Fake) -> None:
        fake.say(Ready())
        await fake.broker.ready()
        finishing = asyncio.create_task(fake.broker.finish())
        await asyncio.sleep(0.01)
        assert decode_request(fake.theirs.recv(100)) == Finish()
        fake.say(FLOW, Done())
        fake.theirs.close()
        await finishing
        assert fake.told == [FLOW]
        assert fake.failed == []

    with_fake(scenario)


@pytest.mark.parametrize("silent", [True, False])
def test_one_that_does_not_end_in_order_is_killed(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr(client_module, "FINISH_S", 0.05)

    async def scenario(fake: Fake) -> None:
        fake.say(Ready())
        await fake.broker.ready()
        if not silent:
            fake.theirs.close()
        await fake.broker.finish()
        assert fake.told[-1] == Lost(what="flow", count=0, reason="BROKER_GONE")
        assert fake.process.wait(20) == -signal.SIGKILL

    with_fake(scenario)


def test_an_error_of_whoever_is_told_ends_it() -> None:
    async def scenario(fake: Fake) -> None:
        def tell(_: Any) -> None:
            raise KeyError("tell")

        fake.broker._tell = tell
        fake.say(Ready(), FLOW)
        await until(lambda: fake.failed)
        assert isinstance(fake.failed[0], KeyError)
        assert not fake.broker.alive

    with_fake(scenario)


def listeners() -> Listeners:
    made = [socket.socket(socket.AF_INET, kind) for kind in (1, 2, 1)]
    for one in made:
        one.bind(("127.0.0.1", 0))
    made[0].listen()
    made[2].listen()
    return Listeners(door=(made[0], None), dns_udp=(made[1], None), dns_tcp=(made[2], None))


def with_zygote(scenario: Callable[[Zygote, Order], Awaitable[None]], folder: Path) -> None:
    async def main() -> None:
        zygote = Zygote(folder)
        given = listeners()
        origins = os.open(os.devnull, os.O_RDONLY)
        order = Order(
            call_id="call", call=1, uid=FIRST_ID + 65_000, egress_bytes=1, listeners=given,
            rules=(rule("203.0.113.0/24", 443),), origins_fd=origins, resolvers=("203.0.113.53",),
        )  # fmt: skip
        try:
            await scenario(zygote, order)
        finally:
            await zygote.close()
            given.close()
            os.close(origins)

    asyncio.run(main())


def never(error: Exception) -> None:
    raise AssertionError(error)


@pytest.mark.root
def test_several_brokers_of_one_zygote(tmp_path: Path) -> None:
    async def scenario(zygote: Zygote, order: Order) -> None:
        orders = [zygote.start_broker(order, never, never) for _ in range(3)]
        brokers = await asyncio.gather(*orders)
        assert all(broker.alive for broker in brokers)
        await asyncio.gather(*(broker.finish() for broker in brokers[:2]))
        assert [broker.alive for broker in brokers] == [False, False, True]
        brokers[2].close()

    with_zygote(scenario, tmp_path / "root")


@pytest.mark.root
def test_a_zygote_that_died_is_replaced(tmp_path: Path) -> None:
    async def scenario(zygote: Zygote, order: Order) -> None:
        failed: list[Exception] = []
        first = await zygote.start_broker(order, lambda _: None, failed.append)
        signal.pidfd_send_signal(zygote._pidfd, signal.SIGKILL)
        await until(lambda: failed)
        assert not first.alive
        second = await zygote.start_broker(order, never, never)
        assert second.alive
        await second.finish()
        first.close()

    with_zygote(scenario, tmp_path / "root")


@pytest.mark.root
def test_an_order_that_nobody_waits_for_harms_no_other(tmp_path: Path) -> None:
    async def scenario(zygote: Zygote, order: Order) -> None:
        first = await zygote.start_broker(order, never, never)
        for steps in range(1, 6):
            task = asyncio.create_task(zygote.start_broker(order, never, never))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        second = await zygote.start_broker(order, never, never)
        await until(lambda: len(children(zygote)) == 2)
        assert first.alive
        await first.finish()
        await second.finish()

    with_zygote(scenario, tmp_path / "root")


def children(zygote: Zygote) -> list[str]:
    text = Path(f"/proc/self/fdinfo/{zygote._pidfd}").read_text()
    pid = int(text.split("Pid:")[1].split()[0])
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.root
def test_a_broker_is_never_root(tmp_path: Path) -> None:
    async def scenario(zygote: Zygote, order: Order) -> None:
        with pytest.raises(BrokerFailed, match="an order that is none") as caught:
            await zygote.start_broker(replace(order, uid=0), never, never)
        assert caught.value.reason == "BROKER_NOT_STARTED"
        await (await zygote.start_broker(order, never, never)).finish()

    with_zygote(scenario, tmp_path / "root")


@pytest.mark.root
def test_the_root_of_brokers_must_be_empty(tmp_path: Path) -> None:
    (tmp_path / "something").touch()

    async def scenario(zygote: Zygote, order: Order) -> None:
        with pytest.raises(BrokerFailed, match="is not empty"):
            await zygote.start_broker(order, never, never)

    with_zygote(scenario, tmp_path)


@pytest.mark.root
def test_a_broker_says_what_it_cannot_do(tmp_path: Path) -> None:
    """Its resolver is none: the policy's word, which the child reads when it is confined."""

    async def scenario(zygote: Zygote, order: Order) -> None:
        with pytest.raises(BrokerFailed, match="nowhere") as caught:
            await zygote.start_broker(replace(order, resolvers=("nowhere",)), never, never)
        assert caught.value.reason == "BROKER_FAILED"

    with_zygote(scenario, tmp_path / "root")


@pytest.mark.root
def test_nothing_is_left_of_a_zygote(tmp_path: Path) -> None:
    async def scenario(zygote: Zygote, order: Order) -> None:
        broker = await zygote.start_broker(order, lambda _: None, lambda _: None)
        text = Path(f"/proc/self/fdinfo/{broker._pidfd}").read_text()
        pid = int(text.split("Pid:")[1].split()[0])
        await zygote.close()
        await until(lambda: not Path(f"/proc/{pid}").exists())
        broker.close()
        await zygote.close()

    with_zygote(scenario, tmp_path / "root")


def test_a_policy_can_be_changed_by_nobody() -> None:
    fd = client_module._memfd(b"policy")
    try:
        assert os.read(fd, 100) == b"policy"
        for change in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 0)):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(fd)
