"""Text of a program cannot command the terminal, nor make a line read as another."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.call.safe import SafeStream, command, host, safe, shorten, word


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


def test_pieces_of_a_stream() -> None:
    stream, euro = SafeStream(), "€".encode()
    pieces = [b"a\tb\n" + euro[:2], euro[2:] + b"\r", b"\nc\r", b"over\x1b[", b"2J\xff", euro[:1]]
    assert [stream.feed(piece) for piece in pieces] == [
        "a\tb\n", "€", "\nc", "\\rover\\e[", "2J\\xff", "",
    ]  # fmt: skip
    assert stream.end() == "\\xe2"
    assert stream.feed(b"anew\r") == "anew"
    assert stream.end() == "\\r"
    assert stream.end() == ""


@given(st.lists(st.binary()))
def test_a_stream_is_safe_however_it_is_cut(pieces: list[bytes]) -> None:
    stream, whole = SafeStream(), SafeStream()
    told = "".join(map(stream.feed, pieces)) + stream.end()
    assert told.replace("\n", "").replace("\t", "").isprintable()
    assert told == whole.feed(b"".join(pieces)) + whole.end()


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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/usr/bin/sort", "/usr/bin/sort"),
        (b"/work/a x1, /usr/bin/sort", "'/work/a x1, /usr/bin/sort'"),
        ("/work/a,", "'/work/a,'"),
        ("/work/b: /usr/bin/cat", "'/work/b: /usr/bin/cat'"),
        ("/work/\\x1b", "'/work/\\x1b'"),
        ("/work/\x1b\\", "$'/work/\\e\\\\'"),
        (b"/work/\xff", "$'/work/\\xff'"),
        ("it's", "'it'\"'\"'s'"),
        ("", "''"),
    ],
)
def test_a_name_is_one_word(name: str | bytes, shown: str) -> None:
    assert word(name) == shown


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=30))
def test_a_printable_name_reads_back(name: str) -> None:
    assert shlex.split(word(name)) == [name]


@given(st.one_of(st.text(), st.binary()), st.integers(min_value=20, max_value=60))
def test_a_long_name_is_cut_within_its_quotes(name: str | bytes, limit: int) -> None:
    shown = word(name, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert shown == word(name) or shown.endswith("…")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("api.example.com", "api.example.com"),
        ("x" * 40 + ".example.com", "…xxxxxxx.example.com"),
        ("a b", "'a b'"),
        ("\x1b" * 30 + "b", "…$'\\e\\e\\e\\e\\e\\e\\eb'"),
        ("", "''"),
    ],
)
def test_a_host_is_cut_at_its_beginning(name: str, shown: str) -> None:
    assert host(name, 20) == shown


@given(st.text(max_size=80), st.integers(4, 40))
def test_a_host_is_never_longer(name: str, limit: int) -> None:
    shown = host(name, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
