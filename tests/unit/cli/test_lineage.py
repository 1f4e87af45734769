"""Processes as a tree: who started whom, whatever order it was told in, and nothing that bites."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.cli import lineage
from supervisor.cli.lineage import Process
from supervisor.cli.sections import show
from tests.unit.cli.record import MS, written
from tests.unit.client import fake_daemon as fake


def started(pid: int, parent_pid: int, name: str = "x", **fields: Any) -> dict[str, Any]:
    event = {
        "what": "started", "pid": pid, "parent_pid": parent_pid,
        "time_ns": fake.START_NS + pid * MS,
        "path": f"/bin/{name}", "argv": [name], "argv_bytes": len(name) + 1,
    }  # fmt: skip
    return {**event, **fields}


def ended(pid: int, parent_pid: int = 0, code: int = 0, **fields: Any) -> dict[str, Any]:
    return {"what": "ended", "pid": pid, "parent_pid": parent_pid, "code": code, **fields}


def shape(roots: list[Process]) -> list[Any]:
    return [(one.pid, shape(one.children)) if one.children else one.pid for one in roots]


def told(capsys: pytest.CaptureFixture[str], *events: dict[str, Any], lost: str = "") -> str:
    entries = [(1, "processes", {"events": list(events)})]
    if lost:
        entries.append((2, "lost", {"what": lost, "count": 1, "reason": "FULL"}))
    section = lineage.section(written(*entries).entries, fake.START_NS)
    if section is not None:
        show(section)
    return capsys.readouterr().out


def tree(capsys: pytest.CaptureFixture[str], *events: dict[str, Any]) -> list[str]:
    """Give the last column, then whole lines: what is said below the table."""
    lines = told(capsys, *events).splitlines()[2:]
    begin = lines[0].index("PROCESS")
    return [line if line.startswith(("and ", "…")) else line[begin:] for line in lines[1:]]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([started(7, 1), started(8, 7), started(9, 7)], [(7, [8, 9])]),
        ([started(7, 1), started(8, 1)], [7, 8]),
        ([started(7, 1), started(7, 1)], [7]),
        ([started(7, 1), ended(7), started(7, 1)], [7, 7]),
        ([started(7, 1), started(8, 7), ended(7), started(7, 8)], [(7, [(8, [7])])]),
        ([started(7, 1), ended(8, 7)], [(7, [8])]),
        ([started(7, 1), started(9, 8), ended(8, 7)], [(7, [(8, [9])])]),
        ([started(7, 1), started(9, 8), started(8, 7)], [(7, [(8, [9])])]),
        ([started(7, 1), started(9, 8)], [7, 9]),
        ([started(7, 7)], [7]),
        ([started(7, 8), ended(8, 7)], [(8, [7])]),
        ([{"what": "argv", "pid": 7}], []),
        ([], []),
    ],
    ids=[
        "children", "two-roots", "exec-again", "number-used-again", "number-of-the-parent-again",
        "forked-alone", "place-known-at-the-end", "place-known-later", "place-never-known",
        "own-parent", "circle", "arguments-alone", "nothing",
    ],
)  # fmt: skip
def test_who_started_whom(events: list[dict[str, Any]], expected: list[Any]) -> None:
    assert shape(lineage.grow(events)[0]) == expected


def test_drawing(capsys: pytest.CaptureFixture[str]) -> None:
    events = [
        started(7, 1, "sh"), started(8, 7, "a"), started(9, 8, "b"), ended(10, 7),
        started(8, 7, "c"), started(9, 8, "d"),
    ]  # fmt: skip
    assert tree(capsys, *events) == [
        "7 /bin/sh: sh",
        "├─ 8 /bin/a: a",
        "│  │  then /bin/c: c",
        "│  └─ 9 /bin/b: b",
        "│        then /bin/d: d",
        "└─ 10 was forked, and ran no other program",
    ]


def test_measures(capsys: pytest.CaptureFixture[str]) -> None:
    shown = told(
        capsys,
        started(7, 1),
        ended(7, 1, code=3, time_ns=fake.START_NS + 9 * MS, cpu_user_s=0.5, cpu_system_s=0.25,
              memory_peak_bytes=1 << 20),
        started(8, 1),
        ended(8, 1, code=0, signal=9),
        started(9, 1),
    )  # fmt: skip
    rows = [line.split("  ") for line in shown.splitlines()[3:]]
    assert [[cell.strip() for cell in row if cell] for row in rows] == [
        ["+7 ms", "2 ms", "750 ms", "1.0 MiB", "exits with 3", "7 /bin/x: x"],
        ["+8 ms", "0 s", "0 B", "signal 9", "8 /bin/x: x"],
        ["+9 ms", "not on record", "9 /bin/x: x"],
    ]


def test_hostile_text_is_safe_and_cut(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\u202e\n└─ 9 /bin/true: true"
    shown = told(
        capsys,
        started(7, 1, path="/bin/" + evil, argv=[evil, "y" * 9000]),
        started(8, 7, path="/work/" + "x" * 300),
    )
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert len(shown.splitlines()) == 6  # the blank one, two of heads, two processes, the last word
    assert max(map(len, shown.splitlines())) < 250
    assert "… is where something was cut" in shown


def test_arguments_that_are_not_all_here_show_it(capsys: pytest.CaptureFixture[str]) -> None:
    cut = "… is where something was cut; --json has what is on record"
    assert tree(capsys, started(7, 1, argv=["x", "y"], argv_bytes=9)) == ["7 /bin/x: x y…", cut]
    assert tree(capsys, started(7, 1, cut=["argv"])) == ["7 /bin/x: x…", cut]
    assert tree(capsys, started(7, 1, argv=["x", "y"], argv_bytes=4)) == ["7 /bin/x: x y"]


def test_a_deep_tree_stays_readable(capsys: pytest.CaptureFixture[str]) -> None:
    rows = tree(capsys, *(started(pid, pid - 1) for pid in range(1, 2000)))
    deep = [row for row in rows if "(150) 151 /bin/x" in row]
    assert len(deep) == 1
    assert deep[0].startswith("   " * (lineage.DEPTH_MAX - 1) + "└─ ")
    assert rows[-1] == "and 1799 more lines; --json has all"


def test_more_processes_than_are_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "PROCESSES_MAX", 3)
    events = [
        started(7, 0),
        started(8, 7),
        started(9, 7),
        started(10, 7),
        ended(10),
        started(11, 7),
    ]
    shown = told(capsys, *events, ended(7, code=5))
    assert "and 2 processes past the first 3; --json has all" in shown
    assert "exits with 5" in shown
    assert "10 /bin/x" not in shown


@pytest.mark.parametrize(
    ("lost", "holes"),
    [("exec", True), ("probe events", True), ("output", False), ("flow", False), ("", False)],
)
def test_what_was_lost_may_be_a_process(
    capsys: pytest.CaptureFixture[str], lost: str, holes: bool
) -> None:
    shown = told(capsys, started(7, 1), lost=lost)
    assert ("there may be more processes" in shown) is holes


def test_no_processes_no_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys) == ""
