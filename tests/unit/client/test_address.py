"""Addresses: what is one, what needs TLS, and why nobody answers."""

from __future__ import annotations

import errno
import grp
import os
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from supervisor.client import address
from supervisor.errors import InvalidRequest
from tests.unit.api.certificates import Authority, Pair

TLS = address.Tls(ca=Path("ca"), certificate=Path("cert"), key=Path("key"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:///run/x.sock", "/run/x.sock"),
        ("unix:/run/x.sock", "/run/x.sock"),
    ],
)
def test_unix(text: str, path: str) -> None:
    found = address.resolve(text)
    assert (found.socket_path, found.target, str(found)) == (path, f"unix:{path}", f"unix://{path}")


def test_unix_relative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert address.resolve("unix:x.sock").socket_path == str(tmp_path / "x.sock")


@pytest.mark.parametrize(
    "text", ["unix:", "unix://host/path", "nothing", "host:", ":1", "host:0", "host:65536",
             "host:x", "http://host:80"]
)  # fmt: skip
def test_not_an_address(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        address.resolve(text, TLS)
    assert caught.value.reason == "ADDRESS_INVALID"


def test_tcp_needs_tls() -> None:
    with pytest.raises(InvalidRequest) as caught:
        address.resolve("daemon.example.com:7443")
    assert caught.value.reason == "TLS_REQUIRED"


@pytest.mark.parametrize("text", ["daemon.example.com:7443", "[::1]:7443"])
def test_tcp(text: str) -> None:
    assert address.resolve(text, ("ca", "cert", "key")) == address.Address(target=text, tls=TLS)


def test_environment_and_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(address.ADDRESS_VARIABLE, raising=False)
    assert str(address.resolve(None)) == address.DEFAULT_ADDRESS
    monkeypatch.setenv(address.ADDRESS_VARIABLE, "unix:///run/other.sock")
    assert address.resolve(None).socket_path == "/run/other.sock"
    assert address.resolve("unix:///run/third.sock").socket_path == "/run/third.sock"


def test_a_daemon_that_went_silent_is_looked_for() -> None:
    assert "grpc.keepalive_time_ms" in dict(address.channel_options())


def test_tls_files_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        address.read_tls(address.Tls(ca=tmp_path / "a", certificate=tmp_path, key=tmp_path))
    assert caught.value.reason == "TLS_FILE_UNREADABLE"


def write(folder: Path, pair: Pair, ca: bytes) -> address.Tls:
    certificate, key = pair.write(folder, "pair")
    (folder / "ca.pem").write_bytes(ca)
    return address.Tls(ca=folder / "ca.pem", certificate=Path(certificate), key=Path(key))


def test_a_pair_is_tried_before_it_is_sent(tmp_path: Path) -> None:
    authority = Authority()
    one, other = authority.issue("one"), authority.issue("other")
    address.check_tls(write(tmp_path, one, authority.cert))
    for pair, ca, named in (
        (Pair(cert=one.cert, key=other.key), authority.cert, {"certificate", "key"}),
        (Pair(cert=one.cert, key=b"x"), authority.cert, {"certificate", "key"}),
        (Pair(cert=b"", key=one.key), authority.cert, {"certificate", "key"}),
        (Pair(cert=one.cert, key=encrypted(one.key)), authority.cert, {"certificate", "key"}),
        (one, b"", {"ca"}),
        (one, one.key, {"ca"}),
    ):
        tls = write(tmp_path, pair, ca)
        with pytest.raises(InvalidRequest) as caught:
            address.check_tls(tls)
        assert caught.value.reason == "TLS_UNUSABLE"
        assert caught.value.metadata == {name: str(getattr(tls, name)) for name in named}


def encrypted(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_socket_missing(tmp_path: Path) -> None:
    error = address.unreachable(address.resolve(f"unix:{tmp_path}/none"), "")
    assert (error.reason, error.exit_code) == ("SOCKET_MISSING", 7)
    assert error.hint


def test_socket_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
    assert address.unreachable(address.resolve(f"unix:{tmp_path}/s"), "").reason == "SOCKET_REFUSED"


@pytest.mark.parametrize(
    ("mode", "gid", "hint"),
    [
        (0o660, 4, f"add this user to group {grp.getgrgid(4).gr_name}"),
        (0o660, 54321, "add this user to group 54321"),
        (0o600, 4, "only root may use it: the socket is 0600"),
        (0o660, 0, "only root may use it"),
    ],
)
def test_socket_denied_says_who_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, gid: int, hint: str
) -> None:
    def stat(path: Path) -> os.stat_result:
        return os.stat_result((socket_kind | mode, 0, 0, 1, 0, gid, 0, 0, 0, 0))

    def connect(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    socket_kind = 0o140000
    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(socket.socket, "connect", connect)
    error = address.unreachable(address.resolve(f"unix:{tmp_path}/s"), "")
    assert error.reason == "SOCKET_DENIED"
    assert error.hint.startswith(hint)


def test_socket_denied_by_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", closed)
    monkeypatch.setattr(socket.socket, "connect", closed)
    assert "folder" in address.unreachable(address.resolve(f"unix:{tmp_path}/s"), "").hint


def test_somebody_listens_after_all(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        bound.listen()
        place = address.resolve(f"unix:{tmp_path}/s")
        error = address.unreachable(place, "Socket closed")
        silent = address.unreachable(place, "", reason="NO_ANSWER")
    assert (error.reason, silent.reason) == ("CONNECTION_LOST", "NO_ANSWER")
