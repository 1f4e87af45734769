"""The compiled filter: what it does with each system call, evaluated here as libseccomp would."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.oci.seccomp import (
    ALLOW,
    CELL_NEEDS,
    ERRNO,
    NOTIFY,
    compile_seccomp,
)
from supervisor.profile.arguments import ALL_BITS, evaluate
from supervisor.profile.model import SyscallPolicy
from supervisor.profile.syscall_numbers import NUMBERS
from supervisor.profile.syscalls import (
    BY_NAME_ONLY,
    CONDITIONS,
    ENOSYS,
    SETS,
    START_NEEDS,
    expand_sets,
    members,
    rules_for,
    socket_rules,
)

ARGUMENTS = 6


def policy(*sets: str, allow: tuple[str, ...] = (), kill: tuple[str, ...] = ()) -> SyscallPolicy:
    """Give what a profile with these sets and names comes to."""
    elementary = expand_sets(sets)
    names = frozenset(allow).union(*(members(name) for name in elementary))
    return SyscallPolicy(allow=names, kill=frozenset(kill), sets=elementary)


POLICIES = {
    "nothing": policy(),
    "local": policy("@local"),
    "network": policy("@default"),
    "sockets of no family": policy("@process", allow=("socket", "connect")),
    "debugger": policy("@default", allow=("ptrace", "memfd_create")),
    "kills": policy("@default", kill=("ptrace", "mount", "bpf", "unshare")),
    "kills what it allows": policy("@default", kill=("socket", "ioctl", "personality")),
    "kills what answers ENOSYS": policy("@default", kill=("clone3",)),
    "everything": policy(*SETS, allow=tuple(BY_NAME_ONLY)),
}
by_policy = pytest.mark.parametrize("wanted", POLICIES.values(), ids=POLICIES)


def compiled(wanted: SyscallPolicy) -> dict[str, Any]:
    return compile_seccomp(wanted, "/run/stockade/seccomp.sock", "call-1")


def rules_of(wanted: SyscallPolicy) -> dict[str, list[dict[str, Any]]]:
    """Give the compiled rules by system call."""
    found: dict[str, list[dict[str, Any]]] = {}
    for rule in compiled(wanted)["syscalls"]:
        for name in rule["names"]:
            found.setdefault(name, []).append(rule)
    return found


def holds(condition: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    """Evaluate one condition as seccomp_rule_add(3) describes its operator."""
    argument = arguments[condition["index"]]
    match condition["op"]:
        case "SCMP_CMP_EQ":
            return bool(argument == condition["value"])
        case "SCMP_CMP_GT":
            return bool(argument > condition["value"])
        case "SCMP_CMP_MASKED_EQ":
            return bool(argument & condition["value"] == condition["valueTwo"])
    raise AssertionError(f"an operator that is not evaluated here: {condition}")


def decide(rules: list[dict[str, Any]], arguments: tuple[int, ...]) -> set[str]:
    """Give the actions of every rule that matches; a sound filter has exactly one."""
    return {
        rule["action"]
        for rule in rules
        if all(holds(condition, arguments) for condition in rule.get("args", ()))
    }


def expected(wanted: SyscallPolicy, name: str) -> set[str]:
    """Give the actions that a system call's rules may have, from the profile's side alone."""
    if name in wanted.kill:
        return {NOTIFY}
    if name not in wanted.allow | START_NEEDS | CELL_NEEDS:
        return {ERRNO} if name in ENOSYS else {NOTIFY}
    if name == "socket":
        return {ALLOW, NOTIFY} if socket_rules(wanted.sets) else {NOTIFY}
    return {ALLOW, NOTIFY} if name in CONDITIONS or name == "socketpair" else {ALLOW}


@by_policy
def test_every_system_call_stands_in_one_list(wanted: SyscallPolicy) -> None:
    rules = rules_of(wanted)
    assert rules.keys() == NUMBERS.keys()
    for name, its in rules.items():
        assert {rule["action"] for rule in its} == expected(wanted, name), name
        if len(its) == 1:
            assert "args" not in its[0], name
        else:
            assert all(rule.get("args") for rule in its), name


@by_policy
def test_only_a_foreign_number_gets_the_default(wanted: SyscallPolicy) -> None:
    seccomp = compiled(wanted)
    assert (seccomp["defaultAction"], seccomp["defaultErrnoRet"]) == (ERRNO, errno.EPERM)
    assert seccomp["architectures"] == ["SCMP_ARCH_X86_64"]
    # ENOSYS, so that libc falls back; anything else would look like success or like a bug.
    silent = [rule for rule in seccomp["syscalls"] if rule["action"] == ERRNO]
    assert [rule["errnoRet"] for rule in silent] == [errno.ENOSYS]


def test_who_gets_the_descriptor_is_told() -> None:
    seccomp = compile_seccomp(policy(), "/run/a.sock", "call-7")
    assert (seccomp["listenerPath"], seccomp["listenerMetadata"]) == ("/run/a.sock", "call-7")


@by_policy
def test_write_is_never_notified(wanted: SyscallPolicy) -> None:
    """Runc refuses such a filter: it writes to tell that it stands."""
    assert [rule["action"] for rule in rules_of(wanted)["write"]] == [ALLOW]


def test_what_the_init_calls_is_what_every_profile_has() -> None:
    assert CELL_NEEDS <= START_NEEDS


@pytest.mark.parametrize("name", ["ptrace", "socket", "read", "clone3"])
def test_kill_wins(name: str) -> None:
    wanted = policy("@default", allow=(name,), kill=(name,))
    assert [rule["action"] for rule in rules_of(wanted)[name]] == [NOTIFY]


def test_an_allowed_clone3_is_not_answered_for() -> None:
    assert rules_of(policy("@local", allow=("clone3",)))["clone3"][0]["action"] == ALLOW


@by_policy
def test_no_condition_names_an_argument_twice(wanted: SyscallPolicy) -> None:
    """Libseccomp takes one comparison of an argument in a rule (seccomp_rule_add(3))."""
    for its in rules_of(wanted).values():
        for rule in its:
            indexes = [condition["index"] for condition in rule.get("args", ())]
            assert len(indexes) == len(set(indexes))
            assert all(0 <= c["value"] <= ALL_BITS for c in rule.get("args", ()))


CONDITIONAL = {
    name: wanted
    for wanted in (POLICIES["everything"], POLICIES["local"])
    for name, alternatives in rules_for(wanted).items()
    if alternatives
}
TABLE = [
    ("socket", (1, 1, 0), ALLOW), ("socket", (1, 0o2000001, 0), ALLOW),
    ("socket", (1, 3, 0), NOTIFY), ("socket", (2, 1, 6), NOTIFY), ("socket", (17, 3, 0), NOTIFY),
    ("socket", (1 << 32 | 1, 1, 0), NOTIFY), ("socketpair", (2, 1, 0), NOTIFY),
    ("ioctl", (0, 0x5412), NOTIFY), ("ioctl", (0, 0xFFFFFFFF_00005412), NOTIFY),
    ("ioctl", (0, 0x541C), NOTIFY), ("ioctl", (0, 0x5413), ALLOW), ("ioctl", (0x5412, 0), ALLOW),
    ("clone", (0x11,), ALLOW), ("clone", (0x10000011,), NOTIFY), ("clone", (0x80,), NOTIFY),
    ("clone", (1 << 32 | 0x11,), NOTIFY), ("prctl", (22,), NOTIFY), ("prctl", (35,), NOTIFY),
    ("prctl", (1 << 32 | 22,), NOTIFY), ("prctl", (38,), ALLOW), ("prctl", (ALL_BITS,), ALLOW),
    ("personality", (0xFFFFFFFF,), ALLOW), ("personality", (0x40000,), NOTIFY),
    ("personality", (ALL_BITS,), NOTIFY), ("mknod", (0, 0o010644), ALLOW),
    ("mknod", (0, 0o020644), NOTIFY), ("mknodat", (0, 0, 0o060644), NOTIFY),
    ("mknodat", (0o060644, 0o060644, 0o100644), ALLOW),
]  # fmt: skip


@pytest.mark.parametrize(("name", "start", "action"), TABLE)
def test_arguments_by_hand(name: str, start: tuple[int, ...], action: str) -> None:
    arguments = start + (0,) * (ARGUMENTS - len(start))
    assert decide(rules_of(POLICIES["local"])[name], arguments) == {action}


LOCAL_AND_ALL = [POLICIES["local"], POLICIES["network"], POLICIES["everything"]]
RULES = [(wanted, rules_for(wanted), rules_of(wanted)) for wanted in LOCAL_AND_ALL]
NEAR = sorted(
    {
        rule.value ^ flip
        for _, rules, _ in RULES
        for alternatives in rules.values()
        for conjunction in alternatives
        for rule in conjunction
        for flip in (0, 1, 1 << 7, 1 << 31, 1 << 32, 1 << 63, ALL_BITS)
    }
)
argument = st.one_of(
    st.sampled_from(NEAR),
    st.integers(0, ALL_BITS),
    st.builds(lambda near, bit: near ^ 1 << bit, st.sampled_from(NEAR), st.integers(0, 63)),
)


@given(st.sampled_from(RULES), st.tuples(*[argument] * ARGUMENTS))
def test_the_filter_decides_as_the_profile_does(
    compiled_rules: Any, arguments: tuple[int, ...]
) -> None:
    _, rules, compiled_to = compiled_rules
    for name, alternatives in rules.items():
        action = ALLOW if evaluate(alternatives, arguments) else NOTIFY
        assert decide(compiled_to[name], arguments) == {action}, name


def test_what_one_call_does_to_its_filter_does_not_reach_the_next() -> None:
    """The compiled rules are kept between calls."""
    wanted = policy("@default", kill=("bpf",))
    before = json.dumps(compiled(wanted))
    compiled(wanted)["defaultAction"] = ALLOW
    compiled(wanted)["syscalls"].clear()
    compiled(wanted)["syscalls"].append({"names": ["bpf"], "action": ALLOW})
    assert json.dumps(compiled(wanted)) == before


def test_policies_that_differ_are_not_mixed_up() -> None:
    names = ("ptrace", "bpf")
    found = [rules_of(policy("@default", allow=(name,))) for name in names]
    assert [[rules[name][0]["action"] for name in names] for rules in found] == [
        [ALLOW, NOTIFY],
        [NOTIFY, ALLOW],
    ]
