"""What sinks that speak HTTP share: one POST after the other, over one connection.

A transport of httpx is used without its client, so nothing follows a redirect, keeps a cookie,
reads a proxy or a password from the environment, or logs an address. An answer is read up to a
bound and within a deadline, however slowly it comes.
"""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import os
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx

from supervisor.export.event import Event
from supervisor.export.sink import Refused, SinkError
from supervisor.export.sinks.certificates import check_pair, client_context

RETRY_AFTER_S_MAX = 3600.0
SAID_CHARS_MAX = 200
SECRET_BYTES_MIN = 4
"""What is shorter is not looked for in what the other side says: it is in most texts by chance."""

GZIP_LEVEL = 1
TAKEN_MAX = 1 << 16

AGAIN = frozenset({408, 425, 429})
"""And 5xx: the other side may take it later."""

CONFIGURATION = frozenset({401, 402, 403, 404, 405, 407, 410, 411, 421, 426, 511})
"""And 3xx: it is about who asks or where, not about what was sent. An operator mends that, so no
event becomes a dead letter because a token has expired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTls:
    """How the other side is known: by a certificate for the host of the address, from an authority
    in the file `ca`. With `certificate` and `key`, two PEM files, it knows us as well."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        check_pair(self.certificate, self.key)

    def context(self) -> ssl.SSLContext:
        """Make a context of the files as they are now. Blocks.

        Raises:
            SinkError: a file is missing, or is not what it should be.
        """
        try:
            return client_context(self.ca, self.certificate, self.key)
        except (ssl.SSLError, OSError) as error:
            raise SinkError(f"the certificates cannot be used: {_reason(error)}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the receiver is. `url` may have a secret in its path, so that is told to nobody.

    Without `tls`, what is sent can be read and changed on its way: `plain_because` has to say why
    that is well (the other side is on this host, say). `connect_s` is for connection and handshake;
    `stall_s` is how long no byte may come or go, `deadline_s` how long a request may take with its
    answer, of which `answer_bytes_max` are read.
    """

    url: str = field(repr=False)
    tls: HttpTls | None
    plain_because: str = ""
    connect_s: float = 10.0
    stall_s: float = 15.0
    deadline_s: float = 25.0
    answer_bytes_max: int = 8 << 20

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ValueError(f"that is no address: {error}") from None
        if url.scheme not in {"http", "https"} or not url.host or url.fragment:
            raise ValueError("the address has to be of http or https, and name a host")
        if url.userinfo:
            raise ValueError("who we are does not belong into the address")
        if (url.scheme == "https") != (self.tls is not None):
            raise ValueError("TLS goes with https, and with nothing else")
        if self.tls is None and not self.plain_because:
            raise ValueError("without TLS, it has to be said why that is well")
        if self.tls is not None and self.plain_because:
            raise ValueError("with TLS, there is no reason to have none")

    def at(self, path: str) -> httpx.URL:
        """Give the address of something below this one; "" is this one."""
        url = httpx.URL(self.url)
        if not path:
            return url
        begin, _, query = path.partition("?")
        whole = url.path.rstrip("/") + begin
        return url.copy_with(path=whole, query=query.encode() or None)


class Answer(NamedTuple):
    """What the other side said; `whole` says that `body` is all of it."""

    status: int
    headers: httpx.Headers
    body: bytes
    whole: bool
    said: str

    @property
    def taken(self) -> bool:
        """Say whether it is a yes."""
        return 200 <= self.status < 300


class Poster:
    """Sends POSTs, or what is like one. `secrets` are taken out of what the other side says before
    anybody is told."""

    def __init__(self, endpoint: Endpoint, secrets: Sequence[bytes] = ()) -> None:
        self._endpoint = endpoint
        self._secrets = tuple(secrets)
        self._transport: httpx.AsyncHTTPTransport | None = None
        self._timeout = httpx.Timeout(
            endpoint.stall_s, connect=endpoint.connect_s, pool=endpoint.connect_s
        ).as_dict()

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, packed: bool = False,
        method: str = "POST",
    ) -> Answer:  # fmt: skip
        """Send a body; give the answer, whatever it says. With `packed`, gzip makes it smaller.

        Raises:
            SinkError: there is nobody, not the one that was meant, or no answer in time.
        """
        every = {"accept-encoding": "identity", "user-agent": "stockade", **headers}
        done = False
        try:
            async with asyncio.timeout(self._endpoint.deadline_s):
                if packed:
                    body = await asyncio.to_thread(gzip.compress, body, GZIP_LEVEL, mtime=0)
                    every["content-encoding"] = "gzip"
                request = httpx.Request(
                    method, self._endpoint.at(path), headers=every, content=body,
                    extensions={"timeout": self._timeout},
                )  # fmt: skip
                answer = await self._exchange(request)
            done = True
        except TimeoutError:
            raise SinkError(f"no whole answer in {self._endpoint.deadline_s:g} s") from None
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise SinkError(self._clean(self._told(error))) from None
        finally:
            if not done:
                await self.close()  # the files of the certificates are read anew, too
        return answer

    def _told(self, error: Exception) -> str:
        """Say what failed, where httpx has no words of its own, or none that say why."""
        endpoint, url = self._endpoint, httpx.URL(self._endpoint.url)
        match error:
            case httpx.ConnectTimeout():
                return f"{url.netloc.decode()}: no connection in {endpoint.connect_s:g} s"
            case httpx.ReadTimeout():
                return f"it says nothing for {endpoint.stall_s:g} s"
            case httpx.WriteTimeout():
                return f"it takes nothing for {endpoint.stall_s:g} s"
            case httpx.ConnectError():
                return f"{url.netloc.decode()}: {_first_cause(error) or error}"
        return str(error) or type(error).__name__

    async def close(self) -> None:
        """Part. Does nothing a second time, and raises nothing."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    async def _exchange(self, request: httpx.Request) -> Answer:
        if self._transport is None:
            self._transport = await self._opened()
        response = await self._transport.handle_async_request(request)
        try:
            parts, size, whole = [], 0, True
            async for part in response.aiter_raw():
                size += len(part)
                if size > self._endpoint.answer_bytes_max:
                    whole = False
                    break
                parts.append(part)
        finally:
            await response.aclose()
        body = b"".join(parts)
        return Answer(response.status_code, response.headers, body, whole, self._said(body))

    async def _opened(self) -> httpx.AsyncHTTPTransport:
        tls = self._endpoint.tls
        # Without TLS there is no use for a context, and httpx would read one from files.
        context = (
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if tls is None
            else await asyncio.to_thread(tls.context)
        )
        return httpx.AsyncHTTPTransport(
            verify=context, trust_env=False, retries=0,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
        )  # fmt: skip

    def _said(self, body: bytes) -> str:
        return self._clean(body[: 16 * SAID_CHARS_MAX].decode("utf-8", "replace"))

    def _clean(self, text: str) -> str:
        return clean(text, self._secrets)


def _reason(error: OSError) -> str:
    """Give OpenSSL's reason without its place in Python's source, or the kernel's with the file."""
    return str(error).partition(" (_ssl.c")[0]


def _first_cause(error: BaseException) -> str:
    """Give what the kernel said first, "" where it was not the kernel."""
    cause: BaseException | None = error
    said = ""
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        plain = isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError | socket.gaierror)
        if plain and cause.errno:  # type: ignore[union-attr]
            said = os.strerror(cause.errno)  # type: ignore[union-attr]
        cause = cause.__cause__ or cause.__context__
    return said


def clean(text: str, secrets: Iterable[bytes]) -> str:
    """Give the beginning of what the other side said, fit to be shown: one line, and no secret but
    one that is cut in two."""
    for secret in secrets:
        if len(secret) >= SECRET_BYTES_MIN:
            text = text.replace(secret.decode("latin-1"), "(secret)")
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split())[:SAID_CHARS_MAX]


def judge(answer: Answer) -> None:
    """Say what a status means; one of 2xx is a yes.

    Raises:
        SinkError: the same may be taken later, or once an operator has mended something.
        Refused: never.
    """
    status = answer.status
    if answer.taken:
        return
    why = f"it answers {status}: {answer.said}" if answer.said else f"it answers {status}"
    if status in AGAIN or status >= 500:
        raise SinkError(why, retry_after_s=retry_after_s(answer.headers, time.time()))
    if 300 <= status < 400:
        raise SinkError(f"it answers {status}, which leads elsewhere and is not followed")
    if status in CONFIGURATION:
        raise SinkError(why)
    raise Refused(why)


def retry_after_s(headers: httpx.Headers, now: float) -> float:
    """Give how long the other side asks to wait, from seconds or a date (RFC 9110, 10.2.3); 0.0
    where it does not say, or nothing that can be read, and never more than an hour."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_S_MAX)
    try:
        until = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(until - now, 0.0), RETRY_AFTER_S_MAX)


def parts(sizes: Iterable[int], bytes_max: int) -> Iterator[tuple[int, int]]:
    """Cut a batch into pieces of at most so many bytes, in order: give where each begins and ends.
    One that is larger alone is a piece by itself."""
    begin = end = total = 0
    for size in sizes:
        if end > begin and total + size > bytes_max:
            yield begin, end
            begin, total = end, 0
        end += 1
        total += size
    if end > begin:
        yield begin, end


class Taken:
    """Which events of a batch that failed have arrived: when it comes again, they are left out.
    Only who knows each one's fate can use this; what is forgotten is sent twice."""

    def __init__(self) -> None:
        self._uids: set[str] = set()

    def missing(self, batch: Sequence[Event]) -> list[int]:
        """Give the positions of what has yet to be sent."""
        return [at for at, event in enumerate(batch) if event.uid not in self._uids]

    def add(self, event: Event) -> None:
        """Note that an event has arrived."""
        if len(self._uids) < TAKEN_MAX:
            self._uids.add(event.uid)

    def forget(self, batch: Sequence[Event]) -> None:
        """Note that a batch is done: it comes no more."""
        self._uids.difference_update(event.uid for event in batch)
