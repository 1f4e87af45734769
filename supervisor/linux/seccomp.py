"""Load a seccomp filter around this process, through libseccomp: what is not listed is refused."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# seccomp.h of libseccomp 2.5: actions and comparisons.
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_MASKED_EQ = 7

LIBRARY = "libseccomp.so.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A condition: the argument at `index`, as far as `mask` looks at it, is `value`."""

    index: int
    value: int
    mask: int = 0xFFFFFFFF


class _Compare(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


Rules = Mapping[str, Sequence[Sequence[Argument]]]
"""System calls by name; each with the sets of conditions of which one must hold. None: always."""


class Filter:
    """A filter that is ready: nothing is opened or looked up any more when it is loaded.

    Raises:
        OSError: the library is not there, or does not know a system call.
    """

    def __init__(self, rules: Rules) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(
            self._library.seccomp_init(ctypes.c_uint32(_ERRNO | errno.EPERM))
        )
        if not self._context:
            raise OSError(errno.ENOMEM, "seccomp_init")
        for name, alternatives in rules.items():
            for conditions in alternatives or ((),):
                self._add(name, conditions)

    def _add(self, name: str, conditions: Sequence[Argument]) -> None:
        number = int(self._library.seccomp_syscall_resolve_name(name.encode()))
        if number < 0:
            raise OSError(errno.ENOSYS, f"{LIBRARY} does not know this system call", name)
        compare = (_Compare * len(conditions))(
            *(_Compare(one.index, _MASKED_EQ, one.mask, one.value) for one in conditions)
        )
        _check(
            self._library.seccomp_rule_add_array(
                self._context, ctypes.c_uint32(_ALLOW), number, len(conditions), compare
            ),
            f"seccomp_rule_add_array {name}",
        )

    def load(self) -> None:
        """Put the calling thread under the filter, and give it no_new_privs; there is no way back.

        Raises:
            OSError: the kernel took no filter.
        """
        _check(self._library.seccomp_load(self._context), "seccomp_load")


def _check(result: int, name: str) -> None:
    if result < 0:
        raise OSError(-result, f"{name}: {os.strerror(-result)}")
