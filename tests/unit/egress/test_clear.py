"""Placeholders in all their forms, in streams that are cut anywhere."""

from __future__ import annotations

import base64
import urllib.parse

import pytest

from supervisor.egress.clear import Needles, Scanner, forms
from supervisor.egress.control import make_placeholder

ONE, OTHER = make_placeholder("one"), make_placeholder("other")
NEEDLES = Needles({ONE: "one", OTHER: "other"})

WRITTEN = {
    "as it is": ONE.encode(),
    "hexadecimal": ONE.encode().hex().encode(),
    "HEXADECIMAL": ONE.encode().hex().upper().encode(),
    "percent": "".join(f"%{ord(c):02x}" for c in ONE).encode(),
    "PERCENT": "".join(f"%{ord(c):02X}" for c in ONE).encode(),
    "as a form's field": urllib.parse.urlencode({"a": ONE, "b": "c"}).encode(),
    **{
        f"base64 behind {before} bytes": base64.b64encode(b"x" * before + ONE.encode() + b"yz")
        for before in range(6)
    },
    "base64 for URLs": base64.urlsafe_b64encode(b"\xff\xfe" + ONE.encode() + b"\xff"),
}


@pytest.mark.parametrize("size", [1, 5, 16, 1000])
@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_a_placeholder_is_found(written: bytes, size: int) -> None:
    data = b"a" * 37 + written + b"b" * 100
    scanner = Scanner(NEEDLES)
    found = [scanner.feed(data[at : at + size]) for at in range(0, len(data), size)]
    assert "one" in found
    assert "other" not in found


def test_what_is_cut_between_two_streams_is_not_found() -> None:
    assert Scanner(NEEDLES).feed(ONE[:-1].encode()) == ""
    assert Scanner(NEEDLES).feed(ONE[-1:].encode()) == ""


def test_what_looks_like_one_is_none() -> None:
    text = make_placeholder("one").encode()
    assert NEEDLES.find(b"stockade-secret-one-" + text) == ""
    assert NEEDLES.find(text.hex().encode()) == ""
    assert NEEDLES.find(base64.b64encode(text)) == ""


def test_no_secret_no_search() -> None:
    assert not Needles({})
    assert Scanner(Needles({})).feed(ONE.encode()) == ""


def test_little_is_searched_for_however_many_secrets_there_are() -> None:
    many = Needles({make_placeholder(f"s{n}"): f"s{n}" for n in range(100)})
    assert len(many._alarms) <= 10
    assert len(forms(ONE.encode())) >= 8
