"""What the console takes from a browser, and from what is none."""

from __future__ import annotations

import asyncio
import itertools
import re

import pytest

from supervisor.console import server
from supervisor.console.server import CONNECTIONS_MAX, HEADERS, OF_USER_MAX
from supervisor.errors import CapacityError, InvalidRequest, NotFound, NotPermitted, Unreachable
from tests.unit.console.site import ID, SESSION, TOKEN, Answer, FakeReader, parse, served

PAGES = ("/", "/calls", f"/calls/{ID}", f"/calls/{ID}/output", "/denials", "/sinks")
OTHERS = ("/live", f"/calls/{ID}/download/stdout", "/no/such/page")


def run(main: object) -> None:
    asyncio.run(main)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [*PAGES, *OTHERS])
@pytest.mark.parametrize("cookie", ["", "stockade_console=", f"stockade_console={'x' * 43}", "a=b"])
def test_nobody_without_a_session_sees_more_than_how_to_get_one(path: str, cookie: str) -> None:
    async def main() -> None:
        async with served() as (browser, reader):
            answer = await browser.ask(path, Cookie=cookie)
            assert answer.status == 401
            assert "stockade console" in answer.body
            assert not reader.asked

    run(main())


@pytest.mark.parametrize("path", [*PAGES, "/enter", "/static/console.js", "/no/such", "/nowhere"])
@pytest.mark.parametrize("cookie", ["", f"stockade_console={SESSION}"])
def test_each_answer_forbids_what_it_does_not_need(path: str, cookie: str) -> None:
    async def main() -> None:
        async with served() as (browser, _):
            answer = await browser.ask(path, Cookie=cookie)
            assert HEADERS.items() <= answer.headers.items()
            assert answer.headers["Server"] == "stockade"
            assert not re.search(r"<script(?! src=\"/static/)|<style|style=|\son\w+=", answer.body)

    run(main())


@pytest.mark.parametrize("path", PAGES)
def test_a_session_sees_pages(path: str) -> None:
    async def main() -> None:
        async with served() as (browser, reader):
            answer = await browser.ask(path)
            assert (answer.status, reader.asked[0]) == (200, "who")
            assert "ann" in answer.body

    run(main())


@pytest.mark.parametrize(
    "host", ["evil.example.com", "localhost", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.nip:{}", ""]
)
def test_another_name_that_leads_here_is_refused(host: str) -> None:
    async def main() -> None:
        async with served() as (browser, reader):
            answer = await browser.ask("/", Host=host.format(browser.port))
            assert answer.status in (400, 421)
            assert not reader.asked

    run(main())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
def test_nothing_is_taken_but_to_enter_and_to_leave(method: str) -> None:
    async def main() -> None:
        async with served() as (browser, reader):
            answer = await browser.ask("/calls", method, Origin=browser.origin)
            assert answer.status in (400, 405)
            assert not reader.asked

    run(main())


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example.com", "http://127.0.0.1:1"])
@pytest.mark.parametrize("path", ["/enter", "/leave"])
def test_no_other_page_enters_or_leaves(path: str, origin: str) -> None:
    async def main() -> None:
        async with served() as (browser, reader):
            answer = await browser.ask(path, "POST", f"token={TOKEN}", Origin=origin)
            assert (answer.status, reader.asked) == (403, [])

    run(main())


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/", "/live", "/static/console.js"])
def test_no_other_page_asks(path: str, site: str) -> None:
    """Another port is of the same site, and its pages send the cookie along."""

    async def main() -> None:
        async with served() as (browser, reader):
            answer = await browser.ask(path, Sec_Fetch_Site=site)
            assert (answer.status, reader.asked) == (403, [])

    run(main())


def test_a_link_becomes_a_cookie() -> None:
    async def main() -> None:
        async with served() as (browser, _):
            answer = await browser.ask(
                "/enter", "POST", f"token={TOKEN}", Origin=browser.origin, Cookie=""
            )
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            cookie = answer.headers["Set-Cookie"]
            name, *attributes = cookie.split("; ")
            assert name == f"stockade_console={SESSION}"
            assert set(attributes) == {"HttpOnly", "Path=/", "SameSite=Strict"}

    run(main())


@pytest.mark.parametrize(
    "body", [f"token={'x' * 43}", "token=", "x=1", "token=%ff%00", "token=a b"]
)
def test_what_is_no_link_becomes_none(body: str) -> None:
    async def main() -> None:
        async with served() as (browser, reader):
            answer = await browser.ask("/enter", "POST", body, Origin=browser.origin, Cookie="")
            assert (answer.status, reader.asked) == (401, [])
            assert "Set-Cookie" not in answer.headers

    run(main())


def test_leaving_takes_the_cookie_back() -> None:
    async def main() -> None:
        async with served() as (browser, reader):
            answer = await browser.ask("/leave", "POST", Origin=browser.origin, Content_Length="0")
            assert (answer.status, answer.headers["Location"]) == (303, "/enter")
            assert 'stockade_console=""' in answer.headers["Set-Cookie"]
            assert reader.asked == ["who", "leave"]

    run(main())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("X", "wrong <b>"), 400),
        (NotPermitted("AUDIT_NOT_GRANTED", "not granted <b>"), 403),
        (NotFound("X", "no such <b>"), 404),
        (CapacityError("X", "too much <b>"), 429),
        (Unreachable("X", "away <b>"), 503),
    ],
)
def test_what_goes_wrong_is_a_page(error: Exception, status: int) -> None:
    async def main() -> None:
        async with served(FakeReader(failure=error)) as (browser, _):
            answer = await browser.ask("/calls")
            assert answer.status == status
            assert "&lt;b&gt;" in answer.body
            assert "<b>" not in answer.body

    run(main())


HOSTILE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "two lengths": b"POST /enter HTTP/1.1\r\nHost: {h}\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nab",
    "length and chunks": b"POST /enter HTTP/1.1\r\nHost: {h}\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: {h}\r\nHost: {h}\r\n\r\n",
    "an endless line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "endless headers": b"GET / HTTP/1.1\r\nHost: {h}\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: {h}\r\nA: b\r\n c\r\n\r\n",
    "a large body": b"POST /enter HTTP/1.1\r\nHost: {h}\r\nOrigin: http://{h}\r\n"
    b"Connection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 100000\r\n\r\n" + b"a" * 100_000,
    "an address elsewhere": b"GET http://evil.example.com/ HTTP/1.1\r\nHost: evil.example.com\r\n"
    b"Connection: close\r\n\r\n",
    "a tunnel": b"CONNECT evil.example.com:443 HTTP/1.1\r\nHost: {h}\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_request_is_refused_and_others_are_served(name: str) -> None:
    async def main() -> None:
        async with served() as (browser, reader):
            said = await browser.send(HOSTILE[name].replace(b"{h}", browser.host.encode()))
            assert not said or 400 <= parse(said).status < 500
            assert not reader.asked
            assert (await browser.ask("/")).status == 200

    run(main())


def test_who_sends_no_request_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.2)

    async def main() -> None:
        async with served() as (browser, _):
            for begun in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"):
                assert await browser.send(begun) == b""

    run(main())


@pytest.mark.parametrize(("users", "places"), [(1, OF_USER_MAX), (9, CONNECTIONS_MAX)])
def test_there_are_only_so_many_connections(
    users: int, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one user, and of all."""
    accepted = itertools.count()
    monkeypatch.setattr(server, "uid_of", lambda *_: next(accepted) % users)

    async def main() -> None:
        async with served() as (browser, _):
            held = [await asyncio.open_connection("127.0.0.1", browser.port) for _ in range(places)]
            assert await browser.send(b"") == b""
            assert all(not reader.at_eof() for reader, _ in held)
            for _, writer in held:
                writer.close()
            async with asyncio.timeout(60):  # it hears of that on its own time
                while not await browser.send(b"GET / HTTP/1.0\r\n\r\n"):
                    await asyncio.sleep(0.01)

    run(main())


def test_another_user_finds_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    users = iter([7] * OF_USER_MAX + [7, 8, 8])
    monkeypatch.setattr(server, "uid_of", lambda *_: next(users))

    async def main() -> None:
        async with served() as (browser, _):
            for _ in range(OF_USER_MAX):
                await asyncio.open_connection("127.0.0.1", browser.port)
            assert await browser.send(b"") == b""
            assert (await browser.ask("/")).status == 200

    run(main())


def test_only_so_much_of_one_session_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUESTS_MAX", 1)

    async def main() -> None:
        async with served() as (browser, reader):
            stream, writer = await asyncio.open_connection("127.0.0.1", browser.port)
            cookie = f"Cookie: stockade_console={SESSION}"
            writer.write(f"GET /live HTTP/1.1\r\nHost: {browser.host}\r\n{cookie}\r\n\r\n".encode())
            await stream.readuntil(b"data: ")
            assert (await browser.ask("/")).status == 429
            writer.close()
            answer = Answer(status=429, headers={}, body="")
            while answer.status == 429:
                answer = await browser.ask("/")
            assert answer.status == 200
            assert "live" in reader.asked

    run(main())


def test_head_has_no_body() -> None:
    async def main() -> None:
        async with served() as (browser, _):
            answer = await browser.ask("/", "HEAD")
            assert (answer.status, answer.body) == (200, "")

    run(main())
