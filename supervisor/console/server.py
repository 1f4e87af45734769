"""The web server of the console: what is taken from a browser, and what each answer forbids it.

A request has to name the address that we listen on (a name that somebody made lead here does not
do), and may not come from a page of somebody else. Without a session there is one page, which says
how to get one. A session is a cookie, and good for one user of this host, who made the connection.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from supervisor.console import pages, views
from supervisor.console.reader import Asking, Reader, asking
from supervisor.errors import (
    AuditUnavailable,
    CapacityError,
    InvalidRequest,
    NotFound,
    NotPermitted,
    ShuttingDown,
    StockadeError,
    Unauthenticated,
    Unreachable,
)
from supervisor.linux.sock_diag import uid_of

COOKIE = "stockade_console"
SECRET = re.compile(r"[A-Za-z0-9_-]{20,100}", re.ASCII)
"""A session or a link's token, as the daemon makes them: nothing else is worth a question."""

READING = frozenset({"GET", "HEAD"})
CONNECTIONS_MAX = 64
OF_USER_MAX = 24
"""Connections of one user of this host, so that nobody keeps others out."""

REQUESTS_MAX = 16
"""Of one session, at a time."""

IDLE_S = 15.0
"""For a connection to send a whole request, after it came or after the last answer."""

BODY_BYTES_MAX = 4096
BODY_S = 5.0
ACCEPT_RETRY_S = 0.1
SHUTDOWN_S = 1.0

POLICY = "; ".join(
    (
        "default-src 'none'", "style-src 'self'", "script-src 'self'", "img-src 'self'",
        "connect-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'",
        "require-trusted-types-for 'script'", "trusted-types 'none'",
    )
)  # fmt: skip
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer a form's Origin is null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Permissions-Policy": "camera=(), clipboard-read=(), geolocation=(), microphone=()",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
STATUS: dict[type[StockadeError], int] = {
    InvalidRequest: 400,
    Unauthenticated: 401,
    NotPermitted: 403,
    NotFound: 404,
    CapacityError: 429,
    AuditUnavailable: 503,
    ShuttingDown: 503,
    Unreachable: 503,
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where we are, as a browser writes it, and by what we ask who connects."""

    url: str
    diag: socket.socket

    @property
    def host(self) -> str:
        """Give what a request's Host has to be."""
        return urlsplit(self.url).netloc


class _Guards:
    """What is looked at before a page is made."""

    def __init__(self, site: Site, reader: Reader) -> None:
        self._site = site
        self._reader = reader
        self._running: dict[str, int] = {}

    @web.middleware
    async def errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what no page of ours would ask for, and make a page of what went wrong."""
        asking.set(None)  # what came over the same connection before was another request
        try:
            self._check(request)
            return await handler(request)
        except web.HTTPException as error:
            return _plain(error.status, error.reason)
        except StockadeError as error:
            return _failed(error)

    @web.middleware
    async def session(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let nobody without a session see more than how to get one."""
        if request.path == "/enter" or request.path.startswith("/static/"):
            return await handler(request)
        secret = request.cookies.get(COOKIE, "")
        if not SECRET.fullmatch(secret):
            raise Unauthenticated("SESSION_UNKNOWN", "")
        uid = self._user(request)
        asking.set(Asking(secret=secret, uid=uid, watching=request.path == "/live"))
        who = await self._reader.who()
        request[pages.WHO] = who
        if self._running.get(secret, 0) >= REQUESTS_MAX:
            raise CapacityError("REQUESTS_LIMIT", "this session asks for too much at a time")
        self._running[secret] = self._running.get(secret, 0) + 1
        try:
            return await handler(request)
        finally:
            self._running[secret] -= 1
            if not self._running[secret]:
                del self._running[secret]

    async def enter(self, request: web.Request) -> web.StreamResponse:
        """Take the token of a link, and give the session as a cookie."""
        async with asyncio.timeout(BODY_S):
            form = await request.post()
        token = form.get("token", "")
        if not isinstance(token, str) or not SECRET.fullmatch(token.strip()):
            raise Unauthenticated("SESSION_UNKNOWN", "that is no token of a link")
        asking.set(Asking(secret=token.strip(), uid=self._user(request)))
        session = await self._reader.enter()
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(COOKIE, session, path="/", httponly=True, samesite="Strict")
        return response

    async def leave(self, request: web.Request) -> web.StreamResponse:
        """End the session."""
        await self._reader.leave()
        response = web.Response(status=303, headers={"Location": "/enter"})
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")
        return response

    def _check(self, request: web.Request) -> None:
        if request.headers.getall("Host", []) != [self._site.host]:
            raise web.HTTPMisdirectedRequest
        posts = request.method == "POST" and request.path in ("/enter", "/leave")
        if request.method not in READING and not posts:
            raise web.HTTPMethodNotAllowed(request.method, sorted(READING))
        if posts and request.headers.getall("Origin", []) != [self._site.url]:
            raise web.HTTPForbidden
        # A page of another port is of the same site, and cookies know no ports.
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise web.HTTPForbidden

    def _user(self, request: web.Request) -> int:
        transport = request.transport
        if transport is None:
            raise Unauthenticated("SESSION_UNKNOWN", "the connection is gone")
        own, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        try:
            return uid_of(self._site.diag, own[:2], peer[:2])
        except OSError as error:
            raise Unauthenticated(
                "SESSION_UNKNOWN", f"nobody knows whose browser this is: {error.strerror}"
            ) from error


def application(site: Site, reader: Reader) -> web.Application:
    """Give the pages, behind all that guards them."""
    guards = _Guards(site, reader)
    app = web.Application(
        middlewares=[guards.errors, guards.session], client_max_size=BODY_BYTES_MAX
    )
    made = pages.Pages(reader)
    for path, handler in made.routes().items():
        app.router.add_get(path, handler, allow_head=path != "/live")
    app.on_response_prepare.append(_forbid)
    app.router.add_post("/enter", guards.enter)
    app.router.add_post("/leave", guards.leave)
    return app


async def serve(listener: socket.socket, site: Site, reader: Reader) -> None:
    """Serve browsers, for ever."""
    listener.setblocking(False)
    runner = web.AppRunner(
        application(site, reader),
        handle_signals=False,
        access_log=None,
        keepalive_timeout=IDLE_S,
        handler_cancellation=True,
        lingering_time=SHUTDOWN_S,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    server = runner.server
    if server is None:
        raise RuntimeError("aiohttp made no server")
    await _accept(listener, server, site)


async def _accept(listener: socket.socket, server: web.Server, site: Site) -> None:
    """Take connections, of each user no more than its share, and let go of the others."""
    loop = asyncio.get_running_loop()
    users: dict[object, int] = {}
    while True:
        try:
            connection, peer = await loop.sock_accept(listener)
        except OSError:  # out of descriptors, or it was gone before it was accepted
            await asyncio.sleep(ACCEPT_RETRY_S)
            continue
        there = set(server.connections)
        users = {handler: uid for handler, uid in users.items() if handler in there}
        try:
            uid = uid_of(site.diag, connection.getsockname()[:2], peer[:2])
        except OSError:
            connection.close()
            continue
        share = sum(one == uid for one in users.values())
        if len(there) >= CONNECTIONS_MAX or share >= OF_USER_MAX:
            connection.close()
            continue
        handler = server()
        users[handler] = uid
        await loop.connect_accepted_socket(functools.partial(_given, handler), connection)


def _given(handler: asyncio.Protocol) -> asyncio.Protocol:
    return handler


async def _forbid(_: web.Request, response: web.StreamResponse) -> None:
    """Let no answer go without what it forbids, also where it is an error."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "stockade"


def _plain(status: int, reason: str) -> web.Response:
    return web.Response(status=status, text=f"{status} {reason}\n", content_type="text/plain")


def _failed(error: StockadeError) -> web.Response:
    """Say what went wrong; to nobody who is known, how to be."""
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    if status == 401:
        page = views.render("enter.html", reason=error.message)
    else:
        page = views.render("error.html", who=None, title="Not shown", error=error)
    return web.Response(status=status, text=page, content_type="text/html")
