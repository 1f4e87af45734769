"""A profile's places and secrets as a whole: each problem points at the line that decides."""

from __future__ import annotations

import pytest

from supervisor.profile.endpoints import SECRETS_MAX
from supervisor.profile.layers import layer_of
from supervisor.profile.load import ProfileSet
from supervisor.profile.model import (
    PORT_RANGES_MAX,
    RULES_MAX,
    WILDCARDS_MAX,
    EgressRule,
    Inspect,
    PortRange,
)
from supervisor.profile.reach import by_closeness, check_reach, readable_port
from supervisor.profile.schema import FragmentFile
from supervisor.profile.yaml_source import Problem, parse_document, validate

from .conftest import COMPLETE, MakeSet

OPEN = COMPLETE.replace('"@local"', '"@default"').replace("16MiB}", "16MiB, egress: 10MiB}")
CHILD = "profile: child\nextends: base\n{}why: A test.\n{}"
API = '{host: api.example.com, port: 443, inspect: tls-terminate, why: "x"}'
USE = "{name: token, header: Authorization, host: api.example.com, why: x}"


def child(make_set: MakeSet, more: str, *, drop: str = "", base: str = OPEN) -> ProfileSet:
    return make_set(base=base, child=CHILD.format(drop, more))


def problems(make_set: MakeSet, more: str, *, drop: str = "", base: str = OPEN) -> list[Problem]:
    return list(child(make_set, more, drop=drop, base=base).problems("child"))


def alone(text: str) -> list[Problem]:
    """Give the problems of a layer by itself, however long it is."""
    document = parse_document(f"fragment: x\nwhy: x\n{text}".encode(), "x.yaml")
    layer, found = layer_of(document, validate(document, FragmentFile))
    assert not found
    return list(check_reach(layer))


def test_what_is_whole_has_no_problems(make_set: MakeSet) -> None:
    more = f"egress:\n  - {API}\nsecrets:\n  - {USE}\n"
    profile = child(make_set, more).effective("child")
    assert [rule.name for rule in profile.egress] == ["api.example.com:443"]
    assert [use.name for use in profile.secrets] == ["token"]
    assert profile.limits.egress_bytes == 10 << 20


def test_a_budget_without_egress_is_fine(make_set: MakeSet) -> None:
    assert not problems(make_set, "")


@pytest.mark.parametrize(
    ("base", "drop", "line", "message", "hint"),
    [
        (OPEN.replace(", egress: 10MiB", ""), "", 4, "nothing sets limits.egress", "10MiB"),
        (OPEN.replace("@default", "@local"), "", 4, "without sockets", "use: [network]"),
        (OPEN, 'drop: {syscalls: {allow: ["@network-io"]}}\n', 5, "without sockets", "@network-io"),
        (OPEN, "drop: {syscalls: {allow: [connect]}}\n", 3, "connect cannot be taken away", ""),
        (OPEN, "drop: {syscalls: {allow: [socket]}}\n", 3, "socket cannot be taken away", ""),
    ],
)
def test_what_egress_needs(
    make_set: MakeSet, base: str, drop: str, line: int, message: str, hint: str
) -> None:
    found = problems(make_set, f"egress: [{API}]\n", drop=drop, base=base)
    assert [p.line for p in found] == [line], [p.render() for p in found]
    assert message in found[0].message
    assert hint in found[0].hint


PARENT = OPEN.replace(
    "syscalls:",
    'egress: [{host: api.example.com, port: 443, why: x}, {cidr: 10.0.0.0/8, port: "1-99", '
    "why: x}]\nsyscalls:",
)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{host: api.example.com, port: [443, 8443], why: x}", "about port 443"),
        ('{host: api.example.com, port: "400-500", inspect: none, why: x}', "about port 443"),
        ("{cidr: 10.0.0.0/8, port: [9, 99, 100], why: x}", "about port 9, 99"),
    ],
)
def test_two_rules_for_one_port_of_one_place(make_set: MakeSet, entry: str, said: str) -> None:
    [found] = problems(make_set, f"egress: [{entry}]\n", base=PARENT)
    assert said in found.message
    assert "base.yaml:6" in found.message
    assert (found.line, found.column) == (4, 10)
    dropped = found.hint.partition("drop: ")[2]
    assert not problems(make_set, f"egress: [{entry}]\n", base=PARENT, drop=f"drop: {dropped}\n")


@pytest.mark.parametrize(
    "entry",
    [
        "{host: api.example.com, port: 443, inspect: tls-terminate, why: x}",
        "{host: api.example.com, port: 80, why: x}",
        '{host: "*.example.com", port: 443, why: x}',
        "{cidr: 10.2.0.0/24, port: 5, why: x}",
    ],
)
def test_other_ports_places_and_a_new_say_on_the_same_rule(make_set: MakeSet, entry: str) -> None:
    assert not problems(make_set, f"egress: [{entry}]\n", base=PARENT)


def test_the_same_rule_twice_in_one_file(make_set: MakeSet) -> None:
    twice = "egress:\n  - {host: a.example.com, port: 1, why: x}\n"
    twice += '  - {host: A.example.com., port: ["1-1"], why: x}\n'
    [found] = problems(make_set, twice)
    assert (found.line, found.message) == (6, "a.example.com:1 stands here twice")


def egress(*entries: str) -> str:
    return "egress:\n" + "".join(f"  - {{{entry}, why: x}}\n" for entry in entries)


LIMITS = 'syscalls: {allow: ["@default"]}\nlimits: {egress: 1MiB}\n'


@pytest.mark.parametrize(
    ("pattern", "most", "what"),
    [("a{}.example.com", RULES_MAX, "rules"), ('"*.a{}.example.com"', WILDCARDS_MAX, "with a *")],
)
def test_the_number_of_rules(pattern: str, most: int, what: str) -> None:
    entries = [f"host: {pattern.format(n)}, port: 443" for n in range(most + 1)]
    assert not alone(egress(*entries[:-1]) + LIMITS)
    [found] = alone(egress(*entries) + LIMITS)
    assert f"{most + 1} rules" in found.message
    assert what in found.message
    assert found.line == most + 4


def test_the_number_of_secrets() -> None:
    lines = [USE.replace("token", f"t{n}") for n in range(SECRETS_MAX + 1)]
    text = f"egress: [{API}]\nsecrets:\n" + "".join(f"  - {line}\n" for line in lines) + LIMITS
    [found] = alone(text)
    assert f"{SECRETS_MAX + 1} secrets" in found.message


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("host: a.b.example.com", 'host: "*.example.com"'),
        ('host: "*.b.example.com"', 'host: "*.example.com"'),
        ("cidr: 10.2.0.0/24", "cidr: 10.0.0.0/8"),
        ("cidr: 2001:db8:1::/48", "cidr: 2001:db8::/32"),
    ],
)
def test_the_ports_of_all_rules_that_hold_a_place(inner: str, outer: str) -> None:
    own = list(range(1, 2 * PORT_RANGES_MAX, 2))
    assert not alone(egress(f"{inner}, port: {own}", f"{outer}, port: 5") + LIMITS)
    [found] = alone(egress(f"{inner}, port: {own}", f"{outer}, port: 99") + LIMITS)
    assert f"{PORT_RANGES_MAX + 1} ranges" in found.message
    assert found.line == 4
    apart = 'host: "*.other.example.com", port: 99'
    assert not alone(egress(f"{inner}, port: {own}", apart) + LIMITS)


@pytest.mark.parametrize(
    ("entries", "secrets", "message", "hint"),
    [
        ("", [USE], "no rule of egress is for api.example.com", "tls-terminate"),
        (API.replace("api.", "web."), [USE], "no rule of egress", "host: api.example.com"),
        (API.replace("tls-terminate", "tls"), [USE], "nobody reads", "api.example.com:443"),
        ("{cidr: 10.0.0.0/8, port: 80, why: x}", [USE], "no rule of egress", ""),
        (
            API.replace("tls-terminate", "none") + ", "
            + API.replace("api.example.com", '"*.example.com"'),
            [USE], "nobody reads", "api.example.com:443",
        ),
        (
            API.replace(", inspect: tls-terminate", "").replace("443", "[80, 443]"),
            [USE], "nobody reads", "api.example.com:80,443",
        ),
        (API, [USE, USE], "stands here twice", "the first is in line"),
        (API, [USE.replace("why", "env: LANG, why")], "is also in env", "env: NAME"),
        (
            API, [USE.replace("why", "env: T, why"),
                  USE.replace("Authorization", "X-Key")], "has two variables", "",
        ),
        (
            API, [USE, USE.replace("token", "other, env: STOCKADE_SECRET_TOKEN")],
            "two secrets are in the variable", "",
        ),
    ],
)  # fmt: skip
def test_secrets(
    make_set: MakeSet, entries: str, secrets: list[str], message: str, hint: str
) -> None:
    lines = "".join(f"  - {secret}\n" for secret in secrets)
    found = problems(make_set, f"egress: [{entries}]\nsecrets:\n{lines}")
    assert [message in p.message for p in found] == [True], [p.render() for p in found]
    assert hint in found[0].hint
    assert found[0].line == 5 + len(secrets)


def rule(host: str, *ports: int, inspect: Inspect | None = None) -> EgressRule:
    return EgressRule(
        host=host, ports=tuple(PortRange(low=p, high=p) for p in ports), inspect=inspect
    )


def test_the_closest_rule_decides() -> None:
    wide, near = rule("*.example.com", 80), rule("*.b.example.com", 80)
    own, other = rule("a.b.example.com"), EgressRule(cidr="10.0.0.0/8", ports=())
    assert by_closeness([other, wide, own, near], "a.b.example.com") == [own, near, wide]
    assert by_closeness([other, wide, own, near], "example.com") == []


def test_the_port_at_which_requests_are_read() -> None:
    name = "a.example.com"
    wide = rule("*.example.com", 80)
    assert readable_port([wide], name) == 80
    assert readable_port([rule("*.example.com", 80, 443)], name) is None  # it has TLS
    assert readable_port([wide, rule(name, 80, inspect=Inspect.NONE)], name) is None
    assert readable_port([rule(name, 443)], name) is None
    assert readable_port([rule(name, 9, inspect=Inspect.TERMINATE)], name) == 9
