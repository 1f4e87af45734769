"""Facts of this host, its programs, and what it must have."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable

import pytest

from supervisor.errors import HostError
from supervisor.linux import host


def test_a_program_is_found_in_the_fixed_path_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert host.find_program("sh") in ("/usr/bin/sh", "/bin/sh")


def test_a_missing_program_is_named() -> None:
    with pytest.raises(HostError) as caught:
        host.find_program("no-such-program-of-any-package")
    assert caught.value.reason == "PROGRAM_MISSING"


def test_a_program_gets_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "leaked")
    said = host.run_program([host.find_program("env")])
    names = {line.partition("=")[0] for line in said.splitlines()}
    assert names == {"PATH", "LC_ALL"}


def test_a_program_gets_no_input() -> None:
    assert host.run_program([host.find_program("cat")]) == ""


def test_a_program_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(HostError) as caught:
        host.run_program([host.find_program("sh"), "-c", "echo because >&2; exit 3"])
    assert caught.value.reason == "PROGRAM_FAILED"
    assert "because" in caught.value.message


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        host.run_program([host.find_program("sleep"), "600"], timeout_s=0.05)


def test_facts_name_the_kernel() -> None:
    facts = host.facts()
    assert facts["kernel"] == os.uname().release
    assert facts["machine"] == platform.machine()
    assert len(str(facts["boot_id"])) == 36


def test_this_kernel_knows_the_usual_actions() -> None:
    assert {"allow", "errno", "kill_process"} <= host.seccomp_actions()


def test_what_the_filter_library_knows() -> None:
    assert host.filter_knows("read")
    assert not host.filter_knows("no_such_call")


def test_without_the_filter_library_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(host.ctypes, "CDLL", missing)
    assert not host.filter_knows.__wrapped__("read")


@pytest.mark.parametrize(
    ("module", "name", "value", "reason"),
    [
        (os, "geteuid", lambda: 1000, "ROOT_REQUIRED"),
        (platform, "machine", lambda: "riscv64", "MACHINE_UNSUPPORTED"),
        (host, "seccomp_actions", lambda: frozenset({"allow"}), "SECCOMP_NOTIFY_MISSING"),
    ],
)
def test_a_host_that_cannot_raise_the_walls(
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    value: Callable[[], object],
    reason: str,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(host, "seccomp_actions", lambda: frozenset({"user_notif"}))
    host.check_host()
    monkeypatch.setattr(module, name, value)
    with pytest.raises(HostError) as caught:
        host.check_host()
    assert caught.value.reason == reason
