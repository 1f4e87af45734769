"""The lock of a state directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.audit import directory
from supervisor.audit.directory import AGAIN, is_locked, lock_state
from supervisor.errors import AuditUnavailable


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "LOCK_WAIT_S", 0.0)


def test_one_holds_the_lock(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    fd = lock_state(tmp_path)
    assert is_locked(tmp_path)
    with pytest.raises(AuditUnavailable) as caught:
        lock_state(tmp_path)
    assert caught.value.reason == "STATE_LOCKED"
    assert "--state of its own" in str(caught.value)
    with pytest.raises(AuditUnavailable, match=AGAIN):
        lock_state(tmp_path, hint=AGAIN)
    os.close(fd)
    assert not is_locked(tmp_path)
    os.close(lock_state(tmp_path))


def test_asking_leaves_the_lock_alone(tmp_path: Path) -> None:
    fd = lock_state(tmp_path)
    is_locked(tmp_path)
    assert is_locked(tmp_path)
    os.close(fd)
