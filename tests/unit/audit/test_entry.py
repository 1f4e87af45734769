"""The bytes of an entry and of its frame."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.entry import (
    ENTRY_BYTES_MAX,
    NO_LEAF,
    Head,
    Kind,
    around,
    body_of,
    decode_head,
    encode_bodies,
    encode_body,
    encode_entry,
    encode_frame,
    leaf_hash,
)
from supervisor.call.types import canonical_json
from supervisor.errors import InvariantError

HEAD = Head(index=7, prev=NO_LEAF, time_ns=12, kind=Kind.OUTPUT, call="call-1", sequence=3)

bodies = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**70) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
        max_leaves=6,
    ),
    max_size=4,
)


@given(st.lists(bodies, max_size=4))
def test_many_bodies_are_encoded_as_each(many: list[dict[str, Any]]) -> None:
    assert encode_bodies(many) == [encode_body(body) for body in many]


@given(bodies)
def test_head_and_body_come_back(body: dict[str, Any]) -> None:
    payload = encode_entry(HEAD, body)
    assert decode_head(payload) == HEAD
    assert body_of(payload) == body
    assert payload == around(HEAD, encode_body(body))


@given(bodies)
def test_the_bytes_are_those_of_canonical_json(body: dict[str, Any]) -> None:
    whole = {
        "body": body, "call": HEAD.call, "index": HEAD.index, "kind": HEAD.kind,
        "prev": HEAD.prev.hex(), "sequence": HEAD.sequence, "time_ns": HEAD.time_ns,
    }  # fmt: skip
    assert encode_entry(HEAD, body) == canonical_json(whole)


@pytest.mark.parametrize(
    "value",
    [
        "\ud800", "a\udcff", "\x7f\x00\x1b\"\\/", "\u2028\N{GRINNING FACE}", 2**63, -(2**63),
        2**64 - 1, 2**64, "9" * 40, 1e-7, 1e22, 0.1, -0.0, 1.5e300,
    ],
)  # fmt: skip
def test_what_json_is_written_in_two_ways_comes_back(value: object) -> None:
    assert body_of(encode_entry(HEAD, {"x": value})) == {"x": value}
    assert encode_entry(HEAD, {"x": value}).isascii()


def test_an_integer_that_would_come_back_as_another_is_refused() -> None:
    beyond: dict[str, Any] = {"x": [-(2**63) - 1]}
    for encode in (
        lambda: encode_entry(HEAD, beyond),
        lambda: encode_body(beyond),
        lambda: encode_bodies([{}, beyond]),
    ):
        with pytest.raises(InvariantError) as caught:
            encode()
        assert caught.value.reason == "ENTRY_INTEGER"


def test_the_leaf_hash_is_that_of_rfc_6962() -> None:
    assert leaf_hash(b"") == hashlib.sha256(b"\x00").digest()
    assert leaf_hash(b"abc") == hashlib.sha256(b"\x00abc").digest()


def test_a_body_cannot_pass_for_a_head() -> None:
    fake = json.loads(encode_entry(HEAD, {}))
    outer = Head(index=9, prev=NO_LEAF, time_ns=1, kind=Kind.LOST, call="call-2", sequence=1)
    assert decode_head(encode_entry(outer, {"z": fake, "text": json.dumps(fake)})) == outer


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"body":{}}', b"\x00" * 400])
def test_what_is_no_entry_has_no_head(payload: bytes) -> None:
    assert decode_head(payload) is None


def test_what_is_no_tail_of_ours_is_no_head() -> None:
    payload = encode_entry(HEAD, {})
    call = f'"call":"{HEAD.call}"'.encode()
    assert decode_head(payload) == HEAD
    assert decode_head(payload.replace(b"," + call, b" " + call)) is None
    assert decode_head(payload + b" ") is None


def test_a_large_entry_is_refused() -> None:
    room = ENTRY_BYTES_MAX - len(encode_entry(HEAD, {"x": ""}))
    assert len(encode_entry(HEAD, {"x": "a" * room})) == ENTRY_BYTES_MAX
    with pytest.raises(InvariantError) as caught:
        encode_entry(HEAD, {"x": "a" * (room + 1)})
    assert caught.value.reason == "ENTRY_TOO_LARGE"


def test_a_frame_covers_how_much_was_durable() -> None:
    payload = encode_entry(HEAD, {})
    leaf = leaf_hash(payload)
    one, two = encode_frame(payload, leaf, 1), encode_frame(payload, leaf, 2)
    assert one[:4] == two[:4]
    assert one[4:8] != two[4:8]  # the checksum


@pytest.mark.parametrize("number", [b"1", b"123456789012345678901"])
def test_a_body_that_is_nested_too_deeply_is_none(number: bytes) -> None:
    nested = b'{"x":' + b"[" * 30_000 + number + b"]" * 30_000 + b"}"
    with pytest.raises(ValueError, match="too deeply"):
        body_of(around(HEAD, nested))
