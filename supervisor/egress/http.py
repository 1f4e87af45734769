"""Hold an HTTP/1.1 connection in the clear to its rule, request by request. No I/O.

Each head is read (`head`), judged, and written anew (`requests`), so the far side sees what was
checked and nothing else. A body whose length was announced passes as it is, and may be spliced.
Around any other, `h11` connections stand back to back, a server towards the sandbox, a client
towards the far side: chunks are taken apart and written anew, without extensions and trailers.

One request at a time: bytes of a next one before the response to the first is whole are refused, so
each response belongs to the request that was checked. When in doubt the connection ends.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable

import h11

from supervisor.egress import responses
from supervisor.egress.actions import (
    Action,
    Close,
    Denied,
    SpliceFromClient,
    SpliceFromServer,
    ToClient,
    ToServer,
    Upgraded,
)
from supervisor.egress.clear import Scanner
from supervisor.egress.head import (
    CHUNKED,
    HEAD_BYTES_MAX,
    HeadError,
    Heads,
    framing_of,
    request_of,
    response_of,
)
from supervisor.egress.requests import (
    FORBIDDEN,
    MALFORMED,
    Admitted,
    RequestRefused,
    RequestRule,
    written,
)
from supervisor.egress.secrets import Swap
from supervisor.profile.model import EgressRule

SPLICE_BYTES_MIN = 64 * 1024
"""Less than this is not worth a splice of its own."""
INFORMATIONAL_MAX = 16
"""Interim responses to one request."""
REASON_CHARACTERS_MAX = 300

_QUOTED = re.compile(r":?\s*(?:bytearray\(|b?['\"])")
"""Where a message begins to quote what was sent."""

_STATUS = {MALFORMED: "400 Bad Request", FORBIDDEN: "403 Forbidden", 502: "502 Bad Gateway"}


class _Part(enum.Enum):
    """Where one direction is in its message."""

    HEAD = enum.auto()
    LENGTH = enum.auto()
    FRAMED = enum.auto()
    DONE = enum.auto()


class _Exchange:
    """One request and its response."""

    def __init__(self, request: h11.Request, admitted: Admitted, *, chunked: bool) -> None:
        self.method = request.method
        self.old = request.http_version == b"1.0"  # Knows neither chunks nor interim responses.
        self.upgrade, self.close = admitted.upgrade, admitted.close
        self.asks_in_chunks, self.answers_in_chunks = chunked, False
        self.informational = 0

    @functools.cached_property
    def server(self) -> h11.Connection:
        """What faces the sandbox, where its request is in chunks."""
        return h11.Connection(h11.SERVER, HEAD_BYTES_MAX)

    @functools.cached_property
    def client(self) -> h11.Connection:
        """What faces the far side, where either body is in chunks or ends with its connection."""
        client = h11.Connection(h11.CLIENT, HEAD_BYTES_MAX)
        client.send(_shape(self.method, chunked=self.asks_in_chunks))
        return client


@functools.lru_cache(maxsize=64)
def _shape(method: bytes, *, chunked: bool) -> h11.Request:
    """Give what `h11` has to know of a request to read its response and frame its body."""
    headers = [(b"Host", b"-")]
    if chunked:
        headers.append((b"Transfer-Encoding", b"chunked"))
    return h11.Request(method=method, target=b"/", headers=headers)


class HttpGate:
    """Both directions of a connection to `name` (canonical, or an address) at `port`.

    Give it what each side sent or that it ended; do what it says, in that order. `swap` puts the
    call's secrets into requests.
    """

    def __init__(self, *, name: str, port: int, rule: EgressRule, swap: Swap | None = None) -> None:
        self._swap = swap if swap is not None and swap.scans else None
        self._scanner: Scanner | None = None
        self._rule = RequestRule(name=name, port=port, rule=rule)
        self._exchange: _Exchange | None = None
        self._from_client, self._from_server = bytearray(), bytearray()
        self._client_heads, self._server_heads = Heads(), Heads()
        self._request = self._response = _Part.HEAD
        self._request_left = self._response_left = 0
        self._raw = self._ended = False
        self._out: list[Action] = []

    @property
    def answering(self) -> bool:
        """Say whether a response has begun that is not whole."""
        return self._response is not _Part.HEAD

    def from_client(self, data: bytes) -> list[Action]:
        """Take what the client sent."""
        if self._raw:
            return [ToServer(data)]
        self._from_client += data
        return self._turn(self._client_turn, self._deny)

    def from_server(self, data: bytes) -> list[Action]:
        """Take what the far side sent."""
        if self._raw:
            return [ToClient(data)]
        self._from_server += data
        return self._turn(self._server_turn, self._fail)

    def client_ended(self) -> list[Action]:
        """Take that the client sends no more; a response that it waits for still comes."""
        return self._turn(self._client_end, self._deny)

    def server_ended(self) -> list[Action]:
        """Take that the far side sends no more."""
        return self._turn(self._server_end, self._fail)

    def spliced_from_client(self, count: int) -> list[Action]:
        """Take that the next `count` bytes of a request's body have been moved."""
        return self._turn(lambda: self._request_moved(count), self._deny)

    def spliced_from_server(self, count: int) -> list[Action]:
        """Take that the next `count` bytes of a response's body have been moved."""
        return self._turn(lambda: self._response_moved(count), self._fail)

    def unreached(self, reason: str, *, refused: bool) -> list[Action]:
        """Take that the far side could not be dialled, or must not be (`refused`): the client is
        told why, where it can be, and nothing goes on."""
        if self._ended:
            return []
        self._out = []
        rule = f"\nrule: egress: {self._rule.called}"
        self._tell(FORBIDDEN if refused else 502, f"{reason[:REASON_CHARACTERS_MAX]}{rule}")
        self._ended = True
        return self._out

    def _turn(self, step: Callable[[], None], wrong: Callable[[Exception], None]) -> list[Action]:
        if self._ended:
            return []  # All that is to be done has been said, with a Close at its end.
        self._out = []
        try:
            step()
        except (HeadError, RequestRefused, h11.ProtocolError) as error:
            wrong(error)
        return self._out

    # What the client says.

    def _client_turn(self) -> None:
        while self._from_client and not self._ended:
            if self._request is _Part.HEAD:
                if not self._begin():
                    return
            elif self._request is _Part.LENGTH:
                self._pass_request_bytes()
            elif self._request is _Part.FRAMED:
                self._pass_request_chunks()
            else:
                raise RequestRefused("bytes before the response was whole (pipelining)", MALFORMED)

    def _begin(self) -> bool:
        """Take a request's head; say whether it was there."""
        head = self._client_heads.take(self._from_client)
        if head is None:
            return False
        if head.startswith(b"PRI * HTTP/2"):
            raise RequestRefused("HTTP/2, where only HTTP/1.1 is checked", MALFORMED)
        framing = framing_of(head)
        request = request_of(head)
        admitted = self._rule.admit(request, framing)
        self._exchange = exchange = _Exchange(request, admitted, chunked=framing == CHUNKED)
        headers = admitted.headers
        if self._swap is not None:
            headers = self._swap.apply(request.method, request.target, headers)
            self._scanner = self._swap.scanner()
        if exchange.asks_in_chunks:
            exchange.server.receive_data(head)
            exchange.server.next_event()
        self._out.append(ToServer(written(request.method, request.target, headers)))
        if exchange.asks_in_chunks:
            self._request = _Part.FRAMED
        elif framing:
            self._request, self._request_left = _Part.LENGTH, framing
            self._pass_request_bytes()
            if self._request_left >= SPLICE_BYTES_MIN and self._scanner is None:
                self._out.append(SpliceFromClient(self._request_left))
        else:
            self._request = _Part.DONE
        return True

    def _pass_request_bytes(self) -> None:
        data = bytes(self._from_client[: self._request_left])
        del self._from_client[: len(data)]
        if data:
            self._scan(data)
            self._out.append(ToServer(data))
            self._request_moved(len(data))

    def _request_moved(self, count: int) -> None:
        if self._request is not _Part.LENGTH or not 0 <= count <= self._request_left:
            raise ValueError(f"{count} bytes moved of a request with {self._request_left} to come")
        self._request_left -= count
        if self._request_left == 0:
            self._request = _Part.DONE

    def _pass_request_chunks(self) -> None:
        exchange = self._now()
        exchange.server.receive_data(bytes(self._from_client))
        self._from_client.clear()
        data, whole = _events(exchange.server)
        if data:
            self._scan(data)
            self._out.append(ToServer(exchange.client.send(h11.Data(data=data))))
        if whole:
            self._out.append(ToServer(exchange.client.send(h11.EndOfMessage())))
            self._request = _Part.DONE
            self._from_client += exchange.server.trailing_data[0]

    def _scan(self, data: bytes) -> None:
        if self._scanner is not None and (found := self._scanner.feed(data)):
            raise RequestRefused(f"the placeholder of secret {found} in a body", name="secret")

    def _client_end(self) -> None:
        if self._request is _Part.DONE:
            self._now().close = True
        elif self._request is _Part.HEAD and not self._from_client:
            self._end(Close())
        else:
            self._end(Close("the client ended within its request", cut=self.answering))

    # What the far side says.

    def _server_turn(self) -> None:
        while self._from_server and not self._ended and not self._raw:
            if self._exchange is None:
                raise HeadError("bytes that no request asked for")
            if self._response is _Part.HEAD:
                if not self._answer(self._exchange):
                    return
            elif self._response is _Part.LENGTH:
                data = bytes(self._from_server[: self._response_left])
                del self._from_server[: len(data)]
                self._out.append(ToClient(data))
                self._response_moved(len(data))
            elif self._response is _Part.FRAMED:
                self._exchange.client.receive_data(bytes(self._from_server))
                self._from_server.clear()
                self._pass_response_chunks(self._exchange)
            else:
                raise HeadError("bytes behind the response")

    def _answer(self, exchange: _Exchange) -> bool:
        """Take a response's head; say whether it was there."""
        head = self._server_heads.take(self._from_server)
        if head is None:
            return False
        response = response_of(head)
        if isinstance(response, h11.InformationalResponse):
            self._inform(exchange, response)
            return True
        answer = responses.read(head, exchange.method, response)
        # A response before the request was whole: no further request can be trusted to be one.
        early = self._request is not _Part.DONE
        exchange.close = exchange.close or early or answer.closes
        exchange.answers_in_chunks = answer.framing < 0 and not exchange.old
        anew = responses.written(
            answer, response, close=exchange.close, chunked=exchange.answers_in_chunks
        )
        if answer.framing < 0:
            exchange.client.receive_data(head)
            exchange.client.next_event()
            self._out.append(ToClient(anew))
            self._response = _Part.FRAMED
            return True
        self._response, self._response_left = _Part.LENGTH, answer.framing
        data = bytes(self._from_server[: answer.framing])
        del self._from_server[: len(data)]
        self._out.append(ToClient(anew + data))
        self._response_moved(len(data))
        if self._response_left >= SPLICE_BYTES_MIN:
            self._out.append(SpliceFromServer(self._response_left))
        return True

    def _inform(self, exchange: _Exchange, response: h11.InformationalResponse) -> None:
        exchange.informational += 1
        if exchange.informational > INFORMATIONAL_MAX:
            raise HeadError(f"more than {INFORMATIONAL_MAX} interim responses")
        switches = response.status_code == 101
        if switches and not exchange.upgrade:
            raise HeadError("an upgrade that was not asked for")
        anew = responses.informational(response)
        if not exchange.old:  # HTTP/1.0 knows of no interim response (RFC 9110, section 15.2).
            self._out.append(ToClient(anew))
        if switches:
            self._raw = True
            self._out.append(Upgraded())
            if self._from_server:
                self._out.append(ToClient(bytes(self._from_server)))
                self._from_server.clear()

    def _response_moved(self, count: int) -> None:
        if self._response is not _Part.LENGTH or not 0 <= count <= self._response_left:
            raise ValueError(
                f"{count} bytes moved of a response with {self._response_left} to come"
            )
        self._response_left -= count
        if self._response_left == 0:
            self._finish()

    def _pass_response_chunks(self, exchange: _Exchange) -> None:
        data, whole = _events(exchange.client)
        if data:
            self._out.append(
                ToClient(responses.chunk(data) if exchange.answers_in_chunks else data)
            )
        if whole:
            if exchange.answers_in_chunks:
                self._out.append(ToClient(responses.chunk(b"")))
            self._from_server += exchange.client.trailing_data[0]
            self._finish()

    def _server_end(self) -> None:
        if self._response is _Part.FRAMED:
            exchange = self._now()
            exchange.client.receive_data(b"")  # An error, but for a body that ends so.
            self._pass_response_chunks(exchange)
        elif self._response is _Part.LENGTH or self._from_server:
            raise HeadError("the end within a response")
        else:
            self._end(Close())  # Between two requests, or in a race with one: clients ask again.

    def _finish(self) -> None:
        """The response is whole."""
        if self._now().close:
            self._end(Close())
            return
        self._exchange = None
        self._request = self._response = _Part.HEAD

    def _now(self) -> _Exchange:
        if self._exchange is None:
            raise HeadError("no request")
        return self._exchange

    # How it ends.

    def _end(self, *actions: Action) -> None:
        self._ended = True
        self._out += actions

    def _tell(self, status: int, text: str) -> None:
        """Answer the client, where the response has not begun."""
        if self.answering:
            return
        body = f"stockade: {text}\n".encode("ascii", "backslashreplace")
        head = (
            f"HTTP/1.1 {_STATUS[status]}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._out.append(ToClient(head.encode() + body, last=True))

    def _deny(self, error: Exception) -> None:
        if not isinstance(error, RequestRefused):
            error = RequestRefused(str(error), MALFORMED)
        reason = error.reason[:REASON_CHARACTERS_MAX]
        self._tell(error.status, f"{reason}\nrule: egress: {self._rule.called}")
        self._end(Denied(reason=reason, name=error.name), Close(cut=self.answering))

    def _fail(self, error: Exception) -> None:
        text = str(error)
        if self._swap is not None:  # What it quotes may be a secret, sent back.
            text = _QUOTED.split(text)[0]
        reason = f"the far side sent {text}"[:REASON_CHARACTERS_MAX]
        self._tell(502, reason)
        self._end(Close(reason, cut=self.answering))


def _events(connection: h11.Connection) -> tuple[bytes, bool]:
    """Take what there is of a body in chunks; say whether that is all. Trailers are dropped."""
    data = bytearray()
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            data += event.data
        elif isinstance(event, h11.EndOfMessage):
            return bytes(data), True
        else:
            return bytes(data), False
