"""What is learned: all that was made, as little besides as fits, and nothing that was denied."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.errors import InvalidRequest, ProfileError
from supervisor.profile import syscalls
from supervisor.profile.learn import COMMENT_CHARACTERS_MAX, Evidence, Learned, covers, learn
from supervisor.profile.lint import LINES_MAX

from .conftest import COMPLETE, MakeSet

OBSERVING = COMPLETE + "mode: observe\n"
ELEMENTARY = sorted(syscalls.elementary_sets())
NAMES = sorted(frozenset().union(*(syscalls.members(name) for name in ELEMENTARY)))
BY_NAME = sorted(syscalls.BY_NAME_ONLY)
NEEDED = st.frozensets(st.sampled_from([*NAMES, *BY_NAME]), max_size=120)
START = syscalls.members("@start")
FORCED = st.frozensets(st.sampled_from(["@ipc", "@network-io"]))


CANONICAL: dict[str, Any] = {
    "name": "base", "why": "A test.", "require": [], "runtime": "runc", "image": "host",
    "files": {
        "read": [], "write": [{"path": "/work", "size_bytes": 65536, "exec": False, "why": ""}],
    },
    "syscalls": {
        "allow": NAMES, "sets": ELEMENTARY, "kill": [], "watch": [], "why": {},
        "written": {"allow": NAMES, "sets": ELEMENTARY},
    },
    "env": {"LANG": "C.UTF-8"},
    "limits": {
        "wall_s": 60.0, "cpu_s": 30.0, "memory_bytes": 1 << 29, "pids": 64, "files": 256,
        "output_bytes": 1 << 24,
    },
    "record": {name: {"mode": "full", "bytes_max": None} for name in ("stdin", "stdout", "stderr")},
    "mode": "observe",
}  # fmt: skip


def held(sets: tuple[str, ...]) -> frozenset[str]:
    return frozenset().union(*(syscalls.members(name) for name in sets))


def test_what_is_reached_stays_and_so_do_its_sockets() -> None:
    rule = {
        "host": "a.example.com", "cidr": "", "ports": [[443, 443], [8000, 8100]],
        "inspect": "tls-terminate", "private": False, "methods": [], "paths": [], "why": "x",
    }  # fmt: skip
    use = {"name": "s", "header": "X-Key", "host": "a.example.com", "env": "S", "why": "y"}
    limits = {**CANONICAL["limits"], "egress_bytes": 1 << 20}
    reaches = {**CANONICAL, "egress": [rule], "secrets": [use], "limits": limits}
    learned = learn(reaches, "0" * 64, Evidence(calls=["a"], made={"read": 1}))
    assert "@network-io" in learned.cover.sets
    assert '{host: "a.example.com", port: [443, "8000-8100"], inspect: tls-term' in learned.text
    assert "{name: s, header: X-Key" in learned.text
    assert "egress: 1MiB" in learned.text
    closed = learn(CANONICAL, "0" * 64, Evidence(calls=["a"], made={"read": 1}))
    assert "@network-io" not in closed.cover.sets


@settings(deadline=None, max_examples=60)
@given(NEEDED, FORCED)
def test_every_cover_holds_what_is_needed(needed: frozenset[str], forced: frozenset[str]) -> None:
    found = covers(needed, forced)
    for cover in found:
        assert needed <= held(cover.sets) | set(cover.singles)
        assert forced | {"@start"} <= set(cover.sets)
        assert set(cover.excess) == held(cover.sets) - needed
        assert not set(cover.singles) & held(cover.sets)
        assert set(cover.singles) <= needed
    excess = [len(cover.excess) for cover in found]
    assert excess == sorted(set(excess))
    items = [cover.items for cover in found]
    assert items == sorted(set(items), reverse=True)


@settings(deadline=None, max_examples=60)
@given(NEEDED, FORCED)
def test_no_set_can_be_left_out_or_replaced(needed: frozenset[str], forced: frozenset[str]) -> None:
    for cover in covers(needed, forced):
        for name in set(cover.sets) - forced - {"@start"}:
            others = tuple(one for one in cover.sets if one != name)
            only = (needed & syscalls.members(name)) - held(others)
            assert len(only) > 1, (name, only)


@settings(deadline=None, max_examples=60)
@given(NEEDED, FORCED)
def test_the_first_holds_no_more_than_it_must(
    needed: frozenset[str], forced: frozenset[str]
) -> None:
    first = covers(needed, forced)[0]
    must = held(("@start", *forced))
    assert set(first.excess) == must - needed
    for name in set(ELEMENTARY) - set(first.sets):
        # It would have more, or save no entry.
        more = syscalls.members(name) - needed - must
        assert more or len(syscalls.members(name) & set(first.singles)) <= 1


def test_among_equals_it_is_always_the_same() -> None:
    needed = frozenset(NAMES)
    assert covers(needed, frozenset()) == covers(frozenset(reversed(NAMES)), frozenset())


def run(make_set: MakeSet, evidence: Evidence, text: str = OBSERVING, **more: Any) -> Learned:
    profile = make_set(base=text).effective("base")
    return learn(json.loads(profile.canonical), profile.digest, evidence, **more)


def policy_of(make_set: MakeSet, learned: Learned) -> Any:
    profiles = make_set(base=learned.text)
    assert not profiles.problems("base")
    profile = profiles.effective("base")
    assert profile.mode == "enforce"
    return profile.syscalls


def test_what_was_made_is_allowed_and_little_else(make_set: MakeSet) -> None:
    made = {"read": 9, "getppid": 5000, "mkdir": 1, "inotify_init": 1}
    learned = run(make_set, Evidence(calls=["call-1"], made=made))
    policy = policy_of(make_set, learned)
    assert policy.allow == START | set(made)
    assert 'name: getppid, why: "made 5000 times"' in learned.text
    assert 'name: mkdir, why: "made once"' in learned.text
    assert learned.cover.excess == ()
    assert learned.incomplete == ()


def test_the_difference_begins_with_what_ran(make_set: MakeSet) -> None:
    learned = run(make_set, Evidence(calls=["call-1"], made={"getppid": 1}))
    removed = [line for line in learned.diff.splitlines() if line.startswith("-")]
    added = [line for line in learned.diff.splitlines() if line.startswith("+")]
    assert '-syscalls: {allow: ["@local"], kill: [], watch: []}' in removed
    assert "-mode: observe" in removed
    assert "+mode: enforce" in added
    assert learned.diff.startswith("--- base.yaml as it ran\n+++ base.yaml learned\n")


@pytest.mark.parametrize(
    ("families", "sets"),
    [({1}, {"@ipc"}), ({2}, {"@network-io"}), ({16, 10}, {"@network-io"}),
     ({1, 2}, {"@ipc", "@network-io"}), (set(), {"@ipc"})],
)  # fmt: skip
def test_sockets_need_the_set_of_their_family(
    make_set: MakeSet, families: set[int], sets: set[str]
) -> None:
    made = {"socket": 2, "connect": 1}
    learned = run(make_set, Evidence(calls=["c"], made=made, families=families))
    policy = policy_of(make_set, learned)
    assert policy.sets & {"@ipc", "@network-io"} == sets


def test_what_is_allowed_by_name_keeps_its_reason_where_it_was_used(make_set: MakeSet) -> None:
    text = OBSERVING.replace(
        '"@local"', '"@local", {name: kcmp, why: compares}, {name: mbind, why: x}'
    )
    learned = run(make_set, Evidence(calls=["c1", "c2"], made={"kcmp": 3}), text)
    assert policy_of(make_set, learned).allow == START | {"kcmp"}
    assert '{name: kcmp, why: "compares; made 3 times in c1, c2"}' in learned.text


def test_of_what_was_not_watched_all_stays(make_set: MakeSet) -> None:
    text = COMPLETE.replace(
        '["@local"]', '["@local", {name: kcmp, why: compares}], watch: ["@sync", "@sandbox"]'
    )
    learned = run(make_set, Evidence(calls=["c"], made={"fsync": 2}), text)
    policy = policy_of(make_set, learned)
    watched = syscalls.members("@sync") | syscalls.members("@sandbox")
    assert policy.allow == (syscalls.members("@local") - watched) | {"fsync", "kcmp"}
    assert policy.watch == {"fsync"}
    assert '{name: kcmp, why: "compares"}' in learned.text
    assert "@ipc" in policy.sets, "which sockets there may be was not watched"


def test_calls_of_which_nothing_was_watched(make_set: MakeSet) -> None:
    with pytest.raises(InvalidRequest) as caught:
        run(make_set, Evidence(calls=["c"], made={"read": 1}), COMPLETE)
    assert caught.value.reason == "NOTHING_WATCHED"
    assert "mode: observe" in caught.value.hint


def test_a_record_from_before_anything_could_be_watched() -> None:
    ruled = {k: v for k, v in CANONICAL["syscalls"].items() if k not in ("watch", "written")}
    older = {**CANONICAL, "mode": "enforce", "syscalls": ruled}
    del older["require"]
    with pytest.raises(InvalidRequest) as caught:
        learn(older, "d" * 64, Evidence(calls=["c"]))
    assert caught.value.reason == "NOTHING_WATCHED"


DENIED = {"memfd_create": 2, "mount": 1, "inotify_init": 4}


def test_what_was_denied_is_named_and_left_out(make_set: MakeSet) -> None:
    evidence = Evidence(
        calls=["c"], denied=DENIED, denied_arguments={"clone(CLONE_NEWUSER)": 1},
        programs={"/usr/bin/sh": 2, "/usr/bin/\nmode: observe\u202e": 1},
        destinations={"connect 203.0.113.9:443 tcp": 2}, others={"program exec /work/x": 1},
        hosts={"evil.example.com": 3},
    )  # fmt: skip
    learned = run(make_set, evidence)
    assert policy_of(make_set, learned).allow == START
    for line in (
        "# DENIED, and left out (--accept NAME takes one in): inotify_init x4, memfd_create x2",
        "# DENIED for good, in every profile: mount x1",
        "# DENIED with these arguments: clone(CLONE_NEWUSER) x1",
        "# DENIED hosts, never learned (a program chose them): evil.example.com x3",
        "# DENIED ways out: connect 203.0.113.9:443 tcp x2",
        "# DENIED by other walls (program x1): program exec /work/x x1",
        "# Programs that ran: /usr/bin/sh x2, $'/usr/bin/\\nmode: observe\\u202e' x1",
    ):
        assert line in learned.text.splitlines()


@pytest.mark.parametrize(
    ("destination", "shown"),
    [
        ("connect with other arguments", "connect with other arguments x1"),
        ("connect 198.18.0.1:80 tcp (x.example.com)",
         'connect 198.18.0.1:80 "tcp (x.example.com)" x1'),
        ("http x.example.com:80 the path '/a', not /b, /c",
         """http x.example.com:80 "the path '/a', not /b, /c" x1"""),
        ('tls x.example.com:443 names "\nmode: observe\u202e" x1, connect y',
         r'tls x.example.com:443 "names \"\\nmode: observe\\u202e\" x1, connect y" x1'),
        (f"http x.example.com:80 the path '/{'a' * 80}'",
         f"""http x.example.com:80 "the path '/{'a' * 48}…" x1"""),
    ],
)  # fmt: skip
def test_a_reason_is_quoted_as_one(make_set: MakeSet, destination: str, shown: str) -> None:
    learned = run(make_set, Evidence(calls=["c"], destinations={destination: 1}))
    assert f"# DENIED ways out: {shown}" in learned.text.splitlines()


def comment(learned: Learned, begin: str) -> str:
    [line] = [one for one in learned.text.splitlines() if one.startswith(f"# {begin}")]
    assert len(line) <= 2 + COMMENT_CHARACTERS_MAX
    return line


def test_a_long_list_says_how_much_it_left_out(make_set: MakeSet) -> None:
    programs = {f"/usr/bin/program-{number}": 2 for number in range(100, 150)}
    line = comment(run(make_set, Evidence(calls=["c"], programs=programs)), "Programs that ran")
    assert line.startswith("# Programs that ran: /usr/bin/program-100 x2, /usr/bin/program-101 x2,")
    assert line.endswith("/usr/bin/program-103 x2, and 46 more (x92)")


def test_no_name_makes_itself_two(make_set: MakeSet) -> None:
    programs = {"/work/a x1, /usr/bin/sort": 1, "/work/\\x1b": 1, "/work/\x1b": 1}
    others = {"program exec /work/b x9, program exec /work/c": 2}
    learned = run(make_set, Evidence(calls=["c"], programs=programs, others=others))
    assert comment(learned, "Programs") == (
        "# Programs that ran: $'/work/\\e' x1, '/work/\\x1b' x1, '/work/a x1, /usr/bin/sort' x1"
    )
    assert comment(learned, "DENIED by other").endswith(
        " program exec '/work/b x9, program exec /work/c' x2"
    )


def test_names_that_a_call_chose_hide_nothing(make_set: MakeSet) -> None:
    others = {f"program exec /work/{'x' * 300}{number}": 9 for number in range(50)}
    others["limit memory"] = 1
    programs = {f"/work/{'y' * 300}": 9, "/usr/bin/sh": 1}
    learned = run(make_set, Evidence(calls=["c"], programs=programs, others=others))
    line = comment(learned, "DENIED by other walls")
    assert line.startswith("# DENIED by other walls (limit x1, program x450): program exec /work/x")
    assert line.endswith(", and 50 more (x442)")
    assert comment(learned, "Programs").endswith("y… x9, /usr/bin/sh x1")


def test_a_host_that_was_asked_for_is_no_rule(make_set: MakeSet) -> None:
    """However often, and whatever it is called: it stands in a comment and nowhere else."""
    hosts = {"api.example.com": 5000, "x\negress: [{host: e.example.com}]": 1, "a x9, b": 2}
    learned = run(make_set, Evidence(calls=["c"], made={"connect": 1}, hosts=hosts))
    assert make_set(base=learned.text).effective("base").egress == ()
    assert [line for line in learned.text.splitlines() if "example.com" in line] == [
        "# DENIED hosts, never learned (a program chose them): api.example.com x5000, "
        "'a x9, b' x2, $'x\\negress: [{host: e.example.com}]' x1"
    ]


def test_many_hosts_are_counted(make_set: MakeSet) -> None:
    hosts = {f"{'x' * 60}.{number}.example.com": 2 for number in range(90)} | {"a.example.com": 1}
    line = comment(run(make_set, Evidence(calls=["c"], hosts=hosts)), "DENIED hosts")
    assert ": …xxxxxxxxxx" in line
    assert "xx.0.example.com x2, a.example.com x1, and 89 more (x178)" in line


def test_every_reason_for_being_incomplete_is_told_or_counted(make_set: MakeSet) -> None:
    call = "12345678-1234-1234-1234-123456789abc"
    reasons = [f"{call} lost 3 of exec", f"{call} timed out", f"{call} has not ended"]
    line = comment(run(make_set, Evidence(calls=["c"], incomplete=reasons)), "INCOMPLETE")
    assert f"INCOMPLETE, there may be more: {reasons[0]}; {reasons[1]}" in line
    assert line.endswith("; and 1 more")


def test_a_human_can_accept_what_was_denied(make_set: MakeSet) -> None:
    evidence = Evidence(calls=["c"], denied=DENIED)
    learned = run(make_set, evidence, accept=["memfd_create"])
    assert policy_of(make_set, learned).allow == START | {"memfd_create"}
    assert 'why: "DENIED 2 times, accepted by hand, in c"' in learned.text
    assert "left out (--accept NAME takes one in): inotify_init x4\n" in learned.text


@pytest.mark.parametrize(
    ("name", "reason"),
    [("read", "NOT_DENIED"), ("mount", "NEVER_ALLOWED"), ("syscall_500", "NEVER_ALLOWED"),
     ("socket", "ALLOWED_BY_SET"), ("ptrace", "KILLS")],
)  # fmt: skip
def test_what_cannot_be_accepted(make_set: MakeSet, name: str, reason: str) -> None:
    denied = {**DENIED, "syscall_500": 1, "socket": 1, "ptrace": 1}
    text = OBSERVING.replace('["@local"]', '["@local"], kill: [ptrace]')
    with pytest.raises(InvalidRequest) as caught:
        run(make_set, Evidence(calls=["c"], denied=denied), text, accept=[name])
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "reason", "said"),
    [
        ("connect", "OTHER_WALL", "denied by the network wall"),
        ("exec", "OTHER_WALL", "denied by the program wall"),
        ("clone", "OTHER_ARGUMENTS", "for its arguments only: clone(CLONE_NEWUSER)"),
        ("socket", "ALLOWED_BY_SET", "said by sets"),
    ],
)
def test_why_what_was_denied_cannot_be_accepted(
    make_set: MakeSet, name: str, reason: str, said: str
) -> None:
    evidence = Evidence(
        calls=["c"], denied_arguments={"clone(CLONE_NEWUSER)": 1, "socket(AF_INET, 1)": 2},
        destinations={"connect 203.0.113.9:443 tcp": 2}, others={"program exec /work/x": 1},
    )  # fmt: skip
    with pytest.raises(InvalidRequest) as caught:
        run(make_set, evidence, accept=[name])
    assert caught.value.reason == reason
    assert said in caught.value.message


def test_a_learned_profile_can_have_a_name_of_its_own(make_set: MakeSet) -> None:
    learned = run(make_set, Evidence(calls=["c"], made={"getppid": 1}), name="narrow")
    assert learned.name == "narrow"
    assert not make_set(narrow=learned.text).problems("narrow")
    assert "under base (mode observe" in learned.text
    assert "+++ narrow.yaml learned" in learned.diff


def test_what_ended_the_call_goes_on_doing_so(make_set: MakeSet) -> None:
    text = OBSERVING.replace('["@local"]', '["@local"], kill: [ptrace]')
    learned = run(make_set, Evidence(calls=["c"], denied={"ptrace": 1}), text)
    assert policy_of(make_set, learned).kill == {"ptrace"}
    assert "# DENIED, and ended the call by syscalls.kill: ptrace x1" in learned.text.splitlines()


def test_what_is_not_known_is_said_in_the_file(make_set: MakeSet) -> None:
    learned = run(make_set, Evidence(calls=["c"], incomplete=["c lost 3 of exec"]))
    assert learned.incomplete == ("c lost 3 of exec",)
    assert "# INCOMPLETE, there may be more: c lost 3 of exec" in learned.text


@settings(deadline=None, max_examples=40)
@given(st.frozensets(st.sampled_from(NAMES), min_size=60))
def test_however_much_was_made_it_fits(names: frozenset[str]) -> None:
    made = dict.fromkeys(names, 123_456)
    families = {1, 2} if "socket" in names else set[int]()
    evidence = Evidence(
        calls=["12345678-1234-1234-1234-123456789abc"] * 9, made=made, families=families,
        denied=dict.fromkeys(BY_NAME, 7), programs={"/usr/bin/" + "x" * 400: 1},
        destinations={"connect 203.0.113.9:443 tcp": 1}, incomplete=["c lost 3 of exec"] * 9,
    )  # fmt: skip
    learned = learn(CANONICAL, "d" * 64, evidence)
    assert learned.text.count("\n") <= LINES_MAX
    assert names <= held(learned.cover.sets) | set(learned.cover.singles)


def test_what_does_not_fit_is_said() -> None:
    canonical = {**CANONICAL, "env": {f"V{n}": "x" * 90 for n in range(40)}}
    with pytest.raises(ProfileError) as caught:
        learn(canonical, "d" * 64, Evidence(calls=["c"]))
    assert caught.value.reason == "LEARNED_TOO_LONG"
