"""What is wrong with the `egress:` and `secrets:` of a profile as a whole: see `lint`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TypeVar

from supervisor.profile import hosts, syscalls
from supervisor.profile.endpoints import READ_BY, SECRETS_MAX
from supervisor.profile.layers import ALLOW, EGRESS, SECRETS, Key, Layer, Origin
from supervisor.profile.model import (
    PORT_RANGES_MAX,
    RULES_MAX,
    WILDCARDS_MAX,
    EgressRule,
    Inspect,
    PortRange,
    SecretUse,
    united,
)
from supervisor.profile.yaml_source import Problem

T = TypeVar("T")

NETWORK = "@network-io"
CALLS = ("socket", "connect")
"""Without these nothing can be reached, whatever `egress:` says."""

Rules = list[tuple[EgressRule, Origin]]
Secrets = list[tuple[SecretUse, Origin]]


def check_reach(layer: Layer) -> Iterator[Problem]:
    """Check that what is named can be reached, that no two rules decide about one port of a place,
    and that each secret has a host that it can go to and a variable of its own."""
    rules, secrets = _entries(layer, EGRESS, EgressRule), _entries(layer, SECRETS, SecretUse)
    if rules:
        yield from _check_needs(layer, rules[0][1])
    yield from _check_number([origin for _, origin in rules], RULES_MAX, "rules")
    wild = [origin for rule, origin in rules if rule.host.startswith("*")]
    yield from _check_number(wild, WILDCARDS_MAX, "rules with a *")
    yield from _check_number([origin for _, origin in secrets], SECRETS_MAX, "secrets")
    yield from _check_ports(rules)
    yield from _check_secrets(secrets, [rule for rule, _ in rules], layer)
    yield from _check_variables(secrets)


def by_closeness(rules: Sequence[EgressRule], host: str) -> list[EgressRule]:
    """Give the rules that are for `host`, the ones that name it most closely first."""
    covering = [rule for rule in rules if rule.host and hosts.covers(rule.host, host)]
    return sorted(covering, key=lambda rule: (rule.host.startswith("*"), -len(rule.host)))


def readable_port(rules: Sequence[EgressRule], host: str) -> int | None:
    """Give a port at which the broker may put a secret into what is asked of `host`, None where
    there is none: in the clear only to who has no TLS."""
    covering = by_closeness(rules, host)
    sealed = any(rule.has_tls for rule in covering)
    for position, rule in enumerate(covering):
        for port in (p for each in rule.ports for p in range(each.low, each.high + 1)):
            decided = any(closer.covers(port) for closer in covering[:position])
            inspect = rule.inspect_at(port)
            if decided or (sealed and inspect is Inspect.HTTP):
                continue
            if inspect in READ_BY:
                return port
    return None


def _entries(layer: Layer, key: Key, kind: type[T]) -> list[tuple[T, Origin]]:
    values = layer.items[key].values()
    return [(one.value, one.origin) for one in values if isinstance(one.value, kind)]


def _check_needs(layer: Layer, first: Origin) -> Iterator[Problem]:
    if ("limits", "egress") not in layer.scalars:
        yield first.problem(
            "nothing sets limits.egress: how many bytes may go out and come in together",
            "limits: {egress: 10MiB}",
        )
    sets = syscalls.expand_sets(name for name in layer.items[ALLOW] if name.startswith("@"))
    if NETWORK not in sets:
        yield first.problem(
            f"nothing can be reached without sockets: {NETWORK} is not allowed",
            f'use: [network], or syscalls: {{allow: ["{NETWORK}"]}}',
        )
    for name in CALLS:
        if name in layer.without:
            yield layer.without[name].origin.problem(
                f"{name} cannot be taken away: egress needs it ({first})"
            )


def _check_number(origins: list[Origin], most: int, what: str) -> Iterator[Problem]:
    if len(origins) > most:
        yield origins[most].problem(f"{len(origins)} {what}: a profile has at most {most}")


def _check_ports(rules: Rules) -> Iterator[Problem]:
    for (first, origin), (second, place) in combinations(rules, 2):
        if (first.host, first.cidr) != (second.host, second.cidr):
            continue
        if shared := _shared(first, second):
            inherited = origin.document.file != place.document.file
            drop = f', or drop: {{egress: ["{first.name}"]}}' if inherited else ""
            yield place.problem(
                f"{second.name} and {first.name} ({origin}) both decide about port {shared}",
                f"give each port once{drop}",
            )
    for rule, place in rules[:RULES_MAX]:
        ranges = united(p for other, _ in rules if _holds(other, rule) for p in other.ports)
        if len(ranges) > PORT_RANGES_MAX:
            yield place.problem(
                f"{rule.host or rule.cidr} comes to {len(ranges)} ranges of ports with all rules "
                f"that hold it: at most {PORT_RANGES_MAX}"
            )


def _shared(one: EgressRule, other: EgressRule) -> str:
    found = (
        PortRange(low=max(a.low, b.low), high=min(a.high, b.high))
        for a in one.ports
        for b in other.ports
        if a.low <= b.high and b.low <= a.high
    )
    return ", ".join(map(str, found))


def _holds(outer: EgressRule, inner: EgressRule) -> bool:
    """Say whether all that `inner` is for is also in `outer`, ports aside."""
    if outer.host == inner.host and outer.cidr == inner.cidr:
        return True
    if outer.host.startswith("*") and inner.host:
        return hosts.covers(outer.host, inner.host.removeprefix("*."))
    if not (outer.cidr and inner.cidr):
        return False
    wide, narrow = ipaddress.ip_network(outer.cidr), ipaddress.ip_network(inner.cidr)
    if isinstance(wide, ipaddress.IPv4Network) and isinstance(narrow, ipaddress.IPv4Network):
        return narrow.subnet_of(wide)
    if isinstance(wide, ipaddress.IPv6Network) and isinstance(narrow, ipaddress.IPv6Network):
        return narrow.subnet_of(wide)
    return False


def _check_secrets(secrets: Secrets, rules: list[EgressRule], layer: Layer) -> Iterator[Problem]:
    for use, origin in secrets:
        covering = by_closeness(rules, use.host)
        if not covering:
            yield origin.problem(
                f"no rule of egress is for {use.host}, where {use.name} is to go",
                f'egress: [{{host: {use.host}, port: 443, inspect: tls-terminate, why: "…"}}]',
            )
        elif readable_port(rules, use.host) is None:
            yield origin.problem(
                f"{use.name} can be put into no request to {use.host}: nobody reads what goes "
                "there",
                f"write inspect: tls-terminate into the rule {covering[0].name}, or inspect: http "
                "where it is plain HTTP",
            )
        if variable := layer.scalars.get(("env", use.env)):
            yield origin.problem(
                f"the variable {use.env} of the secret {use.name} is also in env "
                f"({variable.origin})",
                "give the secret another: env: NAME",
            )


def _check_variables(secrets: Secrets) -> Iterator[Problem]:
    named: dict[str, tuple[SecretUse, Origin]] = {}
    kept: dict[str, tuple[SecretUse, Origin]] = {}
    for use, origin in secrets:
        first, place = named.setdefault(use.name, (use, origin))
        if first.env != use.env:
            yield origin.problem(
                f"the secret {use.name} has two variables: {first.env} ({place}) and {use.env}",
                "give it one: the sandbox sees one placeholder, whatever host it is for",
            )
        first, place = kept.setdefault(use.env, (use, origin))
        if first.name != use.name:
            yield origin.problem(
                f"two secrets are in the variable {use.env}: {first.name} ({place}) and {use.name}",
                "give each its own: env: NAME",
            )
