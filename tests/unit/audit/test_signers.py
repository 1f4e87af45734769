"""The log's key from a file, a credential or a token, and from nowhere that others can reach."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from supervisor.audit import signers
from supervisor.audit.keys import KEY_BYTES_MAX
from supervisor.audit.notes import VerifierKey, sign
from supervisor.audit.signers import PIN_BYTES_MAX, FileSource, TokenSource, open_signer
from supervisor.errors import HostError
from tests.unit.audit.keys import ORIGIN

LABEL = "log"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = VerifierKey(name=ORIGIN, public=PRIVATE.public_key().public_bytes_raw())


def pem(
    private: Ed25519PrivateKey | Ed448PrivateKey = PRIVATE,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "log-key"
    path.write_bytes(pem())
    path.chmod(0o600)
    return path


def refused(
    source: FileSource | TokenSource, reason: str, said: str, credentials: Path | None = None
) -> None:
    with pytest.raises(HostError, match=said) as caught:
        open_signer(source, ORIGIN, credentials)
    assert caught.value.reason == reason
    assert caught.value.hint


def test_from_a_file(file: Path) -> None:
    signer = open_signer(FileSource(file=str(file)), ORIGIN, None)
    assert signer.key == KEY
    assert sign("a\n", [signer]).verified([KEY]) == (KEY,)
    assert "private" not in repr(signer).lower()
    link = file.with_name("link")
    link.symlink_to(file)
    assert open_signer(FileSource(file=str(link)), ORIGIN, None).key == KEY


def test_from_a_credential(file: Path) -> None:
    source = FileSource(credential=file.name)
    assert open_signer(source, ORIGIN, file.parent).key == KEY
    file.chmod(0o440)  # as an ACL of systemd's shows
    assert open_signer(source, ORIGIN, file.parent).key == KEY
    file.chmod(0o604)
    refused(source, "KEY_EXPOSED", "others than its owner", file.parent)
    refused(source, "KEY_UNAVAILABLE", "systemd gave this daemon none")
    refused(FileSource(credential="none"), "KEY_INVALID", "cannot be opened", file.parent)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_could_have(file: Path, mode: int) -> None:
    file.chmod(mode)
    refused(FileSource(file=str(file)), "KEY_EXPOSED", "others than its owner")


@pytest.mark.root
def test_a_file_of_another_user(file: Path) -> None:
    os.chown(file, 12345, 12345)
    refused(FileSource(file=str(file)), "KEY_EXPOSED", "another's")


def test_what_is_no_key(file: Path, tmp_path: Path) -> None:
    source = FileSource(file=str(file))
    for content, said in (
        (b"", "no private key as PKCS#8"),
        (pem(encryption=BestAvailableEncryption(b"password")), "without a password"),
        (pem(Ed448PrivateKey.generate()), "no Ed25519 key"),
        (pem() + b"\n" * KEY_BYTES_MAX, "longer than"),
    ):
        file.write_bytes(content)
        refused(source, "KEY_INVALID", said)
    file.unlink()
    os.mkfifo(file, 0o600)
    refused(source, "KEY_INVALID", "no plain file")
    refused(FileSource(file=str(tmp_path)), "KEY_INVALID", "no plain file")


def test_nothing_of_what_was_read_is_said(file: Path) -> None:
    secret = pem().decode().split("\n")[1]
    file.write_text(f"-----BEGIN PRIVATE KEY-----\n{secret}x\n")
    with pytest.raises(HostError) as caught:
        open_signer(FileSource(file=str(file)), ORIGIN, None)
    assert secret[:16] not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\n", "x" * 256])
def test_a_name_that_no_log_can_have(file: Path, origin: str) -> None:
    with pytest.raises(HostError, match="the log's name"):
        open_signer(FileSource(file=str(file)), origin, None)


class Token:
    """What a token is asked for, without one: tests/unit/audit/test_pkcs11.py has a real one."""

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.pin = given.pop("pin")()


def token(pin: FileSource) -> TokenSource:
    return TokenSource(module="/module.so", token=LABEL, key="log-key", pin=pin)


def test_from_a_token(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signers, "TokenSigner", Token)
    for content in (b"1234", b"1234\n", b"1234\r\n"):
        file.write_bytes(content)
        for source in (FileSource(file=str(file)), FileSource(credential=file.name)):
            opened: Any = open_signer(token(source), ORIGIN, file.parent)
            assert opened.pin == "1234"
    assert opened.given == {
        "module": "/module.so", "token": LABEL, "label": "log-key", "origin": ORIGIN,
    }  # fmt: skip


def test_a_pin_that_is_none(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signers, "TokenSigner", Token)
    source = token(FileSource(file=str(file)))
    for content in (b"", b"\n", b"12\n34", b"\xe9", b"1" * (PIN_BYTES_MAX + 1), b"1\0"):
        file.write_bytes(content)
        refused(source, "KEY_UNAVAILABLE", "no line of printable ASCII")
    file.write_bytes(b"1" * PIN_BYTES_MAX)
    opened: Any = open_signer(source, ORIGIN, None)
    assert len(opened.pin) == PIN_BYTES_MAX
    file.chmod(0o640)
    refused(source, "KEY_UNAVAILABLE", "open to others")
    refused(token(FileSource(credential="pin")), "KEY_UNAVAILABLE", "systemd gave")
