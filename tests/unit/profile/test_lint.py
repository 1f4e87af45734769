"""What is wrong beyond the shape: layout of a file, and the merged whole."""

from __future__ import annotations

import re

import pytest

from supervisor.profile.lint import LINES_MAX, REQUIRED, check_layout
from supervisor.profile.schema import PROFILE_KEYS
from supervisor.profile.yaml_source import parse_document

from .conftest import COMPLETE, MakeSet


def layout(text: str, stem: str = "x") -> list[tuple[int, int, str]]:
    document = parse_document(text.encode(), "x.yaml")
    return [(p.line, p.column, p.message) for p in check_layout(document, PROFILE_KEYS, stem)]


def test_the_order_of_the_keys() -> None:
    found = layout("profile: x\nimage: host\nwhy: x\nmode: enforce\nenv: {}\n")
    assert found == [
        (3, 1, "'why' must stand before 'image'"),
        (5, 1, "'env' must stand before 'mode'"),
    ]


def test_keys_in_order() -> None:
    assert layout("".join(f"{key}: x\n" for key in PROFILE_KEYS)) == []


def test_the_name_of_the_file() -> None:
    assert layout("profile: y\n") == [(1, 10, "'y' stands in a file named x.yaml")]


@pytest.mark.parametrize(("lines", "problems"), [(LINES_MAX, 0), (LINES_MAX + 1, 1)])
def test_the_length_of_the_file(lines: int, problems: int) -> None:
    text = "profile: x\n" + "# why\n" * (lines - 1)
    found = layout(text)
    assert [place[0] for place in found] == [LINES_MAX + 1] * problems
    assert len(layout(text + "# no line end")) == (lines + 1 > LINES_MAX)


@pytest.mark.parametrize("line", COMPLETE.splitlines()[2:])
def test_what_must_be_set(make_set: MakeSet, line: str) -> None:
    key = line.split(":")[0]
    text = "".join(f"{each}\n" for each in COMPLETE.splitlines() if each != line)
    if key == "files" or line.startswith(" "):
        text = "".join(each for each in COMPLETE.splitlines(True) if "/work" not in each)
        text = text.replace("files:\n", "")
    problems = make_set(base=text).problems("base")
    if key == "env":
        assert not problems
    else:
        assert [(p.line, p.column) for p in problems] == [(1, 10)]


@pytest.mark.parametrize("key", [key for key in REQUIRED if len(key) == 2])
def test_each_limit_and_each_stream_must_be_set(make_set: MakeSet, key: tuple[str, str]) -> None:
    text = re.sub(rf"{key[1]}: [^,}}\n]+(, )?", "", COMPLETE.replace("files:\n", "#F\n"))
    problems = make_set(base=text.replace("#F\n", "files:\n")).problems("base")
    assert [p.message for p in problems] == [f"nothing sets {'.'.join(key)}"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("write: [{path: /work, size: 1MiB}, {path: /work/x, size: 1MiB}]", "lies in the writable"),
        ("read: [{path: /srv, why: x}, {path: /srv/a, why: x}]", "lies in the read-only path /srv"),
        ("read: [{path: /work/x, why: x}]", "lies in the writable mount /work"),
        ("read: [{path: /work, why: x}]", "lies in the writable mount /work"),
        (
            "{read: [{path: /srv, why: x}], write: [{path: /srv/out, size: 1MiB}]}",
            "lies in the read-only path /srv",
        ),
    ],
)
def test_no_path_lies_in_another(make_set: MakeSet, files: str, message: str) -> None:
    files = files if files.startswith("{") else f"{{{files}}}"
    child = f"profile: child\nextends: base\nwhy: A test.\nfiles: {files}\n"
    problems = make_set(child=child).problems("child")
    assert len(problems) == 1
    assert message in problems[0].message
    assert problems[0].line == 4


def test_siblings_with_the_same_beginning_are_apart(make_set: MakeSet) -> None:
    child = (
        "profile: child\nextends: base\nwhy: A test.\n"
        "files: {write: [{path: /workshop, size: 1MiB}]}\n"
    )
    assert not make_set(child=child).problems("child")


@pytest.mark.parametrize(
    ("syscalls", "message", "hint"),
    [
        ('{allow: ["@basic-io"]}', "no program could start", "@process"),
        ('{allow: ["@basic-io"]}', "no program could start", "or @start"),
        ('{allow: [{name: ptrace, why: x}]}', "no set of system calls", "@local"),
        ('{allow: ["@local", {name: kcmp, why: x}], kill: [kcmp]}', "also allowed", "drop:"),
        ('{allow: ["@local", {name: ptrace, why: x}], kill: [ptrace]}', "also allowed", "drop:"),
        ('{allow: ["@local"], watch: [ptrace]}', "ptrace is not allowed", "watch: [ptrace]"),
        ('{allow: ["@local"], watch: ["@aio"]}', "@aio is not allowed", 'watch: ["@aio"]'),
        ('{allow: ["@local"], kill: [kcmp], watch: [kcmp]}', "nothing to watch", "drop:"),
    ],
)  # fmt: skip
def test_system_calls(make_set: MakeSet, syscalls: str, message: str, hint: str) -> None:
    text = COMPLETE.replace('{allow: ["@local"]}', syscalls)
    problems = make_set(base=text).problems("base")
    assert len(problems) == 1
    assert message in problems[0].message
    assert hint in problems[0].hint


@pytest.mark.parametrize("name", ["execve", "clone", "pipe2"])
def test_what_every_call_needs_cannot_be_dropped(make_set: MakeSet, name: str) -> None:
    text = f"profile: a\nextends: base\ndrop: {{syscalls: {{allow: [{name}]}}}}\nwhy: A test.\n"
    problems = make_set(a=text).problems("a")
    assert [(p.line, p.column) for p in problems] == [(3, 27)]
    assert f"{name} cannot be taken away" in problems[0].message


def test_a_socket_needs_a_set_that_says_which(make_set: MakeSet) -> None:
    sets = (
        '["@basic-io", "@file-system", "@process", "@memory", "@signal", "@timer", "@resources", '
        "{name: socket, why: x}]"
    )
    problems = make_set(base=COMPLETE.replace('["@local"]', sets)).problems("base")
    assert [p.message.split(":")[0] for p in problems] == ["socket by itself can make no socket"]
    with_ipc = COMPLETE.replace('["@local"]', sets.replace('"@timer"', '"@timer", "@ipc"'))
    assert not make_set(base=with_ipc).problems("base")


def test_the_least_set_is_enough_to_start(make_set: MakeSet) -> None:
    assert not make_set(base=COMPLETE.replace("@local", "@start")).problems("base")
