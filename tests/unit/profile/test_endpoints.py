"""Places and secrets at the door: one spelling each, and every bad one refused at its own place."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from supervisor.egress import requests
from supervisor.profile.endpoints import (
    NO_SECRET,
    PORT_MAX,
    EgressEntry,
    SecretEntry,
    parse_cidr,
    rule_name,
    secret_identity,
)
from supervisor.profile.model import PORT_RANGES_MAX, EgressRule, Inspect, PortRange
from supervisor.profile.schema import ProfileFile
from supervisor.profile.yaml_source import Problem, ProblemsFound, parse_document, validate

START = "profile: x\nwhy: A test.\n"


def body(more: str) -> ProfileFile:
    return validate(parse_document((START + more).encode(), "x.yaml"), ProfileFile)


def rule(entry: str) -> EgressRule:
    [found] = body(f"egress: [{{{entry}, why: x}}]\n").egress
    return found.rule


def problems_of(more: str) -> tuple[Problem, ...]:
    with pytest.raises(ProblemsFound) as caught:
        body(more)
    return caught.value.problems


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("host: api.github.com, port: 443", "api.github.com:443"),
        ("host: API.GitHub.com., port: 443", "api.github.com:443"),
        ("host: Bücher.example.com, port: 443", "xn--bcher-kva.example.com:443"),
        ('host: "*.Example.com", port: 443', "*.example.com:443"),
        ("host: a.example.com, port: [8443, 443]", "a.example.com:443,8443"),
        ('host: a.example.com, port: "8000-8100"', "a.example.com:8000-8100"),
        ('host: a.example.com, port: [443, "442-450", 451]', "a.example.com:442-451"),
        ("cidr: 10.2.0.0/24, port: 5432", "10.2.0.0/24:5432"),
        ("cidr: 10.2.0.5/32, port: 5432", "10.2.0.5/32:5432"),
        ("cidr: 2001:DB8:0::/48, port: 5432", "2001:db8::/48:5432"),
    ],
)
def test_one_spelling(entry: str, name: str) -> None:
    made = rule(entry)
    assert made.name == name
    assert rule_name(name) == name


def test_a_rule_holds_what_was_written() -> None:
    made = rule(
        "host: a.example.com, port: 8080, inspect: http, private: true, "
        "methods: [POST, GET, GET], paths: [/b/*, /a]"
    )
    assert made == EgressRule(
        host="a.example.com", ports=(PortRange(low=8080, high=8080),), inspect=Inspect.HTTP,
        private=True, methods=("GET", "POST"), paths=("/a", "/b/*"), why="x",
    )  # fmt: skip


HOST = "egress: [{host: a.example.com, port: 443, why: x"
"""The entry begins in column 10, and what a test adds in column 50."""


@pytest.mark.parametrize(
    ("line", "column", "message", "hint"),
    [
        ("egress: [a.example.com]", 10, "must be a mapping", ""),
        ("egress: [{host: a.example.com, port: 443}]", 10, "the key 'why' is missing", ""),
        ("egress: [{host: a.example.com, why: x}]", 10, "the key 'port' is missing", ""),
        ("egress: [{port: 443, why: x}]", 10, "neither 'host' nor 'cidr'", "cidr: 10.2.0.0/24"),
        (HOST + ", cidr: 10.0.0.0/8}]", 10, "both 'host' and 'cidr'", "give one"),
        (HOST + ", prot: 1}]", 51, "unknown key 'prot'", "'port'"),
        (HOST + ", udp: true}]", 51, "unknown key 'udp'", ""),
        # hosts
        ("egress: [{host: 192.0.2.1, port: 443, why: x}]", 17, "is an address", "cidr:"),
        ("egress: [{host: 0x7f.1, port: 443, why: x}]", 17, "is an address", "cidr:"),
        ("egress: [{host: Metadata.Google.internal., port: 80, why: x}]", 17, "leads to metadata",
         "no call gets"),
        ('egress: [{host: "[::1]", port: 443, why: x}]', 17, "holds", "cidr:"),
        ("egress: [{host: localhost, port: 443, why: x}]", 17, "the sandbox itself", ""),
        ('egress: [{host: "*.com", port: 443, why: x}]', 17, "top-level domain", "at least 2"),
        ('egress: [{host: "*", port: 443, why: x}]', 17, "a star", "stands alone and first"),
        ('egress: [{host: "a.*.example.com", port: 1, why: x}]', 17, "a star", ""),
        ("egress: [{host: a@example.com, port: 443, why: x}]", 17, "a user", ""),
        ('egress: [{host: "example.com:80", port: 443, why: x}]', 17, "a port", "port:"),
        ('egress: [{host: "", port: 443, why: x}]', 17, "is missing", ""),
        # networks
        ("egress: [{cidr: 10.2.0.5/24, port: 1, why: x}]", 17, "bits set", "write 10.2.0.0/24, or"),
        ("egress: [{cidr: 10.2.0.5, port: 1, why: x}]", 17, "not a network", "write 10.2.0.5/32"),
        ('egress: [{cidr: "2001:db8::5", port: 1, why: x}]', 17, "not a network", "::5/128"),
        ("egress: [{cidr: 10.2.0.0/255.255.0.0, port: 1, why: x}]", 17, "not a", "10.2.0.0/16"),
        ("egress: [{cidr: example.com, port: 1, why: x}]", 17, "is not a network", ""),
        ("egress: [{cidr: 0.0.0.0/0, port: 1, why: x}]", 17, "names what it reaches", "/8"),
        ('egress: [{cidr: "::/0", port: 1, why: x}]', 17, "names what it reaches", "/16"),
        ("egress: [{cidr: 10.0.0.0/7, port: 1, why: x}]", 17, "too wide", ""),
        ("egress: [{cidr: 169.254.169.254/32, port: 80, why: x}]", 17, "holds metadata", ""),
        ("egress: [{cidr: 169.254.0.0/16, port: 80, why: x}]", 17, "can never be allowed",
         "the host's credentials"),
        ("egress: [{cidr: 127.0.0.0/8, port: 80, why: x}]", 17, "can never be allowed", "no rule"),
        ("egress: [a.example.com:443]", 10, "must be a mapping", "write {host: "),
        ("egress: [{host: a.example.com, port: 80, methods: GET, why: x}]", 51, "must be a list",
         "write [GET]"),
        ("egress: [{host: a.example.com, port: 53, udp: true, why: x}]", 42, "unknown key 'udp'",
         "UDP never leaves"),
        ("secrets: [{name: a, header: X-A, host: a.example.com, value: b, why: x}]", 55,
         "unknown key 'value'", "the daemon's configuration"),
        ("egress: [{cidr: 127.0.0.0/8, port: 80, why: x}]", 17, "holds loopback", ""),
        ('egress: [{cidr: "::1/128", port: 80, why: x}]', 17, "holds loopback", ""),
        ("egress: [{cidr: 224.0.0.0/8, port: 80, why: x}]", 17, "holds multicast", ""),
        ("egress: [{cidr: 0.0.0.0/8, port: 80, why: x}]", 17, "holds unspecified", ""),
        ("egress: [{cidr: 198.18.0.0/24, port: 80, why: x}]", 17, "holds synthetic", ""),
        ('egress: [{cidr: "fe81::/64", port: 80, why: x}]', 17, "holds link-local", ""),
        ('egress: [{cidr: "::ffff:10.0.0.0/104", port: 1, why: x}]', 17, "as IPv6", "10.0.0.0/8"),
        ("egress: [{cidr: 10, port: 1, why: x}]", 17, "must be a string", ""),
        # ports
        ("egress: [{host: a.example.com, port: 0, why: x}]", 38, "0 is not a port", ""),
        ("egress: [{host: a.example.com, port: 65536, why: x}]", 38, "not a port", ""),
        ("egress: [{host: a.example.com, port: -1, why: x}]", 38, "not a port", ""),
        ("egress: [{host: a.example.com, port: true, why: x}]", 38, "must be a port", "443"),
        ("egress: [{host: a.example.com, port: 4.5, why: x}]", 38, "must be a port", "443"),
        ('egress: [{host: a.example.com, port: "443", why: x}]', 38, "is a text", "write 443"),
        ("egress: [{host: a.example.com, port: https, why: x}]", 38, "is not a port", "443"),
        ("egress: [{host: a.example.com, port: [], why: x}]", 38, "must name a port", ""),
        ("egress: [{host: a.example.com, port: [443, x], why: x}]", 44, "is not a port", ""),
        ("egress: [{host: a.example.com, port: 90-80, why: x}]", 38, "is empty", "write 80-90"),
        ("egress: [{host: a.example.com, port: 80-70000, why: x}]", 38, "70000 is not", ""),
        # inspection
        (HOST + ", inspect: tsl}]", 60, "not a way to inspect", "'tls'"),
        (HOST + ", inspect: TLS}]", 60, "not a way to inspect", "'tls'"),
        (HOST + ", inspect: deep}]", 60, "not a way to inspect", "tls-terminate"),
        (HOST + ", inspect: https}]", 60, "not a way to inspect", "write tls, which sees"),
        ("egress: [{cidr: 10.0.0.0/8, inspect: tls, port: 1, why: x}]", 38, "is for hosts", ""),
        ("egress: [{cidr: 10.0.0.0/8, private: true, port: 1, why: x}]", 38, "is for hosts", ""),
        (HOST + ", private: 1}]", 60, "must be true or false", ""),
        (HOST + ", methods: [GET]}]", 60, "nobody reads requests", "tls-terminate"),
        (HOST + ", inspect: none, paths: [/a]}]", 73, "nobody reads requests", "inspect: http"),
        (
            "egress: [{host: a.example.com, port: [80, 443], methods: [GET], why: x}]",
            58, "at port 443: nobody", "",
        ),
        (
            'egress: [{host: a.example.com, port: "80-81", methods: [GET], why: x}]',
            56, "at port 80-81", "",
        ),
        ("egress: [{cidr: 10.0.0.0/8, port: 80, methods: [GET], why: x}]", 48, "nobody reads", ""),
        (HOST + ", inspect: http, methods: []}]", 75, "is empty", "leave the key out"),
        (HOST + ", inspect: http, methods: [get]}]", 76, "not a method", "write GET"),
        (HOST + ", inspect: http, methods: [connect]}]", 76, "can never be", ""),
        (HOST + ", inspect: http, methods: [TRACE]}]", 76, "can never be", ""),
        (HOST + ", inspect: http, methods: [GET POST]}]", 76, "not a method", ""),
        (HOST + ", inspect: http, paths: [a]}]", 74, "is not a path", "begin with /"),
        (HOST + ", inspect: http, paths: [/a/*/b]}]", 74, "before its end", ""),
        (HOST + ', inspect: http, paths: ["/a?b"]}]', 74, "more than a path", ""),
        (HOST + ", inspect: http, paths: [/a/../b]}]", 74, "not normalised", ""),
        (HOST + ", inspect: http, paths: [/a//b]}]", 74, "not normalised", ""),
        (HOST + ", inspect: http, paths: [/a%2fb]}]", 74, "no plain path", ""),
        (HOST + ', inspect: http, paths: ["/a b"]}]', 74, "no plain path", ""),
        # drop
        ("drop: {egress: [a.example.com]}", 17, "names no rule", "443"),
        ("drop: {egress: [a.example.com:x]}", 17, "is not a port", ""),
        ("drop: {egress: [192.0.2.1:443]}", 17, "is an address", ""),
        ("drop: {egress: [10.2.0.5/24:443]}", 17, "bits set", ""),
        ("drop: {egress: [a.example.com:443,444]}", 35, "must be a string", ""),
        ("drop: {egress: [" + "9" * 5000 + ":" + "9" * 5000 + "]}", 17, "is not a port", ""),
        ("drop: {secrets: [A]}", 18, "is not a name", ""),
    ],
)  # fmt: skip
def test_bad_places(line: str, column: int, message: str, hint: str) -> None:
    found = problems_of(line + "\n")
    assert [(p.line, p.column) for p in found] == [(3, column)], [p.render() for p in found]
    assert message in found[0].message
    assert hint in found[0].hint


ENTRY = "secrets: [{name: github, header: Authorization, host: api.github.com, why: x}]"


@pytest.mark.parametrize(
    ("old", "new", "column", "message", "hint"),
    [
        ("name: github", "name: GitHub", 18, "is not a name", ""),
        ("name: github, ", "", 11, "the key 'name' is missing", ""),
        (", why: x", "", 11, "the key 'why' is missing", ""),
        ("Authorization", "Host", 34, "can never hold a secret", ""),
        ("Authorization", "content-length", 34, "can never hold a secret", ""),
        ("Authorization", "TRANSFER-ENCODING", 34, "can never hold a secret", ""),
        ("Authorization", "X-Forwarded-Host", 34, "can never hold a secret", ""),
        ("Authorization", "Content_Length", 34, "can never hold a secret", ""),
        ("Authorization", '"X: y"', 34, "not a header's name", ""),
        ("api.github.com", '"*.github.com"', 55, "not to a pattern", "name the host"),
        ("api.github.com", "192.0.2.1", 55, "is an address", ""),
        ("why: x", "env: 1A, why: x", 71, "not a variable's name", ""),
        ("why: x", "value: x, why: x", 71, "unknown key 'value'", ""),
    ],
)
def test_bad_secrets(old: str, new: str, column: int, message: str, hint: str) -> None:
    assert ENTRY.count(old) == 1
    found = problems_of(ENTRY.replace(old, new) + "\n")
    assert [(p.line, p.column) for p in found] == [(3, column)], [p.render() for p in found]
    assert message in found[0].message
    assert hint in found[0].hint


def test_no_secret_goes_where_the_broker_lets_none_through() -> None:
    assert {name.encode() for name in NO_SECRET} == requests._GUARDED


def test_a_secret_has_a_variable_and_one_spelling() -> None:
    text = ENTRY.replace("github,", "my-hub,").replace("Auth", "aUTH").replace("api", "API")
    [use] = [entry.use for entry in body(text + "\n").secrets]
    assert (use.env, use.header, use.host) == (
        "STOCKADE_SECRET_MY_HUB", "Authorization", "api.github.com",
    )  # fmt: skip
    assert secret_identity(use) == "my-hub in Authorization to api.github.com"
    [other] = [entry.use for entry in body(ENTRY.replace("why", "env: T, why") + "\n").secrets]
    assert other.env == "T"


def test_ports_in_many_pieces_are_refused() -> None:
    ports = list(range(1, 2 * PORT_RANGES_MAX, 2))
    rule(f"host: a.example.com, port: {ports}")
    found = problems_of(f"egress: [{{host: a.example.com, port: {[*ports, 99]}, why: x}}]\n")
    assert f"at most {PORT_RANGES_MAX}" in found[0].message


@given(
    st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
    | st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address),
    st.integers(0, 128),
)
def test_any_network_has_one_spelling_or_is_refused(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int
) -> None:
    try:
        found = parse_cidr(f"{address}/{bits}")
    except PydanticCustomError:
        return
    assert parse_cidr(found) == found
    assert ipaddress.ip_network(found) == ipaddress.ip_network(f"{address}/{bits}")


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.*\[\]:/,-]{1,40}", fullmatch=True))
def test_any_text_names_a_rule_or_is_refused(text: str) -> None:
    try:
        found = rule_name(text)
    except PydanticCustomError:
        return
    assert rule_name(found) == found


def test_fields_are_those_of_the_rule() -> None:
    assert {*EgressEntry.model_fields, "ports"} - {"port"} == {
        *EgressRule.__dataclass_fields__
    }  # fmt: skip
    assert set(SecretEntry.model_fields) == {"name", "header", "host", "env", "why"}
    assert PORT_MAX == 65_535
