"""A gate for HTTP with what it said, taken apart; for tests."""

from __future__ import annotations

from collections.abc import Iterable

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
from supervisor.egress.http import HttpGate
from supervisor.profile.model import EgressRule, PortRange
from tests.unit.egress.battery import HOST


def rule(*, methods: tuple[str, ...] = (), paths: tuple[str, ...] = ()) -> EgressRule:
    return EgressRule(host=HOST, ports=(PortRange(low=80, high=80),), methods=methods, paths=paths)


class Talk:
    """A connection through a gate, and all that it said."""

    def __init__(self, gate: HttpGate | None = None, **kept: tuple[str, ...]) -> None:
        self.gate = gate or HttpGate(name=HOST, port=80, rule=rule(**kept))
        self.to_server = self.to_client = b""
        self.last_to_server = self.last_to_client = b""
        self.denied: Denied | None = None
        self.closed: Close | None = None
        self.upgraded = False
        self.offers: list[SpliceFromClient | SpliceFromServer] = []

    def client(self, data: bytes, size: int = 1 << 20) -> Talk:
        for at in range(0, len(data), size):
            self.do(self.gate.from_client(data[at : at + size]))
        return self

    def server(self, data: bytes, size: int = 1 << 20) -> Talk:
        for at in range(0, len(data), size):
            self.do(self.gate.from_server(data[at : at + size]))
        return self

    def do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            assert self.closed is None, f"{action} behind {self.closed}"
            match action:
                case ToServer(data, last):
                    assert data
                    self.to_server += data
                    self.last_to_server += data if last else b""
                case ToClient(data, last):
                    assert data
                    self.to_client += data
                    self.last_to_client += data if last else b""
                case Denied():
                    assert self.denied is None
                    self.denied = action
                case Close():
                    self.closed = action
                case Upgraded():
                    self.upgraded = True
                case SpliceFromClient() | SpliceFromServer():
                    self.offers.append(action)

    def taken_to_client(self) -> bytes:
        taken, self.to_client = self.to_client, b""
        return taken

    def taken_to_server(self) -> bytes:
        taken, self.to_server = self.to_server, b""
        return taken
