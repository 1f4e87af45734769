"""The reader: positions to the character, one refusal for each thing YAML could hide."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from supervisor.errors import ProfileError
from supervisor.profile.yaml_source import (
    BYTES_MAX,
    DEPTH_MAX,
    Document,
    Problem,
    ProblemsFound,
    did_you_mean,
    dotted,
    load_document,
    parse_document,
    validate,
)


def parse(text: str) -> Document:
    return parse_document(text.encode(), "test.yaml")


def problems_of(text: str | bytes) -> tuple[Problem, ...]:
    content = text.encode() if isinstance(text, str) else text
    with pytest.raises(ProblemsFound) as caught:
        parse_document(content, "test.yaml")
    assert caught.value.reason == "PROFILE_INVALID"
    return caught.value.problems


def test_plain_values() -> None:
    document = parse(
        'a: word\nb: 12\nc: -3\nd: 1.5\ne: true\nf: false\ng: "yes"\nh: 0644\ni: 1e3\n'
        "j: 2026-01-02\nk: [x, 1]\nl: {m: w}\no: 0x10\np: .5\n"
    )
    assert document.data == {
        "a": "word", "b": 12, "c": -3, "d": 1.5, "e": True, "f": False, "g": "yes", "h": "0644",
        "i": "1e3", "j": "2026-01-02", "k": ["x", 1], "l": {"m": "w"}, "o": "0x10", "p": ".5",
    }  # fmt: skip


def test_positions() -> None:
    document = parse("a: {b: [1,\n   two]}\nc: three\n")
    assert document.position_of(("a",)) == (1, 4)
    assert document.position_of(("a", "b", 1)) == (2, 4)
    assert document.position_of(("c",)) == (3, 4)
    assert document.position_of(("c", "missing", 7)) == (3, 4)
    assert document.position_of(()) == (1, 1)


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "duplicate key 'a'"),
        ("a: {b: 1, b: 2}\n", 1, 11, "duplicate key 'b'"),
        ("a: &x 1\n", 1, 4, "anchors are not allowed"),
        ("a: &x {b: 1}\n", 1, 4, "anchors are not allowed"),
        ("&x a: 1\n", 1, 1, "anchors are not allowed"),
        ("a: &x 1\nb: *x\n", 2, 4, "aliases are not allowed"),
        ("a: !!str 1\n", 1, 4, "tags are not allowed"),
        ("a: !python/object:os.system {}\n", 1, 4, "tags are not allowed"),
        ("<<: {a: 1}\n", 1, 1, "merge keys are not allowed"),
        ("a: yes\n", 1, 4, "'yes' can be read as a word or as true"),
        ("a: [x, No]\n", 1, 8, "'No' can be read as a word or as false"),
        ("a: on\n", 1, 4, "'on' can be read"),
        ("a: OFF\n", 1, 4, "'OFF' can be read"),
        ("a: True\n", 1, 4, "'True' can be read"),
        ("a:\nb: 1\n", 1, 1, "a has no value"),
        ("a: ~\n", 1, 4, "a has no value"),
        ("a: [b, null]\n", 1, 8, "a[1] has no value"),
        ("a: 1\n---\nb: 2\n", 2, 1, "a second document begins here"),
        ("%YAML 1.1\n---\na: 1\n", 2, 1, "YAML directives are not allowed"),
        ("%TAG ! tag:example.com,2000:\n---\na: 1\n", 2, 1, "YAML directives are not allowed"),
        ("? [a, b]\n: 1\n", 1, 3, "a key must be a plain word"),
        ("? {a: b}\n: 1\n", 1, 3, "a key must be a plain word"),
        ('"": 1\n', 1, 1, "a key must not be empty"),
        ("- a\n- b\n", 1, 1, "must be a mapping"),
        ("just a word\n", 1, 1, "must be a mapping"),
        ("", 1, 1, "is empty"),
        ("# only a comment\n", 1, 1, "is empty"),
        ("---\n...\n", 2, 1, "has no value"),
        ("a: [1, 2\nb: 3\n", 2, 2, "not YAML"),
        ("a: 'x\n", 2, 1, "not YAML"),
        ("a: b: c\n", 1, 5, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, 1, "not YAML"),
        ("a: @x\n", 1, 4, "not YAML"),
        ("a: x\u202ey\n", 1, 5, "U+202E"),
        ("\ufeffa: x\n", 1, 1, "U+FEFF"),
        ("a: x\x00\n", 1, 5, "U+0000"),
        ("a: b\rc: d\n", 1, 5, "U+000D"),
        ('a: "\\0"\n', 1, 4, "U+0000"),
        ('a: "\\ud800"\n', 1, 4, "U+D800"),
    ],
)
def test_refused(text: str, line: int, column: int, message: str) -> None:
    found = [problem for problem in problems_of(text) if message in problem.message]
    assert [(problem.line, problem.column) for problem in found] == [(line, column)]


def test_all_problems_of_a_file_are_found_at_once() -> None:
    found = problems_of("a: yes\nb: &x 1\nb: 2\nc:\n")
    assert [(problem.line, problem.column) for problem in found] == [(1, 4), (2, 4), (3, 1), (4, 1)]


def test_not_utf8_names_the_line() -> None:
    problem = problems_of(b"a: 1\nb: \xff\n")[0]
    assert (problem.line, problem.message) == (2, "is not UTF-8")


def test_too_large() -> None:
    assert "larger" in problems_of(b"#" * (BYTES_MAX + 1))[0].message


def test_as_large_as_allowed() -> None:
    text = "a: 1\n"
    document = parse_document(text.encode() + b"#" * (BYTES_MAX - len(text)), "test.yaml")
    assert document.data == {"a": 1}


@pytest.mark.parametrize("depth", [DEPTH_MAX, 1000, 20_000])
def test_too_deep(depth: int) -> None:
    found = problems_of("a: " + "[" * depth + "1" + "]" * depth + "\n")
    assert "nested deeper" in found[0].message


def test_as_deep_as_allowed() -> None:
    assert parse("a: " + "[" * (DEPTH_MAX - 1) + "1" + "]" * (DEPTH_MAX - 1)).data["a"]


def test_windows_line_ends_are_line_ends() -> None:
    assert parse("a: 1\r\nb: 2\r\n").position_of(("b",)) == (2, 4)


def test_render_points_at_the_character() -> None:
    assert problems_of("limits:\n  wall: &x 60s\n")[0].render() == (
        "test.yaml:2:9: anchors are not allowed\n"
        "      wall: &x 60s\n"
        "            ^^^^^^\n"
        "    hint: write the value out where it is needed"
    )


def test_render_keeps_tabs_in_line() -> None:
    problem = Problem(file="f", line=1, column=3, message="m", source="\tab", width=9)
    assert problem.render() == "f:1:3: m\n    \tab\n    \t ^"


def test_the_message_of_the_error_is_all_problems() -> None:
    with pytest.raises(ProfileError) as caught:
        parse("a: yes\nb: no\n")
    assert caught.value.message.count("test.yaml:") == 2


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProblemsFound) as caught:
        load_document(tmp_path / "gone.yaml", reason="CONFIG_INVALID")
    assert caught.value.reason == "CONFIG_INVALID"


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ProblemsFound):
        load_document(tmp_path)


def test_load(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\n")
    assert load_document(tmp_path / "a.yaml").data == {"a": 1}


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    size: int
    names: list[str] = []


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    inner: Inner
    more: dict[str, Inner] = {}
    switch: bool = False


@pytest.mark.parametrize(
    ("text", "line", "column", "message", "hint"),
    [
        ("inner: {size: 1, nams: [a]}\n", 1, 18, "unknown key 'nams' in inner", "'names'"),
        ("innre: {size: 1}\n", 1, 1, "unknown key 'innre'", "'inner'"),
        ("switch: true\n", 1, 1, "the key 'inner' is missing", ""),
        ("inner: {names: []}\n", 1, 8, "inner: the key 'size' is missing", ""),
        ("inner: {size: big}\n", 1, 15, "inner.size: must be a whole number", ""),
        ("inner: {size: 1, names: [a, 2]}\n", 1, 29, "inner.names[1]: must be a string", "quotes"),
        ("inner: {size: 1}\nswitch: 1\n", 2, 9, "switch: must be true or false", ""),
        ("inner: [1]\n", 1, 8, "inner: must be a mapping", ""),
        ("inner: {size: 1, names: a}\n", 1, 25, "inner.names: must be a list", ""),
        (
            "inner: {size: 1}\nmore: {x: {size: 1, sise: 2}}\n",
            2,
            21,
            "unknown key 'sise'",
            "'size'",
        ),
    ],
)
def test_validate(text: str, line: int, column: int, message: str, hint: str) -> None:
    with pytest.raises(ProblemsFound) as caught:
        validate(parse(text), Outer)
    rendered = [
        (problem.line, problem.column) for problem in caught.value.problems
        if message in problem.message and hint in problem.hint
    ]  # fmt: skip
    assert rendered == [(line, column)], caught.value.message


def test_validate_gives_the_model() -> None:
    assert validate(parse("inner: {size: 3}\n"), Outer).inner.size == 3


def test_did_you_mean() -> None:
    assert "'limits'" in did_you_mean("limit", ["limits", "record"])
    assert did_you_mean("zzz", ["limits"]) == ""


def test_dotted() -> None:
    assert dotted(("files", "write", 0, "size")) == "files.write[0].size"


PIECES = st.sampled_from(
    [*"abc:{}[],&*!|>%@`'\"#-?~ \n\t\\<=", "yes", ": ", "- ", "\n  ", "---\n", "...", "<<",
     "!!str ", "&x ", "*x", "%YAML 1.2\n", "\\u", "\\x", "null", "0x1", "1.5", "? ", "|+2\n", "é"]
)  # fmt: skip


@given(st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=60)))
def test_any_text_is_data_or_problems(text: str) -> None:
    try:
        document = parse_document(text.encode(errors="surrogatepass"), "f")
    except ProblemsFound as error:
        assert error.problems
        assert all(p.line >= 1 and p.column >= 1 and p.render() for p in error.problems)
    else:
        assert isinstance(document.data, dict)


@given(st.binary(max_size=80))
def test_any_bytes_are_data_or_problems(content: bytes) -> None:
    try:
        parse_document(content, "f")
    except ProblemsFound as error:
        assert error.problems
