"""The door: every bad value is refused at its own line and column, with a hint where one helps."""

from __future__ import annotations

import pytest

from supervisor.profile.schema import (
    FRAGMENT_KEYS,
    PROFILE_KEYS,
    Body,
    Drop,
    Files,
    FragmentFile,
    LimitsEntry,
    ProfileFile,
    RecordEntry,
    Syscalls,
    under,
)
from supervisor.profile.yaml_source import Problem, ProblemsFound, parse_document, validate

START = "profile: x\nwhy: A test.\n"
"""Two lines, so that what a test adds begins in line 3."""


def problems_of(more: str) -> tuple[Problem, ...]:
    with pytest.raises(ProblemsFound) as caught:
        validate(parse_document((START + more).encode(), "x.yaml"), ProfileFile)
    return caught.value.problems


@pytest.mark.parametrize(
    ("line", "column", "message", "hint"),
    [
        # keys
        ("limtis: {}", 1, "unknown key 'limtis'", "'limits'"),
        ("limits: {wal: 60s}", 10, "unknown key 'wal' in limits", "'wall'"),
        ("files: {write: [{path: /w, size: 1MiB, exce: true}]}", 40, "key 'exce' in", "'exec'"),
        ("default: allow", 1, "unknown key 'default'", ""),
        ("record: {stdio: full}", 10, "unknown key 'stdio'", "'stdi"),
        # not enforced in this version
        ("runtime: runsc", 10, "does not enforce runtime: runsc yet", ""),
        ("runtime: docker", 10, "does not enforce runtime: docker yet", ""),
        ("egress: none", 9, "must be a list", ""),
        # scalars
        ("require: [gaurd]", 11, "'gaurd' is not a wall", "'guard'"),
        ("require: [selinux]", 11, "'selinux' is not a wall", "guard and cgroup-v2"),
        ("require: [seccomp]", 11, "'seccomp' is no choice", "what a host may lack: guard"),
        ("require: guard", 10, "must be a list", ""),
        ("runtime: rnuc", 10, "'rnuc' is not a runtime", "'runc'"),
        ("runtime: CRUN", 10, "'CRUN' is not a runtime", "'crun'"),
        ("runtime: podman", 10, "'podman' is not a runtime", "write runc or crun"),
        ("mode: enforced", 7, "not a mode", "'enforce'"),
        ("mode: observed", 7, "not a mode", "'observe'"),
        ("mode: permissive", 7, "not a mode", "write enforce or observe"),
        ("mode: watch", 7, "not a mode", "write enforce or observe"),
        ("image: hots", 8, "not an image", "'host'"),
        ("image: oci:python:3.11", 8, "not pinned to a digest", "sha256"),
        ("image: oci:python@sha256:abc", 8, "not pinned to a digest", "64 hex"),
        ("image: dir:relative", 8, "not an absolute path", ""),
        ("image: dir:/", 8, "must not be the root", ""),
        ("image: 5", 8, "must be a string", "quotes"),
        ("extends: Base", 10, "'Base' is not a name", ""),
        ("use: [a/b]", 7, "'a/b' is not a name", ""),
        ("use: scratch", 6, "must be a list", ""),
        # files
        ("files: {write: [{path: work, size: 1MiB}]}", 24, "not an absolute path", "begin with /"),
        ("files: {write: [{path: /work/, size: 1MiB}]}", 24, "not normalised", "write /work"),
        ("files: {write: [{path: /work/../etc, size: 1MiB}]}", 24, "not normalised", "write /etc"),
        ("files: {write: [{path: //work, size: 1MiB}]}", 24, "not normalised", "write /work"),
        ("files: {write: [{path: /, size: 1MiB}]}", 24, "must not be the root", ""),
        ("files: {write: [{path: /proc/x, size: 1MiB}]}", 24, "must not be writable", ""),
        ("files: {write: [{path: /usr, size: 1MiB}]}", 24, "must not be writable", ""),
        ("files: {write: [{path: /etc/x, size: 1MiB}]}", 24, "must not be writable", ""),
        ("files: {write: [{path: /dev/shm, size: 1MiB}]}", 24, "must not be writable", ""),
        ("files: {write: [{path: /sys, size: 1MiB}]}", 24, "must not be writable", ""),
        ("files: {write: [{path: /work}]}", 17, "the key 'size' is missing", ""),
        ("files: {write: [{path: /work, size: 0B}]}", 37, "too little", ""),
        ("files: {write: [{path: /work, size: 256}]}", 37, "has no unit", "256MiB"),
        ("files: {write: [{path: /work, size: 1MiB, exec: true}]}", 17, "'why' is missing", ""),
        ("files: {write: [{path: /work, size: 1MiB, exec: 1}]}", 49, "must be true or false", ""),
        ("files: {read: [/srv/data]}", 16, "must be a mapping", ""),
        ("files: {read: [{path: /srv/data}]}", 16, "the key 'why' is missing", ""),
        ('files: {read: [{path: /srv, why: " "}]}', 34, "must give a reason", ""),
        ("files: {read: [{path: /, why: x}]}", 23, "must not be the root", ""),
        ("files: {read: [{path: /proc/1, why: x}]}", 23, "cannot be shown", ""),
        ("files: {read: [{path: /run/docker.sock, why: x}]}", 23, "cannot be shown", ""),
        ("files: {read: [{path: /var, why: x}]}", 23, "cannot be shown", ""),
        ("files: {read: [{path: /var/lib/stockade, why: x}]}", 23, "cannot be shown", ""),
        # system calls
        ("syscalls: {allow: [ptrace]}", 20, "ptrace needs a reason", 'why: "'),
        ("syscalls: {allow: [ptracee]}", 20, "neither a set nor a system call", "'ptrace'"),
        ("syscalls: {allow: [file-system]}", 20, "neither a set", "'@file-system'"),
        ('syscalls: {allow: ["@defualt"]}', 20, "there is no set", "'@default'"),
        ("syscalls: {allow: [{name: ptrace}]}", 20, "the key 'why' is missing", ""),
        ("syscalls: {allow: [{name: prtace, why: x}]}", 27, "not a system call", "'ptrace'"),
        ('syscalls: {allow: [{name: "@ipc", why: x}]}', 27, "is a set", "stands alone"),
        ("syscalls: {allow: [{name: bpf, why: x}]}", 27, "can never be allowed", ""),
        ("syscalls: {allow: [mount]}", 20, "can never be allowed", ""),
        ("syscalls: {allow: [{name: clone3, why: x}]}", 27, "ENOSYS", ""),
        ("syscalls: {allow: [{name: init_module, why: x}]}", 27, "loads code", ""),
        ('syscalls: {kill: ["@ipc"]}', 19, "single system calls", ""),
        ("syscalls: {kill: [clone3]}", 19, "must not kill", ""),
        ("syscalls: {kill: [execve]}", 19, "no program starts without it", ""),
        ("syscalls: {watch: [execev]}", 20, "not a system call", "'execve'"),
        ('syscalls: {watch: ["@ipcs"]}', 20, "there is no set", "'@ipc'"),
        ("syscalls: {watch: [{name: execve, why: x}]}", 20, "must be a string", ""),
        ("syscalls: {watch: [257]}", 20, "257 is a number", "write openat"),
        ("syscalls: {kill: [9999]}", 19, "9999 is a number", "no system call"),
        ('syscalls: {watch: ["@nosuch"]}', 20, "there is no set", "the nearest are @"),
        ("syscalls: {watch: execve}", 19, "must be a list", ""),
        ("syscalls: {kill: [ptracee]}", 19, "not a system call", "'ptrace'"),
        ("syscalls: {allow: \"@default\"}", 19, "must be a list", ""),
        ("syscalls: [\"@default\"]", 11, "must be a mapping", ""),
        # env
        ("env: {A: 1}", 10, "must be a string", "quotes"),
        ("env: {A: true}", 10, "must be a string", "quotes"),
        ("env: {A-B: x}", 7, "not a variable's name", ""),
        ("env: {1A: x}", 7, "not a variable's name", ""),
        ("env: [A]", 6, "must be a mapping", ""),
        # limits
        ("limits: {wall: 60}", 16, "has no unit", "60s"),
        ("limits: {wall: 60sec}", 16, "'sec' is not a unit", "60s"),
        ("limits: {wall: 0s}", 16, "too little", ""),
        ("limits: {wall: 25h}", 16, "too much: at most 24h", ""),
        ("limits: {cpu: 500ms}", 15, "too little: at least 1s", ""),
        ("limits: {memory: 512MB}", 18, "'MB' is not a unit", "512MiB"),
        ("limits: {memory: 8MiB}", 18, "too little: at least 16MiB", ""),
        ("limits: {memory: 512}", 18, "has no unit", ""),
        ("limits: {memory: [1]}", 18, "must be a size", ""),
        ("limits: {pids: 1}", 16, "too little: at least 2", ""),
        ("limits: {pids: \"64\"}", 16, "must be a whole number", ""),
        ("limits: {pids: 64.0}", 16, "must be a whole number", ""),
        ("limits: {pids: true}", 16, "must be a whole number", ""),
        ("limits: {pids: 9999999}", 16, "too much", ""),
        ("limits: {files: 3}", 17, "too little", ""),
        ("limits: {output: 0B}", 18, "too little", ""),
        ("limits: {egress: 0B}", 18, "too little", ""),
        ("limits: {egress: 10MB}", 18, "'MB' is not a unit", "10MiB"),
        # record
        ("record: {stdin: none}", 17, "not a way to record", "full, digest"),
        ("record: {stdin: fulll}", 17, "not a way to record", "'full'"),
        ("record: {stdout: 8MB}", 18, "'MB' is not a unit", "8MiB"),
        ("record: {stdout: 0B}", 18, "more than 0B", "digest"),
        ("record: {redact: none}", 18, "not what can be redacted", "off: why not"),
        ("record: {redact: secret}", 18, "not what can be redacted", "'secrets'"),
        # drop
        ("drop: {files: {write: [tmp]}}", 24, "not an absolute path", ""),
        ('drop: {syscalls: {allow: ["@netwrok-io"]}}', 27, "there is no set", "'@network-io'"),
        ("drop: {require: [fence]}", 18, "'fence' is no choice", ""),
        ("drop: {syscalls: {kill: [nope]}}", 26, "not a system call", ""),
        ("drop: {syscalls: {watch: [nope]}}", 27, "not a system call", ""),
    ],
)  # fmt: skip
def test_bad_values(line: str, column: int, message: str, hint: str) -> None:
    found = problems_of(line + "\n")
    assert [(p.line, p.column) for p in found] == [(3, column)], [p.render() for p in found]
    assert message in found[0].message
    assert hint in found[0].hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile: x\n", "the key 'why' is missing"),
        ("why: x\n", "the key 'profile' is missing"),
        ("profile: x\nwhy: ''\n", "why: must give a reason"),
        ("profile: x\nwhy: " + "x" * 201 + "\n", "why: is longer than 200 characters"),
        ('profile: x\nwhy: "a\\nb"\n', "why: must be one line"),
    ],
)
def test_every_profile_says_why(text: str, message: str) -> None:
    with pytest.raises(ProblemsFound) as caught:
        validate(parse_document(text.encode(), "x.yaml"), ProfileFile)
    assert [problem.message for problem in caught.value.problems] == [message]


def test_empty_lists_are_fine() -> None:
    text = START + "egress: []\nsyscalls: {allow: [], kill: [], watch: []}\nmode: enforce\n"
    body = validate(parse_document(text.encode(), "x.yaml"), ProfileFile)
    assert (body.egress, body.syscalls.watch, body.mode) == ([], [], "enforce")


@pytest.mark.parametrize(
    "image", ["host", "dir:/srv/image", "oci:tools/python@sha256:" + "0a" * 32]
)
def test_images(image: str) -> None:
    text = f"{START}image: {image}\n"
    assert validate(parse_document(text.encode(), "x.yaml"), ProfileFile).image == image


def test_library_paths_are_the_authors_choice() -> None:
    text = START + "env: {LD_PRELOAD: /usr/lib/x.so, LD_LIBRARY_PATH: /opt/lib}\n"
    assert validate(parse_document(text.encode(), "x.yaml"), ProfileFile).env["LD_PRELOAD"]


@pytest.mark.parametrize("line", ["extends: base", "use: [a]", "mode: enforce", "drop: {}"])
def test_a_fragment_builds_on_nothing(line: str) -> None:
    with pytest.raises(ProblemsFound) as caught:
        validate(
            parse_document(f"fragment: x\nwhy: A test.\n{line}\n".encode(), "x.yaml"), FragmentFile
        )
    assert "unknown key" in caught.value.problems[0].message


def test_the_orders_name_every_key_once() -> None:
    assert sorted(PROFILE_KEYS) == sorted(ProfileFile.model_fields)
    assert sorted(FRAGMENT_KEYS) == sorted(FragmentFile.model_fields)


def test_sections_have_the_keys_of_the_design() -> None:
    assert set(Files.model_fields) == {"read", "write"}
    assert set(Syscalls.model_fields) == {"allow", "kill", "watch"}
    assert set(RecordEntry.model_fields) == {"stdin", "stdout", "stderr", "redact"}
    assert set(Drop.model_fields) == {"files", "egress", "secrets", "syscalls", "env", "require"}
    assert set(LimitsEntry.model_fields) == {
        "wall", "cpu", "memory", "pids", "files", "output", "egress",
    }  # fmt: skip
    assert issubclass(FragmentFile, Body)


@pytest.mark.parametrize(
    ("path", "folder", "inside"),
    [("/a", "/a", True), ("/a/b", "/a", True), ("/ab", "/a", False), ("/a", "/a/b", False)],
)
def test_under(path: str, folder: str, inside: bool) -> None:
    assert under(path, folder) == inside
