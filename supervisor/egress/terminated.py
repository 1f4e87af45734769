"""Terminate TLS, and hold the HTTP/1.1 within to its rule. No I/O.

    sandbox ── TLS ── `TlsPipe` ── `HttpGate` ── `TlsPipe` ── TLS ── far side

The sandbox's first word waits until the far side has shown who it is: so nothing is taken from the
sandbox that has nowhere to go, and a far side with a bad certificate is a failed handshake to it.
"""

from __future__ import annotations

from supervisor.egress.actions import (
    Action,
    Close,
    Denied,
    EndToClient,
    EndToServer,
    SpliceFromClient,
    SpliceFromServer,
    ToClient,
    ToServer,
    Upgraded,
)
from supervisor.egress.http import HttpGate
from supervisor.egress.pipe import PipeError, TlsPipe
from supervisor.egress.terminate import Terminator
from supervisor.egress.tls import (
    HELLO_BYTES_MAX,
    ClientHelloCheck,
    NeedMore,
    Refused,
    refusal_alert,
)

_HANDSHAKE_FAILURE = bytes((21, 3, 3, 0, 2, 2, 40))
"""A fatal alert, for a client whose far side does not hold."""


class TerminatedGate:
    """As `HttpGate`, on both sides of which TLS is spoken; `http` judges what is said within."""

    def __init__(self, *, name: str, terminator: Terminator, http: HttpGate) -> None:
        self._check: ClientHelloCheck | None = ClientHelloCheck(name)
        self._http = http
        self._client = TlsPipe(terminator.towards_sandbox)
        self._server = TlsPipe(terminator.towards_server, name)
        self._held = bytearray()
        self._ended = False

    def from_client(self, data: bytes) -> list[Action]:
        """Take what the sandbox sent."""
        if self._ended:
            return []
        if self._check is not None:
            return self._hello(self._check, data)
        if not self._server.ready:
            self._held += data
            if len(self._held) > HELLO_BYTES_MAX:
                return self._end(Close("the client sent more than its hello"))
            return []
        return self._client_said(data)

    def from_server(self, data: bytes) -> list[Action]:
        """Take what the far side sent."""
        if self._ended:
            return []
        waited = not self._server.ready
        try:
            said = self._server.feed(data)
        except PipeError as error:
            return self._broken(error)
        actions = self._sent_to_server()
        if not self._server.ready:
            return actions
        if waited:
            held, self._held = bytes(self._held), bytearray()
            actions += self._client_said(held)
        if said and not self._ended:
            actions += self._within(self._http.from_server(said))
        if self._server.ended and not self._ended:
            actions += self._within(self._http.server_ended())
        return actions

    def client_ended(self) -> list[Action]:
        """Take that the sandbox sends no more."""
        if self._ended:
            return []
        if not self._client.ready:
            return self._end(Close("the client ended within its handshake"))
        return self._within(self._http.client_ended())

    def server_ended(self) -> list[Action]:
        """Take that the far side sends no more; without a word of TLS, something cut it off."""
        if self._ended:
            return []
        if not self._server.ready:
            return self._broken(PipeError("an end within its handshake"))
        reason = "" if self._server.ended else "the far side was cut off"
        return self._end(Close(reason, cut=self._http.answering))

    def spliced_from_client(self, count: int) -> list[Action]:
        """Nothing may pass untouched: none was offered."""
        raise ValueError(f"{count} bytes moved within TLS")

    spliced_from_server = spliced_from_client

    def unreached(self, reason: str, *, refused: bool) -> list[Action]:
        """Take that there is no far side: the handshake fails, in which no reason can be given."""
        return [] if self._ended else [ToClient(_HANDSHAKE_FAILURE)]

    def _hello(self, check: ClientHelloCheck, data: bytes) -> list[Action]:
        said = check.feed(data)
        if isinstance(said, NeedMore):
            return []
        if isinstance(said, Refused):
            return self._end(
                ToClient(refusal_alert, last=True), Denied(reason=said.reason, name="tls"), Close()
            )
        self._check = None
        self._held += said.hello + said.rest
        self._server.feed()
        return self._sent_to_server()

    def _client_said(self, data: bytes) -> list[Action]:
        try:
            said = self._client.feed(data)
        except PipeError as error:
            close = Close(f"the client sent {error}", cut=self._http.answering)
            return self._end(*self._sent_to_client(), close)
        actions = self._sent_to_client()
        if said:
            actions += self._within(self._http.from_client(said))
        if self._client.ended and not self._ended:
            actions += self._within(self._http.client_ended())
        return actions

    def _within(self, asked: list[Action]) -> list[Action]:
        """Do within TLS what the HTTP gate asks for."""
        actions: list[Action] = []
        for action in asked:
            try:
                actions += self._do(action)
            except PipeError as error:
                close = Close(f"one side ended {error}", cut=self._http.answering)
                return actions + self._end(close)
        return actions

    def _do(self, action: Action) -> list[Action]:
        match action:
            case ToServer(data):
                self._server.write(data)
                return self._sent_to_server()
            case ToClient(data, last):
                self._client.write(data)
                return self._sent_to_client(last=last)
            case Close(cut=cut):
                said = [*self._sent_to_server(), *self._sent_to_client()]
                if not cut:  # In TLS as well an end in order would say that this was all.
                    self._client.finish()
                self._server.finish()
                farewell = *self._sent_to_server(last=True), *self._sent_to_client(last=True)
                return self._end(*said, *farewell, action)
            case SpliceFromClient() | SpliceFromServer() | Upgraded():
                return []  # Bytes go on through here, each way encrypted anew.
            case EndToServer() | EndToClient():
                return []  # The gate within ends both ways together.
            case Denied():
                return [action]

    def _broken(self, error: PipeError) -> list[Action]:
        """The far side does not hold: neither side hears more of the other."""
        alert = [] if self._client.ready else [ToClient(_HANDSHAKE_FAILURE)]
        close = Close(f"the far side sent {error}", cut=self._http.answering)
        return self._end(*self._sent_to_server(), *alert, close)

    def _end(self, *actions: Action) -> list[Action]:
        self._ended = True
        return list(actions)

    def _sent_to_server(self, *, last: bool = False) -> list[Action]:
        data = self._server.outgoing()
        return [ToServer(data, last)] if data else []

    def _sent_to_client(self, *, last: bool = False) -> list[Action]:
        data = self._client.outgoing()
        return [ToClient(data, last)] if data else []
