"""Wrappers of system calls: one error path, that names the call and what it was about."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supervisor.linux import syscalls
from supervisor.linux.syscalls import MS_RDONLY, PR_SET_DUMPABLE, mount, prctl, umount2, unshare

NOWHERE = Path("/no/such/folder")


def test_an_error_names_the_call_and_the_path() -> None:
    for call, name in (
        (lambda: mount("none", NOWHERE, "tmpfs", MS_RDONLY), "mount"),
        (lambda: umount2(NOWHERE, 0), "umount2"),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno in (errno.ENOENT, errno.EPERM)
        assert caught.value.filename == str(NOWHERE)
        assert name in caught.value.strerror


def test_flags_that_no_kernel_knows() -> None:
    with pytest.raises(OSError) as caught:
        unshare(1)
    assert caught.value.errno == errno.EINVAL


def test_an_attribute_is_set() -> None:
    before = syscalls._libc.prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
    prctl(PR_SET_DUMPABLE, 0)
    try:
        assert Path("/proc/self/fd").stat().st_uid == 0
        assert syscalls._libc.prctl(3, 0, 0, 0, 0) == 0
    finally:
        prctl(PR_SET_DUMPABLE, before)


def test_an_attribute_that_does_not_exist() -> None:
    with pytest.raises(OSError) as caught:
        prctl(0x7FFFFFFF, 0)
    assert caught.value.errno == errno.EINVAL
    assert os.strerror(errno.EINVAL) in caught.value.strerror
