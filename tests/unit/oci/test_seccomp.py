"""The compiled filter: what it does with each system call, evaluated here as libseccomp would."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.oci.seccomp import (
    ALLOW,
    CELL_NEEDS,
    ERRNO,
    KILL,
    NOTIFY,
    compile_seccomp,
)
from supervisor.profile.arguments import ALL_BITS, evaluate
from supervisor.profile.model import SyscallPolicy
from supervisor.profile.syscall_numbers import NUMBERS
from supervisor.profile.syscalls import (
    BY_NAME_ONLY,
    ENOSYS,
    SETS,
    START_NEEDS,
    expand_sets,
    members,
    rules_for,
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


@by_policy
def test_every_system_call_is_decided_once(wanted: SyscallPolicy) -> None:
    rules = rules_of(wanted)
    assert rules.keys() == NUMBERS.keys()
    for name, its in rules.items():
        if len(its) == 1:
            assert "args" not in its[0], name
        else:
            assert all(rule.get("args") for rule in its), name
            assert {rule["action"] for rule in its} == {ALLOW, NOTIFY}, name


@by_policy
def test_what_is_in_none_of_the_lists_is_notified(wanted: SyscallPolicy) -> None:
    unconditional = {
        name: its[0]["action"] for name, its in rules_of(wanted).items() if len(its) == 1
    }
    for name, action in unconditional.items():
        if name in wanted.kill:
            assert action == KILL, name
        elif name in ENOSYS:
            assert action == ERRNO, name
        elif name in wanted.allow | START_NEEDS and (name != "socket" or wanted.sets):
            assert action in (ALLOW, NOTIFY), name
        else:
            assert action == NOTIFY, name
