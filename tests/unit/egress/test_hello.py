"""Record headers and server names: what is read, and all that is not."""

from __future__ import annotations

import pytest

from supervisor.egress.hello import HelloError, record_length, server_name
from tests.unit.egress import hellos


def name_of(*extensions: bytes, **kept: bytes) -> str:
    return server_name(hellos.message(*extensions, **kept)[4:])  # type: ignore[arg-type]


def test_the_one_name_is_read() -> None:
    assert name_of(hellos.sni(b"API.github.com")) == "api.github.com"


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ((), "no server name"),
        ((hellos.sni(),), "cut short"),
        ((hellos.sni(b"a.example.com", b"b.example.com"),), "several server names"),
        ((hellos.sni(b"a.example.com"), hellos.sni(b"a.example.com")), "0x0000 twice"),
        ((hellos.sni(b"a.example.com"), hellos.VERSIONS), "0x002b twice"),
        ((hellos.extension(0, hellos.vector(2, hellos.host_name(b"a.example.com", 1))),), "kind 1"),
        ((hellos.extension(0, hellos.vector(2, hellos.host_name(b"a.b")) + b"x"),), "bytes behind"),
        ((hellos.extension(0, b"\x00\x09\x00\x00\x20abcdef"),), "cut short"),
        ((hellos.sni(b""),), "that is none"),
        ((hellos.sni(b"192.0.2.1"),), "that is none"),
        ((hellos.sni(b"::1"),), "that is none"),
        ((hellos.sni(b"a.example.com\0.evil.example.com"),), "that is none"),
        ((hellos.sni("ä.example.com".encode()),), "not ASCII"),
    ],
)
def test_another_list_of_names_is_refused(extensions: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(HelloError, match=reason):
        name_of(*extensions)


@pytest.mark.parametrize(
    "kind", [0xFE0D, 0xFE08, 0xFE09, 0xFE0A, 0xFFCE, 0xFF02, 0xFF03, 0xDA09, 0xFD00]
)
def test_a_hidden_name_is_refused(kind: int) -> None:
    with pytest.raises(HelloError, match=f"encrypted ClientHello .extension 0x{kind:04x}"):
        name_of(hellos.sni(b"a.example.com"), hellos.extension(kind, b"\0" * 8))


@pytest.mark.parametrize(
    "kept",
    [
        {"session": b"x" * 33},
        {"suites": b"\x13"},
        {"suites": b""},
        {"compression": b""},
        {"compression": b"\x01"},
        {"behind": b"x"},
    ],
)
def test_a_malformed_hello_is_refused(kept: dict[str, bytes]) -> None:
    with pytest.raises(HelloError):
        name_of(hellos.sni(b"a.example.com"), **kept)


def test_each_cut_is_refused() -> None:
    whole = hellos.message(hellos.sni(b"a.example.com"))[4:]
    assert server_name(whole) == "a.example.com"
    for length in range(len(whole)):
        with pytest.raises(HelloError):
            server_name(whole[:length])


@pytest.mark.parametrize(
    ("header", "longest"),
    [
        (b"\x16\x02\x01\x00\x10", 16384),
        (b"\x19\x03\x01\x00\x10", 16384),
        (b"\x16\x03\x01\x00\x00", 16384),
        (b"\x16\x03\x01\x40\x01", 16384),
    ],
)
def test_no_header_of_a_record(header: bytes, longest: int) -> None:
    with pytest.raises(HelloError):
        record_length(header, longest)
