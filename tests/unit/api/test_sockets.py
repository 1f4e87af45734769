"""A socket has the mode and group that were asked for, or there is none."""

from __future__ import annotations

import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from supervisor.api import sockets
from supervisor.api.config import Socket
from supervisor.errors import HostError, ProfileError

MY_GROUP = grp.getgrgid(os.getegid()).gr_name
MISSING = "no-such-group-here"


def listener(path: Path, **settings: str) -> socket.socket:
    return sockets.unix_listener(path, Socket(**({"group": MY_GROUP} | settings)))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("wanted", ["0660", "0600"])
def test_mode_and_group(wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.sock"
    with listener(path, mode=wanted) as bound:
        assert mode(path) == int(wanted, 8)
        assert path.stat().st_gid == os.getegid()
        assert mode(path.parent) == 0o755
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            bound.accept()[0].close()


@pytest.mark.root
def test_another_group(tmp_path: Path) -> None:
    other = next(group for group in grp.getgrall() if group.gr_gid not in {0, os.getegid()})
    with listener(tmp_path / "s", group=other.gr_name):
        assert (tmp_path / "s").stat().st_gid == other.gr_gid


def test_a_group_that_was_asked_for_and_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        listener(tmp_path / "s", group=MISSING)
    assert caught.value.reason == "SOCKET_GROUP_MISSING"
    assert not (tmp_path / "s").exists()


def test_the_usual_group_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> int:
        raise KeyError

    monkeypatch.setattr(sockets, "_group_id", missing)
    with sockets.unix_listener(tmp_path / "s", Socket()):
        assert mode(tmp_path / "s") == 0o600
    with pytest.raises(ProfileError):
        sockets.unix_listener(tmp_path / "t", Socket(group="stockade"))


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener(path).close()
    inode = path.stat().st_ino
    with listener(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert path.exists()
    assert inode > 0


def test_a_live_daemon_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listener(path):
        inode = path.stat().st_ino
        with pytest.raises(HostError) as caught:
            listener(path)
        assert caught.value.reason == "ADDRESS_IN_USE"
        assert path.stat().st_ino == inode


def test_a_live_daemon_that_is_slow_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "PROBE_TIMEOUT_S", 0.05)
    path = tmp_path / "s"
    with listener(path) as bound, socket.socket(socket.AF_UNIX) as first:
        bound.listen(0)
        first.connect(str(path))
        with pytest.raises(HostError) as caught:
            listener(path)
        assert caught.value.reason == "ADDRESS_IN_USE"


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError) as caught:
        listener(path)
    assert caught.value.reason == "ADDRESS_TAKEN"
    assert path.is_symlink() or path.exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as caught:
        listener(tmp_path / "file" / "s")
    assert caught.value.reason == "ADDRESS_UNUSABLE"


def test_tcp(tmp_path: Path) -> None:
    with sockets.tcp_listener("127.0.0.1:0") as bound:
        port = bound.getsockname()[1]
        with pytest.raises(HostError) as caught:
            sockets.tcp_listener(f"127.0.0.1:{port}")
        assert caught.value.reason == "ADDRESS_UNUSABLE"
    with pytest.raises(HostError) as caught:
        sockets.tcp_listener("192.0.2.1:0")
    assert caught.value.reason == "ADDRESS_UNUSABLE"


def test_the_private_folder(tmp_path: Path) -> None:
    folder = sockets.private_folder(tmp_path / "s.sock")
    assert mode(folder) == 0o700
    (folder / "0").write_text("left behind")
    again = sockets.private_folder(tmp_path / "s.sock")
    assert again == folder
    assert list(folder.iterdir()) == []


def test_a_private_folder_that_is_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("")
    (tmp_path / ".s.d").symlink_to(elsewhere)
    with pytest.raises(HostError):
        sockets.private_folder(tmp_path / "s")
    assert (elsewhere / "precious").exists()


@pytest.mark.root
def test_a_private_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / ".s.d").mkdir()
    os.chown(tmp_path / ".s.d", 65534, 65534)
    with pytest.raises(HostError):
        sockets.private_folder(tmp_path / "s")


def test_a_path_that_leaves_no_room(tmp_path: Path) -> None:
    path = tmp_path / ("x" * (105 - len(str(tmp_path))))
    with pytest.raises(HostError):
        sockets.private_folder(path)


def test_only_our_own_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listener(path):
        ours = sockets.identity_of(path)
    sockets.remove_own(path, (ours[0], ours[1] + 1))
    assert path.exists()
    sockets.remove_own(path, ours)
    assert not path.exists()
    sockets.remove_own(path, ours)
