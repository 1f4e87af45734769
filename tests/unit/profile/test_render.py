"""A profile written down: what is read back from the text is what was enforced."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.profile import syscalls
from supervisor.profile.render import Allowed, Single, render, watched_entries
from supervisor.profile.schema import ProfileFile
from supervisor.profile.yaml_source import parse_document, validate

from .conftest import COMPLETE, MakeSet

ODD = {
    "plain": "env: {LANG: C.UTF-8}",
    "words": 'env: {A: "yes", B: "1", C: "", D: "a: b # c", E: "\\"q\\"", F: "é\\t"}',
    "files": "env: {LANG: C}",
}


def again(text: str, make_set: MakeSet) -> dict[str, object]:
    profiles = make_set(base=text)
    assert not profiles.problems("base"), profiles.problems("base")
    loaded: dict[str, object] = json.loads(profiles.effective("base").canonical)
    return loaded


@pytest.mark.parametrize("env", ODD.values(), ids=ODD)
def test_what_is_read_back_is_the_same_profile(make_set: MakeSet, env: str) -> None:
    text = COMPLETE.replace("env: {LANG: C.UTF-8}", env).replace(
        "  write: [",
        '  read: [{path: /srv/a b, why: "it: \'s"}, {path: /opt/x, why: y}]\n'
        "  write: [{path: /tmp, size: 1MiB, exec: true, why: made there}, ",
    )
    text = text.replace("wall: 60s", "wall: 1500ms").replace("stdout: full", "stdout: 8MiB")
    text = text.replace('["@local"]', '["@local", {name: kcmp, why: x}], kill: [ptrace, mbind]')
    text = text.replace("image:", "require: [guard, cgroup-v2]\nimage:")
    canonical = again(text, make_set)
    allowed = Allowed(sets=("@local",), singles=(Single(name="kcmp", why="x"),))
    written = render(canonical, allowed, watch=(), mode="enforce", comments=["one", "two"])
    assert written.startswith("# one\n# two\nprofile: base\n")
    assert again(written, make_set) == canonical
    assert all(len(line) <= 100 for line in written.splitlines())


def test_what_can_be_reached_is_read_back(make_set: MakeSet) -> None:
    text = COMPLETE.replace('"@local"', '"@default"').replace("16MiB}", "16MiB, egress: 1MiB}")
    text = text.replace(
        "syscalls:",
        "egress:\n"
        '  - {host: "*.example.com", port: [80, "8000-8100"], private: true, why: "a: b"}\n'
        "  - {host: a.example.com, port: 443, inspect: tls-terminate, methods: [GET, PUT], "
        'paths: ["/a,b*", /c], why: x}\n'
        '  - {cidr: "2001:db8::/32", port: 5432, why: y}\n'
        "secrets: [{name: s, header: X-Key, host: a.example.com, why: z}]\n"
        "syscalls:",
    )
    canonical = again(text, make_set)
    written = render(canonical, Allowed(sets=("@default",), singles=()), watch=(), mode="enforce")
    assert again(written, make_set) == canonical


def test_a_record_of_an_older_version_is_rendered(make_set: MakeSet) -> None:
    canonical = again(COMPLETE, make_set)
    older = {key: canonical[key] for key in canonical if key not in ("egress", "secrets")}
    older["limits"] = {
        key: value
        for key, value in json.loads(json.dumps(canonical["limits"])).items()
        if key != "egress_bytes"
    }
    older["record"] = {name: canonical["record"][name] for name in ("stdin", "stdout", "stderr")}  # type: ignore[index, call-overload]
    written = render(older, Allowed(sets=("@local",), singles=()), watch=(), mode="enforce")
    assert again(written, make_set) == canonical


def test_long_lists_are_wrapped_and_stay_what_they_are(make_set: MakeSet) -> None:
    canonical = json.loads(make_set().effective("base").canonical)
    names = sorted(syscalls.members("@file-system"))
    allowed = Allowed(
        sets=("@start",), singles=tuple(Single(name=name, why=f"for {name}") for name in names)
    )
    text = render(canonical, allowed, watch=("@sync", "read"), mode="observe")
    assert max(map(len, text.splitlines())) <= 100
    body = validate(parse_document(text.encode(), "base.yaml"), ProfileFile)
    assert [entry if isinstance(entry, str) else entry.name for entry in body.syscalls.allow] == [
        "@start", *names,
    ]  # fmt: skip
    assert (body.syscalls.watch, body.mode) == (["@sync", "read"], "observe")


@given(
    st.frozensets(st.sampled_from(sorted(syscalls.members("@default"))), max_size=60),
    st.lists(st.sampled_from(sorted(syscalls.elementary_sets())), max_size=3),
)
def test_a_list_of_what_is_watched_watches_just_that(
    names: frozenset[str], sets: list[str]
) -> None:
    allow = syscalls.members("@default")
    wanted = names.union(*(syscalls.members(name) for name in sets)) & allow
    entries = watched_entries(wanted, allow)
    watched: set[str] = set()
    for entry in entries:
        watched |= syscalls.members(entry) if entry.startswith("@") else {entry}
    assert watched & allow == wanted
    assert len(set(entries)) == len(entries)
