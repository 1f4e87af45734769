"""Texts of others in messages of ours."""

import pytest

from supervisor.call.texts import brief, is_traceparent


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("short", "short"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "…"),
        ("a b " + "x" * 100, "a b …"),
        ("a,b=" + "x" * 100, "a,…"),
        ("\x1b[31m\xff" + "a" * 200, "\x1b[31m\xff…"),
        ("é" * 40 + "\n" + "x" * 60, "é" * 40 + "\n…"),
    ],
)
def test_no_word_is_cut_in_two(text: str, shown: str) -> None:
    assert brief(text) == shown


@pytest.mark.parametrize("at", range(90))
def test_half_a_token_is_never_left(at: int) -> None:
    token = "ghp_" + "a1B2" * 9
    shown = brief("- " * (at // 2) + token + " and more" * 20)
    assert token in shown or "ghp" not in shown


TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "text", [f"00-{TRACE}-{PARENT}-01", f"01-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-01-more"]
)
def test_a_trace_context(text: str) -> None:
    assert is_traceparent(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "foo", f"00-{TRACE}-{PARENT}", f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more", f"cc-{TRACE}-{PARENT}-01more", f"00-{TRACE}-{PARENT}-01\n",
    ],
)  # fmt: skip
def test_no_trace_context(text: str) -> None:
    assert not is_traceparent(text)
