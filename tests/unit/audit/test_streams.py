"""One stream: what is stored of it, where it was redacted, and what is held back."""

from __future__ import annotations

import hmac
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit import streams as module
from supervisor.audit.redaction.found import Found, pieces
from supervisor.audit.redaction.literals import Literals, RedactionFailed
from supervisor.audit.redaction.redactor import TAIL_BYTES_MAX, Redactor
from supervisor.audit.redaction.rules import Rules, shipped
from supervisor.audit.streams import HELD_BYTES_MAX, PART_FOUND_MAX, Part, StreamState
from supervisor.profile.model import Capture

KEY = b"k" * 32
SECRET = b"correct-horse9"
LITERALS = Literals({"api": SECRET})
FULL = Capture(mode="full")


def state(capture: Capture = FULL) -> StreamState:
    return StreamState(capture, Redactor(LITERALS, Rules([]), KEY))


def mark(secret: bytes = SECRET) -> bytes:
    return b"[REDACTED:api:" + hmac.new(KEY, secret, "sha256").hexdigest()[:8].encode() + b"]"


def whole(parts: list[Part]) -> bytes:
    """Join parts, and see that each follows the one before."""
    at = 0
    for part in parts:
        assert part.begin == at
        at = part.end
        assert list(pieces(part.data, part.begin, part.end, part.found))
    return b"".join(part.data for part in parts)


def test_a_stream_as_it_is() -> None:
    one = StreamState(Capture(mode="head", bytes_max=5))
    assert [one.room(0, 3), one.room(3, 3), one.room(6, 1)] == [3, 2, 0]
    assert StreamState(Capture(mode="digest")).room(0, 1) == 0
    one.truncated = True
    assert one.room(0, 1) == 0
    for call in (lambda: one.redact(b"x"), one.rest):
        with pytest.raises(RedactionFailed):
            call()


@given(
    st.lists(
        st.sampled_from(
            [b"clear ", b"correct", SECRET + b" ", SECRET[:6], SECRET[6:] + b" ", b"\n" * 5000]
        ),
        max_size=12,
    )
)
def test_chunks_make_no_difference(chunks: list[bytes]) -> None:
    one, data = state(), b"".join(chunks)
    parts = [part for chunk in chunks for part in one.redact(chunk)]
    parts += one.rest()
    assert whole(parts) == data.replace(SECRET, mark())
    assert sum(part.end - part.begin for part in parts) == len(data)
    assert sum(len(part.found) for part in parts) == data.count(SECRET)
    assert one.held() == (len(data), b"")


def test_what_is_held_back_is_at_hand_as_it_was() -> None:
    one = state()
    (part,) = one.redact(b"some " + SECRET[:5])
    assert (part.data, part.begin, part.end) == (b"some ", 0, 5)
    assert one.held() == (5, SECRET[:5])
    assert one.redact(SECRET[5:]) == []
    assert one.held() == (5, SECRET)
    (part,) = one.redact(b".")
    assert (part.data, part.begin, part.end) == (mark() + b".", 5, 6 + len(SECRET))
    assert one.held() == (part.end, b"")


@pytest.mark.parametrize("cap", [*range(3, 9 + len(SECRET))])
def test_nothing_past_the_cap_and_no_half_of_a_secret(cap: int) -> None:
    one = state(Capture(mode="head", bytes_max=cap))
    parts = one.redact(b"clear " + SECRET + b" more" + b"." * 5000)
    parts += one.rest()
    out = whole(parts)
    assert parts[-1].end == cap
    assert SECRET[:4] not in out
    assert (
        out
        == (b"clear " if cap > 6 else b"clear "[:cap])
        + (mark() if cap > 6 else b"")
        + b" more"[: max(0, cap - 6 - len(SECRET))]
    )


def test_an_entry_never_tells_of_too_many() -> None:
    one = state()
    parts = one.redact((SECRET + b" ") * 1000) + one.rest()
    assert whole(parts) == (mark() + b" ") * 1000
    told = [len(part.found) for part in parts]
    assert (max(told), sum(told)) == (PART_FOUND_MAX, 1000)


def test_too_many_end_the_storing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REDACTIONS_MAX", 10)
    one = state()
    with pytest.raises(RedactionFailed, match="more secrets than can be told"):
        one.redact((SECRET + b" ") * 11)


def test_a_redactor_that_gives_what_does_not_fit_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = state()
    assert one.redactor is not None
    monkeypatch.setattr(one.redactor, "feed", lambda data: data)
    with pytest.raises(RedactionFailed, match="do not stand for"):
        one.redact(SECRET)


def test_a_secret_without_an_end_is_told_in_parts_and_not_kept_whole() -> None:
    one = StreamState(FULL, Redactor(Literals({}), shipped(), KEY))
    secret = b"sk-ant-api03-" + random.Random(5).randbytes(HELD_BYTES_MAX).hex().encode()
    parts = one.redact(b"key " + secret)
    at, held = one.held()
    assert 0 < len(held) <= TAIL_BYTES_MAX and secret.endswith(held)
    assert at + len(held) == 4 + len(secret)
    parts += one.redact(b" end") + one.rest()
    out = whole(parts)
    assert out.startswith(b"key [REDACTED:anthropic-key:") and out.endswith(b"] end")
    assert out.count(b"[REDACTED:") == len(secret) // TAIL_BYTES_MAX


def test_a_mark_that_is_cut_stands_for_less() -> None:
    found = Found(offset=2, length=10, rule="r", hmac8="00000000")
    piece = next(pieces(found.mark, 2, 12, (found,)))
    cut = module._cut(piece, 7)
    assert (cut.end, cut.data, cut.found) == (7, found.mark, replace(found, length=5))
