"""A caller that mode and group keep from the socket is named, with the way out."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from supervisor.api import reach
from supervisor.api.config import CallerEntry, Socket

ME = os.getuid()
STRANGER = 3_999_999_998
GROUP = os.getgid()


@pytest.fixture
def path() -> Iterator[Path]:
    """A socket in a folder that everybody may pass."""
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        Path(folder).chmod(0o755)
        path = Path(folder) / "s.sock"
        listener.bind(str(path))
        yield path


def warnings(path: Path, mode: int, settings: Socket | None = None, **identity: Any) -> list[str]:
    path.chmod(mode)
    entry = CallerEntry(name="a", profiles=[], **identity)
    return reach.unreachable([entry], [path], settings or Socket())


def test_its_owner_and_root(path: Path) -> None:
    assert warnings(path, 0o600, uid=ME) == []
    assert warnings(path, 0o600, uid=0) == []


def test_a_stranger(path: Path) -> None:
    (warning,) = warnings(path, 0o600, uid=STRANGER)
    assert f"caller 'a' (uid {STRANGER})" in warning
    assert str(path) in warning
    assert "0600" in warning
    assert "groupadd --system -f stockade; usermod -aG stockade" in warning
    assert warning.endswith("then restart the daemon")


def test_only_what_the_configuration_lacks_is_advised(path: Path) -> None:
    (warning,) = warnings(path, 0o600, Socket(mode="0600", group="agents"), uid=STRANGER)
    assert "groupadd --system -f agents; usermod -aG agents" in warning
    assert warning.endswith("then restart the daemon, with socket.mode 0660")
    (warning,) = warnings(path, 0o600, Socket(group="root"), uid=STRANGER)
    assert "usermod -aG stockade" in warning
    assert warning.endswith(", with socket.group stockade")


def test_a_member_of_the_group(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(warnings(path, 0o660, uid=STRANGER)) == 1
    monkeypatch.setattr(reach, "groups_of", lambda _: frozenset({GROUP}))
    assert warnings(path, 0o660, uid=STRANGER) == []
    assert len(warnings(path, 0o600, uid=STRANGER)) == 1


def test_the_group_that_is_there_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        st_uid, st_gid, st_mode = 0, 4711, 0o140660

    monkeypatch.setattr(Path, "stat", lambda _: Found)
    entry = CallerEntry(name="a", profiles=[], uid=STRANGER)
    (warning,) = reach.unreachable([entry], [path], Socket())
    assert "usermod -aG 4711" in warning
    assert "groupadd" not in warning


def test_a_gid(path: Path) -> None:
    assert warnings(path, 0o660, gid=STRANGER) != []
    os.chown(path, -1, GROUP)
    if GROUP != 0:  # what root's group matches is root, who is let in anyway
        assert warnings(path, 0o660, gid=GROUP) == []


def test_a_folder_on_the_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "groups_of", lambda _: frozenset({GROUP}))
    path.parent.chmod(0o700)
    (warning,) = warnings(path, 0o660, uid=STRANGER)
    assert f"chmod o+x {path.parent}" in warning


def test_one_socket_that_can_be_reached_is_enough(path: Path) -> None:
    path.chmod(0o600)
    other = path.with_name("t.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(other))
        other.chmod(0o666)
        entries = [CallerEntry(name="a", profiles=[], uid=STRANGER)]
        assert reach.unreachable(entries, [path, other], Socket()) == []


def test_callers_over_tls_are_not_meant(path: Path) -> None:
    assert warnings(path, 0o600, cn="agent") == []
    entry = CallerEntry(name="a", profiles=[], uid=STRANGER)
    assert reach.unreachable([entry], [], Socket()) == []
