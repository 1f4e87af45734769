"""What pages ask for, and what they make of it."""

from __future__ import annotations

import asyncio
import html
import json
import re

import pytest

from supervisor.client import Record
from supervisor.console import pages
from supervisor.errors import Unauthenticated
from tests.support.payloads import CORPUS
from tests.unit.cli import record
from tests.unit.console.site import ID, SESSION, FakeReader, served

TAG = re.compile(r"<[^>]*>")
SEEN_MIN = 8
"""Places of a story that show a payload whole."""


def tags(page: str) -> list[str]:
    """Give the elements of a page, but for what says below a table that something was cut."""
    return TAG.findall(re.sub(r'<p class="note">[^<]*</p>', "", page))


def hostile(payload: str) -> Record:
    """Give a record in which whatever somebody chose is a payload."""
    flow = {
        "name": payload, "port": 443, "address": payload, "rule": payload, "verdict": payload,
        "reason": payload, "program": payload, "pid": 3, "sent": 1, "received": 1,
    }  # fmt: skip
    denied = {"wall": "network", "name": payload, "detail": payload, "rule": payload,
              "program": payload, "pid": 3, "count": 2}  # fmt: skip
    started = {"what": "started", "pid": 9, "parent_pid": 1, "path": payload, "argv": [payload],
               "directory": payload, "time_ns": 1}  # fmt: skip
    file = {"path": payload, "size_bytes": 1, "sha256": payload}
    request = {"argv": [payload], "env": {payload: payload}, "working_directory": payload,
               "outputs": [payload], "files": [file]}  # fmt: skip
    intent = {"request": request, "host": {payload: payload}, "profile": {"mode": payload}}
    return record.written(
        (1, "intent", intent), (2, "started", {}), (3, "flow", flow), (4, "denied", denied),
        (5, "processes", {"events": [started]}),
        (6, "signal", {"by": payload, "signal": payload, "why": payload}),
        (7, "lost", {"what": payload, "count": 1, "reason": payload}),
        (8, "new kind", {payload: payload}),
    )  # fmt: skip


def run(main: object) -> None:
    asyncio.run(main)  # type: ignore[arg-type]


def test_filters_and_pages() -> None:
    async def main() -> None:
        async with served() as (browser, reader):
            query = "profile=python&agent=%3Cb%3E&denied=syscall&since=2026-01-31&text=&x=1"
            answer = await browser.ask(f"/calls?{query}&after=some%26token")
            assert answer.status == 200
            since = "'since_ns': 1769817600000000000"
            expected = f"{{'profile': 'python', 'agent': '<b>', 'denied': 'syscall', {since}}}"
            assert reader.asked == ["who", f"page {expected} some&token"]
            assert 'value="&lt;b&gt;"' in answer.body
            assert "after=next%26page" in answer.body

    run(main())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/calls?since=yesterday-ish", 400),
        ("/calls/..%2f..%2fetc", 404),
        (f"/calls/{ID.upper()}", 404),
        ("/calls/x", 404),
        (f"/calls/{ID}/output?part=0", 400),
        (f"/calls/{ID}/output?part=9999999999", 400),
        (f"/calls/{ID}/output?part=%D9%A1", 400),
        (f"/calls/{ID}/output?stream=stdin", 400),
        (f"/calls/{ID}/download/shadow", 404),
        ("/static/..%2fpages.py", 404),
        ("/static/pages.py", 404),
    ],
)
def test_what_is_not_there(path: str, status: int) -> None:
    async def main() -> None:
        async with served() as (browser, reader):
            assert (await browser.ask(path)).status == status
            assert reader.asked in ([], ["who"])

    run(main())


def test_output_comes_in_parts() -> None:
    async def main() -> None:
        data = b"".join(b"%09d\n" % n for n in range(1_000_000))
        async with served(FakeReader(output=data)) as (browser, _):
            first = await browser.ask(f"/calls/{ID}/output?stream=stdout")
            assert len(first.body) < 100_000
            assert "000000000" in first.body
            assert "?part=2&amp;stream=stdout" in first.body
            last = await browser.ask(f"/calls/{ID}/output?part={-(-len(data) // 65536)}")
            assert "000999999" in last.body
            assert 'rel="next"' not in last.body
            beyond = await browser.ask(f"/calls/{ID}/output?part=154")
            assert "The recording is shorter." in beyond.body

    run(main())


def test_a_download_is_a_file_and_no_page() -> None:
    async def main() -> None:
        data = b"<script>fired()</script>\x00\xff" * 200_000
        async with served(FakeReader(output=data)) as (browser, _):
            request = (
                f"GET /calls/{ID}/download/stdout HTTP/1.1\r\nHost: {browser.host}\r\n"
                f"Cookie: stockade_console={SESSION}\r\nConnection: close\r\n\r\n"
            )
            said = await browser.send(request.encode())
            head, _, body = said.partition(b"\r\n\r\n")
            assert b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in head
            name = f'filename="{ID}.stdout.txt"'.encode()
            assert b"\r\nContent-Disposition: attachment; " + name in head
            assert b"\r\nContent-Security-Policy: sandbox; default-src 'none'\r\n" in head
            assert b"\r\nX-Content-Type-Options: nosniff\r\n" in head
            assert len(body) > len(data)  # in chunks

    run(main())


def test_denials_are_counted_by_profile_and_wall() -> None:
    async def main() -> None:
        async with served() as (browser, reader):
            page = (await browser.ask("/denials")).body
            assert [one for one in reader.asked if one.startswith("records")] == [
                "records syscall", "records limit", "records network", "records program",
                "records kernel",
            ]  # fmt: skip
            assert "/calls?profile=python&amp;denied=syscall" in page
            assert '<td class="number denied">3</td>' in page

    run(main())


def test_live_calls_are_told_while_a_session_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LOOK_S", 0.01)

    async def main() -> None:
        async with served() as (browser, reader):
            stream, writer = await asyncio.open_connection("127.0.0.1", browser.port)
            cookie = f"Cookie: stockade_console={SESSION}"
            writer.write(f"GET /live HTTP/1.1\r\nHost: {browser.host}\r\n{cookie}\r\n\r\n".encode())
            await stream.readuntil(b"data: ")
            told = json.loads(await stream.readuntil(b"\n"))
            assert told["rows"][0][0] == ID
            reader.failure = Unauthenticated("SESSION_UNKNOWN", "it has ended")
            await stream.readuntil(b"event: over")
            writer.close()

    run(main())


def test_who_reads_nothing_of_a_download_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "WRITE_S", 0.1)

    async def main() -> None:
        async with served(FakeReader(output=b"x" * (64 << 20))) as (browser, reader):
            _, writer = await asyncio.open_connection("127.0.0.1", browser.port)
            cookie = f"Cookie: stockade_console={SESSION}"
            path = f"/calls/{ID}/download/stdout"
            lines = f"GET {path} HTTP/1.1\r\nHost: {browser.host}\r\n{cookie}\r\n\r\n"
            writer.write(lines.encode())
            await asyncio.wait_for(reader.closed.wait(), 10)
            assert (await browser.ask("/")).status == 200
            writer.close()

    run(main())


def test_a_replay_that_ends_early_lets_go_of_the_stream() -> None:
    async def main() -> None:
        async with served(FakeReader(output=b"x" * (8 << 20))) as (browser, reader):
            assert (await browser.ask(f"/calls/{ID}/output")).status == 200
            await asyncio.wait_for(reader.closed.wait(), 10)

    run(main())


def test_a_new_call_is_looked_for_often_enough() -> None:
    """A page shows one within a second: half of that is for the answer to be there."""
    assert pages.LOOK_S <= 0.5


@pytest.mark.parametrize("payload", CORPUS)
def test_a_payload_in_a_record_is_text(payload: str) -> None:
    """Wherever a program, a caller or a host chose it."""

    async def main() -> None:
        async with served(FakeReader(output=payload.encode())) as (browser, reader):
            reader.told = hostile("plain")
            plain = (await browser.ask(f"/calls/{ID}")).body
            reader.told = hostile(payload)
            page = (await browser.ask(f"/calls/{ID}")).body
            assert tags(page) == tags(plain)
            assert html.unescape(page).count(payload) >= SEEN_MIN
            reader.told = None
            output = (await browser.ask(f"/calls/{ID}/output")).body
            assert payload in html.unescape(output)
            reader.output = b"plain"
            assert TAG.findall(output) == TAG.findall(
                (await browser.ask(f"/calls/{ID}/output")).body
            )

    run(main())
