"""Text of a program cannot command the terminal, nor make a line read as another."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli.safe import command, safe, shorten


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("plain [bold] :smile: ünïcode 日本", "plain [bold] :smile: ünïcode 日本"),
        ("\x1b[31mred\x1b[0m", "\\e[31mred\\e[0m"),
        ("a\rb\nc\td\0e", "a\\rb\\nc\\td\\0e"),
        ("\x9b31m", "\\x9b31m"),
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
        ("\u2066\u200b\ufeff", "\\u2066\\u200b\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        (b"\xff\x00ok", "\\xff\\0ok"),
        (7, "7"),
    ],
)
def test_safe(hostile: object, shown: str) -> None:
    assert safe(hostile) == shown


def test_lines_may_stay() -> None:
    assert safe("a\nb\x1b", lines=True) == "a\nb\\e"


@given(st.one_of(st.text(), st.binary()))
def test_nothing_but_printable_text_comes_out(value: str | bytes) -> None:
    assert safe(value).isprintable()
    safe(value).encode()


@given(st.lists(st.binary(), max_size=4))
def test_a_command_is_printable(argv: list[bytes]) -> None:
    assert command(argv).isprintable()


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]))))
def test_a_command_can_be_pasted(argv: list[str]) -> None:
    assert shlex.split(command([argument.encode() for argument in argv])) == argv


def test_a_command_with_controls_is_quoted_as_bash_reads_it() -> None:
    assert command((b"echo", b"a'\n\\", b"\xff")) == "echo $'a\\'\\n\\\\' $'\\xff'"


def test_shorten() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == shorten("abcd", 0) == "abcd"
