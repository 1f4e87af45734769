"""Syslog over TLS against stubs: what counts as sent, and what is sent again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.export.event import Event
from supervisor.export.sink import SinkError
from supervisor.export.sinks import syslog as syslog_module
from supervisor.export.sinks.message import Messages
from supervisor.export.sinks.syslog import SyslogOptions, SyslogSink, Window, frame
from supervisor.export.sinks.wire import Peer
from tests.unit.export.sinks.samples import event, frames, line_bytes, parse, plain, secure
from tests.unit.export.sinks.servers import Certificates, Served, Stub, stub


@contextlib.asynccontextmanager
async def sink(peer: Peer, **options: object) -> AsyncIterator[SyslogSink]:
    given_: dict[str, object] = {"proof_s": 0.05, "host": "h", "facility": 1, **options}
    made = SyslogSink(SyslogOptions(peer=peer, **given_))  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.close()


def indices(stream: bytes) -> list[int]:
    return [int(parse(message).params["index"]) for message in frames(bytes(stream))[0]]


def events(*numbers: int) -> Sequence[Event]:
    return [event(number) for number in numbers]


async def until(made: Stub, connection: int, wanted: list[int]) -> None:
    def there() -> bool:
        return len(made.served) > connection and indices(made.served[connection].received) == wanted

    await asyncio.to_thread(made.until, there)


@given(st.lists(line_bytes(), max_size=6))
def test_no_event_ends_its_frame(datas: list[bytes]) -> None:
    made = Messages(facility=1, host="h")
    told = [event(0, data) for data in datas]
    found, rest = frames(b"".join(frame(made.head(one), one.data) for one in told))
    assert (found, rest) == ([made.message(one) for one in told], b"")


def test_over_tls_with_a_proper_end(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)

    async def go(made: Stub) -> None:
        async with sink(secure(made.port, certificates.tls())) as to:
            assert await to.send(events(1, 2)) == []
            await to.send(events(3))
            await until(made, 0, [1, 2, 3])
        await to.close()

    with stub(context=certificates.context()) as made:
        asyncio.run(go(made))
        made.until(lambda: bool(made.served[0].ended))
        assert made.served[0].ended == "eof"  # with a close_notify; else it is an error here


def test_another_name_is_not_believed(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)

    async def go(made: Stub) -> None:
        async with sink(secure(made.port, certificates.tls(name="other.test"))) as to:
            with pytest.raises(SinkError, match="certificate"):
                await to.send(events(1))

    with stub(context=certificates.context()) as made:
        asyncio.run(go(made))
        assert not made.served[0].received


def test_another_authority_is_not_believed(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    ours, theirs = Certificates(tmp_path / "ours"), Certificates(tmp_path / "theirs")

    async def go(made: Stub) -> None:
        async with sink(secure(made.port, ours.tls())) as to:
            with pytest.raises(SinkError, match="certificate"):
                await to.send(events(1))

    with stub(context=theirs.context()) as made:
        asyncio.run(go(made))
        assert not made.served[0].received


@pytest.mark.parametrize("shown", ["", "client.test"])
def test_a_certificate_of_ours(tmp_path: Path, shown: str) -> None:
    """With TLS 1.3, a server says only after the handshake that it wants one."""
    certificates = Certificates(tmp_path)

    async def go(made: Stub) -> None:
        peer = secure(made.port, certificates.tls(client=shown))
        proof_s = 0.05 if shown else 5.0
        async with sink(peer, proof_s=proof_s) as to:
            if shown:
                await to.send(events(1))
                await until(made, 0, [1])
                return
            with pytest.raises(SinkError):
                await to.send(events(1))

    with stub(context=certificates.context(client=True)) as made:
        asyncio.run(go(made))


def test_who_hangs_up_after_the_handshake_has_nothing(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)

    def hang_up(connection: socket.socket, one: Served) -> None:
        connection.settimeout(0.3)  # what it would get at once, without the proof
        with contextlib.suppress(TimeoutError):
            one.received += connection.recv(65536)

    async def go(made: Stub) -> None:
        async with sink(secure(made.port, certificates.tls()), proof_s=10.0) as to:
            with pytest.raises(SinkError):
                await to.send(events(1))
            assert not made.served[0].received

    with stub(hang_up, certificates.context()) as made:
        asyncio.run(go(made))


def test_the_window_goes_first_over_a_new_connection() -> None:
    async def go(made: Stub) -> None:
        async with sink(plain(made.port), window_events=3) as to:
            await to.send(events(1, 2))
            await to.send(events(3, 4))
            await until(made, 0, [1, 2, 3, 4])
            made.drop()
            await asyncio.to_thread(made.until, lambda: bool(made.served[0].ended))
            while not to._wire or not to._wire.over.is_set():
                await asyncio.sleep(0.001)
            await to.send(events(5))
            await until(made, 1, [2, 3, 4, 5])
            assert to.resent == 3

    with stub() as made:
        asyncio.run(go(made))


def test_the_window_is_sent_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog_module, "AGAIN_FIRST_S", 0.01)

    async def go(made: Stub) -> None:
        async with sink(plain(made.port)) as to:
            await to.send(events(1, 2))
            for connection in range(3):
                await until(made, connection, [1, 2])
                made.drop()
            await until(made, 3, [1, 2])
            assert to._again_s > syslog_module.AGAIN_FIRST_S
            await to.send(events(3))
            await until(made, 3, [1, 2, 3])

    with stub() as made:
        asyncio.run(go(made))


@pytest.mark.parametrize("size", [14_000_000, 100_000])
def test_who_takes_nothing_is_no_receiver(size: int) -> None:
    """The larger batch does not fit the buffer of our kernel, the smaller one not theirs."""
    go_on = threading.Event()

    def stall(connection: socket.socket, one: Served) -> None:
        go_on.wait()

    async def go(made: Stub) -> None:
        batch = [event(number, b"x" * 5000) for number in range(size // 5000)]
        async with sink(plain(made.port, stall_s=0.3)) as to:
            with pytest.raises(SinkError):
                await to.send(batch)
            assert len(to._window) == 0

    with stub(stall, buffer_bytes=4096) as made:
        try:
            asyncio.run(go(made))
        finally:
            go_on.set()


def test_stopped_in_the_middle_it_starts_anew() -> None:
    taken, go_on = threading.Event(), threading.Event()

    def slowly(connection: socket.socket, one: Served) -> None:
        if len(made.served) == 1:
            one.received += connection.recv(10)
            taken.set()
            go_on.wait()
        while data := connection.recv(65536):
            one.received += data
            made.changed()

    async def go() -> None:
        batch = [event(number, b"x" * 7000) for number in range(2, 2000)]
        async with sink(plain(made.port)) as to:
            sending = asyncio.create_task(to.send(batch))
            await asyncio.to_thread(taken.wait)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            go_on.set()
            await to.send(events(1))
            await until(made, 1, [1])

    with stub(slowly) as made:
        try:
            asyncio.run(go())
        finally:
            go_on.set()


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]

    async def go() -> None:
        async with sink(plain(port)) as to:
            with pytest.raises(SinkError, match="refused"):
                await to.send(events(1))

    asyncio.run(go())


def test_too_long_and_no_line_are_rejected_and_the_rest_is_sent() -> None:
    async def go(made: Stub) -> None:
        batch = [event(0), event(1, b"a\nb"), event(2, b"x" * 51), event(3)]
        async with sink(plain(made.port), event_bytes_max=50) as to:
            assert [one.position for one in await to.send(batch)] == [1, 2]
            assert [one.position for one in await to.send(batch[1:3])] == [0, 1]
            await until(made, 0, [0, 3])

    with stub() as made:
        asyncio.run(go(made))


def test_a_window_is_bounded_by_both() -> None:
    window = Window(3, 10, 1.0)
    window.keep([b"1111", b"2", b"3", b"4"], 0.0)
    assert (len(window), b"".join(window.parts())) == (3, b"234")
    window.keep([b"5" * 9], 0.0)
    assert b"".join(window.parts(1)) == b"4" + b"5" * 9
    window.keep([b"6" * 11], 0.0)
    assert (len(window), window.parts()) == (0, [])


def test_what_a_window_has_is_proven_by_time_over_one_connection() -> None:
    window = Window(100, 100, 5.0)
    window.keep([b"1", b"2"], 10.0)
    window.keep([b"3"], 12.0)
    window.prove(14.9)
    assert window.unproven == 3
    window.prove(15.0)
    assert window.unproven == 1
    window.doubt()
    window.prove(99.0)
    assert window.unproven == 1
    window.renew(100.0)
    window.keep([b"4"], 101.0)
    window.prove(104.0)
    assert window.unproven == 2
    window.prove(105.0)
    assert window.unproven == 1
    window.prove(106.0)
    assert (window.unproven, len(window)) == (0, 4)


def test_what_is_out_of_the_window_trails_no_more() -> None:
    window = Window(2, 100, 5.0)
    window.keep([b"1", b"2", b"3"], 0.0)
    assert window.unproven == 2
    window.doubt()
    window.renew(1.0)
    window.prove(6.0)
    assert window.unproven == 0


def test_events_trail_until_the_connection_has_stood() -> None:
    async def go(made: Stub) -> None:
        async with sink(plain(made.port), held_s=0.2) as to:
            assert to.trails() == 0
            await to.send(events(1, 2, 3))
            assert to.trails() == 3
            async with asyncio.timeout(20):
                while to.trails():
                    await asyncio.sleep(0.01)
            assert to._wire is not None

    with stub() as made:
        asyncio.run(go(made))


def test_events_trail_while_there_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(syslog_module, "AGAIN_FIRST_S", 60.0)
    monkeypatch.setattr(syslog_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def go(made: Stub) -> None:
        async with sink(plain(made.port), held_s=5.0) as to:
            await to.send(events(1, 2, 3))
            await asyncio.to_thread(made.until, lambda: bool(made.served))
            made.drop()
            await asyncio.to_thread(made.until, lambda: bool(made.served[0].ended))
            now[0] += 100.0
            assert to.trails() == 3
            while not to._wire or not to._wire.over.is_set():
                await asyncio.sleep(0.001)
            await to.send(events(4))
            assert to.trails() == 4
            now[0] += 5.0
            assert to.trails() == 0

    with stub() as made:
        asyncio.run(go(made))


def test_a_connection_that_proves_nothing() -> None:
    with pytest.raises(ValueError, match="proves nothing"):
        SyslogOptions(peer=plain(1), host="h", facility=1, held_s=0.0)


@pytest.mark.parametrize("name", ["window_events", "window_bytes"])
def test_a_window_of_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="window"):
        SyslogOptions(peer=plain(1), host="h", facility=1, **{name: 0})  # type: ignore[arg-type]
