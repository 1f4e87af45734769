"""`doctor`: rows as they come, and an exit code that says whether all walls hold."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

import supervisor.sandbox
from tests.unit.cli.conftest import Stockade


@dataclass(frozen=True)
class Row:
    """One wall."""

    wall: str
    verdict: str
    detail: str = ""
    advice: str = ""


@pytest.mark.parametrize(("verdict", "exit_code"), [("holds", 0), ("missing", 5), ("unknown", 5)])
def test_doctor(
    stockade: Stockade, monkeypatch: pytest.MonkeyPatch, verdict: str, exit_code: int
) -> None:
    rows = [Row("files", "holds"), Row("syscalls", verdict, "d\x1b", "do this")]
    monkeypatch.setattr(supervisor.sandbox, "doctor", lambda _: rows)
    result = stockade("doctor")
    assert result.exit_code == exit_code
    assert result.stdout.splitlines()[2].split() == ["syscalls", verdict, "d\\e", "do", "this"]
    assert json.loads(stockade("doctor", "--json").stdout)[1] == {
        "wall": "syscalls", "verdict": verdict, "detail": "d\x1b", "advice": "do this",
    }  # fmt: skip
