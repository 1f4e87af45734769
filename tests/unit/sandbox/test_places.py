"""Where the built programs and probes lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.sandbox import places


def test_a_checkout_has_them_where_they_are_built() -> None:
    assert os.access(places.find_cell(), os.X_OK)
    assert os.access(places.find_canary(), os.X_OK)
    assert {path.name for path in places.find_probes().glob("*.bpf.o")} == {
        "egress.bpf.o", "guard.bpf.o", "process.bpf.o", "syscalls.bpf.o",
    }  # fmt: skip


def test_a_wheel_has_them_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PACKAGE", tmp_path)
    data = tmp_path / "_data"
    (data / "probes").mkdir(parents=True)
    for name in ("cell", "canary"):
        (data / name).write_bytes(b"")
    assert places.find_cell() == data / "cell"
    assert places.find_canary() == data / "canary"
    assert places.find_probes() == data / "probes"
