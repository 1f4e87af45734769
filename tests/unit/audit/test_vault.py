"""The keys of calls: durable before they are used, held for a while, gone once destroyed."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from supervisor.audit import vault as vaults
from supervisor.audit.sealing import ContentKey
from supervisor.audit.vault import (
    HELD_MAX,
    KEY_HELD_S,
    Encryption,
    Erasure,
    Removal,
    Vault,
    content_erased,
    content_locked,
)
from supervisor.errors import (
    AuditCorrupt,
    AuditUnavailable,
    CallStateError,
    NotFound,
    StockadeError,
)
from tests.support.records import IDENTITY, RECIPIENT

ENCRYPTION = Encryption(recipients=(RECIPIENT,))


class Case:
    """A vault, its clock, and what was erased."""

    def __init__(self, directory: Path, encryption: Encryption = ENCRYPTION) -> None:
        self.now_s = 0.0
        self.erased: dict[str, Erasure] = {}
        self.removed: dict[str, Removal] = {}
        self.failures: list[str] = []
        self.vault = Vault(
            directory, encryption, fail=self._fail, fates=self,
            clock_s=lambda: self.now_s,
        )  # fmt: skip

    def erasure(self, call_id: str) -> Erasure | None:
        return self.erased.get(call_id)

    def removal(self, name: str) -> Removal | None:
        return self.removed.get(name)

    def _fail(self, what: str, error: OSError) -> StockadeError:
        self.failures.append(what)
        return AuditUnavailable("JOURNAL_UNAVAILABLE", f"{what}: {error}")


def test_a_key_is_on_disk_before_it_is_given(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert case.vault.locks
    key, sha256 = case.vault.create("call-1")
    data = (tmp_path / "keys" / "call-1").read_bytes()
    assert hashlib.sha256(data).hexdigest() == sha256
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / "call-1").stat().st_mode & 0o777 == 0o600
    reader = Case(tmp_path, Encryption(identities=(IDENTITY,)))
    assert not reader.vault.locks
    assert reader.vault.key("call-1").open(["x"], key.seal(["x"], b"data")) == b"data"


def test_it_is_synced_and_so_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, synced = Case(tmp_path), []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append("file"), real(fd)))
    monkeypatch.setattr(vaults, "sync_directory", lambda path: synced.append(path))
    case.vault.create("call-1")
    assert synced == ["file", tmp_path / "keys"]


@pytest.mark.parametrize(
    ("code", "reason", "failures"),
    [
        (errno.ENOSPC, "RECORD_FULL", []),
        (errno.EIO, "JOURNAL_UNAVAILABLE", ["key"]),
        (errno.EMFILE, "FDS_EXHAUSTED", []),
    ],
)
def test_a_key_that_cannot_be_written_is_not_given(
    code: int, reason: str, failures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path)

    def broken(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(StockadeError) as caught:
        case.vault.create("call-1")
    assert (caught.value.reason, case.failures) == (reason, failures)
    assert list((tmp_path / "keys").iterdir()) == []


def test_an_identity_is_not_shown() -> None:
    assert IDENTITY not in repr(Encryption(identities=(IDENTITY,)))


def test_without_a_folder_no_key_is_given(tmp_path: Path) -> None:
    case = Case(tmp_path)
    (tmp_path / "keys").rmdir()
    with pytest.raises(AuditUnavailable) as caught:
        case.vault.create("call-1")
    assert caught.value.reason == "RECORD_UNAVAILABLE"


def test_a_key_is_held_while_its_call_lives_and_a_while_longer(tmp_path: Path) -> None:
    case = Case(tmp_path)
    key, _ = case.vault.create("call-1")
    case.vault.begin(key)
    case.now_s += 10 * KEY_HELD_S
    assert case.vault.key("call-1") is key
    case.vault.end("call-1")
    case.now_s += KEY_HELD_S - 1
    assert case.vault.opens("call-1")
    assert case.vault.key("call-1") is key
    case.now_s += 1
    assert not case.vault.opens("call-1")
    with pytest.raises(CallStateError) as caught:
        case.vault.key("call-1")
    assert caught.value.reason == "CONTENT_LOCKED"
    assert "--identity" in caught.value.hint
    assert "identity:" in caught.value.hint


def test_only_so_many_are_held_and_no_live_one_goes(tmp_path: Path) -> None:
    case = Case(tmp_path)
    live = ContentKey.new("live")
    case.vault.begin(live)
    for number in range(HELD_MAX + 1):
        case.vault.hold(ContentKey.new(f"call-{number}"), KEY_HELD_S)
    assert case.vault.key("live") is live
    assert not case.vault.opens("call-0")
    assert case.vault.opens("call-1")


def test_a_destroyed_key_is_gone_for_good(tmp_path: Path) -> None:
    case = Case(tmp_path, Encryption(recipients=(RECIPIENT,), identities=(IDENTITY,)))
    key, _ = case.vault.create("call-1")
    case.vault.hold(key, KEY_HELD_S)
    path = tmp_path / "keys" / "call-1"
    wrapped = path.read_bytes()
    linked = tmp_path / "linked"
    os.link(path, linked)  # what lay on the disk under that name
    case.erased["call-1"] = Erasure(by="officer", time_ns=10**18, why="asked for")
    case.vault.destroy("call-1")
    assert not path.exists()
    assert len(linked.read_bytes()) == len(wrapped)
    assert linked.read_bytes() != wrapped
    with pytest.raises(NotFound, match="erased by officer on 2001-09-09T01:46:40Z: asked for"):
        case.vault.key("call-1")
    case.vault.destroy("call-1")  # again, as the next start does


def test_what_retention_removed_is_told(tmp_path: Path) -> None:
    case = Case(tmp_path, Encryption(recipients=(RECIPIENT,), identities=(IDENTITY,)))
    case.vault.create("call-1")
    case.removed["call-1"] = Removal(name="call-1", time_ns=10**18, why="age")
    case.vault.destroy("call-1")
    with pytest.raises(NotFound, match=r"removed on 2001-09-09 01:46:40 UTC by retention \(age\)"):
        case.vault.key("call-1")


def test_a_missing_and_a_damaged_key(tmp_path: Path) -> None:
    case = Case(tmp_path, Encryption(recipients=(RECIPIENT,), identities=(IDENTITY,)))
    for name in ("call-1", "../log.key", "upload.00"):
        with pytest.raises(AuditCorrupt) as caught:
            case.vault.key(name)
        assert caught.value.reason == "KEY_MISSING"
    (tmp_path / "keys" / "call-1").write_bytes(b"no key")
    with pytest.raises(AuditCorrupt) as caught:
        case.vault.key("call-1")
    assert caught.value.reason == "KEY_DAMAGED"


def test_a_call_that_did_not_begin_leaves_no_key(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.vault.create("call-1")
    case.vault.discard("call-1")
    case.vault.discard("call-1")
    assert list((tmp_path / "keys").iterdir()) == []


def test_without_recipients_there_is_no_folder(tmp_path: Path) -> None:
    assert not Case(tmp_path, Encryption()).vault.locks
    assert not (tmp_path / "keys").exists()


def test_what_is_said_of_content_is_one_line() -> None:
    """Who erased it chose the words."""
    erased = Erasure(by="ann", time_ns=0, why="x\nstockade: all is well\x1b[0m")
    error = content_erased("call-1", erased)
    assert error.message.isprintable()
    assert error.metadata["why"] == erased.why


def test_who_reads_a_folder_is_not_told_of_a_daemon() -> None:
    assert "daemon" in content_locked("call-1").message
    for tried, said in ((False, "no identity was given"), (True, "none of the given identities")):
        error = content_locked("call-1", offline=True, tried=tried)
        assert said in error.message
        assert "daemon" not in error.message + error.hint
        assert "--identity FILE" in error.hint
