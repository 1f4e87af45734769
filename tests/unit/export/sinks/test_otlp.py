"""OTLP, against a receiver that is made from its own messages and service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from supervisor.export.event import Source
from supervisor.export.sink import Refused, SinkError
from supervisor.export.sinks.http import Endpoint, HttpTls
from supervisor.export.sinks.otlp import OtlpOptions, OtlpSink
from tests.support.deliveries import deliver, event, events, firsts, uids
from tests.support.otlp import KILL, KIND, STALL, Collector, Served, partial, status
from tests.support.posts import Post, Posts, Reply, storm
from tests.unit.api.certificates import Authority

WHO = "Bearer abcdef-secret"
SOURCE = Source(origin="box.example/log", host="box", version="1.2")
Code = grpc.StatusCode


def options(url: str, *, tls: HttpTls | None = None, **more: object) -> OtlpOptions:
    where = Endpoint(
        url=url, tls=tls, plain_because="" if tls else "a test", stall_s=5.0, deadline_s=2.0,
        answer_bytes_max=100_000,
    )  # fmt: skip
    given = {
        "endpoint": where, "grpc": True, "source": SOURCE,
        "headers": {"authorization": WHO.encode()}, **more,
    }  # fmt: skip
    return OtlpOptions(**given)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def served(
    collector: Collector, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[Served]:
    server = Served(collector, credentials)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def both(collector: Collector, over_grpc: bool, **more: object) -> AsyncIterator[OtlpSink]:
    """Give a sink, over either."""
    async with contextlib.AsyncExitStack() as stack:
        if over_grpc:
            url = f"http://127.0.0.1:{(await stack.enter_async_context(served(collector))).port}"
        else:
            url = (await stack.enter_async_context(Posts(collector))).url
        sink = OtlpSink(options(url, grpc=over_grpc, **more))
        yield sink
        await sink.close()
        await sink.close()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("over_grpc", [False, True])
def test_all_arrive_in_order(over_grpc: bool, packed: bool) -> None:
    async def main() -> None:
        collector, sent = Collector(WHO), events(50)
        async with both(collector, over_grpc, packed=packed) as sink:
            assert await deliver(sink, sent, size=20) == ([], 0)
        assert collector.received == uids(sent)
        (logs,) = collector.requests[0].resource_logs
        values = {each.key: each.value.string_value for each in logs.resource.attributes}
        assert values["host.name"] == "box"
        assert values["service.instance.id"] == "box.example/log"
        assert logs.scope_logs[0].scope.name == "stockade.export"

    asyncio.run(main())


@pytest.mark.parametrize("over_grpc", [False, True])
def test_a_request_has_a_bound(over_grpc: bool) -> None:
    async def main() -> None:
        collector = Collector(WHO)
        sent = [*events(5), event(5, pad=4000), *events(9)[6:]]
        async with both(collector, over_grpc, body_bytes_max=1500) as sink:
            (rejected,) = await sink.send(sent)
        assert rejected.position == 5
        assert collector.received == uids(sent[:5] + sent[6:])
        assert max(request.ByteSize() for request in collector.requests) <= 1500

    asyncio.run(main())


@pytest.mark.parametrize("over_grpc", [False, True])
def test_partial_success_is_not_sent_again(over_grpc: bool) -> None:
    """Of two of three, nobody says which: all three are dead letters."""

    async def main() -> None:
        collector, sent = Collector(WHO), events(3)
        collector.answers.append(partial(2, "too old\n"))
        async with both(collector, over_grpc) as sink:
            rejected = await sink.send(sent)
            assert await sink.send(events(4)[3:]) == []
        assert [one.position for one in rejected] == [0, 1, 2]
        assert rejected[0].why == "2 of 3 are rejected, not said which: too old"
        assert len(collector.requests) == 2

    asyncio.run(main())


def test_a_warning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        collector = Collector(WHO)
        collector.answers.append(partial(0, "use another name"))
        async with both(collector, True) as sink:
            assert await sink.send(events(1)) == []

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "use another name" in caplog.text


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_goes_wrong_over_http_all_arrive(seed: int) -> None:
    async def main() -> None:
        collector, sent = Collector(WHO), events(100)
        async with Posts(collector) as server:
            faults = storm(seed, 1)
            # 500 is for ever in OTLP, and a test of its own.
            server.faults.extend(
                one for one in faults if not (isinstance(one, Reply) and one.status == 500)
            )
            sink = OtlpSink(options(server.url, grpc=False))
            dead, failed = await deliver(sink, sent, size=7)
            await sink.close()
            assert not dead
            assert failed >= 10
            assert not server.faults
        assert firsts(collector.received) == uids(sent)

    asyncio.run(main())


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_goes_wrong_over_grpc_all_arrive(seed: int) -> None:
    async def main() -> None:
        collector, sent = Collector(WHO), events(100)
        async with served(collector) as server:
            faults = [STALL, KILL, KILL, *AGAIN, *CONFIGURATION, (Code.RESOURCE_EXHAUSTED, 0.1)]
            random.Random(seed).shuffle(faults)
            server.faults.extend(faults)
            sink = OtlpSink(options(f"http://127.0.0.1:{server.port}"))
            dead, failed = await deliver(sink, sent, size=7)
            await sink.close()
            assert not dead
            assert failed >= len(faults)
            assert not server.faults
        assert firsts(collector.received) == uids(sent)

    asyncio.run(main())


AGAIN = [
    Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.OUT_OF_RANGE, Code.UNAVAILABLE,
    Code.DATA_LOSS,
]  # fmt: skip
CONFIGURATION = [Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.UNIMPLEMENTED]
NEVER = [
    Code.RESOURCE_EXHAUSTED, Code.INVALID_ARGUMENT, Code.INTERNAL, Code.UNKNOWN, Code.NOT_FOUND,
    Code.ALREADY_EXISTS, Code.FAILED_PRECONDITION,
]  # fmt: skip


@pytest.mark.parametrize(
    ("faults", "kind"),
    [([*AGAIN, *CONFIGURATION], SinkError), (NEVER, Refused)],
    ids=["again", "never"],
)
def test_codes(faults: list[grpc.StatusCode], kind: type[Exception]) -> None:
    async def main() -> None:
        async with served(Collector(WHO)) as server:
            server.faults.extend(faults)
            sink = OtlpSink(options(f"http://127.0.0.1:{server.port}"))
            for fault in faults:
                with pytest.raises(kind, match=fault.name):
                    await sink.send(events(2))
            assert server.asked == len(faults)
            await sink.close()

    asyncio.run(main())


@pytest.mark.parametrize("code", [Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE])
def test_how_long_to_wait(code: grpc.StatusCode) -> None:
    async def main() -> None:
        async with served(Collector(WHO)) as server:
            server.faults.extend([(code, 2.5), (code, 99_999.0)])
            sink = OtlpSink(options(f"http://127.0.0.1:{server.port}"))
            for wait_s in (2.5, 3600.0):
                with pytest.raises(SinkError) as error:
                    await sink.send(events(1))
                assert error.value.retry_after_s == wait_s
            await sink.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("reply", "kind", "why"),
    [
        (Reply(status=503, headers={"retry-after": "2"}), SinkError, "503"),
        (Reply(status=429), SinkError, "429"),
        (Reply(status=404), SinkError, "404"),
        (Reply(status=200, body=b"<html>"), SinkError, "no type"),
        (Reply(status=200, headers={"content-type": "text/html"}), SinkError, "text/html"),
        (Reply(status=200, headers=KIND, body=b"\xff\xff"), SinkError, "cannot be read"),
        (Reply(status=500, headers=KIND, body=status(13, "a bug")), Refused, "500: a bug"),
        (Reply(status=400, headers=KIND, body=status(3, "a field")), Refused, "400: a field"),
        (Reply(status=413), Refused, "413"),
    ],
)
def test_answers_over_http(reply: Reply, kind: type[Exception], why: str) -> None:
    async def main() -> None:
        async with Posts(Collector(WHO)) as server:
            server.faults.append(reply)
            sink = OtlpSink(options(server.url, grpc=False))
            with pytest.raises(kind, match=why) as error:
                await sink.send(events(2))
            if isinstance(error.value, SinkError) and reply.headers.get("retry-after"):
                assert error.value.retry_after_s == 2.0
            await sink.close()

    asyncio.run(main())


@pytest.mark.parametrize("over_grpc", [False, True])
def test_a_secret_is_told_to_nobody(over_grpc: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The stub says the token that it wants; the sink has that one, and a second header."""
    caplog.set_level(logging.DEBUG)

    def echo(post: Post) -> Reply:
        return Reply(status=401, headers=KIND, body=status(16, post.headers["authorization"]))

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if over_grpc:
                collector = Collector(WHO + "er")
                port = (await stack.enter_async_context(served(collector))).port
                url = f"http://127.0.0.1:{port}"
            else:
                url = (await stack.enter_async_context(Posts(echo))).url
            sink = OtlpSink(options(url, grpc=over_grpc))
            with pytest.raises(SinkError) as error:
                await sink.send(events(1))
            await sink.close()
            assert "(secret)" in str(error.value)
            assert "abcdef" not in repr(error.value)

    asyncio.run(main())
    assert "abcdef" not in caplog.text
    assert "abcdef" not in repr(options("http://127.0.0.1"))


@pytest.mark.parametrize(("ours", "mutual", "known"), [
    (True, False, True), (False, False, False), (True, True, True), (True, None, False),
])  # fmt: skip
def test_tls_of_grpc(tmp_path: Path, ours: bool, mutual: bool | None, known: bool) -> None:
    """`mutual` None is a server that wants a certificate of a client that has none."""
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes((authority if ours else Authority()).cert)
    pair = authority.issue("server", "127.0.0.1")
    credentials = grpc.ssl_server_credentials(
        [(pair.key, pair.cert)],
        authority.cert if mutual is not False else None,
        mutual is not False,
    )
    certificate, key = map(Path, authority.issue("us").write(tmp_path, "us"))
    tls = (
        HttpTls(ca=tmp_path / "ca.pem", certificate=certificate, key=key)
        if mutual
        else HttpTls(ca=tmp_path / "ca.pem")
    )

    async def main() -> None:
        async with served(Collector(WHO), credentials) as server:
            sink = OtlpSink(options(f"https://127.0.0.1:{server.port}", tls=tls))
            if known:
                assert await sink.send(events(1)) == []
            else:
                with pytest.raises(SinkError):
                    await sink.send(events(1))
                assert not server.asked
            await sink.close()

    asyncio.run(main())


def test_files_that_are_none(tmp_path: Path) -> None:
    async def main() -> None:
        tls = HttpTls(ca=tmp_path / "none.pem")
        sink = OtlpSink(options("https://127.0.0.1:1", tls=tls))
        with pytest.raises(SinkError, match="certificates cannot be used"):
            await sink.send(events(1))
        await sink.close()

    asyncio.run(main())


def test_a_task_that_is_stopped_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")

    async def main() -> None:
        async with served(Collector(WHO)) as server:
            server.faults.append(STALL)
            sink = OtlpSink(options(f"http://127.0.0.1:{server.port}"))
            task = asyncio.create_task(sink.send(events(1)))
            while not server.asked:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await sink.send(events(1)) == []
            await sink.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "more",
    [
        {"body_bytes_max": 21 << 20},
        {"headers": {"Upper": b"x"}},
        {"headers": {"x": b"a\nb"}},
        {"headers": {"x": b"\xff"}},
    ],
)
def test_options_that_are_none(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"20 MiB|no header"):
        options("http://127.0.0.1", **more)
    with pytest.raises(ValueError, match="no path"):
        options("http://127.0.0.1/v1/logs")


@pytest.mark.soak
@pytest.mark.parametrize("over_grpc", [False, True])
def test_throughput(over_grpc: bool) -> None:
    """Prints; nothing is asserted of time."""

    async def main() -> float:
        collector, sent = Collector(WHO), events(20_000, pad=700)
        async with both(collector, over_grpc) as sink:
            begin = time.perf_counter()
            await deliver(sink, sent, size=500)
            took = time.perf_counter() - begin
        assert len(collector.received) == len(sent)
        return len(sent) / took

    name = "gRPC" if over_grpc else "HTTP"
    print(f"\notlp over {name}: {asyncio.run(main()):,.0f} events/s")  # noqa: T201
