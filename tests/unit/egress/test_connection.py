"""One connection: who may go where, what is told, and that nothing is dialled for a lie."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from ipaddress import ip_address

import pytest

from supervisor.call.events import Verdict, Wall
from supervisor.egress.control import Secret
from supervisor.egress.origins import Origin
from supervisor.egress.relay import SMALL_BYTES
from supervisor.profile.model import EgressRule, Inspect
from tests.support.brokers import rule
from tests.unit.egress.hellos import openssl_hello
from tests.unit.egress.pairs import receive, send, until
from tests.unit.egress.wired import HOME, Rig, accepted, wired

NAME = "api.example.com"


def plain(port: int) -> tuple[EgressRule, ...]:
    return (rule(NAME, port), rule("*.wild.example.com", port))


def tls(port: int) -> tuple[EgressRule, ...]:
    return (rule(NAME, port, inspect=Inspect.TLS),)


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


async def silent(server: socket.socket) -> bool:
    """Say whether nobody was dialled."""
    try:
        async with asyncio.timeout(0.1):
            await asyncio.get_running_loop().sock_accept(server)
    except TimeoutError:
        return True
    return False


def test_a_name_is_dialled_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        far = await accepted(server)
        await send(client, b"ask")
        assert await receive(far, 3) == b"ask"
        far.close()
        client.close()
        flow = await rig.flow()
        assert (flow.name, flow.address, flow.port) == (NAME, HOME, port_of(server))
        assert (flow.verdict, flow.sent, flow.received) == (Verdict.CLOSED, 3, 0)
        assert (flow.rule, flow.pid, flow.program) == (f"{NAME}:{flow.port}", 42, b"curl")
        assert rig.resolved == [NAME]
        assert not rig.denials

    wired(monkeypatch, scenario, plain)


def test_a_name_below_a_star_is_the_one_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks("deep.in.wild.example.com", port_of(server))
        client = rig.connect()
        (await accepted(server)).close()
        client.close()
        assert (await rig.flow()).name == "deep.in.wild.example.com"
        assert rig.resolved == ["deep.in.wild.example.com"]

    wired(monkeypatch, scenario, plain)


@pytest.mark.parametrize(
    ("address", "port", "detail", "rule_of"),
    [
        (None, 0, "straight to the broker's door", "the door"),
        ("198.18.9.9", 443, "198.18.9.9:443 no name has this address", "198.18.9.9:443"),
        ("fd40:b1a3:129e::9", 443, "[fd40:b1a3:129e::9]:443 no name", "[fd40:b1a3:129e::9]:443"),
        ("203.0.113.77", 443, "203.0.113.77:443", "203.0.113.77:443"),
        ("127.0.0.1", 22, "127.0.0.1:22", "127.0.0.1:22"),
    ],
)
def test_what_nothing_allows_is_reset_and_told(
    monkeypatch: pytest.MonkeyPatch, address: str | None, port: int, detail: str, rule_of: str
) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        if address is not None:
            rig.origin = Origin(
                address=ip_address(address), port=port, pid=7, program=b"x", time_ns=1
            )
        client = rig.connect()
        with pytest.raises(ConnectionResetError):
            await receive(client)
        client.close()
        flow = await rig.flow()
        assert (flow.verdict, flow.address, flow.rule) == (Verdict.DENIED, "", "")
        (denied,) = rig.denials
        assert (denied.wall, denied.name) == (Wall.NETWORK, "connect")
        assert detail in denied.detail
        assert denied.rule == f"egress: no rule for {rule_of}"
        assert await silent(server)
        assert not rig.resolved

    wired(monkeypatch, scenario, plain)


def test_a_name_at_another_port_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, 1)
        client = rig.connect()
        with pytest.raises(ConnectionResetError):
            await receive(client)
        client.close()
        await rig.flow()
        assert rig.denials[0].rule == f"egress: no rule for {NAME}:1"

    wired(monkeypatch, scenario, plain)


def test_an_address_that_may_not_be_dialled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        monkeypatch.setattr("supervisor.egress.dial.refusal", lambda *_: "private")
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        with pytest.raises(ConnectionResetError):
            await receive(client)
        client.close()
        flow = await rig.flow()
        why = f"the name leads to {HOME}: private"
        assert (flow.verdict, flow.reason) == (Verdict.DENIED, why)
        (denied,) = rig.denials
        assert denied.name == "dial"
        assert denied.detail == f"{NAME}:{port_of(server)} {why}"
        assert denied.rule == f"egress: {NAME}:{port_of(server)}"

    wired(monkeypatch, scenario, plain)


def test_nobody_there_is_a_failure_and_no_denial(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        server.close()
        client = rig.connect()
        with pytest.raises(ConnectionResetError):
            await receive(client)
        client.close()
        flow = await rig.flow()
        assert (flow.verdict, flow.address) == (Verdict.FAILED, HOME)
        assert flow.reason == "Connection refused"
        assert not rig.denials

    wired(monkeypatch, scenario, plain)


def test_a_lie_about_the_name_is_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        await send(client, openssl_hello("evil.example.com"))
        assert (await receive(client))[0] == 21  # an alert
        client.close()
        flow = await rig.flow()
        assert (flow.verdict, flow.address, flow.sent) == (Verdict.DENIED, "", 0)
        (denied,) = rig.denials
        assert denied.name == "tls"
        assert "server name evil.example.com where" in denied.detail
        assert await silent(server)
        assert not rig.resolved

    wired(monkeypatch, scenario, tls)


def test_who_says_nothing_is_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        monkeypatch.setattr("supervisor.egress.passage.FIRST_BYTES_S", 0.05)
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        with pytest.raises(ConnectionResetError):
            await receive(client)
        client.close()
        assert (await rig.flow()).verdict is Verdict.DENIED
        assert rig.denials[0].name == "tls"
        assert "nothing to go by" in rig.denials[0].detail
        assert await silent(server)

    wired(monkeypatch, scenario, tls)


def test_stopping_ends_it_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        clients = [rig.connect() for _ in range(3)]
        far = await accepted(server)
        rig.connect().close()  # one whose task has not even begun
        await rig.close()
        assert {flow.verdict for flow in rig.flows} == {Verdict.STOPPED}
        assert len(rig.flows) == 4
        for client in clients:
            with pytest.raises(ConnectionResetError):
                await receive(client)
            client.close()
        far.close()
        rig.relays = type(rig.relays)(rig.budget, lambda: None)

    wired(monkeypatch, scenario, plain)


def test_what_is_stopped_before_it_began_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, 1)
        client = rig.connect()
        rig.open[0].stop(Verdict.BUDGET)
        flow = await rig.flow()
        assert (flow.verdict, flow.name, flow.port, flow.pid) == (Verdict.BUDGET, NAME, 1, 42)
        assert await silent(server)
        client.close()

    wired(monkeypatch, scenario, plain)


def test_a_secret_of_a_host_that_has_tls_does_not_go_in_the_clear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = Secret(
        name="github", header="Authorization", host=NAME, placeholder="stockade-secret-github-1",
        value="the-value",
    )  # fmt: skip

    def both(port: int) -> tuple[EgressRule, ...]:
        return (rule(NAME, port, inspect=Inspect.HTTP), rule(NAME, 443, inspect=Inspect.TERMINATE))

    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        head = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: {secret.placeholder}\r\n\r\n"
        await send(client, head.encode())
        assert b"403 Forbidden" in await receive(client)
        client.close()
        assert (await rig.flow()).verdict is Verdict.DENIED
        assert rig.denials[0].name == "secret"
        assert await silent(server)

    wired(monkeypatch, scenario, both, secrets=(secret,))


def test_flows_beyond_a_number_hold_little_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.egress.connection.FLOWS_LARGE", 1)

    async def held(rig: Rig, server: socket.socket) -> int:
        """Say how much a far side can send that nobody takes."""
        client = rig.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        far, sent = await accepted(server), 0
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        clients.append(client)
        fars.append(far)
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.2):
                    await send(far, bytes(4096))
                sent += 4096
        return sent

    clients: list[socket.socket] = []
    fars: list[socket.socket] = []

    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        large, small = await held(rig, server), await held(rig, server)
        assert small < SMALL_BYTES * 6 < large // 2
        for one in (*clients, *fars):
            one.close()
        await until(lambda: not rig.open)
        assert rig.wiring.flows == 0

    wired(monkeypatch, scenario, plain)


def test_a_call_without_budget_is_not_dialled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        with pytest.raises(ConnectionResetError):
            await receive(client)
        client.close()
        assert (await rig.flow()).verdict is Verdict.BUDGET
        assert await silent(server)

    wired(monkeypatch, scenario, plain, budget=0)


def test_an_error_that_nobody_expected_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        monkeypatch.setattr(
            "supervisor.egress.connection.make_gate",
            lambda *_, **__: (_ for _ in ()).throw(KeyError()),
        )
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        await until(lambda: rig.failed)
        assert isinstance(rig.failed[0]["exception"], KeyError)
        with pytest.raises(ConnectionResetError):
            await receive(client)
        client.close()

    wired(monkeypatch, scenario, plain)
