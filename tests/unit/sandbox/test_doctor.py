"""The doctor: every wall of this host is attacked, and a fallen one is said to have fallen."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import StockadeError
from supervisor.oci.seccomp import ALLOW
from supervisor.oci.spec import build_spec
from supervisor.sandbox import sandbox
from supervisor.sandbox.doctor import FAILS, HOLDS, Attempt, Row, _judge, doctor, find_cell
from supervisor.sandbox.sandbox import ProgramEnd

Spec = dict[str, Any]
WALLS = {
    "host", "new container per call", "syscalls", "socket families", "no way out", "fence",
    "identity", "files", "programs", "memory", "pids", "record",
}  # fmt: skip


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
    assert verdicts(rows) == dict.fromkeys(WALLS, HOLDS), rows
    assert all(row.detail and not row.advice for row in rows)
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
def test_a_wall_that_is_read_back_ends_the_attempt(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "build_spec", _changed(_exec_from_work))
    found = verdicts(doctor(runtime))
    assert found == {"host": HOLDS, "new container per call": FAILS, "record": HOLDS}


def _changed(change: Callable[[Spec], None]) -> Callable[..., Spec]:
    def build(*arguments: Any) -> Spec:
        spec: Spec = copy.deepcopy(build_spec(*arguments))
        change(spec)
        return spec

    return build


def test_a_host_without_the_init(runtime: Path) -> None:
    found = verdicts(doctor(runtime, cell=runtime / "no-cell"))
    assert found == {"host": FAILS, "record": HOLDS}


def test_attacks_that_could_not_be_tried_prove_nothing() -> None:
    attempt = Attempt(
        output="", errors="no python\n", end=ProgramEnd(what="exec", value=2), denied=(),
        programs=0, oom_kills=0, forks_refused=0,
    )  # fmt: skip
    with pytest.raises(StockadeError) as caught:
        list(_judge(attempt))
    assert caught.value.reason == "DOCTOR_FAILED"


def test_the_init_of_a_checkout_is_found() -> None:
    assert find_cell().name == "cell"
