"""The merge law: the child wins, lists unite, only drop takes away, fragments never fight."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.profile import syscalls
from supervisor.profile.layers import (
    ALLOW,
    EGRESS,
    READ,
    REQUIRE,
    SECRETS,
    WATCH,
    WRITE,
    Layer,
    Origin,
    apply_drop,
    layer_of,
    merge,
    merge_fragments,
    render_value,
)
from supervisor.profile.schema import Drop, DropFiles, DropSyscalls, FragmentFile
from supervisor.profile.yaml_source import Document, parse_document, validate

SETS = sorted(syscalls.SETS)
SINGLES = sorted(syscalls.BY_NAME_ONLY)


def document(body: str, name: str = "f") -> Document:
    text = f"fragment: {name}\nwhy: A test.\n{body}\n"
    return parse_document(text.encode(), f"{name}.yaml")


def layer(body: str, name: str = "f") -> Layer:
    source = document(body, name)
    made, problems = layer_of(source, validate(source, FragmentFile))
    assert not problems
    return made


def values(made: Layer) -> Mapping[object, object]:
    found: dict[object, object] = {key: sourced.value for key, sourced in made.scalars.items()}
    for key, entries in made.items.items():
        found |= {(*key, name): sourced.value for name, sourced in entries.items()}
    return found


def drop(made: Layer, what: Drop, own: Layer | None = None) -> list[str]:
    source = document("env: {}", "child")
    return [p.message for p in apply_drop(made, what, own or Layer(), source)]


def test_scalars_the_child_wins() -> None:
    merged = merge(
        layer("limits: {wall: 60s, pids: 64}\nenv: {A: parent, B: parent}"),
        layer("limits: {wall: 5s}\nenv: {A: child}"),
    )
    assert values(merged) == {
        ("limits", "wall"): 5000, ("limits", "pids"): 64, ("env", "A"): "child",
        ("env", "B"): "parent",
    }  # fmt: skip


def test_lists_unite_and_a_path_is_an_identity() -> None:
    merged = merge(
        layer("files: {write: [{path: /work, size: 1MiB}, {path: /tmp, size: 1MiB}]}"),
        layer("files: {write: [{path: /work, size: 9MiB}, {path: /out, size: 1MiB}]}"),
    )
    sizes = {path: s.value.size_bytes >> 20 for path, s in merged.items[WRITE].items()}  # type: ignore[union-attr]
    assert sizes == {"/work": 9, "/tmp": 1, "/out": 1}


def test_requirements_unite_and_only_drop_takes_one_away() -> None:
    merged = merge(layer("require: [guard]"), layer("require: [cgroup-v2, guard]"))
    assert sorted(merged.items[REQUIRE]) == ["cgroup-v2", "guard"]
    assert sorted(merge(merged, layer("env: {}")).items[REQUIRE]) == ["cgroup-v2", "guard"]
    assert not drop(merged, Drop(require=["guard"]))
    assert sorted(merged.items[REQUIRE]) == ["cgroup-v2"]
    assert drop(merged, Drop(require=["guard"]))
    assert drop(merged, Drop(require=["cgroup-v2"]), layer("require: [cgroup-v2]"))


def test_merging_changes_neither_side() -> None:
    parent, child = layer("env: {A: a}"), layer("env: {B: b}")
    merge(parent, child)
    assert values(parent) == {("env", "A"): "a"}
    assert values(child) == {("env", "B"): "b"}


def test_an_entry_twice_in_one_file() -> None:
    body = "files: {write: [{path: /work, size: 1MiB}, {path: /work, size: 2MiB}]}"
    source = document(body)
    _, problems = layer_of(source, validate(source, FragmentFile))
    assert [(p.line, p.column) for p in problems] == [(3, 44)]
    assert "line 3" in problems[0].hint


ENV = st.dictionaries(st.sampled_from("ABCDE"), st.sampled_from("xyz"), max_size=5)
ENTRIES = st.sets(st.sampled_from([*SETS, *SINGLES]), max_size=6)


def built(env: Mapping[str, str], entries: set[str], name: str = "f") -> Layer:
    written = ", ".join(
        f'"{entry}"' if entry.startswith("@") else f"{{name: {entry}, why: x}}"
        for entry in sorted(entries)
    )
    variables = ", ".join(f'{key}: "{value}"' for key, value in env.items())
    return layer(f"syscalls: {{allow: [{written}]}}\nenv: {{{variables}}}", name)


@given(ENV, ENTRIES, ENV, ENTRIES, ENV, ENTRIES)
def test_merging_is_associative(
    env_a: dict[str, str], a: set[str], env_b: dict[str, str], b: set[str],
    env_c: dict[str, str], c: set[str],
) -> None:  # fmt: skip
    one, two, three = built(env_a, a), built(env_b, b), built(env_c, c)
    left, right = merge(merge(one, two), three), merge(one, merge(two, three))
    assert values(left) == values(right) == values(merge(one, merge(two, three)))
    assert left.allowed() == one.allowed() | two.allowed() | three.allowed()


@given(ENV, ENTRIES)
def test_merging_with_nothing_or_with_itself_changes_nothing(
    env: dict[str, str], entries: set[str]
) -> None:
    one = built(env, entries)
    for merged in (merge(one, Layer()), merge(Layer(), one), merge(one, one)):
        assert values(merged) == values(one)


@given(ENV, ENTRIES, ENV, ENTRIES)
def test_the_order_of_fragments_does_not_matter(
    env_a: dict[str, str], a: set[str], env_b: dict[str, str], b: set[str]
) -> None:
    fragments = {"a": built(env_a, a, "a"), "b": built(env_b, b, "b")}
    source = document("env: {}", "user")
    use = {name: Origin(document=source, location=()) for name in fragments}
    one, problems = merge_fragments(fragments, use)
    other, others = merge_fragments(dict(reversed(fragments.items())), use)
    disagree = {key for key in env_a.keys() & env_b.keys() if env_a[key] != env_b[key]}
    assert len(problems) == len(others) == len(disagree)
    if not disagree:
        assert values(one) == values(other)


def test_fragments_that_disagree_name_both_lines() -> None:
    source = document("env: {}", "user")
    use = {name: Origin(document=source, location=("why",)) for name in ("a", "b")}
    _, problems = merge_fragments(
        {
            "a": layer("limits: {pids: 10}\nenv: {A: x}", "a"),
            "b": layer("env: {A: x}\nlimits: {pids: 20}", "b"),
        },
        use,
    )
    assert [p.message for p in problems] == [
        "two fragments disagree on limits.pids: a.yaml:3 and b.yaml:4"
    ]
    assert (problems[0].file, problems[0].line) == ("user.yaml", 2)


def test_fragments_that_disagree_on_a_mount() -> None:
    source = document("env: {}", "user")
    use = {name: Origin(document=source, location=()) for name in ("a", "b")}
    body = "files: {{write: [{{path: /tmp, size: {}, exec: true, why: {}}}]}}"
    _, problems = merge_fragments(
        {"a": layer(body.format("1MiB", "x"), "a"), "b": layer(body.format("1MiB", "other"), "b")},
        use,
    )
    assert not problems
    _, problems = merge_fragments(
        {"a": layer(body.format("1MiB", "x"), "a"), "b": layer(body.format("2MiB", "x"), "b")}, use
    )
    assert len(problems) == 1


RULE = "egress: [{{host: a.example.com, port: 443, {}why: {}}}]\n"
ENTRY = "secrets: [{{name: s, header: {}, host: {}, why: x}}]\n"


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        (RULE.format("", "x"), RULE.format("", "other"), True),
        (RULE.format("", "x"), RULE.format("inspect: none, ", "x"), False),
        (RULE.format("", "x"), RULE.format("private: true, ", "x"), False),
        (
            RULE.format("inspect: http, methods: [GET], ", "x"),
            RULE.format("inspect: http, methods: [POST], ", "x"), False,
        ),
        (
            RULE.format("inspect: http, paths: [/a], ", "x"),
            RULE.format("inspect: http, ", "x"), False,
        ),
        (RULE.format("", "x"), RULE.replace("443", "444").format("", "x"), True),
        (ENTRY.format("A", "a.example.com"), ENTRY.format("B", "a.example.com"), True),
        (
            ENTRY.format("A", "a.example.com"),
            ENTRY.replace("why", "env: E, why").format("A", "a.example.com"), False,
        ),
    ],
)  # fmt: skip
def test_fragments_that_disagree_on_a_place_or_a_secret(one: str, other: str, agree: bool) -> None:
    source = document("env: {}", "user")
    use = {name: Origin(document=source, location=()) for name in ("a", "b")}
    for pair in ((one, other), (other, one)):
        parts = {name: layer(text, name) for name, text in zip(use, pair, strict=True)}
        _, problems = merge_fragments(parts, use)
        assert len(problems) == (not agree), problems


def test_places_and_secrets_unite_and_a_name_is_an_identity() -> None:
    merged = merge(
        layer(RULE.format("", "x") + ENTRY.format("A", "a.example.com")),
        layer(RULE.format("inspect: none, ", "y") + ENTRY.format("A", "b.example.com")),
    )
    assert [s.value.why for s in merged.items[EGRESS].values()] == ["y"]  # type: ignore[union-attr]
    assert sorted(merged.items[SECRETS]) == ["s in A to a.example.com", "s in A to b.example.com"]
    assert not drop(merged, Drop(egress=["a.example.com:443"], secrets=["s"]))
    assert values(merged) == {}
    messages = drop(merged, Drop(egress=["a.example.com:443"], secrets=["s"]))
    assert ["cannot be dropped" in message for message in messages] == [True, True]
    own = layer(RULE.format("", "x"))
    assert drop(merge(own, Layer()), Drop(egress=["a.example.com:443"]), own) == [
        "a.example.com:443 is dropped and added in the same file"
    ]


def test_what_is_watched_is_united_and_needs_to_be_allowed() -> None:
    united = merge(
        layer('syscalls: {allow: ["@local"], watch: [read, "@sync"]}'),
        layer("syscalls: {watch: [read, ptrace]}"),
    )
    assert set(united.items[WATCH]) == {"read", "@sync", "ptrace"}
    assert united.watched() == syscalls.members("@sync") | {"read"}


def test_drop_takes_away() -> None:
    made = layer(
        "files: {read: [{path: /srv, why: x}], write: [{path: /tmp, size: 1MiB}]}\n"
        'syscalls: {allow: ["@ipc", {name: ptrace, why: x}], kill: [kcmp], watch: ["@ipc"]}\n'
        "env: {A: a, B: b}"
    )
    everything = Drop(
        files=DropFiles(read=["/srv"], write=["/tmp"]),
        syscalls=DropSyscalls(allow=["@ipc", "ptrace"], kill=["kcmp"], watch=["@ipc"]),
        env=["A"],
    )
    assert not drop(made, everything)
    assert values(made) == {("env", "B"): "b"}
    assert not made.allowed()


def test_dropping_what_is_not_there() -> None:
    made = layer('syscalls: {allow: ["@local"]}')
    nothing = Drop(
        files=DropFiles(read=["/a"], write=["/b"]),
        syscalls=DropSyscalls(allow=["@network-io", "ptrace"], kill=["kcmp"], watch=["read"]),
        env=["A"],
    )
    messages = drop(made, nothing)
    assert len(messages) == 7
    assert all("cannot be dropped" in message for message in messages)


@given(st.sets(st.sampled_from(SETS), min_size=1, max_size=4), st.sampled_from(SETS))
def test_dropping_a_set_leaves_the_others_whole(entries: set[str], gone: str) -> None:
    made = built({}, entries)
    before, parts = syscalls.expand_sets(entries), syscalls.expand_sets([gone])
    messages = drop(made, Drop(syscalls=DropSyscalls(allow=[gone])))
    assert bool(messages) == (not before & parts)
    after = syscalls.expand_sets(made.items[ALLOW])
    assert after == before - parts
    assert made.allowed() == frozenset().union(*(syscalls.members(name) for name in after))


@given(st.sampled_from(sorted(syscalls.members("@local"))))
def test_a_call_dropped_by_name_comes_back_by_name_only(name: str) -> None:
    made = layer('syscalls: {allow: ["@local"]}')
    assert not drop(made, Drop(syscalls=DropSyscalls(allow=[name])))
    assert made.allowed() == syscalls.members("@local") - {name}
    assert name not in merge(made, layer('syscalls: {allow: ["@default"]}')).allowed()
    again = layer(f"syscalls: {{allow: [{{name: {name}, why: x}}]}}")
    assert name in merge(made, again).allowed()


def test_dropping_a_call_that_is_named_and_in_a_set_drops_both() -> None:
    made = layer('syscalls: {allow: ["@file-system", {name: mknod, why: x}]}')
    assert not drop(made, Drop(syscalls=DropSyscalls(allow=["mknod"])))
    assert "mknod" not in made.allowed()


def test_dropping_and_adding_the_same_is_a_contradiction() -> None:
    made = layer('syscalls: {allow: ["@default"]}\nfiles: {write: [{path: /tmp, size: 1MiB}]}')
    own = layer('syscalls: {allow: ["@default"]}\nfiles: {write: [{path: /tmp, size: 2MiB}]}')
    what = Drop(files=DropFiles(write=["/tmp"]), syscalls=DropSyscalls(allow=["@network-io"]))
    messages = drop(made, what, own)
    assert messages == [
        "/tmp is dropped and added in the same file",
        "@network-io is dropped and added in the same file",
    ]


def test_a_large_set_may_be_dropped_for_smaller_ones() -> None:
    made = layer('syscalls: {allow: ["@default"]}')
    own = layer('syscalls: {allow: ["@basic-io"]}')
    assert not drop(made, Drop(syscalls=DropSyscalls(allow=["@default"])), own)
    assert merge(made, own).allowed() == syscalls.members("@basic-io")


def test_origins_name_file_and_line() -> None:
    made = layer("files:\n  read:\n    - {path: /srv, why: x}\nenv: {A: a}")
    assert str(made.items[READ]["/srv"].origin) == "f.yaml:5"
    assert made.scalars["env", "A"].origin.problem("m").column == 10


def test_values_are_written_as_in_yaml() -> None:
    rendered = [
        render_value(("limits", "wall"), 60_000),
        render_value(("limits", "memory"), 512 << 20),
        render_value(("limits", "egress"), 10 << 20),
        render_value(("limits", "pids"), 64),
        render_value(("env", "A"), "x"),
    ]
    assert rendered == ["60s", "512MiB", "10MiB", "64", "x"]
