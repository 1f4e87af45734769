"""`audit verify`, `checkpoint`, `proof`, `check`: what they say of a whole record, and of one that
was changed."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.audit.checkpoints import Checkpoint, Receipt
from supervisor.audit.notes import VerifierKey, sign
from supervisor.audit.store import Store
from supervisor.audit.witness import FileWitness
from supervisor.v1 import audit_pb2
from tests.support.records import begin, make_finished
from tests.unit.audit.keys import ORIGIN, TestSigner
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import FakeDaemon


@pytest.fixture
def state(tmp_path: Path) -> Path:
    async def write() -> None:
        store = Store.open(tmp_path, clock_ns=time.time_ns)
        await store.note("daemon_started", {"marker": "here"})
        await store.note("daemon_stopped", {})
        await store.close()

    asyncio.run(write())
    return tmp_path


def test_verify(stockade: Stockade, state: Path) -> None:
    result = stockade("audit", "verify", state)
    assert result.exit_code == 0
    assert result.stdout.startswith("verified: 2 entries, 0 calls, head 1 sha256:")
    found = json.loads(stockade("audit", "verify", "--json", state).stdout)
    assert (found["ok"], found["entries"], found["problems"]) == (True, 2, [])


def test_verify_names_the_damaged_entry(stockade: Stockade, state: Path) -> None:
    (segment,) = [
        p for p in (state / "log").rglob("*") if p.is_file() and b"here" in p.read_bytes()
    ]
    segment.write_bytes(segment.read_bytes().replace(b"here", b"here"[::-1]))
    result = stockade("audit", "verify", state)
    assert result.exit_code == 8
    assert "entry 0" in result.stdout.splitlines()[0]
    assert "DAMAGED" in result.stdout
    found = json.loads(stockade("audit", "verify", "--json", state).stdout)
    assert (found["ok"], found["problems"][0]["index"]) == (False, 0)


def test_verify_finds_what_a_client_was_told(stockade: Stockade, state: Path) -> None:
    result = stockade("audit", "verify", "--expect", f"call-1={'ab' * 32}", state)
    assert result.exit_code == 8
    assert "call-1" in result.stdout


@pytest.mark.parametrize("expect", ["call-1", f"={'ab' * 32}", "call-1=xyz"])
def test_verify_refuses_a_malformed_expectation(
    stockade: Stockade, state: Path, expect: str
) -> None:
    assert stockade("audit", "verify", "--expect", expect, state).exit_code == 2


def test_verify_of_nothing_is_no_success(stockade: Stockade, tmp_path: Path) -> None:
    result = stockade("audit", "verify", tmp_path / "none")
    assert result.exit_code == 2
    assert "[RECORD_MISSING]" in result.stderr


@pytest.fixture
def receipt(tmp_path: Path) -> bytes:
    """A receipt of a call; the log is in `tmp_path / "state"`."""

    async def write() -> bytes:
        store = Store.open(tmp_path / "state")
        recorder = await begin(store)
        await recorder.finish(make_finished())
        try:
            return store.receipt("call-1")
        finally:
            await store.close()

    return asyncio.run(write())


def key_of(state: Path) -> str:
    return (state / "log.pub").read_text().strip()


def test_verify_says_who_signed(stockade: Stockade, state: Path) -> None:
    result = stockade("audit", "verify", state)
    assert "2 entries signed by the key beside it" in result.stdout
    assert "--key" in result.stderr
    result = stockade("audit", "verify", "--key", key_of(state), state)
    number = key_of(state).split("+")[1]
    assert f"2 entries signed by {number}" in result.stdout
    assert "--key" not in result.stderr
    found = json.loads(stockade("audit", "verify", "--json", state).stdout)
    assert found["origin"] == key_of(state).split("+")[0]
    assert (found["signed_size"], found["consistent"]) == (2, 0)


def test_verify_with_another_key_fails(stockade: Stockade, state: Path) -> None:
    (state / "mine").write_text(f"{TestSigner().key}\n")
    result = stockade("audit", "verify", "--key", state / "mine", state)
    assert result.exit_code == 8
    mine, its = TestSigner().key.key_id.hex(), key_of(state).split("+")[1]
    assert f"by the key {its}, and not by the one that was given, {mine}" in result.stdout
    assert "NOT VERIFIED, 1 problem with the key or the heads that were given" in result.stdout
    assert "DAMAGED" not in result.stdout


def test_a_head_of_another_log_is_not_called_damage_of_this_one(
    stockade: Stockade, state: Path
) -> None:
    foreign = Checkpoint(origin=ORIGIN, size=1, root=bytes(32))
    (state / "head").write_bytes(sign(foreign.text(), [TestSigner()]).encode())
    result = stockade("audit", "verify", "--head", state / "head", state)
    assert result.exit_code == 8
    assert f"head: it is a head of the log {ORIGIN}, and this is " in result.stdout
    assert "NOT VERIFIED, 1 problem with the key or the heads" in result.stdout
    assert "of 1 head that you kept, none can be seen to be of this log" in result.stdout


def test_verify_says_what_the_log_says_of_its_witnesses(stockade: Stockade, state: Path) -> None:
    async def write() -> None:
        store = Store.open(state)
        body = {"witness": "file h", "size": 9, "root": "", "why": "it was cut back"}
        await store.note("head_contradicted", body)
        await store.close()

    assert "witness" not in stockade("audit", "verify", state).stdout
    asyncio.run(write())
    result = stockade("audit", "verify", state)
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if "witness" in line]
    assert line.startswith("the log itself says 1 time that a witness has a head which it does not")
    assert line.endswith("of file h: it was cut back")
    found = json.loads(stockade("audit", "verify", "--json", state).stdout)
    assert (found["contradictions"], found["last_contradiction"]["index"]) == (1, 2)


def test_verify_gives_no_digest_of_an_entry_that_cannot_be_read(
    stockade: Stockade, state: Path
) -> None:
    (segment,) = (state / "log").glob("*.seg")
    segment.write_bytes(segment.read_bytes()[:-1])
    result = stockade("audit", "verify", state)
    assert result.exit_code == 8
    assert "the last entry, 1, cannot be read" in result.stdout
    assert "sha256:" not in result.stdout


@pytest.mark.parametrize("key", ["", "none", "a+b+c"])
def test_what_is_no_key(stockade: Stockade, state: Path, key: str) -> None:
    result = stockade("audit", "verify", "--key", key, state)
    assert result.exit_code == 2
    assert "log.pub in the state folder" in " ".join(result.stderr.split())


def test_a_log_without_its_public_key_or_head(stockade: Stockade, state: Path) -> None:
    key = key_of(state)
    (state / "log.pub").unlink()
    result = stockade("audit", "verify", state)
    assert result.exit_code == 8
    assert "log.pub, the key that signs the log" in result.stdout
    assert stockade("audit", "verify", "--key", key, state).exit_code == 0
    head = (state / "tlog/checkpoint").rename(state / "head")
    shutil.rmtree(state / "tlog")
    result = stockade("audit", "verify", "--key", key, state)
    assert result.exit_code == 8
    assert "there is no signed head of the log: tlog/checkpoint is missing" in result.stdout
    result = stockade("audit", "verify", "--key", key, "--head", head, state)
    assert "of 1 head that you kept, 1 can be seen to be of this log" in result.stdout


def test_heads_and_receipts_that_were_kept(
    stockade: Stockade, receipt: bytes, tmp_path: Path
) -> None:
    state, key = tmp_path / "state", key_of(tmp_path / "state")
    (tmp_path / "head").write_bytes((state / "tlog/checkpoint").read_bytes())
    (tmp_path / "receipt").write_bytes(receipt)
    kept = ("--head", tmp_path / "head", "--head", tmp_path / "receipt")
    result = stockade("audit", "verify", "--key", key, *kept, state)
    assert result.exit_code == 0
    assert "2 heads that you kept as well" in result.stdout
    for name in ("log", "tlog", "log.key", "log.pub"):
        path = state / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    other = Store.open(state)  # Another log, where that one was.
    asyncio.run(other.close())
    result = stockade("audit", "verify", *kept, state)
    assert result.exit_code == 8
    assert f"{tmp_path / 'head'}: " in result.stdout


def test_the_file_of_a_witness_has_many_heads(stockade: Stockade, tmp_path: Path) -> None:
    async def write(folder: Path) -> None:
        for number in range(3):
            store = Store.open(folder, witnesses=[FileWitness(tmp_path / "heads")])
            await store.note("daemon_started", {"number": number})
            await store.close()

    asyncio.run(write(tmp_path / "state"))
    kept = ("--head", tmp_path / "heads", tmp_path / "state")
    result = stockade("audit", "verify", *kept)
    assert result.exit_code == 0
    assert " heads that you kept as well" in result.stdout
    for name in ("log", "tlog"):
        shutil.rmtree(tmp_path / "state" / name)
    (tmp_path / "state" / "index.db").unlink()

    async def rewrite() -> None:
        store = Store.open(tmp_path / "state")
        for _ in range(5):
            await store.note("daemon_started", {"number": 7})
        await store.close()

    asyncio.run(rewrite())  # By who has the key.
    assert stockade("audit", "verify", tmp_path / "state").exit_code == 0  # The control.
    result = stockade("audit", "verify", *kept)
    assert result.exit_code == 8
    assert f"{tmp_path / 'heads'}, head " in result.stdout


def test_a_head_torn_in_the_middle_hides_no_other(stockade: Stockade, state: Path) -> None:
    head, heads = (state / "tlog/checkpoint").read_bytes(), state / "heads"
    heads.write_bytes(head + b"\n" + head[:40] + b"\n\n" + head + b"\n")
    result = stockade("audit", "verify", "--json", "--head", heads, state)
    assert result.exit_code == 0
    assert [one["verdict"] for one in json.loads(result.stdout)["heads"]] == ["fits", "fits"]
    assert "in it are no head" in result.stderr


@pytest.mark.parametrize("data", [b"", b"nothing\n", b"a\n1\nAAAA\n\n"])
def test_a_file_without_a_head_is_no_damage(stockade: Stockade, state: Path, data: bytes) -> None:
    (state / "kept").write_bytes(data)
    result = stockade("audit", "verify", "--head", state / "kept", state)
    assert result.exit_code == 2
    assert "there is no signed head in" in " ".join(result.stderr.split())


def test_a_record_that_may_not_be_read_is_no_damage(
    stockade: Stockade, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    result = stockade("audit", "verify", state)
    assert result.exit_code == 2
    assert f"{state / 'log'}: Permission denied" in " ".join(result.stderr.split())
    monkeypatch.undo()
    monkeypatch.setattr("supervisor.audit.verify.is_locked", denied)
    assert stockade("audit", "verify", state).exit_code == 2


def test_a_missing_head_has_a_name(stockade: Stockade, state: Path) -> None:
    (state / "tlog/checkpoint").unlink()
    result = stockade("audit", "verify", "--json", state)
    assert result.exit_code == 8
    reasons = [problem["reason"] for problem in json.loads(result.stdout)["problems"]]
    assert "head_missing" in reasons


def test_check(stockade: Stockade, receipt: bytes, tmp_path: Path) -> None:
    key, path = tmp_path / "state/log.pub", tmp_path / "r.tlog-proof"
    path.write_bytes(receipt)
    result = stockade("audit", "check", "--key", key, path)
    assert result.exit_code == 0
    assert result.stdout.startswith("holds: entry 1 of ")
    assert result.stdout.splitlines()[1].startswith("call call-1 exited with 0, 1970-01-01")
    found = json.loads(stockade("audit", "check", "--key", key, "--json", path).stdout)
    assert (found["ok"], found["index"], found["entry"]["call"]) == (True, 1, "call-1")


def test_a_receipt_of_an_entry_that_ends_no_call(
    stockade: Stockade, receipt: bytes, tmp_path: Path
) -> None:
    state, path = tmp_path / "state", tmp_path / "r.tlog-proof"

    async def first() -> bytes:
        store = Store.open(state)
        try:
            intent = next(store.records.entries("call-1", 1))
            return replace(store._tree.receipt(intent.index), extra=intent.json).encode()
        finally:
            await store.close()

    path.write_bytes(asyncio.run(first()))
    result = stockade("audit", "check", "--key", state / "log.pub", path)
    assert result.exit_code == 0
    assert "intent of call call-1, 2" in result.stdout
    assert "it tells of no call's end" in result.stdout


@pytest.mark.parametrize("what", ["entry", "key", "form", "bare"])
def test_what_does_not_hold(stockade: Stockade, receipt: bytes, tmp_path: Path, what: str) -> None:
    key, path = str(tmp_path / "state/log.pub"), tmp_path / "r.tlog-proof"
    parsed = Receipt.parse(receipt)
    forged = parsed.extra.replace(b"call-1", b"call-2")
    data = {
        "entry": Receipt(
            index=parsed.index, hashes=parsed.hashes, checkpoint=parsed.checkpoint, extra=forged
        ).encode(),
        "key": receipt,
        "form": b"nothing",
        "bare": Receipt(
            index=parsed.index, hashes=parsed.hashes, checkpoint=parsed.checkpoint
        ).encode(),
    }[what]
    path.write_bytes(data)
    given = str(TestSigner().key) if what == "key" else key
    result = stockade("audit", "check", "--key", given, path)
    assert result.exit_code == 8
    assert result.stdout.startswith("DOES NOT HOLD: ")
    found = json.loads(stockade("audit", "check", "--key", given, "--json", path).stdout)
    assert found["ok"] is False
    assert found["problem"]


def test_a_receipt_of_another_key_of_the_log_names_both_and_the_way_out(
    stockade: Stockade, receipt: bytes, tmp_path: Path
) -> None:
    path, state = tmp_path / "r", tmp_path / "state"
    path.write_bytes(receipt)
    old = VerifierKey.parse(key_of(state))
    other = VerifierKey(name=old.name, public=TestSigner().key.public)
    result = stockade("audit", "check", "--key", str(other), path)
    assert result.exit_code == 8
    ids = old.key_id.hex(), other.key_id.hex()
    assert "by the key {}, and not by {}. Was the log handed over".format(*ids) in result.stdout
    assert "give the newer public key" in result.stdout


def test_check_wants_a_key(stockade: Stockade, receipt: bytes, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(receipt)
    assert stockade("audit", "check", tmp_path / "r").exit_code == 2


def test_proof(daemon: FakeDaemon, stockade: Stockade, tmp_path: Path) -> None:
    daemon.play("GetReceipt", lambda _: audit_pb2.GetReceiptResponse(receipt=b"a receipt\n"))
    assert stockade("audit", "proof", fake.CALL_ID).stdout == "a receipt\n"
    found = json.loads(stockade("audit", "proof", "--json", fake.CALL_ID).stdout)
    assert base64.b64decode(found["receipt"]) == b"a receipt\n"
    assert stockade("audit", "proof", "-o", tmp_path / "r", fake.CALL_ID).exit_code == 0
    assert (tmp_path / "r").read_bytes() == b"a receipt\n"
    daemon.play("GetReceipt", lambda _: audit_pb2.GetReceiptResponse(receipt=b"another\n"))
    result = stockade("audit", "proof", "-o", tmp_path / "r", fake.CALL_ID)
    assert result.exit_code == 2
    assert "[FILE_EXISTS]" in result.stderr
    assert (tmp_path / "r").read_bytes() == b"a receipt\n"
    assert daemon.asked("GetReceipt")[0].call_id == fake.CALL_ID


def test_checkpoint(daemon: FakeDaemon, stockade: Stockade, receipt: bytes, tmp_path: Path) -> None:
    head, key = Receipt.parse(receipt).checkpoint, key_of(tmp_path / "state")
    answer = audit_pb2.GetCheckpointResponse(checkpoint=head, key=key)
    daemon.play("GetCheckpoint", lambda _: answer)
    result = stockade("audit", "checkpoint")
    assert result.stdout == head.decode()
    assert key in result.stderr
    found = json.loads(stockade("audit", "checkpoint", "--json").stdout)
    assert (found["key"], found["size"]) == (key, 2)
    assert base64.b64decode(found["checkpoint"]) == head
    assert stockade("audit", "checkpoint", "-o", tmp_path / "h").exit_code == 0
    assert (tmp_path / "h").read_bytes() == head
    (tmp_path / "h").write_bytes(b"kept")
    assert stockade("audit", "checkpoint", "-o", tmp_path / "h").exit_code == 2
    assert (tmp_path / "h").read_bytes() == b"kept"
