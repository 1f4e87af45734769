"""What each page shows: asked of the daemon, in the name of whose session it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import click
from aiohttp import web

from supervisor.call.events import Wall
from supervisor.call.types import Stream
from supervisor.cli import story
from supervisor.cli.moment import Moment
from supervisor.cli.playback import moments
from supervisor.client import Call, rpc
from supervisor.console import replaying, sinks, views
from supervisor.console.reader import ENTRIES_MAX, Reader, Who
from supervisor.errors import InvalidRequest, NotFound, StockadeError

LIVE_MAX = 200
LOOK_S = 0.4
"""How often a page that is open asks what lives: a new call is there within a second."""

ALIVE_S = 15.0
WRITE_S = 30.0
"""For a browser to take a piece of what is sent to it."""

PAGE_ROWS = 50
DENIED_MAX = 500
"""Of the newest calls that a wall denied something, so many are counted."""

ROWS_MAX = 500
"""Of one table of a call's story."""

OUTPUTS = (Stream.STDOUT, Stream.STDERR)
FILTERS = ("profile", "caller", "agent", "session", "outcome", "denied", "to", "program", "text")
TIMES = ("since", "until")
CALL_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
STATIC = {
    path.name: (path.read_bytes(), TYPES[path.suffix])
    for path in Path(__file__).with_name("static").iterdir()
}
WHO = web.RequestKey("stockade_who", Who)
"""Whose session a request is in."""

Page = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True, kw_only=True)
class Denials:
    """What walls denied to the calls of one profile: how many calls, by wall, and the newest."""

    profile: str
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    total: int = 0
    newest: views.Line | None = None


class Pages:
    """All pages but those that enter and leave."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._replays = asyncio.Semaphore(2)

    def routes(self) -> Mapping[str, Page]:
        """Give what is where."""
        return {
            "/": self.live,
            "/live": self.live_events,
            "/calls": self.calls,
            "/calls/{call}": self.call,
            "/calls/{call}/output": self.output,
            "/calls/{call}/download/{stream}": self.download,
            "/denials": self.denials,
            "/sinks": self.sinks,
            "/enter": self.entrance,
            "/static/{name}": self.static,
        }

    async def entrance(self, _: web.Request) -> web.StreamResponse:
        """Say how to get in; the page's script takes the token out of the address."""
        return _html(views.render("enter.html", reason=""))

    async def static(self, request: web.Request) -> web.StreamResponse:
        """Give the style or the script."""
        name = request.match_info["name"]
        if name not in STATIC:
            raise web.HTTPNotFound
        body, kind = STATIC[name]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def live(self, request: web.Request) -> web.StreamResponse:
        """Show what lives."""
        found, more = await self._reader.live(LIVE_MAX)
        lines = [views.line(call) for call in found]
        return _page(request, "live.html", lines=lines, more=more)

    async def live_events(self, request: web.Request) -> web.StreamResponse:
        """Tell the page's script each time that something else lives."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        told, quiet_s = "", 0.0
        while True:
            try:
                found, more = await self._reader.live(LIVE_MAX)
            except StockadeError as error:
                await _write(response, f"event: over\ndata: {error.reason}\n\n".encode())
                return response
            now = json.dumps(views.live_json([views.line(call) for call in found], more))
            if now != told:
                await _write(response, f"data: {now}\n\n".encode())
                told, quiet_s = now, 0.0
            elif quiet_s >= ALIVE_S:
                await _write(response, b":\n\n")
                quiet_s = 0.0
            await asyncio.sleep(LOOK_S)
            quiet_s += LOOK_S

    async def calls(self, request: web.Request) -> web.StreamResponse:
        """List recorded calls, by what is asked for."""
        given = {name: request.query.get(name, "").strip() for name in (*FILTERS, *TIMES)}
        wanted = _wanted(given)
        token = request.query.get("after", "")
        found, following = await self._reader.page(wanted, token, PAGE_ROWS)
        asked = {name: value for name, value in given.items() if value}
        return _page(
            request,
            "calls.html",
            lines=[views.line(call) for call in found],
            given=given,
            filtered=bool(asked),
            later=f"/calls?{urlencode({**asked, 'after': following})}" if following else "",
            first=f"/calls?{urlencode(asked)}" if token else "",
        )

    async def call(self, request: web.Request) -> web.StreamResponse:
        """Tell the story of a call."""
        record, whole = await self._reader.account(_call_id(request))
        finished = record.call.finished
        head, *others = story.sections(record)
        last = record.entries[-1] if record.entries else None
        return _page(
            request,
            "call.html",
            call=record.call,
            head=head,
            sections=others,
            rows_max=ROWS_MAX,
            state=views.ended(finished) if finished is not None else record.call.state,
            bars=views.bars(finished.timeline) if finished is not None else [],
            width=views.TIMELINE_WIDTH,
            first=record.entries[0].index if record.entries else None,
            last=last,
            entries_max=0 if whole else ENTRIES_MAX,
            streams=[one.value for one in OUTPUTS],
        )

    async def output(self, request: web.Request) -> web.StreamResponse:
        """Show a part of what a call wrote."""
        call_id = _call_id(request)
        number = _number(request.query.get("part", "1"))
        chosen = request.query.get("stream", "")
        if chosen and chosen not in (one.value for one in OUTPUTS):
            raise InvalidRequest("STREAM_UNKNOWN", "stream is stdout or stderr, or not given")
        wanted = (Stream(chosen),) if chosen else OUTPUTS
        record, _ = await self._reader.account(call_id)
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as opened, self._replays:

            def read(stream: Stream) -> Iterator[bytes]:
                pieces = self._reader.read_output(call_id, stream)
                opened.push_async_callback(cast("Any", pieces).aclose)
                return _in_thread(pieces, loop)

            part = await asyncio.to_thread(
                lambda: replaying.window(moments(record, wanted, read), number)
            )
        return _page(
            request,
            "output.html",
            call=record.call,
            part=part,
            parts=_parts(record.call, wanted),
            chosen=chosen,
            streams=[one.value for one in OUTPUTS],
        )

    async def download(self, request: web.Request) -> web.StreamResponse:
        """Give all that a stream has on record, as a file that no browser shows."""
        call_id, name = _call_id(request), request.match_info["stream"]
        if name not in [one.value for one in Stream]:
            raise NotFound("STREAM_UNKNOWN", "a call has stdin, stdout and stderr")
        pieces = self._reader.read_output(call_id, Stream(name))
        async with contextlib.aclosing(cast("Any", pieces)):
            first = await anext(pieces, b"")  # what cannot be read is told by a page
            response = web.StreamResponse(
                headers={
                    "Content-Type": "text/plain; charset=utf-8",
                    "Content-Disposition": f'attachment; filename="{call_id}.{name}.txt"',
                    "Content-Security-Policy": "sandbox; default-src 'none'",
                }
            )
            response.enable_chunked_encoding()
            await response.prepare(request)
            if request.method != "HEAD":
                await _write(response, first)
                async for piece in pieces:
                    await _write(response, piece)
        return response

    async def denials(self, request: web.Request) -> web.StreamResponse:
        """Count by profile what walls denied."""
        rows: dict[str, Denials] = {}
        seen: set[str] = set()
        for wall in Wall:
            wanted = rpc.Wanted(denied=wall.value)
            async for call in self._reader.records(limit=DENIED_MAX, **wanted):
                row = rows.setdefault(call.profile, Denials(profile=call.profile))
                row.calls[wall.value] += 1
                if call.call_id not in seen:
                    seen.add(call.call_id)
                    _count(row, call)
        most = sorted(rows.values(), key=lambda row: (-row.total, row.profile))
        walls = [wall.value for wall in Wall]
        return _page(request, "denials.html", rows=most, walls=walls, most=DENIED_MAX)

    async def sinks(self, request: web.Request) -> web.StreamResponse:
        """Show how each sink does."""
        return _page(request, "sinks.html", section=await sinks.section(self._reader))


def _count(row: Denials, call: Call) -> None:
    row.total += call.denials
    line = views.line(call)
    if row.newest is None or line.time > row.newest.time:
        row.newest = line


def _wanted(given: Mapping[str, str]) -> rpc.Wanted:
    """Give what a list is asked for.

    Raises:
        InvalidRequest: `FILTER_INVALID`.
    """
    fields: dict[str, Any] = {name: given[name] for name in FILTERS if given[name]}
    for name in TIMES:
        if given[name]:
            try:
                fields[f"{name}_ns"] = Moment().convert(given[name], None, None)
            except click.BadParameter as error:
                raise InvalidRequest("FILTER_INVALID", f"{name}: {error.message}") from error
    return cast("rpc.Wanted", fields)


def _call_id(request: web.Request) -> str:
    call_id = request.match_info["call"]
    if not CALL_ID.fullmatch(call_id):
        raise NotFound("RECORD_NOT_FOUND", "that is no call's id")
    return call_id


def _number(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text, re.ASCII):
        raise InvalidRequest("PART_INVALID", "part is a number, from 1")
    return int(text)


def _parts(call: Call, streams: Sequence[Stream]) -> int:
    """Give about how many parts there are; 0 where that is not known yet."""
    summaries = call.finished.streams if call.finished is not None else ()
    stored = sum(one.stored_bytes for one in summaries if one.stream in streams)
    return -(-stored // replaying.WINDOW_BYTES)


def _in_thread(pieces: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
    """Give in a thread what comes on the loop."""

    async def following() -> bytes:
        return await anext(pieces, b"")

    while data := asyncio.run_coroutine_threadsafe(following(), loop).result():
        yield data


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Send a piece; who does not take it in time is let go.

    Raises:
        TimeoutError: it was not taken.
    """
    if data:
        async with asyncio.timeout(WRITE_S):
            await response.write(data)


def _page(request: web.Request, name: str, **values: Any) -> web.Response:
    return _html(views.render(name, who=request[WHO], **values))


def _html(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", charset="utf-8")
