"""Logs by OTLP, over gRPC or as protobuf over HTTP, as the protocol's specification has it; other
signals of OTLP (`traces`) go the same way.

What may be sent again and what must not is the specification's, but for one thing: where an answer
is about who asks or where (no such method, not allowed), an operator mends that, and no event
becomes a dead letter.

A server may take a part of a request (`partial_success`) and say how many it rejected, but not
which; the request must not be sent again. So every event of it is given as rejected, with that
said. The dead letters then hold some that have arrived; each is known by its uid.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import grpc
import grpc.aio
import httpx
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from supervisor.export.event import Event, Source
from supervisor.export.sink import Refused, Rejected, SinkError
from supervisor.export.sinks.http import (
    CONFIGURATION,
    RETRY_AFTER_S_MAX,
    Answer,
    Endpoint,
    HttpTls,
    Poster,
    clean,
    parts,
    retry_after_s,
)
from supervisor.export.sinks.records import Requests

KIND = "application/x-protobuf"
DETAILS = "grpc-status-details-bin"
BODY_BYTES_MAX = 20 << 20
"""Of the specification; servers of gRPC take 4 MiB where nobody has set more."""

HTTP_AGAIN = frozenset({429, 502, 503, 504})
CODES_AGAIN = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
CODES_CONFIGURATION = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)

log = logging.getLogger("stockade.export")


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpOptions:
    """`endpoint` is the server's address; without `grpc`, `/v1/logs` is below it. `headers` say who
    we are, names in lower case; their values are secret. `body_bytes_max` is before packing."""

    endpoint: Endpoint
    grpc: bool
    source: Source
    headers: Mapping[str, bytes] = field(repr=False)
    body_bytes_max: int = 3 << 20
    packed: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.body_bytes_max <= BODY_BYTES_MAX:
            raise ValueError("a body of OTLP has 20 MiB at most")
        for name, value in self.headers.items():
            if name != name.lower() or not value.isascii() or not value.decode().isprintable():
                raise ValueError(f"{name!r} is no header")
        if self.grpc and httpx.URL(self.endpoint.url).path != "/":
            raise ValueError("an address of gRPC has no path")


class Form(Protocol):
    """How events become requests of a signal, where these go, and how their answers are read.
    `room` is how large a piece, which is an event's, can be."""

    method: str
    path: str
    answer: type[Any]
    room: int

    def piece(self, event: Event, observed_ns: int) -> Any:
        """Give an event's part of a request."""

    def size(self, piece: Any) -> int:
        """Give how much of a request it takes."""

    def whole(self, pieces: Sequence[Any]) -> bytes:
        """Give a request, as it is sent."""

    def rejected(self, partial: Any) -> int:
        """Give how many an answer says to be rejected."""


class Transport(Protocol):
    """How a request goes."""

    async def export(self, body: bytes) -> Any:
        """Send one, and give the answer's message; raises what `Sink` does."""

    async def close(self) -> None:
        """Part; raises nothing."""


class OtlpSink:
    """The sink. Errors are those of `Sink`."""

    def __init__(self, options: OtlpOptions, form: Form | None = None) -> None:
        """Send logs, or what `form` makes."""
        self._secrets = _secrets(options)
        self._form: Form = form or Requests(options.source, options.body_bytes_max)
        over = OverGrpc if options.grpc else OverHttp
        self._transport: Transport = over(options, self._form)

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Send a batch; return once each request was answered.

        Raises:
            SinkError: one was not taken, and may be later.
            Refused: one never will be.
        """
        now, room = time.time_ns(), self._form.room
        records = [self._form.piece(event, now) for event in batch]
        sizes = [self._form.size(one) for one in records]
        good = [at for at, size in enumerate(sizes) if size <= room]
        gone = set(range(len(batch))).difference(good)
        rejected = [Rejected(at, f"a record of more than {room} bytes") for at in gone]
        for begin, end in parts((sizes[at] for at in good), room):
            piece = good[begin:end]
            answer = await self._transport.export(self._form.whole([records[a] for a in piece]))
            partial = answer.partial_success
            said = clean(partial.error_message, self._secrets)
            if (lost := self._form.rejected(partial)) > 0:
                why = f"{lost} of {len(piece)} are rejected, not said which"
                rejected += [Rejected(at, f"{why}: {said}") for at in piece]
            elif said:
                log.warning("the receiver of OTLP took all, and says: %s", said)
        return sorted(rejected)

    def trails(self) -> int:
        """Give none: each has its answer."""
        return 0

    async def close(self) -> None:
        """Part."""
        await self._transport.close()


class OverHttp:
    """Protobuf over HTTP."""

    def __init__(self, options: OtlpOptions, form: Form) -> None:
        self._form = form
        self._secrets = _secrets(options)
        self._poster = Poster(options.endpoint, self._secrets)
        self._packed = options.packed
        self._headers = {name: value.decode() for name, value in options.headers.items()}
        self._headers["content-type"] = KIND

    async def export(self, body: bytes) -> Any:
        """Send a request."""
        answer = await self._poster.post(self._form.path, body, self._headers, packed=self._packed)
        if not answer.taken:
            raise _never_or_later(answer, self._secrets)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if answer.whole and kind == KIND:
                return self._form.answer.FromString(answer.body)
        except DecodeError:
            kind = "what cannot be read"
        # What stands between may say 200 to anything.
        raise SinkError(f"it answers {answer.status}, and not as OTLP does: {kind or 'no type'}")

    async def close(self) -> None:
        """Part."""
        await self._poster.close()


def _never_or_later(answer: Answer, secrets: Sequence[bytes]) -> Exception:
    try:
        said = Status.FromString(answer.body).message or answer.said
    except DecodeError:
        said = answer.said
    why = f"it answers {answer.status}: {clean(said, secrets)}"
    if answer.status in HTTP_AGAIN:
        return SinkError(why, retry_after_s=retry_after_s(answer.headers, time.time()))
    if answer.status in CONFIGURATION or 300 <= answer.status < 400:
        return SinkError(why)
    return Refused(why)


class OverGrpc:
    """gRPC, over a channel that is made anew after each error: its files may be others."""

    def __init__(self, options: OtlpOptions, form: Form) -> None:
        self._form = form
        self._endpoint = options.endpoint
        self._secrets = _secrets(options)
        self._compression = (
            grpc.Compression.Gzip if options.packed else grpc.Compression.NoCompression
        )
        self._metadata = tuple((name, value.decode()) for name, value in options.headers.items())
        self._channel: grpc.aio.Channel | None = None

    async def export(self, body: bytes) -> Any:
        """Send a request."""
        done = False
        try:
            if self._channel is None:
                self._channel = await self._opened()
            call = self._channel.unary_unary(
                self._form.method, request_serializer=None, response_deserializer=None
            )
            said: Any = await call(
                body, timeout=self._endpoint.deadline_s, metadata=self._metadata,
                compression=self._compression,
            )  # fmt: skip
            answer = self._form.answer.FromString(said)
            done = True
        except DecodeError:
            raise SinkError("what it answers is nothing of OTLP") from None
        except grpc.aio.AioRpcError as error:
            raise verdict(error, self._secrets) from None
        finally:
            if not done:
                await self.close()
        return answer

    async def close(self) -> None:
        """Part."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    async def _opened(self) -> grpc.aio.Channel:
        url, tls = httpx.URL(self._endpoint.url), self._endpoint.tls
        port = url.port or (443 if tls else 80)
        target = f"dns:///{url.netloc.decode().rpartition(':')[0] if url.port else url.host}:{port}"
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.max_send_message_length", BODY_BYTES_MAX),
            ("grpc.max_receive_message_length", self._endpoint.answer_bytes_max),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if tls is None:
            return grpc.aio.insecure_channel(target, options=options)
        credentials = await asyncio.to_thread(_credentials, tls)
        return grpc.aio.secure_channel(target, credentials, options=options)


def _credentials(tls: HttpTls) -> grpc.ChannelCredentials:
    tls.context()  # says what is wrong with the files; gRPC would not
    return grpc.ssl_channel_credentials(
        tls.ca.read_bytes(),
        tls.key.read_bytes() if tls.key else None,
        tls.certificate.read_bytes() if tls.certificate else None,
    )


def verdict(error: grpc.aio.AioRpcError, secrets: Sequence[bytes]) -> Exception:
    """Say what an error of gRPC means: a `SinkError` or a `Refused`."""
    code, delay_s = error.code(), _delay_s(error)
    why = f"{code.name}: {clean(error.details() or '', secrets)}"
    if code in CODES_AGAIN or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and delay_s is not None):
        return SinkError(why, retry_after_s=delay_s or 0.0)
    if code in CODES_CONFIGURATION:
        return SinkError(why)
    return Refused(why)


def _delay_s(error: grpc.aio.AioRpcError) -> float | None:
    """Give the wait of a RetryInfo; None where there is none."""
    trailing = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for name, value in trailing:
        if name != DETAILS or not isinstance(value, bytes):
            continue
        try:
            details = Status.FromString(value).details
            for detail in details:
                info = RetryInfo()
                if detail.Unpack(info):
                    seconds: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
                    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX)
        except DecodeError:
            return None
    return None


def _secrets(options: OtlpOptions) -> tuple[bytes, ...]:
    """Give the values, and of "Bearer token" the token as well."""
    values = tuple(options.headers.values())
    return (*values, *(value.rpartition(b" ")[2] for value in values))
