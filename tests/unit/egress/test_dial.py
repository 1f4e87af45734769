"""Addresses are judged each time, and only those that were judged are dialled."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from supervisor.egress import dial as dial_module
from supervisor.egress.dial import (
    OWN,
    DialFailed,
    DialRefused,
    allowed_of,
    dial,
    is_own,
    refusal,
)
from supervisor.egress.resolver import Answer
from supervisor.egress.upstream import Reason, ResolveError
from supervisor.profile.addresses import Address
from supervisor.profile.model import EgressRule
from tests.support.brokers import rule

NAMED = rule("api.example.com", 443)
PRIVATE = rule("db.example.com", 443, private=True)
NETWORK = rule("10.0.0.0/8", 5432)


class Says:
    """A resolver with one answer after the other."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, name: str) -> Answer:
        self.asked.append(name)
        return Answer(addresses=tuple(map(ip_address, self._answers.pop(0))), canonical=name)


class Fails:
    async def resolve(self, name: str) -> Answer:
        raise ResolveError(Reason.NXDOMAIN, name)


@pytest.mark.parametrize(
    ("address", "under", "reason"),
    [
        ("203.0.113.9", NAMED, ""), ("2001:db8::9", NAMED, ""),
        ("10.0.0.1", NAMED, "private"), ("fd00::1", NAMED, "private"),
        ("::ffff:10.0.0.1", NAMED, "private"), ("100.64.0.1", NAMED, "shared"),
        ("10.0.0.1", PRIVATE, ""), ("fd00::1", PRIVATE, ""), ("10.0.0.1", NETWORK, ""),
        ("169.254.169.254", NAMED, "metadata"), ("169.254.169.254", PRIVATE, "metadata"),
        ("127.0.0.1", PRIVATE, "loopback"), ("::1", PRIVATE, "loopback"),
        ("169.254.1.1", NETWORK, "link-local"), ("224.0.0.1", PRIVATE, "multicast"),
        ("0.0.0.0", PRIVATE, "unspecified"),  # noqa: S104 (it is refused)
        ("198.18.0.1", PRIVATE, "synthetic"),
        ("64:ff9b::a9fe:a9fe", PRIVATE, "metadata"),
    ],
)  # fmt: skip
def test_what_a_rule_lets_be_dialled(address: str, under: EgressRule, reason: str) -> None:
    assert refusal(ip_address(address), under) == reason


def test_only_addresses_of_this_host_are_its_own() -> None:
    assert is_own(ip_address("127.0.0.1"))
    assert is_own(ip_address("127.255.0.1"))
    assert is_own(ip_address("::1"))
    assert not is_own(ip_address("203.0.113.9"))
    assert not is_own(ip_address("2001:db8::9"))


def test_where_there_is_no_ipv6_there_is_no_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> Any:
        raise OSError(errno.EAFNOSUPPORT, "no IPv6")

    monkeypatch.setattr(socket, "socket", none)
    assert not is_own(ip_address("2001:db8::9"))


def test_what_cannot_be_told_is_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "no descriptor")

    monkeypatch.setattr(socket, "socket", none)
    with pytest.raises(OSError, match="descriptor"):
        is_own(ip_address("203.0.113.9"))


def test_the_hosts_own_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial_module, "is_own", lambda ip: ip == ip_address("203.0.113.9"))
    for carrier in ("64:ff9b::cb00:7109", "2002:cb00:7109::1"):
        assert refusal(ip_address(carrier), rule("a.example.com", 80)) == OWN
    for under in (NAMED, PRIVATE, NETWORK):
        assert refusal(ip_address("203.0.113.9"), under) == OWN


def test_of_several_addresses_only_the_allowed_are_left() -> None:
    found = [ip_address(text) for text in ("10.0.0.1", "203.0.113.9", "127.0.0.1")]
    assert allowed_of(found, NAMED) == [ip_address("203.0.113.9")]
    with pytest.raises(DialRefused) as caught:
        allowed_of([found[0], found[2]], NAMED)
    assert str(caught.value) == "the name leads to 10.0.0.1: private; 127.0.0.1: loopback"
    with pytest.raises(DialRefused, match=r"^127\.0\.0\.1: loopback$"):  # no name was asked for
        allowed_of([found[2]], NETWORK)
    with pytest.raises(DialRefused, match="no address"):
        allowed_of([], NAMED)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> list[Address]:
    """Have the loopback play an address that may be dialled; give what was judged."""
    judged: list[Address] = []

    def judge(address: Address, _: EgressRule) -> str:
        judged.append(address)
        return "" if str(address).startswith("127.") else "not here"

    monkeypatch.setattr(dial_module, "refusal", judge)
    return judged


def test_what_was_judged_is_what_is_dialled(anywhere: list[Address]) -> None:
    async def main() -> None:
        resolver = Says(["203.0.113.9", "127.0.0.1"], ["203.0.113.9"])
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            connection, address = await dial(resolver, "api.example.com", port, NAMED)
            assert address == "127.0.0.1"
            assert connection.getpeername() == ("127.0.0.1", port)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            linger = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
            assert struct.unpack("ii", linger) == (1, 0)
            connection.close()
            # The second time the name leads elsewhere: it is judged anew.
            with pytest.raises(DialRefused):
                await dial(resolver, "api.example.com", port, NAMED)
        assert resolver.asked == ["api.example.com"] * 2
        assert [str(one) for one in anywhere] == ["203.0.113.9", "127.0.0.1", "203.0.113.9"]

    asyncio.run(main())


def test_an_address_is_dialled_without_a_resolver(anywhere: list[Address]) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            connection, address = await dial(Says(), ip_address("127.0.0.1"), port, NETWORK)
            connection.close()
        assert address == "127.0.0.1"
        with pytest.raises(DialFailed, match="refused") as caught:
            await dial(Says(), ip_address("127.0.0.1"), port, NETWORK)
        assert caught.value.address == "127.0.0.1"

    asyncio.run(main())


def test_a_name_without_an_address_fails() -> None:
    with pytest.raises(DialFailed, match="no address for the name: NXDOMAIN") as caught:
        asyncio.run(dial(Fails(), "api.example.com", 443, NAMED))
    assert caught.value.address == ""


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        async def resolve(self, name: str) -> Answer:
            await asyncio.sleep(100)
            raise AssertionError(name)

    monkeypatch.setattr(dial_module, "CONNECT_S", 0.05)
    with pytest.raises(DialFailed, match="no connection in"):
        asyncio.run(dial(Silent(), "api.example.com", 443, NAMED))
