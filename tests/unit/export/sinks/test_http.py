"""What sinks over HTTP share: who is talked to, how long, and what an answer means."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import httpx
import pytest

from supervisor.export.sink import Refused, SinkError
from supervisor.export.sinks.http import (
    Answer,
    Endpoint,
    HttpTls,
    Poster,
    Taken,
    judge,
    parts,
    retry_after_s,
)
from tests.support.deliveries import event, events
from tests.support.posts import Fault, Post, Posts, Reply
from tests.support.receiver import free_port
from tests.unit.api.certificates import Authority

PLAIN = "a test, on loopback"
TOKEN = b"0123-very-secret"


def endpoint(url: str, **more: object) -> Endpoint:
    given = {"tls": None, "plain_because": PLAIN, "stall_s": 5.0, "deadline_s": 0.5, **more}
    return Endpoint(url=url, **given)  # type: ignore[arg-type]


def fine(post: Post) -> Reply:
    return Reply(body=b"ok " + post.body)


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, httpx.Headers(named), body, True, body.decode())


def test_one_connection_for_many() -> None:
    async def main() -> None:
        async with Posts(fine) as server:
            poster = Poster(endpoint(server.url + "/base/"))
            for _ in range(3):
                got = await poster.post("/x?a=1", b"body", {"x-more": "1"})
                assert (got.status, got.body, got.whole) == (200, b"ok body", True)
            assert server.connections == 1
            assert {post.path for post in server.posts} == {"/base/x?a=1"}
            headers = server.posts[0].headers
            assert headers["accept-encoding"] == "identity"
            assert headers["x-more"] == "1"
            assert (await poster.post("", b"", {})).status == 200
            assert server.posts[-1].path == "/base/"
            await poster.close()
            await poster.close()

    asyncio.run(main())


def test_a_packed_body() -> None:
    async def main() -> None:
        async with Posts(fine) as server:
            poster = Poster(endpoint(server.url))
            await poster.post("/", b"a" * 10_000, {}, packed=True)
            await poster.close()
            (post,) = server.posts
            assert post.body == b"a" * 10_000
            assert int(post.headers["content-length"]) < 1000

    asyncio.run(main())


@pytest.mark.parametrize(
    "fault",
    [Fault.RESET_EARLY, Fault.RESET_LATE, Fault.STALL, Fault.LORIS, Fault.CUT, Fault.NOISE],
)
def test_a_fault_is_an_error_and_the_next_one_goes(fault: Fault) -> None:
    async def main() -> None:
        async with Posts(fine) as server:
            server.faults.append(fault)
            poster = Poster(endpoint(server.url))
            with pytest.raises(SinkError):
                await poster.post("/", b"b" * 100_000, {})
            assert (await poster.post("/", b"", {})).taken
            await poster.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("given", "why"),
    [({"stall_s": 0.1}, "it says nothing for 0.1 s"), ({}, "no whole answer in 0.5 s")],
)
def test_why_there_is_no_answer(given: dict[str, float], why: str) -> None:
    async def main() -> None:
        async with Posts(fine) as server:
            server.faults.append(Fault.STALL)
            poster = Poster(endpoint(server.url, **given))
            with pytest.raises(SinkError, match=why):
                await poster.post("/", b"", {})
            await poster.close()

    asyncio.run(main())


def test_why_there_is_no_connection() -> None:
    async def main() -> None:
        there = f"127.0.0.1:{free_port()}"
        poster = Poster(endpoint(f"http://{there}/a-secret-path", deadline_s=5.0))
        with pytest.raises(SinkError, match=f"^{there}: Connection refused$"):
            await poster.post("/", b"", {})
        await poster.close()

    asyncio.run(main())


def test_a_huge_answer_is_read_up_to_a_bound() -> None:
    async def main() -> None:
        async with Posts(fine) as server:
            server.faults.append(Fault.HUGE)
            poster = Poster(endpoint(server.url, answer_bytes_max=100_000, deadline_s=5.0))
            got = await poster.post("/", b"", {})
            assert not got.whole
            assert len(got.body) <= 100_000
            assert (await poster.post("/", b"", {})).whole
            await poster.close()

    asyncio.run(main())


def test_nobody_there_and_a_task_that_is_stopped() -> None:
    async def main() -> None:
        async with Posts(fine) as server:
            poster = Poster(endpoint(server.url, deadline_s=60.0))
            server.faults.append(Fault.STALL)
            task = asyncio.create_task(poster.post("/", b"", {}))
            while not server.posts:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await poster.post("/", b"", {})).taken
            server.kill()
            with pytest.raises(SinkError):
                await poster.post("/", b"", {})
            await server.start()
            assert (await poster.post("/", b"", {})).taken
            await poster.close()

    asyncio.run(main())


def test_nothing_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No redirect, no proxy of the environment, no cookie that was given."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    async def main() -> None:
        async with Posts(fine) as other, Posts(fine) as server:
            leads = {"location": other.url, "set-cookie": "a=b"}
            server.faults.append(Reply(status=307, headers=leads))
            poster = Poster(endpoint(server.url))
            got = await poster.post("/", b"", {})
            with pytest.raises(SinkError, match="not followed"):
                judge(got)
            await poster.post("/", b"", {})
            assert "cookie" not in server.posts[-1].headers
            assert not other.connections
            await poster.close()

    asyncio.run(main())


def _server(tmp_path: Path, authority: Authority, san: str, *, mutual: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", san).write(tmp_path, "server"))
    if mutual:
        context.load_verify_locations(cadata=authority.cert.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize(
    ("san", "ours", "known"),
    [
        ("127.0.0.1", True, True),
        ("127.0.0.2", True, False),
        ("127.0.0.1", False, False),
    ],
)
def test_tls(tmp_path: Path, san: str, ours: bool, known: bool) -> None:
    """The certificate has to be for the host, and from our authority."""
    authority, other = Authority(), Authority()
    (tmp_path / "ca.pem").write_bytes((authority if ours else other).cert)

    async def main() -> None:
        context = _server(tmp_path, authority, san, mutual=False)
        async with Posts(fine, context=context) as server:
            tls = HttpTls(ca=tmp_path / "ca.pem")
            poster = Poster(endpoint(server.url, tls=tls, plain_because="", deadline_s=5.0))
            if known:
                assert (await poster.post("/", b"", {})).taken
            else:
                with pytest.raises(SinkError, match="certificate verify failed"):
                    await poster.post("/", b"", {})
                assert not server.posts
            await poster.close()

    asyncio.run(main())


def test_mutual_tls_reads_its_files_anew(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.cert)
    certificate, key = Authority().issue("us").write(tmp_path, "us")

    async def main() -> None:
        context = _server(tmp_path, authority, "127.0.0.1", mutual=True)
        async with Posts(fine, context=context) as server:
            tls = HttpTls(
                ca=tmp_path / "ca.pem", certificate=Path(certificate), key=Path(key)
            )  # fmt: skip
            poster = Poster(endpoint(server.url, tls=tls, plain_because="", deadline_s=5.0))
            with pytest.raises(SinkError):
                await poster.post("/", b"", {})
            assert not server.posts
            Path(certificate).write_text("nonsense")
            with pytest.raises(SinkError, match=r"certificates cannot be used: \[SSL\] PEM lib$"):
                await poster.post("/", b"", {})
            Path(certificate).unlink()
            with pytest.raises(SinkError, match="certificates cannot be used"):
                await poster.post("/", b"", {})
            authority.issue("us").write(tmp_path, "us")
            assert (await poster.post("/", b"", {})).taken
            await poster.close()

    asyncio.run(main())


def test_a_secret_is_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Not even where the other side says it again."""
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with Posts(fine) as server:
            where = endpoint(server.url + "/hooks/0123-very-secret")
            server.faults.append(Reply(status=401, body=b"no such\n\x1b[31m token: " + TOKEN))
            poster = Poster(where, [TOKEN, b"x"])
            got = await poster.post("", b"", {"authorization": TOKEN.decode()})
            assert got.said == "no such [31m token: (secret)"
            with pytest.raises(SinkError) as error:
                judge(got)
            assert TOKEN.decode() not in f"{error.value!r} {where!r} {poster!r}"
            await poster.close()

    asyncio.run(main())
    assert TOKEN.decode() not in caplog.text


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("http://127.0.0.1", {"plain_because": ""}),
        ("https://127.0.0.1", {}),
        ("http://127.0.0.1", {"tls": HttpTls(ca=Path("x")), "plain_because": ""}),
        ("https://127.0.0.1", {"tls": HttpTls(ca=Path("x"))}),
        ("http://me:word@127.0.0.1", {}),
        ("ftp://127.0.0.1", {}),
        ("http:///x", {}),
        ("http://127.0.0.1:port", {}),
    ],
)
def test_an_endpoint_that_is_none(url: str, more: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        endpoint(url, **more)


def test_half_a_certificate() -> None:
    with pytest.raises(ValueError, match="key"):
        HttpTls(ca=Path("x"), certificate=Path("y"))


@pytest.mark.parametrize("status", [200, 202, 204])
def test_yes(status: int) -> None:
    judge(answer(status))


@pytest.mark.parametrize("status", [301, 401, 403, 404, 407, 408, 425, 429, 500, 503, 599])
def test_again(status: int) -> None:
    with pytest.raises(SinkError, match=str(status)):
        judge(answer(status, b"why"))


@pytest.mark.parametrize("status", [400, 406, 409, 413, 415, 422, 431])
def test_never(status: int) -> None:
    with pytest.raises(Refused, match=f"{status}: why"):
        judge(answer(status, b"why"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("99999999999999999999", 3600.0),
        ("-3", 0.0),
        ("soon", 0.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 2999 00:00:00 GMT", 3600.0),
    ],
)
def test_how_long_to_wait(text: str, seconds: float) -> None:
    assert retry_after_s(httpx.Headers({"retry-after": text}), 100.0) == seconds


def test_the_wait_is_handed_on() -> None:
    with pytest.raises(SinkError) as error:
        judge(answer(503, retry_after="3"))
    assert error.value.retry_after_s == 3.0
    assert retry_after_s(httpx.Headers(), 0.0) == 0.0


def test_parts() -> None:
    assert list(parts([], 10)) == []
    assert list(parts([5, 5, 1, 30, 2], 10)) == [(0, 2), (2, 3), (3, 4), (4, 5)]


def test_taken_is_left_out_until_the_batch_is_done() -> None:
    taken, batch = Taken(), events(3)
    taken.add(batch[1])
    taken.add(event(9))
    assert taken.missing(batch) == [0, 2]
    taken.forget(batch)
    assert taken.missing(batch) == [0, 1, 2]
