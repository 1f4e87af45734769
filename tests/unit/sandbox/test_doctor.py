"""The doctor: every wall of this host is attacked, and a fallen one is said to have fallen."""

from __future__ import annotations

import asyncio
import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import StockadeError
from supervisor.linux import bcc, cgroup
from supervisor.oci.seccomp import ALLOW
from supervisor.oci.spec import build_spec
from supervisor.profile.walls import WallState
from supervisor.sandbox import sandbox
from supervisor.sandbox.doctor import (
    ABSENT,
    FAILS,
    HOLDS,
    NOT_TRIED,
    Attempt,
    Row,
    _bcc,
    _host_walls,
    _judge,
    _try_crun,
    doctor,
    find_cell,
)
from supervisor.sandbox.doctor import WALLS as TRIED
from supervisor.sandbox.sandbox import ProgramEnd

Spec = dict[str, Any]
WALLS = {
    "host", "new container per call", "syscalls", "socket families", "no way out", "fence",
    "identity", "files", "programs", "memory", "swap", "pids", "record", "watched calls",
    "egress by name",
}  # fmt: skip
NOT_EVERYWHERE = {"guard", "cgroup-v2", "crun", "BCC tools"}


@pytest.fixture
def runtime() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stockade-unit-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def verdicts(rows: list[Row]) -> dict[str, str]:
    return {row.wall: row.verdict for row in rows}


@pytest.mark.root
def test_every_wall_of_this_host_holds(runtime: Path) -> None:
    rows = doctor(runtime)
    found = verdicts(rows)
    assert found.keys() == WALLS | NOT_EVERYWHERE
    assert {wall: found[wall] for wall in WALLS} == dict.fromkeys(WALLS, HOLDS), rows
    assert {found[wall] for wall in NOT_EVERYWHERE} <= {HOLDS, ABSENT}
    assert (found["cgroup-v2"] == HOLDS) == cgroup.detect().pure
    assert found["crun"] == ABSENT or cgroup.detect().pure
    assert all(row.detail and (not row.advice or row.verdict == ABSENT) for row in rows)
    assert [path.name for path in runtime.rglob("*") if path.name != "uids.lock"] == []


def _allow(name: str) -> Callable[[Spec], None]:
    """Let a system call through that the profile does not have."""

    def change(spec: Spec) -> None:
        rules = spec["linux"]["seccomp"]["syscalls"]
        for rule in rules:
            if name in rule["names"]:
                rule["names"].remove(name)
        rules[:] = [rule for rule in rules if rule["names"]]
        rules.append({"names": [name], "action": ALLOW})

    return change


def _exec_from_work(spec: Spec) -> None:
    for mount in spec["mounts"]:
        if mount["destination"] == "/work":
            mount["options"].remove("noexec")


@pytest.mark.root
@pytest.mark.parametrize(
    ("change", "fallen"),
    [
        # In a user namespace of its own the program has every capability, there.
        (_allow("unshare"), ["syscalls", "identity"]),
        (_allow("socket"), ["socket families"]),
    ],
    ids=["unshare", "socket"],
)
def test_a_wall_that_cannot_be_read_back_is_attacked(
    runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Spec], None],
    fallen: list[str],
) -> None:
    monkeypatch.setattr(sandbox, "build_spec", _changed(change))
    rows = doctor(runtime)
    assert [row.wall for row in rows if row.verdict == FAILS] == fallen
    assert all(row.advice for row in rows if row.verdict == FAILS)


@pytest.mark.root
def test_a_probe_that_tells_nothing_has_fallen(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "asked_of", lambda _: None)
    assert [row.wall for row in doctor(runtime) if row.verdict == FAILS] == ["watched calls"]


@pytest.mark.root
def test_a_wall_that_is_read_back_ends_the_attempt(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "build_spec", _changed(_exec_from_work))
    found = verdicts(doctor(runtime))
    del found["BCC tools"]
    failed = {"host": HOLDS, "new container per call": FAILS, "record": HOLDS}
    assert found == {**dict.fromkeys(TRIED, NOT_TRIED), **failed}


def _changed(change: Callable[[Spec], None]) -> Callable[..., Spec]:
    def build(*arguments: Any) -> Spec:
        spec: Spec = copy.deepcopy(build_spec(*arguments))
        change(spec)
        return spec

    return build


def test_a_host_without_the_init(runtime: Path) -> None:
    found = verdicts(doctor(runtime, cell=runtime / "no-cell"))
    del found["BCC tools"]
    assert found == {**dict.fromkeys(TRIED, NOT_TRIED), "host": FAILS, "record": HOLDS}


@pytest.mark.root
def test_a_runtime_folder_that_cannot_be_used() -> None:
    rows = doctor(Path("/proc/no-such"))
    assert (rows[0].wall, rows[0].verdict) == ("host", FAILS)
    assert "/proc/no-such" in rows[0].detail
    assert "--runtime-dir" in rows[0].advice
    [record] = [row for row in rows if row.wall == "record"]
    assert record.detail == "1 entry written, synced and verified"


def test_attacks_that_could_not_be_tried_prove_nothing() -> None:
    attempt = Attempt(
        output="", errors="no python\n", end=ProgramEnd(what="exec", value=2), denied=(), flows=(),
        watched=frozenset(), programs=0, oom_kills=0, forks_refused=0, limits={},
    )  # fmt: skip
    with pytest.raises(StockadeError) as caught:
        list(_judge(attempt))
    assert caught.value.reason == "DOCTOR_FAILED"


def test_the_init_of_a_checkout_is_found() -> None:
    assert find_cell().name == "cell"


class FakeHost:
    """A host with one wall, and without another."""

    def walls(self) -> dict[str, WallState]:
        return {
            "guard": WallState(standing=False, why="no LSM", hint="lsm=bpf"),
            "cgroup-v2": WallState(standing=True),
        }

    def runtimes(self) -> dict[str, WallState]:
        missing = WallState(standing=False, why="not installed", hint="apt-get install crun")
        return {"runc": WallState(standing=True, why="runc 1"), "crun": missing}


@pytest.mark.parametrize(
    ("required", "verdict", "said"),
    [
        ({}, ABSENT, "no LSM; where it stands, BPF LSM"),
        ({"cgroup-v2": ["x"]}, ABSENT, "no LSM"),
        ({"guard": ["x", "y"]}, FAILS, "require it for: x, y"),
    ],
)
def test_what_a_host_may_lack_fails_where_a_profile_requires_it(
    required: dict[str, list[str]], verdict: str, said: str
) -> None:
    guard, pure = _host_walls(FakeHost(), required)  # type: ignore[arg-type]
    assert (guard.wall, guard.verdict, guard.advice) == ("guard", verdict, "lsm=bpf")
    assert said in guard.detail
    assert (pure.wall, pure.verdict, pure.advice) == ("cgroup-v2", HOLDS, "")


@pytest.mark.parametrize(
    ("profiles", "verdict", "said"),
    [((), ABSENT, "no wall needs it"), (("x", "y"), FAILS, "that name it: x, y")],
)
def test_a_runtime_that_is_not_here_fails_where_a_profile_names_it(
    profiles: tuple[str, ...], verdict: str, said: str
) -> None:
    row = asyncio.run(_try_crun(FakeHost(), profiles))  # type: ignore[arg-type]
    assert (row.wall, row.verdict, row.advice) == ("crun", verdict, "apt-get install crun")
    assert said in row.detail


@pytest.mark.root
def test_the_tools_of_bcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcc, "kernel_lacks", lambda: iter(["no kprobes"]))
    row = _bcc(str(tmp_path))
    assert row.verdict == ABSENT
    assert row.advice == "none is installed: apt-get install bpfcc-tools; no kprobes"
    tool = tmp_path / "opensnoop-bpfcc"
    tool.write_text("#!/bin/sh\necho --cgroupmap\n")
    tool.chmod(0o755)
    assert _bcc(str(tmp_path)).advice == "no kprobes"
    monkeypatch.setattr(bcc, "kernel_lacks", lambda: iter(()))
    assert _bcc(str(tmp_path)).verdict == HOLDS
