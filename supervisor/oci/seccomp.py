"""Compile a profile's system calls into the seccomp part of an OCI spec. Pure.

Two lists and a default. What is allowed is ALLOW, on the profile's conditions. Every other
system call that the table knows is NOTIFY: the daemon answers it with EPERM, records it, and ends
the call where the profile has it under `kill`; the filter's own kill action would leave no trace
but a dead process. The default, for numbers that nobody knows yet, is ERRNO: denied as well, only
without a name. The complement of a condition is spelled out, because libseccomp lets a rule
without conditions swallow those that have some.
"""

from __future__ import annotations

import errno
import functools

from supervisor.call.types import Json
from supervisor.profile.arguments import Alternatives, ArgRule, denials
from supervisor.profile.model import SyscallPolicy
from supervisor.profile.syscall_numbers import NUMBERS
from supervisor.profile.syscalls import ENOSYS, START_NEEDS, rules_for

ALLOW = "SCMP_ACT_ALLOW"
NOTIFY = "SCMP_ACT_NOTIFY"
ERRNO = "SCMP_ACT_ERRNO"

COMPILED_MAX = 64
"""Policies whose lists are kept: compiling one takes a millisecond, and few are in use."""

CELL_NEEDS = frozenset(
    {
        "chdir", "clone", "dup2", "execve", "exit_group", "kill", "pipe2", "poll", "prctl",
        "read", "rt_sigprocmask", "set_robust_list", "setsid", "signalfd4", "wait4", "write",
    }
)  # fmt: skip
"""What the sandbox's init calls under the program's own filter."""


def compile_seccomp(policy: SyscallPolicy, listener: str, metadata: str) -> dict[str, Json]:
    """Give `linux.seccomp` of an OCI spec.

    `listener` is the path of the unix socket that gets the notify descriptor, `metadata` what the
    runtime says with it. Foreign architectures are not listed, so libseccomp kills them.
    """
    return {
        "defaultAction": ERRNO,
        "defaultErrnoRet": errno.EPERM,
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": listener,
        "listenerMetadata": metadata,
        "syscalls": list(_syscalls(policy)),
    }


@functools.lru_cache(maxsize=COMPILED_MAX)
def _syscalls(policy: SyscallPolicy) -> tuple[Json, ...]:
    granted = SyscallPolicy(
        allow=(policy.allow | START_NEEDS | CELL_NEEDS) - policy.kill,
        kill=policy.kill,
        sets=policy.sets,
    )
    rules = rules_for(granted)
    always = sorted(name for name, alternatives in rules.items() if not alternatives)
    syscalls: list[Json] = [_rule(always, ALLOW)]
    for name, alternatives in rules.items():
        if alternatives:
            syscalls += _conditional(name, alternatives)
    silent = ENOSYS - policy.kill - policy.allow
    syscalls.append({**_rule(sorted(silent), ERRNO), "errnoRet": errno.ENOSYS})
    denied = NUMBERS.keys() - rules.keys() - silent
    syscalls.append(_rule(sorted(denied), NOTIFY))
    return tuple(syscalls)


def _rule(names: list[str], action: str) -> dict[str, Json]:
    return {"names": list(names), "action": action}


def _conditional(name: str, alternatives: Alternatives) -> list[Json]:
    allowed: list[Json] = [
        {**_rule([name], ALLOW), "args": [_argument(rule) for rule in conjunction]}
        for conjunction in alternatives
    ]
    denied: list[Json] = [
        {**_rule([name], NOTIFY), "args": [_argument(rule) for rule in conjunction]}
        for conjunction in denials(alternatives)
    ]
    return allowed + denied


def _argument(rule: ArgRule) -> Json:
    if rule.op == "masked_eq":
        # The OCI spec has the mask in `value` and the wanted bits in `valueTwo`.
        return {
            "index": rule.index,
            "op": "SCMP_CMP_MASKED_EQ",
            "value": rule.mask,
            "valueTwo": rule.value,
        }
    operator = "SCMP_CMP_EQ" if rule.op == "eq" else "SCMP_CMP_GT"
    return {"index": rule.index, "op": operator, "value": rule.value}
