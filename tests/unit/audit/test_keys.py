"""The log's own key: made once, kept as it is, and refused where somebody else could have it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from supervisor.audit.keys import KEY_NAME, PUBLIC_NAME, new_origin, own_key
from supervisor.audit.notes import VerifierKey, sign
from supervisor.errors import HostError


def test_a_key_is_made_once(tmp_path: Path) -> None:
    first, again = own_key(tmp_path, is_new=True), own_key(tmp_path, is_new=True)
    assert first.key == again.key == VerifierKey.parse((tmp_path / PUBLIC_NAME).read_text())
    assert (tmp_path / KEY_NAME).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [KEY_NAME, PUBLIC_NAME]
    assert sign("a\n", [again]).verified([first.key]) == (first.key,)
    assert "private" not in repr(first).lower()


def test_no_two_logs_have_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert new_origin() != new_origin()
    monkeypatch.setattr(socket, "gethostname", lambda: "a b+c\n")
    assert new_origin().startswith("a-b-c-/stockade/")
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert VerifierKey(name=new_origin(), public=bytes(32)).name.startswith("host/stockade/")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_could_have_is_refused(tmp_path: Path, mode: int) -> None:
    own_key(tmp_path, is_new=True)
    (tmp_path / KEY_NAME).chmod(mode)
    with pytest.raises(HostError, match="others than its owner") as caught:
        own_key(tmp_path, is_new=True)
    assert caught.value.reason == "KEY_EXPOSED"


@pytest.mark.root
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    own_key(tmp_path, is_new=True)
    os.chown(tmp_path / KEY_NAME, 12345, 12345)
    with pytest.raises(HostError, match="another's"):
        own_key(tmp_path, is_new=True)


def refused(tmp_path: Path, said: str) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(HostError, match=said) as caught:
        own_key(tmp_path, is_new=True)
    assert caught.value.reason == "KEY_INVALID"
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_what_is_no_key_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    own_key(tmp_path, is_new=True)
    key = tmp_path / KEY_NAME
    key.write_bytes(b"")
    refused(tmp_path, KEY_NAME)
    key.write_bytes(
        X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    refused(tmp_path, "no Ed25519 key")
    target = tmp_path / "elsewhere"
    key.rename(target)
    key.symlink_to(target)
    refused(tmp_path, KEY_NAME)


def test_a_public_half_that_is_not_its_own_is_refused(tmp_path: Path) -> None:
    own_key(tmp_path, is_new=True)
    other = tmp_path / "other"
    other.mkdir()
    own_key(other, is_new=True)
    (tmp_path / PUBLIC_NAME).write_bytes((other / PUBLIC_NAME).read_bytes())
    refused(tmp_path, "not the public half")
    (tmp_path / PUBLIC_NAME).write_bytes(b"\xff")
    refused(tmp_path, PUBLIC_NAME)
    (tmp_path / PUBLIC_NAME).unlink()
    refused(tmp_path, PUBLIC_NAME)


def test_a_log_that_was_signed_gets_no_other_key(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        own_key(tmp_path, is_new=False)
    assert list(tmp_path.iterdir()) == []
