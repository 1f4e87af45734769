"""Which gate a connection gets, and that each speaks the language of actions."""

from __future__ import annotations

import pytest

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
from supervisor.egress.control import Secret
from supervisor.egress.gates import Closed, Scan, Tls, make_gate
from supervisor.egress.http import HttpGate
from supervisor.egress.terminate import Terminator, make_authority
from supervisor.egress.terminated import TerminatedGate
from supervisor.profile.model import Inspect
from tests.support.brokers import rule
from tests.unit.egress.hellos import openssl_hello, record, server_hello

NAME = "api.example.com"
SECRET = Secret(
    name="github",
    header="Authorization",
    host=NAME,
    placeholder="stockade-secret-github-00112233445566778899aabbccddeeff",
    value="v",
)


def test_the_port_decides_and_what_is_said_before_it() -> None:
    assert isinstance(make_gate(rule(NAME, 443), NAME, 443), Tls)
    assert isinstance(make_gate(rule(NAME, 80), NAME, 80), HttpGate)
    assert make_gate(rule(NAME, 22), NAME, 22) is None
    assert make_gate(rule(NAME, 443, inspect=Inspect.NONE), NAME, 443) is None
    assert isinstance(make_gate(rule(NAME, 22, inspect=Inspect.TLS), NAME, 22), Tls)
    assert make_gate(rule("198.51.100.0/24", 443), "198.51.100.1", 443) is None


def test_where_secrets_are_nothing_is_passed_unseen() -> None:
    gate = make_gate(rule(NAME, 22), NAME, 22, (SECRET,))
    assert isinstance(gate, Scan)
    half = len(SECRET.placeholder) // 2
    assert gate.from_client(SECRET.placeholder[:half].encode()) == [
        ToServer(SECRET.placeholder[:half].encode())
    ]
    denied, close = gate.from_client(SECRET.placeholder[half:].encode())
    assert isinstance(denied, Denied)
    assert (denied.name, close) == ("secret", Close())
    assert "github" in denied.reason
    assert SECRET.placeholder not in denied.reason


def test_what_is_only_scanned_ends_one_side_at_a_time() -> None:
    for first, second, last in (
        ("client_ended", "server_ended", EndToClient()),
        ("server_ended", "client_ended", EndToServer()),
    ):
        gate = make_gate(rule(NAME, 22), NAME, 22, (SECRET,))
        assert gate is not None
        assert gate.from_server(b"x") == [ToClient(b"x")]
        assert len(getattr(gate, first)()) == 1
        assert getattr(gate, second)() == [last, Close()]


def test_tls_is_free_once_both_have_said_hello() -> None:
    gate = Tls(NAME)
    said = openssl_hello(NAME)
    assert gate.from_client(said[:10]) == []
    assert gate.from_client(said[10:]) == [ToServer(said)]
    answer = record(server_hello())
    actions: list[Action] = gate.from_server(answer)
    assert actions == [ToClient(answer), Upgraded()]


def test_tls_to_another_name_is_told_in_its_own_words() -> None:
    actions = Tls(NAME).from_client(openssl_hello("evil.example.com"))
    assert actions[0] == ToClient(tls.refusal_alert, last=True)
    assert isinstance(actions[1], Denied)
    assert actions[1].name == "tls"
    assert actions[2] == Close()


def test_tls_that_ends_early_ends() -> None:
    gate = Tls(NAME)
    assert [type(action) for action in gate.client_ended()] == [ToClient, Denied, Close]
    gate = Tls(NAME)
    gate.from_client(openssl_hello(NAME))
    assert gate.server_ended() == [Close()]


def test_tls_is_terminated_where_there_is_an_authority() -> None:
    asked = rule(NAME, 443, inspect=Inspect.TERMINATE)
    authority = make_authority([NAME])
    terminator = Terminator(authority, authority.certificate)
    assert isinstance(make_gate(asked, NAME, 443, (), terminator), TerminatedGate)
    closed = make_gate(asked, NAME, 443)
    assert isinstance(closed, Closed)
    assert isinstance(closed.from_client(b"x")[0], Denied)


def test_what_cannot_be_done_is_refused() -> None:
    gate = Closed("why")
    for actions in (gate.from_client(b"x"), gate.client_ended(), gate.from_server(b"x")):
        assert actions == [Denied(reason="why", name="connect"), Close()]


@pytest.mark.parametrize(
    "gate", [Tls(NAME), Closed(""), make_gate(rule(NAME, 22), NAME, 22, (SECRET,))]
)
def test_nothing_is_moved_that_was_not_offered(gate: Tls | Closed | Scan) -> None:
    for moved in (gate.spliced_from_client, gate.spliced_from_server):
        with pytest.raises(ValueError, match="not offered"):
            moved(1)
