"""The webhook, against a receiver that checks what is signed as the specification has it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time

import pytest

from supervisor.export.sink import Refused, SinkError
from supervisor.export.sinks.http import Endpoint
from supervisor.export.sinks.webhook import WebhookOptions, WebhookSink, signature
from tests.support.deliveries import deliver, event, events, firsts, uids
from tests.support.posts import Fault, Post, Posts, Reply, storm

OLD, NEW = b"o" * 24, b"n" * 32


class Hook:
    """Takes what `secret` signed; `refuses` are indexes that it never takes."""

    def __init__(self, secret: bytes = NEW, refuses: frozenset[int] = frozenset()) -> None:
        self.received: list[str] = []
        self.ids: list[str] = []
        self._secret = secret
        self._refuses = refuses

    def __call__(self, post: Post) -> Reply:
        uid, stamp = post.headers["webhook-id"], post.headers["webhook-timestamp"]
        signed = f"{uid}.{stamp}.".encode() + post.body
        mac = base64.b64encode(hmac.digest(self._secret, signed, hashlib.sha256)).decode()
        if f"v1,{mac}" not in post.headers["webhook-signature"].split(" "):
            return Reply(status=401)
        if abs(time.time() - int(stamp)) > 300:
            return Reply(status=400)
        self.ids.append(uid)
        body = json.loads(post.body)
        rows = body if isinstance(body, list) else [body]
        if any(row["index"] in self._refuses for row in rows):
            return Reply(status=422, body=b"not this one")
        self.received += [row["uid"] for row in rows]
        return Reply(status=204)


def sink(
    server: Posts, *, single: bool = False, secrets: tuple[bytes, ...] = (NEW,), most: int = 1 << 20
) -> WebhookSink:
    where = Endpoint(
        url=server.url, tls=None, plain_because="a test", stall_s=5.0, deadline_s=2.0,
        answer_bytes_max=100_000,
    )  # fmt: skip
    return WebhookSink(
        WebhookOptions(endpoint=where, secrets=secrets, single=single, body_bytes_max=most)
    )


def test_signature_of_the_specification() -> None:
    """The example of its readers' libraries."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    uid, stamp = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330"
    wanted = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature([secret], uid, stamp, b'{"test": 2432232314}') == wanted


@pytest.mark.parametrize("single", [False, True])
def test_all_arrive_in_order(single: bool) -> None:
    async def main() -> None:
        hook = Hook()
        async with Posts(hook) as server:
            to, sent = sink(server, single=single), events(50)
            assert await deliver(to, sent, size=20) == ([], 0)
            await to.close()
            assert hook.received == uids(sent)
            assert len(server.posts) == (50 if single else 3)
            assert server.posts[0].headers["content-type"] == "application/json"
            assert (sent[0].uid if single else f"{sent[0].uid}_{sent[19].uid}") == hook.ids[0]

    asyncio.run(main())


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_two_secrets_while_one_replaces_the_other(secret: bytes) -> None:
    async def main() -> None:
        hook = Hook(secret)
        async with Posts(hook) as server:
            to = sink(server, secrets=(NEW, OLD))
            await to.send(events(1))
            await to.close()
            wrong = sink(server, secrets=(b"w" * 24,))
            with pytest.raises(SinkError, match="401"):
                await wrong.send(events(2))
            await wrong.close()
            assert len(hook.received) == 1

    asyncio.run(main())


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_goes_wrong_all_arrive(single: bool, seed: int) -> None:
    async def main() -> None:
        hook = Hook()
        async with Posts(hook) as server:
            server.faults.extend(storm(seed, 1))
            to, sent = sink(server, single=single), events(100)
            dead, failed = await deliver(to, sent, size=7)
            await to.close()
            assert not dead
            assert failed >= 10
            assert not server.faults
            assert firsts(hook.received) == uids(sent)

    asyncio.run(main())


def test_the_same_again_has_the_same_id() -> None:
    async def main() -> None:
        hook = Hook()
        async with Posts(hook) as server:
            server.faults.append(Fault.RESET_LATE)
            to = sink(server)
            assert await deliver(to, events(3), size=3) == ([], 1)
            await to.close()
            assert len(hook.ids) == 2
            assert len(set(hook.ids)) == 1

    asyncio.run(main())


@pytest.mark.parametrize("single", [False, True])
def test_what_is_never_taken(single: bool) -> None:
    async def main() -> None:
        hook = Hook(refuses=frozenset({3}))
        async with Posts(hook) as server:
            to, sent = sink(server, single=single), events(6)
            if not single:
                with pytest.raises(Refused, match="422: not this one"):
                    await to.send(sent)
            assert await deliver(to, sent, size=6) == ([sent[3].uid], 0)
            await to.close()
            assert firsts(hook.received) == uids(sent[:3] + sent[4:])

    asyncio.run(main())


def test_single_events_that_arrived_are_not_sent_again() -> None:
    async def main() -> None:
        hook = Hook()
        async with Posts(hook) as server:
            to, sent = sink(server, single=True), events(5)
            ok = Reply(status=200)
            server.faults.extend([ok, ok, Reply(status=503, headers={"retry-after": "4"})])
            with pytest.raises(SinkError) as error:
                await to.send(sent)
            assert error.value.retry_after_s == 4.0
            await to.send(sent)
            await to.close()
            assert hook.received == uids(sent[2:])

    asyncio.run(main())


@pytest.mark.parametrize("single", [False, True])
def test_a_body_has_a_bound(single: bool) -> None:
    async def main() -> None:
        hook = Hook()
        async with Posts(hook) as server:
            sent = [*events(3), event(3, pad=5000), *events(9)[4:]]
            to = sink(server, single=single, most=500)
            (rejected,) = await to.send(sent)
            await to.close()
            assert rejected.position == 3
            assert max(len(post.body) for post in server.posts) <= 500
            assert hook.received == uids(sent[:3] + sent[4:])

    asyncio.run(main())


@pytest.mark.parametrize("secrets", [(), (NEW, OLD, NEW), (b"short",), (b"l" * 65,)])
def test_secrets_that_are_none(secrets: tuple[bytes, ...]) -> None:
    where = Endpoint(url="http://127.0.0.1", tls=None, plain_because="a test")
    with pytest.raises(ValueError, match="secret"):
        WebhookOptions(endpoint=where, secrets=secrets, single=False)


def test_options_show_no_secret() -> None:
    where = Endpoint(url="http://127.0.0.1/T0KEN", tls=None, plain_because="a test")
    shown = repr(WebhookOptions(endpoint=where, secrets=(NEW,), single=False))
    assert "nnnn" not in shown
    assert "T0KEN" not in shown


@pytest.mark.soak
def test_throughput() -> None:
    """Prints; nothing is asserted of time."""

    async def main() -> float:
        hook = Hook()
        async with Posts(hook) as server:
            to, sent = sink(server), events(20_000, pad=700)
            begin = time.perf_counter()
            await deliver(to, sent, size=500)
            took = time.perf_counter() - begin
            await to.close()
            assert len(hook.received) == len(sent)
            return len(sent) / took

    print(f"\nwebhook: {asyncio.run(main()):,.0f} events/s")  # noqa: T201
