"""Each wall has its row, and a row says so when its wall is opened."""

from __future__ import annotations

import pytest

from supervisor.profile.explain import Exposure, Finding, explain
from supervisor.profile.walls import HOST_WALLS, WallState

from .conftest import COMPLETE, MakeSet

WALLS = [
    "new container per call", "no way out", "syscalls", "identity", "files", "programs",
    "resources", "record",
]  # fmt: skip


def rows(make_set: MakeSet, old: str = "", new: str = "") -> dict[str, Finding]:
    assert not old or COMPLETE.count(old) == 1
    text = COMPLETE.replace(old, new) if old else COMPLETE
    return {row.wall: row for row in explain(make_set(base=text).effective("base"))}


def test_every_wall_of_the_design_has_one_row(make_set: MakeSet) -> None:
    findings = explain(make_set().effective("base"))
    assert [finding.wall for finding in findings] == WALLS
    assert all(finding.setting and finding.verdict for finding in findings)


def test_a_closed_profile_is_closed_and_needs_no_advice(make_set: MakeSet) -> None:
    for row in rows(make_set).values():
        assert (row.exposure, row.advice) == (Exposure.CLOSED, "")


@pytest.mark.parametrize(
    ("wall", "old", "new", "exposure", "named"),
    [
        ("new container per call", "image: host", "image: dir:/srv/i", "narrow", "dir:/srv/i"),
        ("no way out", '["@local"]', '["@default"]', "narrow", "@network-io"),
        ("syscalls", '["@local"]', '["@local", "@aio"]', "narrow", "@aio"),
        ("syscalls", '["@local"]', '["@local", {name: ptrace, why: x}]', "wide", "ptrace"),
        ("files", "files:\n", "files:\n  read: [{path: /srv/a, why: x}]\n", "narrow", "/srv/a"),
        ("files", "files:\n", "files:\n  read: [{path: /srv, why: x}]\n", "wide", "/srv"),
        ("files", "files:\n", "files:\n  read: [{path: /etc/ssl, why: x}]\n", "wide", "/etc/ssl"),
        ("programs", "size: 64MiB", "size: 64MiB, exec: true, why: x", "narrow", "/work"),
        ("programs", '["@local"]', '["@local", {name: memfd_create, why: x}]', "wide", "memfd"),
        ("resources", "wall: 60s", "wall: 2h", "wide", "limits.wall"),
        ("resources", "memory: 512MiB", "memory: 16GiB", "wide", "limits.memory"),
        ("resources", "pids: 64", "pids: 4096", "wide", "limits.pids"),
        ("record", "stdin: full", "stdin: digest", "narrow", "stdin"),
        ("record", "stdout: full", "stdout: 8MiB", "narrow", "first 8MiB"),
    ],
)
def test_what_opens_a_wall_is_named(
    make_set: MakeSet, wall: str, old: str, new: str, exposure: str, named: str
) -> None:
    row = rows(make_set, old, new)[wall]
    assert row.exposure == exposure
    assert row.advice
    assert named in " ".join((row.setting, row.verdict, row.advice))


def test_what_opens_one_wall_leaves_the_others_closed(make_set: MakeSet) -> None:
    found = rows(make_set, "pids: 64", "pids: 4096")
    assert [row.wall for row in found.values() if row.exposure != "closed"] == ["resources"]


def test_kill_is_shown(make_set: MakeSet) -> None:
    row = rows(make_set, '["@local"]', '["@local"], kill: [ptrace]')["syscalls"]
    assert "1 kill" in row.setting
    assert "ptrace ends the call" in row.verdict.replace("Any of ", "")


def test_what_every_program_needs_opens_nothing(make_set: MakeSet) -> None:
    for allow in (
        '["@start"]',
        '["@start", "@sync", {name: mkdir, why: x}]',
        '["@start", "@local"]',
    ):
        row = rows(make_set, '["@local"]', allow)["syscalls"]
        assert (row.exposure, row.advice) == (Exposure.CLOSED, "")
        assert "@start" not in row.verdict
    row = rows(make_set, '["@local"]', '["@start", "@aio"]')["syscalls"]
    assert row.advice == "Keep only if programs fail without: @aio."


def test_watching_is_shown_and_opens_nothing(make_set: MakeSet) -> None:
    row = rows(make_set, '["@local"]', '["@local"], watch: [execve, execveat]')["syscalls"]
    assert "2 watched" in row.setting
    assert row.exposure == "closed"


def test_observing_is_wide_and_says_why(make_set: MakeSet) -> None:
    found = rows(make_set, "stderr: full}", "stderr: full}\nmode: observe")
    row = found["syscalls"]
    assert row.exposure == "wide"
    assert "mode observe" in row.setting
    assert "let through and told" in row.verdict
    assert "profile learn" in row.advice
    assert [wall for wall, one in found.items() if one.exposure == "wide"] == ["syscalls"]


def test_what_kills_does_so_while_observing(make_set: MakeSet) -> None:
    child = "profile: child\nextends: base\nwhy: x\nsyscalls: {kill: [ptrace]}\nmode: observe\n"
    found = {row.wall: row for row in explain(make_set(child=child).effective("child"))}
    assert "Any of ptrace ends" in found["syscalls"].verdict


def test_a_mount_that_cannot_be_filled(make_set: MakeSet) -> None:
    row = rows(make_set, "size: 64MiB", "size: 1GiB")["resources"]
    assert "limits.memory" in row.advice


REQUIRES = COMPLETE.replace("image:", "require: [guard]\nimage:")
STANDS, GONE = WallState(standing=True), WallState(standing=False, why="bpf is not in lsm=")


@pytest.mark.parametrize(
    ("text", "host", "said"),
    [
        (COMPLETE, None, "guard: not known without a daemon"),
        (COMPLETE, {"guard": STANDS}, "guard stands on this host: BPF LSM"),
        (COMPLETE, {"guard": GONE}, "guard is not on this host: bpf is not in lsm=."),
        (COMPLETE, {}, "guard is not on this host: nobody has looked for it."),
        (REQUIRES, None, "refused: the profile requires it."),
        (
            REQUIRES,
            {"guard": STANDS},
            "or reach the probes. The profile requires it.",
        ),
        (REQUIRES, {"guard": GONE}, "requires it, so its calls are refused here."),
    ],
)
def test_what_the_host_has(
    make_set: MakeSet, text: str, host: dict[str, WallState] | None, said: str
) -> None:
    found = {row.wall: row for row in explain(make_set(base=text).effective("base"), host)}
    assert said in found["programs"].host
    assert ("requires it" in found["programs"].host) == (text is REQUIRES)
    assert {row.wall for row in found.values() if row.host} == {
        wall.row for wall in HOST_WALLS.values()
    }


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (None, "crun: not known without a daemon"),
        ({"crun": WallState(standing=True, why="crun version 1")}, "crun version 1 is on this"),
        ({"crun": GONE}, "so calls are refused here: bpf is not in lsm=."),
        ({}, "so calls are refused here: nobody has looked for it."),
    ],
)
def test_another_runtime_than_runc(
    make_set: MakeSet, host: dict[str, WallState] | None, said: str
) -> None:
    profile = make_set(base=COMPLETE.replace("image:", "runtime: crun\nimage:")).effective("base")
    [row] = [row for row in explain(profile, host) if row.wall == "new container per call"]
    assert "runtime crun" in row.setting
    assert said in row.host
