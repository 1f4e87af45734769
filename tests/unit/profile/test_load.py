"""Sets of profiles: lineage, fragments, what one bad file does to others, and no crash on any."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.errors import NotFound, ProfileError
from supervisor.profile.load import LINEAGE_MAX, ProfileSet

from .conftest import COMPLETE, MakeSet


def child(name: str, extends: str, more: str = "") -> str:
    return f"profile: {name}\nextends: {extends}\nwhy: A test.\n{more}"


def fragment(name: str, more: str) -> str:
    return f"fragment: {name}\nwhy: A test.\n{more}"


def test_names_and_lineage(make_set: MakeSet) -> None:
    profiles = make_set(b=child("b", "base"), c=child("c", "b"))
    assert profiles.names == ("b", "base", "c")
    assert profiles.effective("c").lineage == ("c", "b", "base")
    assert profiles.effective("c").why == "A test."
    assert not profiles.problems("c")


def test_an_effective_profile_is_made_once(make_set: MakeSet) -> None:
    profiles = make_set()
    assert profiles.effective("base") is profiles.effective("base")


def test_unknown_profile(make_set: MakeSet) -> None:
    for ask in (make_set().effective, make_set().problems):
        with pytest.raises(NotFound) as caught:
            ask("bsae")
        assert caught.value.reason == "PROFILE_NOT_FOUND"
        assert "'base'" in caught.value.hint
        with pytest.raises(NotFound) as caught:
            ask("report")
        assert "at its start" in caught.value.hint


def test_shipped_profiles_that_are_not_loaded_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(child("mine", "python"))
    alone = ProfileSet.load([tmp_path])
    [problem, *_] = alone.problems("mine")
    assert problem.message == "there is no profile 'python'"
    assert "shipped profiles are not loaded" in problem.hint
    with pytest.raises(NotFound) as caught:
        alone.effective("python")
    assert "shipped profiles are not loaded" in caught.value.hint


def test_nothing_is_said_of_shipped_profiles_where_they_are(make_set: MakeSet) -> None:
    [problem, *_] = make_set(mine=child("mine", "zzz")).problems("mine")
    assert "shipped" not in problem.hint


def test_a_profile_that_extends_itself(make_set: MakeSet) -> None:
    profiles = make_set(a=child("a", "a"))
    problem = profiles.problems("a")[0]
    assert (problem.line, problem.column) == (2, 10)
    assert problem.message == "extends itself: a -> a"


def test_a_circle_is_named_as_a_chain(make_set: MakeSet) -> None:
    profiles = make_set(a=child("a", "b"), b=child("b", "c"), c=child("c", "a"))
    assert [p.message for p in profiles.problems("a")] == ["extends itself: a -> b -> c -> a"]
    assert Path(profiles.problems("a")[0].file).name == "c.yaml"
    with pytest.raises(ProfileError) as caught:
        profiles.effective("b")
    assert caught.value.reason == "PROFILE_INVALID"
    assert "b -> c -> a -> b" in caught.value.message


def test_the_chain_has_an_end(make_set: MakeSet) -> None:
    names = ["base", *(f"p{n}" for n in range(1, LINEAGE_MAX + 1))]
    texts = {name: child(name, below) for below, name in itertools.pairwise(names)}
    profiles = make_set(**texts)
    assert len(profiles.effective(names[LINEAGE_MAX - 1]).lineage) == LINEAGE_MAX
    assert "deep" in profiles.problems(names[LINEAGE_MAX])[0].message


def test_unknown_parent_and_fragment(make_set: MakeSet) -> None:
    profiles = make_set(
        a=child("a", "bsae"),
        b="profile: b\nextends: base\nuse: [scrath]\nwhy: A test.\n",
        fragment_scratch=fragment("scratch", "env: {A: x}\n"),
    )
    assert "'base'" in profiles.problems("a")[0].hint
    problem = profiles.problems("b")[0]
    assert (problem.line, problem.column) == (3, 7)
    assert "'scratch'" in problem.hint


def test_what_is_not_there_is_told_beside_what_cannot_be_read(make_set: MakeSet) -> None:
    wrong = "profile: a\nextends: shel\nuse: [scrath]\nwhy: A test.\nruntime: 7\n"
    profiles = make_set(
        a=wrong, b=child("b", "a"), fragment_scratch=fragment("scratch", "env: {A: x}\n")
    )
    for name in ("a", "b"):
        told = [(problem.line, problem.message) for problem in profiles.problems(name)]
        assert told[:2] == [
            (2, "there is no profile 'shel'"), (3, "there is no fragment 'scrath'"),
        ]  # fmt: skip
        assert [line for line, _ in told[2:]] == [5]
    assert "'scratch'" in profiles.problems("a")[1].hint


def test_a_fragment_twice(make_set: MakeSet) -> None:
    profiles = make_set(
        b="profile: b\nextends: base\nuse: [f, f]\nwhy: A test.\n",
        fragment_f=fragment("f", "env: {A: x}\n"),
    )
    assert [p.message for p in profiles.problems("b")] == ["f is used twice"]


def test_parent_then_fragment_then_own(make_set: MakeSet) -> None:
    profiles = make_set(
        a="profile: a\nextends: base\nuse: [f]\nwhy: A test.\nenv: {C: own}\n",
        fragment_f=fragment("f", "env: {LANG: fragment, C: fragment, D: fragment}\n"),
    )
    assert dict(profiles.effective("a").env) == {"LANG": "fragment", "C": "own", "D": "fragment"}


def test_fragments_that_conflict(make_set: MakeSet) -> None:
    profiles = make_set(
        a="profile: a\nextends: base\nuse: [f, g]\nwhy: A test.\nlimits: {pids: 9}\n",
        fragment_f=fragment("f", "limits: {pids: 10}\n"),
        fragment_g=fragment("g", "limits: {pids: 20}\n"),
    )
    problem = profiles.problems("a")[0]
    assert (problem.line, problem.column) == (3, 10)
    assert "f.yaml:3" in problem.message
    assert "g.yaml:3" in problem.message


def test_mode_is_not_inherited(make_set: MakeSet) -> None:
    profiles = make_set(base=COMPLETE + "mode: enforce\n", a=child("a", "base"))
    lines = {line.path: line.file for line in profiles.effective("a").lines}
    assert lines["mode"] == ""


def test_drop_reaches_parent_and_fragment(make_set: MakeSet) -> None:
    profiles = make_set(
        a="profile: a\nextends: base\nuse: [f]\ndrop: {files: {write: [/tmp]}, env: [LANG]}\n"
        "why: A test.\n",
        fragment_f=fragment("f", "files: {write: [{path: /tmp, size: 1MiB}]}\n"),
    )
    profile = profiles.effective("a")
    assert [mount.path for mount in profile.write] == ["/work"]
    assert not profile.env


def test_dropping_what_is_not_there_points_at_it(make_set: MakeSet) -> None:
    text = "profile: a\nextends: base\ndrop: {env: [LAMG]}\nwhy: A test.\n"
    problem = make_set(a=text).problems("a")[0]
    assert (problem.line, problem.column) == (3, 14)
    assert "'LANG'" in problem.hint


def test_a_bad_parent_stops_its_children_and_nobody_else(make_set: MakeSet) -> None:
    profiles = make_set(
        bad="profile: bad\nwhy: A test.\nlimtis: {}\n", a=child("a", "bad"), b=child("b", "base")
    )
    assert [p.message for p in profiles.problems("a")] == ["unknown key 'limtis'"]
    assert not profiles.problems("b")


def test_an_incomplete_parent_may_be_completed(make_set: MakeSet) -> None:
    half = COMPLETE.replace("profile: base", "profile: half").replace("image: host\n", "")
    profiles = make_set(half=half, a=child("a", "half", "image: host\n"))
    assert profiles.problems("half")
    assert not profiles.problems("a")


def test_a_bad_fragment_is_a_problem_of_who_uses_it(make_set: MakeSet) -> None:
    profiles = make_set(
        a="profile: a\nextends: base\nuse: [f]\nwhy: A test.\n",
        fragment_f=fragment("f", "env: {A: yes}\n"),
    )
    assert profiles.problems("a")
    assert profiles.stray == profiles.problems("a")
    assert not profiles.problems("base")


def test_problems_of_one_file_come_in_order(make_set: MakeSet) -> None:
    text = "profile: y\nimage: hots\nwhy: A test.\nlimits: {pids: 1}\n"
    profiles = make_set(x=text)
    assert [p.line for p in profiles.problems("x")] == [1, 2, 3, 4]


def test_a_file_instead_of_the_profile_of_its_name(make_set: MakeSet, tmp_path: Path) -> None:
    profiles = make_set(a=child("a", "base"), b=child("b", "a"))
    (tmp_path / "a.yaml").write_text(child("a", "base", "env: {A: x}\n"))
    changed = profiles.instead(tmp_path / "a.yaml")
    assert changed.effective("a").env["A"] == changed.effective("b").env["A"] == "x"
    assert "A" not in profiles.effective("a").env
    (tmp_path / "a.yaml").write_text("profile: other\n")
    assert profiles.instead(tmp_path / "a.yaml").problems("a")
    (tmp_path / "new.yaml").write_text(child("new", "b"))
    assert profiles.instead(tmp_path / "new.yaml").effective("new").lineage[1] == "b"


def test_a_name_that_stands_twice_names_both_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "base.yaml").write_text(COMPLETE)
    profiles = ProfileSet.load([tmp_path / "one", tmp_path / "two"])
    assert profiles.names == ("base",)
    message = profiles.problems("base")[0].message
    assert str(tmp_path / "one" / "base.yaml") in message
    assert str(tmp_path / "two" / "base.yaml") in message


def test_folders_add_up(tmp_path: Path) -> None:
    for folder in ("one", "two/fragments"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "one" / "base.yaml").write_text(COMPLETE)
    (tmp_path / "two" / "a.yaml").write_text("profile: a\nextends: base\nuse: [f]\nwhy: A test.\n")
    (tmp_path / "two" / "fragments" / "f.yaml").write_text(fragment("f", "env: {A: x}\n"))
    assert ProfileSet.load([tmp_path / "one", tmp_path / "two"]).effective("a").env["A"] == "x"


def test_a_folder_given_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(COMPLETE)
    profiles = ProfileSet.load([tmp_path, tmp_path / "." / ".." / tmp_path.name])
    assert not profiles.problems("base")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        ProfileSet.load([tmp_path / "gone"])
    assert caught.value.reason == "PROFILES_UNREADABLE"


def test_a_file_with_another_suffix_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text(COMPLETE)
    profiles = ProfileSet.load([tmp_path])
    assert profiles.names == ()
    assert [p.message for p in profiles.stray] == ["is not read"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").symlink_to(tmp_path / "gone.yaml")
    assert "cannot be read" in ProfileSet.load([tmp_path]).problems("base")[0].message


WORDS = st.sampled_from(
    ["profile", "base", "x", "extends", "use", "drop", "why", "image", "host", "files", "write",
     "path", "/work", "size", "1MiB", "syscalls", "allow", "@local", "ptrace", "env", "limits",
     "wall", "60s", "record", "full", "mode", "enforce", "yes", "", "~", "1", "é", "a\nb", "egress",
     "host", "a.example.com", "*.example.com", "cidr", "10.0.0.0/8", "port", "80-81", "inspect",
     "http", "methods", "GET", "paths", "secrets", "name", "header", "a.example.com:443", "10MiB"]
)  # fmt: skip
TREES = st.recursive(
    WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["profile", "extends", "use", "drop", "why", "runtime", "image", "files",
                         "egress", "secrets", "syscalls", "env", "limits", "record", "mode"]),
        TREES,
    )
)  # fmt: skip
def test_any_tree_is_a_profile_or_problems(make_set: MakeSet, tree: dict[str, object]) -> None:
    # JSON is YAML; ensure_ascii would write escapes where files have letters.
    profiles = make_set(x=json.dumps(tree, ensure_ascii=False))
    assert profiles.problems("x") or profiles.effective("x")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_one_change_of_a_good_profile_is_a_profile_or_problems(
    make_set: MakeSet, data: st.DataObject
) -> None:
    place = data.draw(st.integers(min_value=0, max_value=len(COMPLETE)))
    width = data.draw(st.integers(min_value=0, max_value=12))
    text = data.draw(st.text(alphabet="abc:{}[],&*!-#'\" \n@/019", max_size=6))
    profiles = make_set(base=COMPLETE[:place] + text + COMPLETE[place + width :])
    assert profiles.problems("base") or profiles.effective("base")
