"""Inside a virtual machine: system calls are watched on a kernel of Debian's, as on the host's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from supervisor.call.outcome import Exited
from supervisor.client import Supervisor
from tests.unit.bpf.test_syscalls import (  # noqa: F401 (pytest runs them here, too)
    test_each_is_counted_and_the_first_is_told_whole,
    test_one_that_kills_ends_its_process,
    test_sockets_are_told_apart_by_family,
)

CODE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for _ in range(1000): libc.syscall(140, 0, 5)
print(libc.syscall(294, 0) >= 0, libc.syscall(101, 0, 0, 0, 0))
"""


def run(client: Supervisor, profile: str) -> tuple[Any, list[dict[str, Any]]]:
    """Run the code; give the call and what its record tells of system calls that were watched."""
    call = client.run(["/usr/bin/python3", "-c", CODE], profile=profile)
    entries = [entry.body() for entry in client.record(call.call_id).entries]
    assert call.outcome == Exited(code=0)
    return call, [one["body"] for one in entries if one["kind"] == "watched"]  # type: ignore[misc]


def counts(bodies: list[dict[str, Any]]) -> Counter[str]:
    counter: Counter[str] = Counter()
    for body in bodies:
        counter[body["name"]] += body["count"]
    return counter


@pytest.mark.parametrize("profile", ["watching", "watching-in-crun"])
def test_a_watched_call(client: Supervisor, profile: str) -> None:
    call, bodies = run(client, profile)
    assert call.stdout == b"False -1\n"
    assert counts(bodies) == {"getpriority": 1000, "execve": 1}
    first = next(body for body in bodies if body["name"] == "getpriority")
    assert (first["arguments"], first["program"]) == ([0, 5], "python3")


def test_an_observed_call(client: Supervisor) -> None:
    call, bodies = run(client, "observing")
    assert call.stdout == b"True -1\n"
    found = counts(bodies)
    assert (found["getpriority"], found["inotify_init1"]) == (1000, 1)
    assert {denied.name for denied in call.denials} == {"ptrace"}
