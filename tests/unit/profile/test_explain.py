"""Each wall has its row, and a row says so when its wall is opened."""

from __future__ import annotations

import pytest

from supervisor.profile.explain import Exposure, Finding, explain
from supervisor.profile.walls import HOST_WALLS, WallState

from .conftest import COMPLETE, MakeSet

WALLS = [
    "new container per call", "no way out", "syscalls", "identity", "files", "programs",
    "terminal", "resources", "record",
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
        ("terminal", "limits: ", "terminal: allow\nlimits: ", "narrow", "stockade run -t"),
        ("programs", '["@local"]', '["@local", {name: memfd_create, why: x}]', "wide", "memfd"),
        ("resources", "wall: 60s", "wall: 2h", "wide", "limits.wall"),
        ("resources", "memory: 512MiB", "memory: 16GiB", "wide", "limits.memory"),
        ("resources", "pids: 64", "pids: 4096", "wide", "limits.pids"),
        ("record", "stdin: full", "stdin: digest", "narrow", "stdin"),
        ("record", "stdout: full", "stdout: 8MiB", "narrow", "first 8MiB and last 64KiB"),
        ("record", "stderr: full", "stderr: full, redact: {off: x}", "narrow", "redact off"),
    ],
)
def test_what_opens_a_wall_is_named(
    make_set: MakeSet, wall: str, old: str, new: str, exposure: str, named: str
) -> None:
    row = rows(make_set, old, new)[wall]
    assert row.exposure == exposure
    assert row.advice
    assert named in " ".join((row.setting, row.verdict, row.advice))


REACHES = COMPLETE.replace('"@local"', '"@default"').replace("16MiB}", "16MiB, egress: 1MiB}")
PLAIN = "{host: a.example.com, port: 443, why: reads issues}"


def reach(make_set: MakeSet, *entries: str, secrets: str = "") -> dict[str, Finding]:
    lines = f"egress: [{', '.join(entries)}]\nsecrets: [{secrets}]\nsyscalls:"
    profile = make_set(base=REACHES.replace("syscalls:", lines)).effective("base")
    return {row.wall: row for row in explain(profile)}


def test_what_can_be_reached_has_rows_behind_the_wall(make_set: MakeSet) -> None:
    entry = "{name: s, header: X-Key, host: b.example.com, why: x}"
    found = reach(
        make_set, PLAIN, "{host: b.example.com, port: 8443, inspect: tls-terminate, why: x}",
        secrets=entry,
    )  # fmt: skip
    assert list(found)[:6] == [
        "new container per call", "no way out", "egress a.example.com:443",
        "egress b.example.com:8443", "secret s", "syscalls",
    ]  # fmt: skip
    wall = found["no way out"]
    assert (wall.setting, wall.exposure) == ("egress 2 rules, 1MiB", Exposure.NARROW)
    assert "no resolver is asked" in wall.verdict
    row = found["egress a.example.com:443"]
    assert (row.setting, row.exposure) == ("reads issues", Exposure.NARROW)
    assert "At 443: the TLS server name must be this host's; inside TLS nothing is seen" in (
        row.verdict
    )
    row = found["secret s"]
    assert row.setting == "X-Key to b.example.com, as STOCKADE_SECRET_S"
    assert row.exposure is Exposure.NARROW
    assert "sees a placeholder" in row.verdict


@pytest.mark.parametrize(
    ("entry", "exposure", "said", "advice"),
    [
        ('host: "*.example.com", port: 443', "wide", "TLS server name", "below the *"),
        ("host: a.example.com, port: 80", "narrow", "Host must be this host's", ""),
        (
            "host: a.example.com, port: 443, inspect: none",
            "wide", "nothing of what is sent is looked at", "inspect: none",
        ),
        ("host: a.example.com, port: 22", "narrow", "nothing of what is sent", ""),
        ("host: a.example.com, port: 853", "wide", "nothing of what is sent", "A resolver"),
        ('host: a.example.com, port: "50-60"', "wide", "At 50-60", "A resolver"),
        ('host: a.example.com, port: "80-81"', "narrow", "at the rest of 80-81: the name", ""),
        ("host: a.example.com, port: 443, private: true", "narrow", "a private address", "in DNS"),
        (
            "host: a.example.com, port: 80, methods: [GET], paths: [/a]",
            "narrow", "Only GET on /a; what follows a ? may hold anything", "",
        ),
        ("host: a.example.com, port: 1, inspect: tls-terminate", "narrow", "every request", ""),
        (
            'host: "*.example.com", port: 1, inspect: tls-terminate',
            "wide", "The * stands for one label", "name the hosts",
        ),
        ("cidr: 10.0.0.0/24, port: 5432", "narrow", "no name is checked", ""),
        ("cidr: 10.0.0.0/16, port: 5432", "wide", "no name is checked", "smaller network"),
        ("cidr: 10.0.0.0/24, port: 53", "wide", "no name is checked", "A resolver"),
    ],
)  # fmt: skip
def test_what_a_rule_opens(
    make_set: MakeSet, entry: str, exposure: str, said: str, advice: str
) -> None:
    [row] = [
        row
        for wall, row in reach(make_set, f"{{{entry}, why: x}}").items()
        if wall.startswith("egress")
    ]
    assert row.exposure == exposure
    assert said in row.verdict
    assert advice in row.advice
    assert bool(advice) == bool(row.advice)


def test_a_secret_that_goes_in_the_clear(make_set: MakeSet) -> None:
    found = reach(
        make_set,
        "{host: a.example.com, port: 80, private: true, why: x}",
        secrets="{name: s, header: X-Key, host: a.example.com, why: x}",
    )
    assert found["secret s"].exposure is Exposure.WIDE
    assert "in the clear" in found["secret s"].verdict


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
