"""The plan of a call: rows that say what the rules say, and addresses that mean one name each."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.bpf import layout
from supervisor.egress.plan import (
    BLOCK_NAMES,
    BLOCKS_START,
    Names,
    NamesExhausted,
    Plan,
    Row,
    address4,
    address6,
)
from supervisor.errors import InvariantError
from supervisor.profile.addresses import SYNTHETIC4, SYNTHETIC6, Address
from supervisor.profile.hosts import covers
from supervisor.profile.model import (
    PORT_RANGES_MAX,
    RULES_MAX,
    WILDCARDS_MAX,
    EgressRule,
    Inspect,
    PortRange,
    united,
)
from supervisor.profile.reach import by_closeness
from tests.support.brokers import rule

API, WILD, DEEP = "api.example.com", "*.example.com", "*.a.example.com"

# Few labels, ports and networks, so that rules overlap.
LABELS = st.sampled_from(["a", "b", "c"])
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "ex", "am"]))
PATTERNS = NAMES | NAMES.map(lambda name: f"*.{name}") | st.just("*.ex.am")
PORTS = st.lists(
    st.builds(
        lambda low, more: PortRange(low=low, high=low + more), st.integers(1, 20), st.integers(0, 3)
    ),
    min_size=1,
    max_size=3,
).map(united)
NETWORKS = st.sampled_from([
    "192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/26", "192.0.2.7/32", "10.0.0.0/8", "10.2.0.0/16",
    "2001:db8::/32", "2001:db8:1::/48", "2001:db8::7/128", "::ffff:192.0.2.0/121",
    "64:ff9b::c000:200/120",
])  # fmt: skip
HOST_RULES = st.builds(EgressRule, host=PATTERNS, ports=PORTS)
CIDR_RULES = st.builds(EgressRule, cidr=NETWORKS, ports=PORTS)
RULES = st.lists(HOST_RULES | CIDR_RULES, max_size=8)
IPS = st.sampled_from(
    ["192.0.2.7", "192.0.2.8", "192.0.2.130", "192.0.2.200", "192.0.3.1", "10.0.0.1", "10.2.0.1",
     "11.0.0.1", "2001:db8::7", "2001:db8:1::1", "2001:db8:2::1", "2001:db9::1",
     "::ffff:192.0.2.7", "64:ff9b::192.0.2.1", "127.0.0.1", "::1"]
).map(ip_address)  # fmt: skip


def host(pattern: str, *ports: int) -> EgressRule:
    return EgressRule(host=pattern, ports=tuple(PortRange(low=p, high=p) for p in ports or (443,)))


def cidr(network: str, *ports: int) -> EgressRule:
    return EgressRule(cidr=network, ports=tuple(PortRange(low=p, high=p) for p in ports or (443,)))


def mapped(ip: Address) -> bytes:
    return ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed


def lookup(rows: Sequence[Row], ip: Address) -> tuple[PortRange, ...]:
    """Look an address up as the kernel's table does."""
    number = int.from_bytes(mapped(ip), "big")
    found = [
        row
        for row in rows
        if number >> (128 - row.prefix) == int.from_bytes(row.address, "big") >> (128 - row.prefix)
    ]
    return max(found, key=lambda row: row.prefix).ports if found else ()


def ports_of(ranges: Sequence[PortRange]) -> set[int]:
    return {port for each in ranges for port in range(each.low, each.high + 1)}


def test_written_names_have_addresses_from_the_start() -> None:
    plan = Plan.of([host(API), host("b.example.com", 80)])
    assert plan.numbers == {API: 1, "b.example.com": 2}
    https, http = ((PortRange(low=port, high=port),) for port in (443, 80))
    assert plan.rows == (
        Row(address=mapped(ip_address("198.18.0.1")), prefix=128, ports=https),
        Row(address=ip_address("fd40:b1a3:129e::1").packed, prefix=128, ports=https),
        Row(address=mapped(ip_address("198.18.0.2")), prefix=128, ports=http),
        Row(address=ip_address("fd40:b1a3:129e::2").packed, prefix=128, ports=http),
    )


def test_a_star_has_a_block() -> None:
    plan = Plan.of([host("*.b.example.com"), host("*.a.example.com")])
    assert plan.blocks == ("*.a.example.com", "*.b.example.com")
    assert [(row.address, row.prefix) for row in plan.rows] == [
        (mapped(ip_address("198.19.0.0")), 118),
        (ip_address("fd40:b1a3:129e::1:0").packed, 118),
        (mapped(ip_address("198.19.4.0")), 118),
        (ip_address("fd40:b1a3:129e::1:400").packed, 118),
    ]


def test_a_name_below_a_star_takes_the_next_address() -> None:
    names = Names(Plan.of([host(WILD)]))
    assert names.take("a.example.com") == (address4(1 << 16), address6(1 << 16))
    assert names.take("b.c.example.com") == (address4((1 << 16) + 1), address6((1 << 16) + 1))
    assert names.take("a.example.com") == (address4(1 << 16), address6(1 << 16))
    assert names.name_of(ip_address("198.19.0.1")) == "b.c.example.com"
    assert names.name_of(ip_address("::ffff:198.19.0.1")) == "b.c.example.com"
    assert names.name_of(ip_address("fd40:b1a3:129e::1:1")) == "b.c.example.com"


def test_what_no_rule_covers_takes_nothing() -> None:
    names = Names(Plan.of([host(API), host("*.a.example.com"), cidr("192.0.2.0/24")]))
    for name in ("example.com", "a.example.com", "evilapi.example.com", "x.api.example.com", ""):
        assert names.take(name) is None
        assert names.number_of(name) is None
    for ip in ("198.19.0.0", "198.18.0.0", "198.18.0.2", "192.0.2.1", "127.0.0.1", "::"):
        assert not names.name_of(ip_address(ip))


def test_whether_a_host_has_tls() -> None:
    plan = Plan.of([
        rule("a.example.com", 80), rule("a.example.com", 443, inspect=Inspect.TERMINATE),
        rule("b.example.com", 80, 443), rule("c.example.com", 80), rule("d.example.com", 8443),
        rule("e.example.com", 443, inspect=Inspect.HTTP), rule("*.star.example.com", 443),
        rule("x.star.example.com", 80), rule("10.0.0.0/8", 443),
    ])  # fmt: skip
    having = [f"{name}.example.com" for name in ("a", "b", "c", "d", "e", "x.star", "f")]
    assert [plan.has_tls(name) for name in having] == [True, True, *[False] * 3, True, False]
    assert not plan.has_tls(ip_address("10.0.0.1"))


def test_which_number_a_name_below_a_star_may_have() -> None:
    plan = Plan.of([rule("a.example.com", 80), rule("*.b.example.com", 80)])
    last = BLOCKS_START + BLOCK_NAMES - 1
    for number, may in (
        (BLOCKS_START, True), (last, True), (last + 1, False), (BLOCKS_START - 1, False), (1, False)
    ):  # fmt: skip
        assert plan.may_have("x.b.example.com", number) is may
        assert not plan.may_have("a.example.com", number)
        assert not plan.may_have("x.example.com", number)


def test_a_block_ends() -> None:
    plan = Plan.of([host(WILD), host("*.a.example.com"), host(API)])
    names = Names(plan)
    taken = [names.take(f"n{number}.example.com") for number in range(BLOCK_NAMES)]
    assert len(set(taken)) == BLOCK_NAMES
    with pytest.raises(NamesExhausted) as caught:
        names.take("one.more.example.com")
    assert caught.value.pattern == WILD
    assert names.number_of("one.more.example.com") is None
    assert names.take("n7.example.com") == taken[7], "those that have an address keep it"
    assert names.take("n.a.example.com"), "the other block has room"
    assert names.take(API)


def test_the_last_block_ends_where_the_synthetic_network_does() -> None:
    plan = Plan.of([host(f"*.n{number:02}.example.com") for number in range(WILDCARDS_MAX)])
    names = Names(plan)
    for number in range(BLOCK_NAMES):
        last = names.take(f"x{number}.n63.example.com")
    assert last == (ip_address("198.19.255.255"), ip_address("fd40:b1a3:129e::1:ffff"))


@pytest.mark.parametrize(
    ("place", "port", "decides"),
    [
        (API, 443, API), (API, 80, WILD), (API, 25, None), ("x.a.example.com", 443, DEEP),
        ("x.a.example.com", 80, WILD), ("a.example.com", 80, WILD), ("a.example.com", 443, None),
        ("example.com", 80, None), ("evil.example.org", 443, None), ("", 443, None),
        ("192.0.2.7", 5432, "192.0.2.0/28"), ("192.0.2.7", 22, "192.0.2.0/24"),
        ("192.0.2.99", 5432, "192.0.2.0/24"),
        ("::ffff:192.0.2.7", 5432, "192.0.2.0/28"), ("192.0.2.99", 25, None),
        ("198.18.0.1", 443, None), ("2001:db8::1", 5432, "2001:db8::/64"),
    ],
)  # fmt: skip
def test_who_decides(place: str, port: int, decides: str | None) -> None:
    plan = Plan.of([
        host(WILD, 80), host(DEEP, 443), host(API, 443), cidr("192.0.2.0/24", 22, 5432),
        cidr("192.0.2.0/28", 5432), cidr("2001:db8::/64", 5432),
    ])  # fmt: skip
    where: str | Address = place
    if place and (place[0].isdigit() or ":" in place):
        where = ip_address(place)
    rule = plan.decide(where, port)
    assert (rule and (rule.host or rule.cidr)) == decides


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([host(f"n{number}.example.com") for number in range(RULES_MAX + 1)], "too many rules"),
        ([host(f"*.n{number}.example.com") for number in range(WILDCARDS_MAX + 1)], "star"),
        ([host(API, *range(1, 35, 2))], "too many ranges"),
        ([host(API, *range(1, 31, 2)), host(WILD, 40, 42)], "too many ranges"),
        ([cidr("0.0.0.0/0")], "which no rule may open"),
        ([cidr("::/0")], "which no rule may open"),
        ([cidr("169.254.169.254/32")], "metadata"),
        ([cidr("198.18.0.0/24")], "synthetic"),
        ([EgressRule(ports=(PortRange(low=1, high=1),))], "no place"),
        ([EgressRule(host=API, cidr="192.0.2.0/24", ports=(PortRange(low=1, high=1),))], "two"),
        ([EgressRule(host=API, ports=())], "no port"),
    ],
)
def test_rules_that_lint_refuses_are_no_plan(rules: list[EgressRule], message: str) -> None:
    with pytest.raises(InvariantError, match=message) as caught:
        Plan.of(rules)
    assert caught.value.reason == "EGRESS_RULES"


def test_no_rule_is_a_plan_that_opens_nothing() -> None:
    plan = Plan.of([])
    assert plan.rows == ()
    assert Names(plan).take(API) is None


def test_lint_and_the_kernel_agree_on_how_much_a_row_holds() -> None:
    assert layout.PORT_RANGES_MAX == PORT_RANGES_MAX


def test_the_largest_plan_stays_within_its_numbers() -> None:
    plan = Plan.of([host(f"n{number}.example.com") for number in range(RULES_MAX)])
    assert max(plan.numbers.values()) == RULES_MAX < 1 << 16


@given(RULES, st.randoms())
def test_the_order_of_rules_moves_no_address(rules: list[EgressRule], random: object) -> None:
    shuffled = list(rules)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = Plan.of(rules), Plan.of(shuffled)
    assert (one.numbers, one.blocks) == (other.numbers, other.blocks)
    assert set(one.rows) == set(other.rows)


@given(st.lists(HOST_RULES, max_size=8), st.lists(NAMES, max_size=12))
def test_names(rules: list[EgressRule], asked: list[str]) -> None:
    plan = Plan.of(rules)
    names = Names(plan)
    got = {name: names.take(name) for name in asked}
    for name, addresses in got.items():
        covering = [rule for rule in rules if rule.host and covers(rule.host, name)]
        assert (addresses is None) == (not covering), "only covered names have an address"
        if addresses is None:
            continue
        assert names.take(name) == addresses, "an address stays"
        four, six = addresses
        assert four in SYNTHETIC4
        assert six in SYNTHETIC6
        assert names.name_of(four) == names.name_of(six) == name
        # The kernel opens it in both families at the ports of all rules that cover it.
        wanted = {port for rule in covering for port in ports_of(rule.ports)}
        assert ports_of(lookup(plan.rows, four)) == wanted
        assert ports_of(lookup(plan.rows, six)) == wanted
        assert {port for port in range(30) if plan.decide(name, port)} == wanted
    taken = [addresses for addresses in got.values() if addresses is not None]
    assert len({four for four, _ in taken}) == len({six for _, six in taken}) == len(taken)


@given(st.lists(CIDR_RULES, max_size=6), IPS)
@example([cidr("::ffff:192.0.2.0/121", 7)], ip_address("192.0.2.7"))
@example([cidr("192.0.2.0/25", 7)], ip_address("::ffff:192.0.2.7"))
def test_addresses(rules: list[EgressRule], ip: IPv4Address | IPv6Address) -> None:
    plan = Plan.of(rules)
    number = int.from_bytes(mapped(ip), "big")
    wanted: set[int] = set()
    for one in rules:
        if one.cidr:
            network = ip_network(one.cidr)
            low, high = (int.from_bytes(mapped(network[end]), "big") for end in (0, -1))
            if low <= number <= high:
                wanted |= ports_of(one.ports)
    assert ports_of(lookup(plan.rows, ip)) == wanted
    assert {port for port in range(30) if plan.decide(ip, port)} == wanted


@given(st.lists(HOST_RULES, max_size=8), NAMES)
def test_the_broker_decides_as_the_profile_explains(rules: list[EgressRule], name: str) -> None:
    plan = Plan.of(rules)
    for port in range(1, 25):
        explained = [rule for rule in by_closeness(rules, name) if rule.covers(port)]
        assert plan.decide(name, port) == (explained[0] if explained else None)


@given(st.lists(HOST_RULES, max_size=8), NAMES, st.integers(1, 25))
def test_the_closest_rule_decides(rules: list[EgressRule], name: str, port: int) -> None:
    covering = [rule for rule in rules if rule.host and covers(rule.host, name)]
    covering = [rule for rule in covering if rule.covers(port)]
    decided = Plan.of(rules).decide(name, port)
    if decided is None:
        assert not covering
        return
    assert decided in covering
    for other in covering:
        assert len(other.host.removeprefix("*.")) <= len(decided.host.removeprefix("*."))
