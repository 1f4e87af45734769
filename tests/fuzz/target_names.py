"""`hosts.canonical`: any text is refused, or becomes a name in its one spelling."""

from __future__ import annotations

import ipaddress
import re
import socket

import idna

from supervisor.profile.hosts import NAME_MAX, HostnameError, canonical, canonical_pattern, covers
from tests.fuzz.runner import Target

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
SEPARATORS = re.compile(r"[.\u3002\uff0e\uff61]")


def check(data: bytes) -> None:
    """Take the bytes for text in one of several encodings, and check that."""
    try:
        check_text(data.decode())
    except UnicodeDecodeError:
        check_text(data.decode("utf-8", "surrogateescape"))
        check_text(data.decode("utf-16-le", "replace"))
        check_text(data.decode("latin-1"))


def check_text(text: str) -> None:
    """Hold what comes out to what is promised of it."""
    try:
        name = canonical(text)
    except HostnameError as error:
        assert error.message, "a refusal without a message"
        assert error.hint, "a refusal without a hint"
        assert error.message.isascii() and error.message.isprintable(), "a message to look at"
        return
    assert canonical(name) == name, "not one spelling"
    assert canonical(name.upper() + ".") == name, "not one spelling"
    assert len(name) <= NAME_MAX
    labels = name.split(".")
    assert len(labels) >= 2
    assert all(LABEL.fullmatch(label) for label in labels)
    for label in labels:
        if label.startswith("xn--"):
            assert idna.encode(idna.decode(label)).decode() == label, "two ways to write it"
    assert labels[-1] not in ("localhost", "arpa")
    assert not reads_as_address(name), "an address"
    assert covers(name, name)
    if len(name) < NAME_MAX - 2:
        pattern = canonical_pattern(f"*.{name}")
        assert covers(pattern, f"a.{name}")
        assert not covers(pattern, name)
        assert not covers(pattern, f"a{name}")
    assert len(labels) <= len(SEPARATORS.split(text)), "more labels than somebody would read"
    if text.isascii():
        assert name == text.lower().removesuffix("."), "not what is written"


def reads_as_address(name: str) -> bool:
    """Say whether Python or the C library takes it for an address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        try:
            socket.inet_aton(name)
        except OSError:
            return False
    return True


TARGET = Target(
    check=check,
    seeds=tuple(
        text.encode()
        for text in (
            "api.github.com", "API.Example.COM.", "a-b.c--d.example.com", "b\u00fccher.example",
            "xn--bcher-kva.example.com", "xn--fa-hia.example", "\u4f8b\u3048.example.com",
            "\u05d0\u05d1.example.com", "\u0e44\u0e17\u0e22.example.com", "127.0.0.1", "0x7f.1",
            "2130706433", "0177.0.0.1", "::ffff:127.0.0.1", "[::1]", "\uff11\uff12\uff17.0.0.1",
            "localhost", "a.localhost", "1.0.0.127.in-addr.arpa", "user@api.example.com:443/x",
            "a" * 63 + ".example.com", ".".join(["a" * 61] * 4) + ".com", "a\u200d\u0915.example",
        )
    ),
    tokens=tuple(
        text.encode("utf-8", "surrogatepass")
        for text in (
            ".", "..", "-", "--", "xn--", "xn--a-", "\u00fc", "xn--bcher-kva", "0x", "0", "1", "\0",
            "@", ":", "/", "%", "_",
            "*", "*.", " ", "\t", "\n", "\u3002", "\uff0e", "\uff61", "\u2024", "\uff20", "\uff0f",
            "\uff05", "\uff1a", "\u2100", "\u2488", "\u2460", "\u00ad", "\u200b", "\u200c",
            "\u200d",
            "\u2060", "\ufeff", "\u00df", "\u1e9e", "\u03c2", "\u0130", "\u0131", "\u212a",
            "\u017f",
            "\u0301", "\u05d0", "\u0660", "\u06f0", "\u0966", "\U0001d7ce", "\U0001f600", "\ufdfa",
            "\u202e", "\u2028", "\u3000", "\u180e", "\ud800", "\U000e0001", "localhost", "arpa",
            ".com", "127.1", "a" * 64,
        )
    ),
)  # fmt: skip
