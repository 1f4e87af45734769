"""The broker's upstream: both families at once, servers in turn, answers kept for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from supervisor.egress import resolver as module
from supervisor.egress import upstream
from supervisor.egress.resolver import Answer, ResolveError, Resolver, host_nameservers
from supervisor.egress.upstream import Reason
from tests.unit.egress.nameserver import Handler, answer, serving

FOUR = "api.example.com. 60 IN A 192.0.2.1"
SIX = "api.example.com. 60 IN AAAA 2001:db8::1"


def records(*wanted: str) -> Handler:
    """Answer with those of the records that are of the type that is asked for, and all CNAMEs."""

    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes]:
        rdtype = asked.question[0].rdtype.name
        fitting = [one for one in wanted if one.split()[3] in (rdtype, "CNAME")]
        return [answer(asked, *fitting).to_wire()]

    return handler


def failing(rcode: int) -> Handler:
    return lambda asked, _: [answer(asked, rcode=rcode).to_wire()]


def silent(_: dns.message.Message, __: bool) -> None:
    return None


def resolve(*handlers: Handler, name: str = "api.example.com") -> Answer:
    async def main() -> Answer:
        async with asyncio.timeout(60):
            async with Servers(handlers) as addresses:
                return await Resolver(addresses).resolve(name)

    return asyncio.run(main())


def reason_of(*handlers: Handler) -> Reason:
    with pytest.raises(ResolveError) as caught:
        resolve(*handlers)
    return caught.value.reason


class Servers:
    """Several name servers; their addresses in order."""

    def __init__(self, handlers: tuple[Handler, ...]) -> None:
        self._contexts = [serving(handler) for handler in handlers]

    async def __aenter__(self) -> list[str]:
        return [(await context.__aenter__()).address for context in self._contexts]

    async def __aexit__(self, *error: object) -> None:
        for context in self._contexts:
            await context.__aexit__(None, None, None)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(main())


def written(found: Answer) -> list[str]:
    return [str(address) for address in found.addresses]


def test_both_families_in_turns() -> None:
    found = resolve(
        records(
            FOUR,
            "api.example.com. 60 IN A 192.0.2.2",
            "api.example.com. 60 IN A 192.0.2.3",
            SIX,
            "api.example.com. 60 IN AAAA 2001:db8::2",
        )
    )
    assert written(found) == [
        "2001:db8::1",
        "192.0.2.1",
        "2001:db8::2",
        "192.0.2.2",
        "192.0.2.3",
    ]
    assert found.canonical == "api.example.com"


@pytest.mark.parametrize(
    ("wanted", "addresses"),
    [([FOUR], ["192.0.2.1"]), ([SIX], ["2001:db8::1"])],
)
def test_one_family_is_enough(wanted: list[str], addresses: list[str]) -> None:
    assert written(resolve(records(*wanted))) == addresses


def test_a_family_that_is_never_answered_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the lookup would take all its time, and fail."""
    monkeypatch.setattr(upstream, "UDP_S", 1000.0)

    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes] | None:
        return None if asked.question[0].rdtype.name == "AAAA" else [answer(asked, FOUR).to_wire()]

    assert written(resolve(handler)) == ["192.0.2.1"]


def test_the_end_of_the_chain_is_the_canonical_name() -> None:
    found = resolve(
        records("api.example.com. 60 IN CNAME b.example.net.", "b.example.net. 60 IN A 192.0.2.9")
    )
    assert (written(found), found.canonical) == (["192.0.2.9"], "b.example.net")


def test_no_search_domain_is_added() -> None:
    async def test() -> None:
        async with serving(failing(dns.rcode.NXDOMAIN)) as server:
            with pytest.raises(ResolveError):
                await Resolver([server.address]).resolve("api.example.com")
            assert {(name, tcp) for name, _, tcp in server.asked} == {("api.example.com", False)}
            assert sorted(rdtype for _, rdtype, _ in server.asked) == ["A", "AAAA"]

    run(test)


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (failing(dns.rcode.NXDOMAIN), Reason.NXDOMAIN),
        (failing(dns.rcode.SERVFAIL), Reason.SERVFAIL),
        (failing(dns.rcode.REFUSED), Reason.SERVFAIL),
        (records(), Reason.NO_ADDRESS),
        (records("api.example.com. 60 IN CNAME api.example.com."), Reason.MALFORMED),
    ],
)
def test_reasons(handler: Handler, reason: Reason) -> None:
    assert reason_of(handler) is reason


def test_a_family_that_fails_is_no_proof_that_there_is_no_address() -> None:
    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes]:
        failed = dns.rcode.SERVFAIL if asked.question[0].rdtype.name == "A" else 0
        return [answer(asked, rcode=failed).to_wire()]

    assert reason_of(handler) is Reason.SERVFAIL


def test_silence_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "UDP_S", 0.05)
    assert reason_of(silent) is Reason.TIMEOUT


def test_a_lookup_ends_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKUP_S", 0.1)
    assert reason_of(silent) is Reason.TIMEOUT


@pytest.mark.parametrize("first", [silent, failing(dns.rcode.SERVFAIL), failing(dns.rcode.REFUSED)])
def test_the_next_server_is_asked(first: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "UDP_S", 0.05)
    assert written(resolve(first, records(FOUR))) == ["192.0.2.1"]


def test_a_server_that_is_not_there_is_passed_over() -> None:
    async def test() -> None:
        async with serving(silent) as gone:
            address = gone.address
        async with serving(records(FOUR)) as server:
            found = await Resolver([address, server.address]).resolve("api.example.com")
            assert written(found) == ["192.0.2.1"]

    run(test)


def test_a_datagram_that_is_lost_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "UDP_S", 0.2)
    seen: set[str] = set()

    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes] | None:
        rdtype = asked.question[0].rdtype.name
        if rdtype not in seen:
            seen.add(rdtype)
            return None
        return list(records(FOUR)(asked, tcp) or [])

    assert written(resolve(handler)) == ["192.0.2.1"]


def test_no_answer_of_a_name_that_is_not_there_is_asked_elsewhere() -> None:
    async def test() -> None:
        async with serving(failing(dns.rcode.NXDOMAIN)) as first, serving(records(FOUR)) as other:
            with pytest.raises(ResolveError):
                await Resolver([first.address, other.address]).resolve("api.example.com")
            assert not other.asked

    run(test)


@pytest.mark.parametrize(
    ("ttl_s", "kept_s"), [(3600, 30), (30, 30), (7, 7), (0, 0), (2**31 - 1, 30)]
)
def test_answers_are_kept_as_long_as_they_may_be(ttl_s: int, kept_s: int) -> None:
    async def test() -> None:
        now = 1000.0
        async with serving(records(f"api.example.com. {ttl_s} IN A 192.0.2.1")) as server:
            resolver = Resolver([server.address], clock=lambda: now)
            await resolver.resolve("api.example.com")
            asked = len(server.asked)
            if kept_s:
                now += kept_s - 1
                await resolver.resolve("api.example.com")
                assert len(server.asked) == asked
                now += 1
            await resolver.resolve("api.example.com")
            assert len(server.asked) == 2 * asked

    run(test)


def test_failures_are_not_kept() -> None:
    async def test() -> None:
        async with serving(failing(dns.rcode.NXDOMAIN)) as server:
            resolver = Resolver([server.address])
            with pytest.raises(ResolveError):
                await resolver.resolve("api.example.com")
            server.handler = records(FOUR)
            assert written(await resolver.resolve("api.example.com")) == ["192.0.2.1"]

    run(test)


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_MAX", 2)

    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes]:
        name = asked.question[0].name.to_text()
        return list(records(f"{name} 60 IN A 192.0.2.1")(asked, tcp) or [])

    async def test() -> None:
        async with serving(handler) as server:
            resolver = Resolver([server.address])
            for name in ("a", "b", "c", "b", "c", "a"):
                await resolver.resolve(f"{name}.example.com")
            asked = [name[0] for name, rdtype, _ in server.asked if rdtype == "A"]
            assert asked == ["a", "b", "c", "a"]

    run(test)


def test_what_was_asked_for_last_is_kept_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_MAX", 2)

    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes]:
        name = asked.question[0].name.to_text()
        return list(records(f"{name} 10 IN A 192.0.2.1")(asked, tcp) or [])

    async def test() -> None:
        now = 0.0
        async with serving(handler) as server:
            resolver = Resolver([server.address], clock=lambda: now)
            for name, at in (("a", 0), ("b", 9), ("a", 11), ("c", 12), ("a", 13)):
                now = at
                await resolver.resolve(f"{name}.example.com")
            asked = [name[0] for name, rdtype, _ in server.asked if rdtype == "A"]
            assert asked == ["a", "b", "a", "c"]

    run(test)


def test_who_asks_meanwhile_gets_the_same_answer() -> None:
    async def test() -> None:
        async with serving(records(FOUR)) as server:
            resolver = Resolver([server.address])
            asks = [asyncio.create_task(resolver.resolve("api.example.com")) for _ in range(50)]
            await asyncio.sleep(0)
            asks[0].cancel()
            found = await asyncio.gather(*asks[1:])
            assert len({id(one) for one in found}) == 1
            assert len(server.asked) == 2

    run(test)


def test_a_failure_is_told_to_all_and_the_next_lookup_is_a_new_one() -> None:
    async def test() -> None:
        async with serving(failing(dns.rcode.NXDOMAIN)) as server:
            resolver = Resolver([server.address])
            asks = [resolver.resolve("api.example.com") for _ in range(9)]
            failed = await asyncio.gather(*asks, return_exceptions=True)
            assert all(isinstance(one, ResolveError) for one in failed)
            assert len(server.asked) == 2

    run(test)


def test_so_many_lookups_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKUPS_MAX", 2)

    async def test() -> None:
        async with serving(silent) as server:
            resolver = Resolver([server.address])
            asks = [
                asyncio.create_task(resolver.resolve(f"n{number}.example.com"))
                for number in range(5)
            ]
            while len(server.asked) < 4:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert {name for name, _, _ in server.asked} == {"n0.example.com", "n1.example.com"}
            resolver.close()
            ended = await asyncio.gather(*asks, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in ended)

    run(test)


@pytest.mark.parametrize("nameservers", [[], ["dns.example.com"], ["192.0.2.53:x"]])
def test_no_resolver_without_a_name_server(nameservers: list[str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Resolver(nameservers)


@pytest.mark.parametrize(
    ("text", "nameservers"),
    [
        ("nameserver 192.0.2.53\nsearch example.com\n", ("192.0.2.53:53",)),
        ("# x\nnameserver 2001:db8::53\nnameserver fe80::1%lo\noptions edns0\n",
         ("[2001:db8::53]:53", "[fe80::1%1]:53")),
        ("".join(f"nameserver 192.0.2.{n}\n" for n in range(5)),
         ("192.0.2.0:53", "192.0.2.1:53", "192.0.2.2:53")),
        ("", ("127.0.0.1:53",)),
    ],
)  # fmt: skip
def test_the_host_s_name_servers(text: str, nameservers: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    assert host_nameservers(path) == nameservers
    Resolver(nameservers)


@pytest.mark.parametrize("server", ["dns.example.com", "https://dns.example.com/", "127.1"])
def test_a_name_server_that_cannot_be_read_is_not_passed_over(server: str, tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(f"nameserver {server}\nnameserver 192.0.2.53\n")
    with pytest.raises(ValueError, match=r"."):
        host_nameservers(path)


def test_a_host_without_a_file(tmp_path: Path) -> None:
    assert host_nameservers(tmp_path / "none") == ("127.0.0.1:53",)
