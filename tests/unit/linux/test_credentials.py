"""What the kernel says of a process: ids, capabilities, filter, namespaces, cgroups."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from supervisor.linux.credentials import NAMESPACES, cgroup_of, shared_namespaces, standing


@contextlib.contextmanager
def waiting(*wrapper: str) -> Iterator[int]:
    """Run a program that waits, wrapped by others that exec it; give its process id."""
    command = [*wrapper, "sh", "-c", "echo $$; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_own_standing() -> None:
    has = standing(os.getpid())
    assert has.uids[:3] == os.getresuid()
    assert has.gids[:3] == os.getresgid()
    assert set(has.groups) == set(os.getgroups())


def test_what_was_given_up_is_seen() -> None:
    with waiting("setpriv", "--no-new-privs") as pid:
        assert standing(pid).no_new_privs
    with waiting() as pid:
        assert not standing(pid).no_new_privs


@pytest.mark.root
def test_capabilities_of_every_set_count() -> None:
    """A set that does no harm today is one that execve hands on tomorrow."""
    user = ("--reuid=4242", "--regid=4242")
    with waiting("setpriv", *user, "--clear-groups", "--bounding-set=-all") as pid:
        has = standing(pid)
        assert (has.uids, has.gids, has.groups) == ((4242,) * 4, (4242,) * 4, ())
        assert has.capabilities == 0
    with waiting("setpriv", *user, "--groups=7,8", "--bounding-set=-all,+chown") as pid:
        has = standing(pid)
        assert has.capabilities == 1
        assert has.groups == (7, 8)


def test_a_process_that_is_gone_is_an_error() -> None:
    with waiting() as pid:
        assert standing(pid).seccomp_mode in (0, 2)
    with pytest.raises(OSError):
        standing(pid)


def test_namespaces_are_shared_with_a_plain_child() -> None:
    with waiting() as pid:
        assert shared_namespaces(pid) == list(NAMESPACES)


@pytest.mark.root
@pytest.mark.parametrize("name", ["net", "ipc", "uts", "cgroup", "mount", "user"])
def test_a_namespace_of_its_own_is_not_shared(name: str) -> None:
    with waiting("unshare", f"--{name}") as pid:
        assert set(NAMESPACES) - set(shared_namespaces(pid)) == {"mnt" if name == "mount" else name}


def test_cgroups_by_controller() -> None:
    found = cgroup_of(os.getpid())
    assert found
    assert all(path.startswith("/") for path in found.values())
