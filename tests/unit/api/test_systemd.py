"""systemd is told where it asked, and only there."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import pytest

from supervisor.api.systemd import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(abstract: bool, tmp_path: Path) -> None:
    name = f"@{secrets.token_hex(8)}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name[1:]}" if abstract else name)
        assert notify(name, "READY=1")
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1"])
def test_nobody_asked(address: str) -> None:
    assert not notify(address, "READY=1")


def test_nobody_listens(tmp_path: Path) -> None:
    assert not notify(str(tmp_path / "none"), "READY=1")
