"""The log's own key: made once, kept as it is, and refused where somebody else could have it."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from supervisor.audit.checkpoints import open_checkpoint
from supervisor.audit.keys import (
    KEY_NAME,
    PUBLIC_NAME,
    known_key,
    new_key,
    new_origin,
    own_key,
    public_key,
)
from supervisor.audit.notes import VerifierKey, sign
from supervisor.audit.store import Store
from supervisor.call.events import Finished
from supervisor.errors import AuditUnavailable, HostError, InvalidRequest
from tests.support.records import begin, make_finished, opened
from tests.unit.audit.keys import TestSigner


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


def test_a_key_of_a_name_that_was_chosen(tmp_path: Path) -> None:
    key = new_key(tmp_path / "a" / "state", "log.example.com/host-1")
    assert key.name == "log.example.com/host-1"
    assert own_key(tmp_path / "a" / "state", is_new=True).key == key
    assert public_key(tmp_path / "a" / "state") == key


def test_a_key_that_was_only_half_made_is_made_anew(tmp_path: Path) -> None:
    half = new_key(tmp_path, "half.example.com")
    (tmp_path / KEY_NAME).unlink()
    key = new_key(tmp_path, "log.example.com")
    assert own_key(tmp_path, is_new=False).key == key != half


def test_the_public_half_is_held_to_the_private_one(tmp_path: Path) -> None:
    new_key(tmp_path, "log.example.com")
    other = new_key(tmp_path / "other", "log.example.com")
    (tmp_path / PUBLIC_NAME).write_text(f"{other}\n")
    with pytest.raises(HostError, match="not the public half"):
        public_key(tmp_path)
    (tmp_path / KEY_NAME).unlink()
    assert public_key(tmp_path) == other
    (tmp_path / KEY_NAME).symlink_to("nowhere")
    with pytest.raises(HostError, match=KEY_NAME):
        public_key(tmp_path)
    with pytest.raises(InvalidRequest) as caught:
        new_key(tmp_path, "log.example.com")
    assert caught.value.reason == "KEY_EXISTS"


def test_another_signer_than_the_key_in_the_folder(tmp_path: Path) -> None:
    signer = TestSigner()

    async def scenario() -> None:
        async with opened(tmp_path, signer=signer) as store:
            await store.note("daemon_started", {})
            head, key = store.head()
            assert key == signer.key
            assert open_checkpoint(head, [key])[0].size == 1
        assert (tmp_path / "log.pub").read_text() == f"{signer.key}\n"
        assert not (tmp_path / "log.key").exists()
        (tmp_path / "log.pub").unlink()  # The head tells as well whose the log is.
        for other in (TestSigner("other.example.com"), TestSigner(seed=bytes(32))):
            with pytest.raises(HostError) as caught:
                Store.open(tmp_path, signer=other)
            assert caught.value.reason == "KEY_OTHER"
        with pytest.raises(HostError, match=r"log\.key"):
            Store.open(tmp_path)
        assert not (tmp_path / "log.pub").exists()
        async with opened(tmp_path, signer=signer):
            assert (tmp_path / "log.pub").read_text() == f"{signer.key}\n"

    asyncio.run(scenario())


def test_a_log_that_was_named_is_not_given_to_another_key(tmp_path: Path) -> None:
    key = new_key(tmp_path, "log.example.com/host-1")
    with pytest.raises(HostError, match=r"log\.example\.com/host-1"):
        Store.open(tmp_path, signer=TestSigner("log.example.com/host-1"))
    assert known_key(tmp_path) == key


def test_while_the_head_cannot_be_signed_calls_end_and_none_begins(tmp_path: Path) -> None:
    async def scenario() -> None:
        signer = TestSigner()
        async with opened(tmp_path, signer=signer) as store:
            recorder = await begin(store)
            signer.refuses = HostError("KEY_UNAVAILABLE", "the token is gone", hint="plug it in")
            store._tree.close()
            with pytest.raises(AuditUnavailable, match="the token is gone") as caught:
                store.check_admission(1)
            assert caught.value.reason == "HEAD_UNSIGNED"
            assert caught.value.hint == "plug it in"
            done = (await recorder.finish(make_finished())).event
            assert isinstance(done, Finished)
            assert (bool(done.record), done.receipt) == (True, b"")
            signer.refuses = None
            store._tree.close()
            store.check_admission(0)
            assert store.receipt("call-1")

    asyncio.run(scenario())
