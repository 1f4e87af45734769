"""What looks at a connection's bytes before they move on: one shape for all, and which is used.

A gate does no I/O. It is given what each side says, and answers with what is to be done
(`actions`), in that order; nothing is dialled before it has something for the far side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from supervisor.egress import tls
from supervisor.egress.actions import (
    Action,
    Close,
    Denied,
    EndToClient,
    EndToServer,
    ToClient,
    ToServer,
    Upgraded,
)
from supervisor.egress.clear import Scanner
from supervisor.egress.http import HttpGate
from supervisor.egress.secrets import Secret, Swap, needles_of
from supervisor.egress.terminate import Terminator
from supervisor.egress.terminated import TerminatedGate
from supervisor.profile.model import EgressRule, Inspect


class Gate(Protocol):
    """Holds both directions of a connection to what its rule says."""

    def from_client(self, data: bytes) -> list[Action]:
        """Take what the client sent."""

    def from_server(self, data: bytes) -> list[Action]:
        """Take what the far side sent."""

    def client_ended(self) -> list[Action]:
        """Take that the client sends no more."""

    def server_ended(self) -> list[Action]:
        """Take that the far side sends no more."""

    def spliced_from_client(self, count: int) -> list[Action]:
        """Take that so many bytes that were offered have been taken from the client."""

    def spliced_from_server(self, count: int) -> list[Action]:
        """The same of the far side."""

    def unreached(self, reason: str, *, refused: bool) -> list[Action]:
        """Take that the far side could not be dialled, or must not be; give what the client can be
        told of it."""


class Unspliced:
    """What offers nothing to splice, and can tell a client nothing."""

    def spliced_from_client(self, count: int) -> list[Action]:
        """Nothing was offered."""
        raise ValueError(f"{count} bytes that were not offered")

    spliced_from_server = spliced_from_client

    def unreached(self, reason: str, *, refused: bool) -> list[Action]:
        """There is no way to say it."""
        return []


class Tls(Unspliced):
    """`tls.TlsGate` in that shape."""

    def __init__(self, name: str) -> None:
        self._gate = tls.TlsGate(name)

    def from_client(self, data: bytes) -> list[Action]:
        """Take what the client sent."""
        return self._actions(self._gate.from_client(data))

    def from_server(self, data: bytes) -> list[Action]:
        """Take what the far side sent."""
        return self._actions(self._gate.from_server(data))

    def client_ended(self) -> list[Action]:
        """Take that the client sends no more."""
        return self._actions(self._gate.client_ended())

    def server_ended(self) -> list[Action]:
        """Take that the far side sends no more: of a handshake there is no rest to wait for."""
        return [Close()]

    def _actions(self, said: tls.Step | tls.Refused) -> list[Action]:
        if isinstance(said, tls.Refused):
            return [
                ToClient(tls.refusal_alert, last=True),
                Denied(reason=said.reason, name=Inspect.TLS.value),
                Close(),
            ]
        actions: list[Action] = []
        if said.to_server:
            actions.append(ToServer(said.to_server))
        if said.to_client:
            actions.append(ToClient(said.to_client))
        if self._gate.free:
            actions.append(Upgraded())
        return actions


class Closed(Unspliced):
    """Refuses all: what a rule asks for and this broker cannot do is not let through instead."""

    def __init__(self, reason: str) -> None:
        self._actions: list[Action] = [Denied(reason=reason, name="connect"), Close()]

    def from_client(self, data: bytes) -> list[Action]:
        """Refuse what the client sent."""
        return self._actions

    def client_ended(self) -> list[Action]:
        """Refuse."""
        return self._actions

    server_ended = client_ended
    from_server = from_client


class Scan(Unspliced):
    """Lets all pass, but no placeholder of a secret: none belongs where nobody looks for it."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._half = False

    def from_client(self, data: bytes) -> list[Action]:
        """Take what the client sent."""
        if found := self._scanner.feed(data):
            reason = f"the placeholder of {found}, in bytes that are not inspected"
            return [Denied(reason=reason, name="secret"), Close()]
        return [ToServer(data)]

    def from_server(self, data: bytes) -> list[Action]:
        """Take what the far side sent."""
        return [ToClient(data)]

    def client_ended(self) -> list[Action]:
        """Take that the client sends no more."""
        return self._ended(EndToServer())

    def server_ended(self) -> list[Action]:
        """Take that the far side sends no more."""
        return self._ended(EndToClient())

    def _ended(self, action: Action) -> list[Action]:
        half, self._half = self._half, True
        return [action, Close()] if half else [action]


def make_gate(
    rule: EgressRule,
    name: str,
    port: int,
    known: Sequence[Secret] = (),
    terminator: Terminator | None = None,
    *,
    sealed: bool = False,
) -> Gate | None:
    """Give the gate of a connection to `name` at `port`; None where the name alone binds it, and
    there are no secrets whose placeholders might pass. `sealed`: nothing secret goes there in the
    clear."""
    match rule.inspect_at(port):
        case Inspect.NONE:
            return Scan(Scanner(needles_of(known))) if known else None
        case Inspect.TLS:
            return Tls(name)
        case Inspect.HTTP:
            swap = Swap(known, name=name, sealed=sealed)
            return HttpGate(name=name, port=port, rule=rule, swap=swap)
        case Inspect.TERMINATE:
            if terminator is None:
                return Closed("there is no authority to terminate TLS with")
            http = HttpGate(name=name, port=port, rule=rule, swap=Swap(known, name=name))
            return TerminatedGate(name=name, terminator=terminator, http=http)
