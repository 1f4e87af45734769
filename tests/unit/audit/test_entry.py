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
    body_of,
    decode_head,
    encode_entry,
    encode_frame,
    leaf_hash,
)
from supervisor.errors import InvariantError

HEAD = Head(index=7, prev=NO_LEAF, time_ns=12, kind=Kind.OUTPUT, call="call-1", sequence=3)

bodies = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
        max_leaves=6,
    ),
    max_size=4,
)


@given(bodies)
def test_head_and_body_come_back(body: dict[str, Any]) -> None:
    payload = encode_entry(HEAD, body)
    assert decode_head(payload) == HEAD
    assert body_of(payload) == body


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
