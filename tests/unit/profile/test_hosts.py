"""Names of hosts: one spelling each, no address in any; stars cover no more than they say."""

from __future__ import annotations

import ipaddress
import re
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.profile.hosts import (
    LABEL_MAX,
    NAME_MAX,
    TEXT_MAX,
    HostnameError,
    canonical,
    canonical_pattern,
    covers,
)

LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True).filter(
    lambda label: not label.startswith("xn--") and label not in {"localhost", "arpa"}
)
NAMES = st.lists(LABELS, min_size=2, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("api.github.com", "api.github.com"),
        ("API.GitHub.Com", "api.github.com"),
        ("api.github.com.", "api.github.com"),
        ("api.github.com\uff0e", "api.github.com"),
        ("api\u3002github\uff61com", "api.github.com"),
        ("\uff21\uff30\uff29.github.com", "api.github.com"),
        ("a\u00adpi.github.com", "api.github.com"),
        ("\u212a.example.com", "k.example.com"),
        ("b\u00fccher.example.com", "xn--bcher-kva.example.com"),
        ("B\u00dcCHER.example.com", "xn--bcher-kva.example.com"),
        ("bu\u0308cher.example.com", "xn--bcher-kva.example.com"),
        ("XN--BCHER-KVA.example.com", "xn--bcher-kva.example.com"),
        ("fa\u00df.example.com", "xn--fa-hia.example.com"),
        ("r3---sn-4g5e.example.com", "r3---sn-4g5e.example.com"),
        ("1.example.com", "1.example.com"),
        ("127.0.0.1.example.com", "127.0.0.1.example.com"),
        ("db.fleet.internal", "db.fleet.internal"),
        ("printer.local", "printer.local"),
        ("a" * LABEL_MAX + ".example.com", "a" * LABEL_MAX + ".example.com"),
    ],
)
def test_one_spelling(text: str, name: str) -> None:
    assert canonical(text) == name


ADDRESSES = [
    "127.0.0.1", "127.0.0.1.", "2130706433", "0177.0.0.1", "0x7f.1", "0x7f000001", "0X7F.1",
    "127.1", "127.0.1", "017700000001", "0", "0x", "1.2.3.4", "256.256.256.256", "1.2.3.4.5",
    "\uff11\uff12\uff17.0.0.1", "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460",
    "127\u30020\uff0e0\uff611",
    "\U0001d7cf\U0001d7d0\U0001d7d5.1", "0x7f.0.0.0x1", "example.0x1", "example.1", "192.168.257",
]  # fmt: skip


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_no_name(text: str) -> None:
    with pytest.raises(HostnameError, match="is an address") as caught:
        canonical(text)
    assert "cidr:" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing"),
        (".", "empty label"),
        ("..", "empty label"),
        (".example.com", "empty label"),
        ("example..com", "empty label"),
        ("example.com..", "empty label"),
        ("\u00ad.example.com", "empty label"),
        ("good.example.com\x00.evil.example.com", "control"),
        ("good.example.com\x7f", "control"),
        ("good.example.com\x85", "white space"),
        ("good.example.com\n", "white space"),
        (" good.example.com", "white space"),
        ("good\u3000.example.com", "white space"),
        ("good\u2028.example.com", "white space"),
        ("user@example.com", "user"),
        ("good.example.com@evil.example.com", "user"),
        ("good.example.com\uff20evil.example.com", "user"),
        ("example.com:443", "port"),
        ("https://example.com", "port, a scheme"),
        ("example.com/a", "path"),
        ("10.0.0.0/8", "path or a network"),
        ("\u2100.example.com", "path"),
        ("example.com\\a", "backslash"),
        ("ex%61mple.com", "escape"),
        ("ex\uff0561mple.com", "escape"),
        ("a_b.example.com", "underscore"),
        ("*.example.com", "star"),
        ("::1", "IPv6"),
        ("::ffff:127.0.0.1", "IPv6"),
        ("fe80::1%eth0", "IPv6"),
        ("[::1]", "bracket"),
        ("[::ffff:127.0.0.1]", "bracket"),
        ("localhost", "sandbox itself"),
        ("LOCALHOST.", "sandbox itself"),
        ("a.localhost", "sandbox itself"),
        ("com", "one label"),
        ("1.0.0.127.in-addr.arpa", "arpa"),
        ("-a.example.com", "not valid"),
        ("a-.example.com", "not valid"),
        ("a!.example.com", "not valid"),
        ("a,b.example.com", "not valid"),
        ("a?.example.com", "not valid"),
        ("a#.example.com", "not valid"),
        ("\u2603.example.com", "not valid"),
        ("xn--.example.com", "not valid"),
        ("xn--a.example.com", "not valid"),
        ("xn---bbk.example.com", "not valid"),
        ("xn--bcher-kva\u00fc.example.com", "not valid"),
        ("xn--BCHER-KVA-.example.com", "not valid"),
        ("\ud800.example.com", "no name"),
        ("\u202e.example.com", "no name"),
        ("a" * (LABEL_MAX + 1) + ".example.com", "64 characters"),
        ("\u00fc" * 64 + ".example.com", "not valid"),
        (".".join(["a" * 50] * 5), "254 characters"),
        ("a" * (TEXT_MAX + 1), "characters"),
    ],
)
def test_what_is_no_name(text: str, message: str) -> None:
    with pytest.raises(HostnameError, match=message) as caught:
        canonical(text)
    assert caught.value.hint
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()


def test_the_longest_name() -> None:
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert len(name) == NAME_MAX
    assert canonical(name) == canonical(name + ".") == name


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("*.example.com", "*.example.com"),
        ("*.Example.COM.", "*.example.com"),
        ("*.b\u00fccher.example", "*.xn--bcher-kva.example"),
        ("API.example.com", "api.example.com"),
    ],
)
def test_one_spelling_of_a_pattern(text: str, pattern: str) -> None:
    assert canonical_pattern(text) == pattern


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("*", "star"), ("*.", "missing"), ("**.example.com", "star"), ("*.*.example.com", "star"),
        ("*example.com", "star"), ("a.*.example.com", "star"), ("*.com", "top-level"),
        ("*.com.", "top-level"), ("*.localhost", "top-level"), ("*.a.localhost", "sandbox itself"),
        ("*.0.0.1", "address"), ("*.in-addr.arpa", "arpa"), ("\uff0a.example.com", "star"),
        ("*." + "a." * 125 + "aa", "covers nothing"),
    ],
)  # fmt: skip
def test_what_is_no_pattern(text: str, message: str) -> None:
    with pytest.raises(HostnameError, match=message) as caught:
        canonical_pattern(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("api.github.com", "api.github.com", True),
        ("api.github.com", "a.api.github.com", False),
        ("github.com", "evilgithub.com", False),
        ("*.github.com", "api.github.com", True),
        ("*.github.com", "a.b.github.com", True),
        ("*.github.com", "github.com", False),
        ("*.github.com", ".github.com", False),
        ("*.github.com", "evilgithub.com", False),
        ("*.github.com", "api.github.com.evil.example.com", False),
    ],
)
def test_covers(pattern: str, name: str, covered: bool) -> None:
    assert covers(pattern, name) is covered


@given(NAMES)
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert canonical(name) == name == canonical(name.upper() + ".")
    assert covers(name, name)
    assert covers(canonical_pattern(f"*.{name}"), f"a.{name}")
    assert not covers(canonical_pattern(f"*.{name}"), name)


@given(NAMES, NAMES)
def test_a_star_covers_what_lies_below_and_nothing_else(suffix: str, name: str) -> None:
    below = name.split(".")[-len(suffix.split(".")) :] == suffix.split(".") and name != suffix
    assert covers(f"*.{suffix}", name) is below


@given(st.text())
@example("\u2100.com")
@example("a.\u0661")
def test_any_text_is_refused_or_becomes_a_name(text: str) -> None:
    check(text)


@given(st.lists(st.integers(0, 0xFFFFFFFF).flatmap(lambda n: st.sampled_from(spellings(n)))))
def test_no_spelling_of_an_address_is_a_name(texts: list[str]) -> None:
    for text in texts:
        assert socket.inet_aton(text), "the C library does not take it for an address"
        with pytest.raises(HostnameError):
            canonical(text)


def spellings(number: int) -> list[str]:
    """Give ways to write an IPv4 address that `inet_aton` reads."""
    a, b, c, d = number.to_bytes(4, "big")
    return [
        f"{a}.{b}.{c}.{d}", str(number), hex(number), f"0{number:o}", f"{a}.{number & 0xFFFFFF}",
        f"0x{a:x}.0{b:o}.{c << 8 | d}", f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"0X{a:X}.{b}.{c}.0x{d:x}",
    ]  # fmt: skip


def check(text: str) -> None:
    """Hold what comes out of `canonical` to what is promised of it."""
    try:
        name = canonical(text)
    except HostnameError as error:
        assert error.message and error.hint
        return
    assert canonical(name) == name, "not one spelling"
    assert len(name) <= NAME_MAX
    labels = name.split(".")
    assert len(labels) >= 2
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label) for label in labels)
    with pytest.raises(ValueError, match="does not appear to be"):
        ipaddress.ip_address(name)
    with pytest.raises(OSError, match="illegal"):
        socket.inet_aton(name)
