"""Texts of others in messages of ours."""

import pytest

from supervisor.call.texts import brief


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
