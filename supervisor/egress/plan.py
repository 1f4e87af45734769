"""What the rules of a call come to: rows for the kernel, addresses for names, and who decides.

Pure. The daemon writes the rows before the program starts; the broker works out the same plan from
the same rules, so that both mean the same name by the same address. A name that is written out has
a synthetic address of its own from the start. A rule with a star has a block of `BLOCK_NAMES`, from
which a name takes the next number when it is first asked for: the kernel's rows never change.

Rules add up: an address is open at the ports of every rule that covers it. The kernel looks up the
longest prefix only, so a row inside another has the outer one's ports, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from supervisor.errors import InvariantError
from supervisor.profile.addresses import (
    SYNTHETIC4,
    SYNTHETIC6,
    Address,
    Network,
    never,
    never_in,
    unmapped,
)
from supervisor.profile.hosts import covers
from supervisor.profile.model import (
    PORT_RANGES_MAX,
    RULES_MAX,
    WILDCARDS_MAX,
    EgressRule,
    PortRange,
    united,
)

BLOCK_NAMES = 1024
"""How many names below one star a call may ask for: a /22, and a /118 in IPv6."""

BLOCKS_START = 1 << 16
"""The number of the first block's first address; written names have those from 1 to `RULES_MAX`."""

_MAPPED = b"\0" * 10 + b"\xff\xff"


class NamesExhausted(Exception):
    """Every address of the block of `pattern` has a name."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"{BLOCK_NAMES} names below {pattern} have been asked for")
        self.pattern = pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the kernel's table: what begins like the first `prefix` bits of `address` (IPv4 as
    ::ffff:a.b.c.d) is open at `ports`, unless a row with a longer prefix says otherwise."""

    address: bytes
    prefix: int
    ports: tuple[PortRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The rules of one call, worked out; `numbers` of the names that are written out, `blocks` of
    those with a star, in the order of their blocks."""

    rules: tuple[EgressRule, ...]
    rows: tuple[Row, ...]
    numbers: Mapping[str, int]
    blocks: tuple[str, ...]
    _by_host: Mapping[str, tuple[EgressRule, ...]]
    _by_network: tuple[tuple[Network, EgressRule], ...]

    @classmethod
    def of(cls, rules: Iterable[EgressRule]) -> Plan:
        """Work out the plan of `rules`; their order does not matter.

        Raises:
            InvariantError: `EGRESS_RULES`: rules that lint would have refused.
        """
        rules = tuple(rules)
        _check(rules)
        by_host: dict[str, tuple[EgressRule, ...]] = {}
        for rule in rules:
            if rule.host:
                by_host[rule.host] = (*by_host.get(rule.host, ()), rule)
        exact = sorted(host for host in by_host if not host.startswith("*."))
        blocks = sorted(host for host in by_host if host.startswith("*."))
        networks = [(unmapped(ip_network(rule.cidr)), rule) for rule in rules if rule.cidr]
        numbers = {host: number for number, host in enumerate(exact, start=1)}
        rows = (*_host_rows(numbers, blocks, rules), *_network_rows(networks))
        for row in rows:
            _require(len(row.ports) <= PORT_RANGES_MAX, "a place has too many ranges of ports")
        return cls(
            rules=rules,
            rows=rows,
            numbers=numbers,
            blocks=tuple(blocks),
            _by_host=by_host,
            _by_network=tuple(sorted(networks, key=lambda one: -one[0].prefixlen)),
        )

    def pattern_of(self, name: str) -> str:
        """Give what covers the canonical `name`: itself, or the longest "*.suffix"; else ""."""
        return next((pattern for pattern in _patterns(name) if pattern in self._by_host), "")

    def may_have(self, name: str, number: int) -> bool:
        """Say whether `number` is of the block of the star by which the canonical `name` is."""
        pattern = self.pattern_of(name)
        if pattern not in self.blocks:
            return False
        start = _block_start(self.blocks.index(pattern))
        return start <= number < start + BLOCK_NAMES

    def has_tls(self, place: str | Address) -> bool:
        """Say whether a rule for the canonical name `place` is for TLS, at whatever port."""
        return isinstance(place, str) and any(rule.has_tls for rule in self._for_name(place))

    def decide(self, place: str | Address, port: int) -> EgressRule | None:
        """Give the rule by which `place`, a canonical name or an address, is open at `port`.

        The name itself goes before stars, a longer suffix before a shorter one, a smaller network
        before a larger one, each where it is for this port. None: nothing opens it.
        """
        candidates = self._for_name(place) if isinstance(place, str) else self._for_address(place)
        return next((rule for rule in candidates if rule.covers(port)), None)

    def _for_name(self, name: str) -> Iterator[EgressRule]:
        for pattern in _patterns(name):
            yield from self._by_host.get(pattern, ())

    def _for_address(self, ip: Address) -> Iterator[EgressRule]:
        ip = _plain(ip)
        if never(ip):
            return  # whatever a network holds, these are nobody's
        for network, rule in self._by_network:
            if ip in network:
                yield rule


class Names:
    """The addresses of one call's names. A name keeps its address for the whole call, and no other
    name ever gets it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._numbers = dict(plan.numbers)
        self._names = {number: name for name, number in plan.numbers.items()}
        self._blocks = {pattern: block for block, pattern in enumerate(plan.blocks)}
        self._taken = dict.fromkeys(plan.blocks, 0)

    def take(self, name: str) -> tuple[IPv4Address, IPv6Address] | None:
        """Give the addresses of the canonical `name`; None where no rule covers it.

        Raises:
            NamesExhausted: the star that covers it has no address left.
        """
        number = self._numbers.get(name)
        if number is None:
            pattern = self._plan.pattern_of(name)
            if not pattern:
                return None
            number = self._next(pattern)
            self._numbers[name], self._names[number] = number, name
        return address4(number), address6(number)

    def number_of(self, name: str) -> int | None:
        """Give the number of a name that is written out or has been taken."""
        return self._numbers.get(name)

    def name_of(self, ip: Address) -> str:
        """Give the name whose address `ip` is, "" where there is none."""
        return self._names.get(number_at(ip), "")

    def _next(self, pattern: str) -> int:
        taken = self._taken[pattern]
        if taken == BLOCK_NAMES:
            raise NamesExhausted(pattern)
        self._taken[pattern] = taken + 1
        return _block_start(self._blocks[pattern]) + taken


def address4(number: int) -> IPv4Address:
    """Give the synthetic IPv4 address with this number."""
    return SYNTHETIC4.network_address + number


def address6(number: int) -> IPv6Address:
    """Give the synthetic IPv6 address with this number."""
    return SYNTHETIC6.network_address + number


def number_at(ip: Address) -> int:
    """Give the number of a synthetic address; of another, one that no name has."""
    ip = _plain(ip)
    network = SYNTHETIC4 if isinstance(ip, IPv4Address) else SYNTHETIC6
    return int(ip) - int(network.network_address)


def _block_start(block: int) -> int:
    return BLOCKS_START + block * BLOCK_NAMES


def _patterns(name: str) -> Iterator[str]:
    """Give all that may cover `name`, the closest first."""
    yield name
    suffix = name
    while "." in suffix:
        suffix = suffix.partition(".")[2]
        yield f"*.{suffix}"


def _plain(ip: Address) -> Address:
    """Give the IPv4 address where `ip` is one in v4-mapped form: the kernel sends both alike."""
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return ip if mapped is None else mapped


def _check(rules: tuple[EgressRule, ...]) -> None:
    _require(len(rules) <= RULES_MAX, "too many rules")
    wild = {rule.host for rule in rules if rule.host.startswith("*.")}
    _require(len(wild) <= WILDCARDS_MAX, "too many rules with a star")
    for rule in rules:
        _require(bool(rule.host) != bool(rule.cidr), f"{rule.name} is for no place, or for two")
        _require(bool(rule.ports), f"{rule.name} has no port")
        if rule.cidr:
            held = never_in(ip_network(rule.cidr))
            _require(not held, f"{rule.name} holds {held}, which no rule may open")


def _require(held: bool, message: str) -> None:
    if not held:
        raise InvariantError("EGRESS_RULES", message)


def _host_rows(
    numbers: Mapping[str, int], blocks: list[str], rules: tuple[EgressRule, ...]
) -> Iterator[Row]:
    for host, number in numbers.items():
        covering = [rule for rule in rules if rule.host and covers(rule.host, host)]
        yield from _both(number, 1, covering)
    for block, pattern in enumerate(blocks):
        # "*.a.example.com" has the ports of "*.example.com", too: that covers all below it.
        inner = pattern.removeprefix("*.")
        covering = [
            rule
            for rule in rules
            if rule.host == pattern or (rule.host.startswith("*.") and covers(rule.host, inner))
        ]
        yield from _both(_block_start(block), BLOCK_NAMES, covering)


def _both(number: int, count: int, rules: list[EgressRule]) -> Iterator[Row]:
    """Give the row of `count` addresses from `number` on in IPv4 and the one in IPv6."""
    prefix = 128 - (count - 1).bit_length()
    ports = united(ports for rule in rules for ports in rule.ports)
    for address in (_MAPPED + address4(number).packed, address6(number).packed):
        yield Row(address=address, prefix=prefix, ports=ports)


def _network_rows(networks: list[tuple[Network, EgressRule]]) -> Iterator[Row]:
    for network in dict.fromkeys(network for network, _ in networks):
        holding = [rule for other, rule in networks if _holds(other, network)]
        ports = united(ports for rule in holding for ports in rule.ports)
        packed = network.network_address.packed
        if isinstance(network, IPv4Network):
            yield Row(address=_MAPPED + packed, prefix=96 + network.prefixlen, ports=ports)
        else:
            yield Row(address=packed, prefix=network.prefixlen, ports=ports)


def _holds(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network) and isinstance(inner, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(outer, IPv6Network) and isinstance(inner, IPv6Network):
        return inner.subnet_of(outer)
    return False
