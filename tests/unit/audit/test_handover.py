"""A log that is handed over from key to key: who knows one can follow, and nobody else signs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit import handover, notes
from supervisor.audit.checkpoints import Checkpoint, Receipt
from supervisor.audit.directory import lock_state
from supervisor.audit.entry import Kind, leaf_hash
from supervisor.audit.handover import hand_over
from supervisor.audit.journal import Journal, JournalOptions
from supervisor.audit.keys import (
    FIRST_NAME,
    KEY_NAME,
    NEXT_NAME,
    PUBLIC_NAME,
    new_key,
    own_key,
    public_key,
)
from supervisor.audit.notes import Signer, VerifierKey
from supervisor.audit.rotation import FIELD, rotate
from supervisor.audit.store import Store
from supervisor.audit.tiles import CHECKPOINT
from supervisor.audit.tree import LogTree
from supervisor.audit.verify import VerifyReport, verify
from supervisor.call.types import Json
from supervisor.errors import AuditCorrupt, AuditUnavailable, HostError, InvalidRequest
from tests.support.records import begin, make_finished, opened
from tests.unit.audit.keys import ORIGIN, TestSigner

A, B, C, D = (TestSigner(ORIGIN, seed=bytes([number]) * 32) for number in range(1, 5))


def written(directory: Path, call_id: str, signer: Signer | None = None) -> tuple[bytes, bytes]:
    """Record a call; give a receipt of it, and a head."""

    async def write() -> tuple[bytes, bytes]:
        async with opened(directory, signer=signer) as store:
            recorder = await begin(store, call_id)
            await recorder.finish(make_finished())
            return store.receipt(call_id), store.head()[0]

    return asyncio.run(write())


def refused(directory: Path, signer: Signer | None = None) -> HostError:
    before = (directory / "tlog" / CHECKPOINT).read_bytes()
    with pytest.raises(HostError) as caught:
        Store.open(directory, signer=signer)
    assert (directory / "tlog" / CHECKPOINT).read_bytes() == before
    return caught.value


def messages(report: VerifyReport) -> list[str]:
    return [problem.message for problem in report.problems]


def test_who_knows_any_key_of_a_log_verifies_what_came_since(tmp_path: Path) -> None:
    kept: list[bytes] = []
    receipts: list[bytes] = []
    keys: list[VerifierKey] = []
    for number in range(3):
        receipt, head = written(tmp_path, f"call-{number}")
        receipts.append(receipt)
        kept += [head, (tmp_path / "tlog" / CHECKPOINT).read_bytes()]
        keys.append(public_key(tmp_path))
        if number < 2:
            done = hand_over(tmp_path)
            assert done.former == keys[-1]
            assert done.key == public_key(tmp_path) == own_key(tmp_path, is_new=False).key
            kept.append((tmp_path / "tlog" / CHECKPOINT).read_bytes())
    assert len(set(keys)) == 3
    assert {key.name for key in keys} == {keys[0].name}
    heads = [(f"head {place}", head) for place, head in enumerate(kept)]
    for number, key in enumerate(keys):
        report = verify(tmp_path, key=key, heads=heads[3 * number :])
        assert report.problems == ()
        assert report.consistent == len(heads) - 3 * number
        assert report.signers == tuple(map(str, keys[number:]))
        alone = Receipt.parse(receipts[number])
        assert alone.verify(leaf_hash(alone.extra), [key]).origin == keys[0].name
    assert verify(tmp_path, heads=heads).consistent == len(heads)  # by the first that lies there
    (problem,) = messages(verify(tmp_path, key=keys[1], heads=heads[:1]))
    assert f"of an earlier key than {keys[1].key_id.hex()}, which signs those over " in problem
    assert problem.endswith("give that earlier key")
    other = VerifierKey(name=keys[0].name, public=D.key.public)
    report = verify(tmp_path, key=other, heads=heads[:1])
    (problem,) = report.problems
    assert report.is_of_other
    assert problem.reason == "key_of_other_log"
    assert f"by the key {keys[2].key_id.hex()}, and not by the one that was given" in str(problem)
    assert [head.verdict for head in report.heads] == ["untold"]


def test_keys_that_are_not_in_the_folder(tmp_path: Path) -> None:
    written(tmp_path, "call-1", A)
    assert hand_over(tmp_path, old=A, new=B).former == A.key
    written(tmp_path, "call-2", B)
    own = hand_over(tmp_path, old=B).key
    assert own.name == ORIGIN
    written(tmp_path, "call-3")
    hand_over(tmp_path, new=C)
    assert not (tmp_path / KEY_NAME).exists()
    assert (tmp_path / PUBLIC_NAME).read_text() == f"{C.key}\n"
    assert (tmp_path / FIRST_NAME).read_text() == f"{A.key}\n"
    written(tmp_path, "call-4", C)
    report = verify(tmp_path, key=A.key)
    assert report.problems == ()
    assert report.signers == tuple(map(str, (A.key, B.key, own, C.key)))


def test_a_daemon_with_another_key_than_the_logs_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "call-1", A)
    error = refused(tmp_path, B)  # Nothing hands the log over to it.
    assert error.reason == "KEY_OTHER"
    assert A.key.key_id.hex() in error.message
    assert "stockade audit key rotate" in error.hint
    hand_over(tmp_path, old=A, new=B)
    error = refused(tmp_path, A)
    assert (error.reason, B.key.key_id.hex() in error.message) == ("KEY_OTHER", True)
    assert refused(tmp_path).reason == "KEY_INVALID"
    (tmp_path / PUBLIC_NAME).unlink()
    assert refused(tmp_path, A).reason == "KEY_OTHER"
    written(tmp_path, "call-2", B)


def test_an_old_key_is_not_the_logs_also_before_the_new_one_has_signed(tmp_path: Path) -> None:
    written(tmp_path, "call-1", A)
    head = (tmp_path / "tlog" / CHECKPOINT).read_bytes()
    hand_over(tmp_path, old=A, new=B)
    (tmp_path / "tlog" / CHECKPOINT).write_bytes(head)  # As after a crash right behind the entry.
    (tmp_path / PUBLIC_NAME).write_text(f"{A.key}\n")
    (tmp_path / FIRST_NAME).unlink()
    assert refused(tmp_path, A).reason == "KEY_OTHER"
    assert verify(tmp_path, key=A.key).problems == ()
    written(tmp_path, "call-2", B)
    assert (tmp_path / FIRST_NAME).read_text() == f"{A.key}\n"
    assert verify(tmp_path).problems == ()


class Crash(Exception):
    """The machine went away."""


def crashing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int) -> None:
    """Let the `number`th call of a function, from 0, end the process before it does anything."""
    real, calls = getattr(owner, name), 0

    def call(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > number:
            raise Crash
        return real(*given, **more)

    monkeypatch.setattr(owner, name, call)


def interrupted(directory: Path, to: Signer | None, owner: Any, name: str, number: int) -> bool:
    """Hand a log over until it crashes, do it again, and see that all is well; say whether it
    crashed."""
    new_key(directory, ORIGIN)
    written(directory, "call-1")
    first = public_key(directory)
    crashed = False
    with pytest.MonkeyPatch.context() as patch:
        crashing(patch, owner, name, number)
        try:
            hand_over(directory, new=to)
        except Crash:
            crashed = True
    assert verify(directory, key=first).problems == ()
    if crashed:
        hand_over(directory, new=to)
    assert not (directory / NEXT_NAME).exists()
    assert (directory / KEY_NAME).exists() == (to is None)
    current = public_key(directory)
    written(directory, "call-2", to)
    report = verify(directory, key=first)
    assert report.problems == ()
    assert report.signers == (str(first), str(current))
    assert verify(directory).problems == ()
    return crashed


STEPS = [
    (handover, "rotate", 0),
    (Journal, "append", 0),
    (Journal, "sync", 0),
    (LogTree, "load", 0),
    (LogTree, "load", 1),
    (LogTree, "load", 2),
    (LogTree, "publish", 1),
    (handover, "settle", 0),
]


@pytest.mark.parametrize("to", [None, B], ids=["own", "given"])
@pytest.mark.parametrize(("owner", "name", "number"), STEPS)
def test_what_was_interrupted_is_ended_by_doing_it_again(
    owner: Any, name: str, number: int, to: Signer | None, tmp_path: Path
) -> None:
    assert interrupted(tmp_path, to, owner, name, number)


@pytest.mark.parametrize("to", [None, B], ids=["own", "given"])
def test_it_may_be_interrupted_before_any_file_is_put_in_its_place(
    to: Signer | None, tmp_path: Path
) -> None:
    count = 0
    while interrupted(tmp_path / str(count), to, Path, "rename", count):
        count += 1
    assert count >= 4


def test_a_key_that_is_the_logs_already_changes_nothing(tmp_path: Path) -> None:
    written(tmp_path, "call-1", A)
    done = hand_over(tmp_path, old=A, new=A)
    assert (done.key, done.former, done.index) == (A.key, None, -1)
    assert verify(tmp_path, key=A.key).signers == (str(A.key),)


def test_a_key_that_lies_in_the_folder_and_is_configured_is_not_removed(tmp_path: Path) -> None:
    new_key(tmp_path, ORIGIN)
    written(tmp_path, "call-1")
    own = own_key(tmp_path, is_new=False)
    hand_over(tmp_path, new=own)
    assert (tmp_path / KEY_NAME).exists()


def test_what_is_no_rotation(tmp_path: Path) -> None:
    written(tmp_path, "call-1", A)
    before = verify(tmp_path).entries
    with pytest.raises(InvalidRequest) as caught:
        hand_over(tmp_path, old=A, new=TestSigner("other.example.com"))
    assert caught.value.reason == "ROTATION_INVALID"
    with pytest.raises(HostError) as other:
        hand_over(tmp_path, old=B, new=C)  # The log is of neither.
    assert other.value.reason == "KEY_OTHER"
    with pytest.raises(HostError, match=KEY_NAME):
        hand_over(tmp_path, new=C)  # There is no key in the folder.
    lock = lock_state(tmp_path)
    try:
        with pytest.raises(AuditUnavailable, match="do this again"):
            hand_over(tmp_path, old=A, new=B)
    finally:
        handover.os.close(lock)
    report = verify(tmp_path, key=A.key)
    assert (report.entries, report.problems) == (before, ())
    written(tmp_path, "call-2", A)


def test_a_log_that_was_cut_is_not_handed_over(tmp_path: Path) -> None:
    written(tmp_path / "short", "call-1", A)
    shutil.copytree(tmp_path / "short", tmp_path / "long")
    written(tmp_path / "long", "call-2", A)
    shutil.copytree(tmp_path / "long" / "tlog", tmp_path / "short" / "tlog", dirs_exist_ok=True)
    with pytest.raises(AuditCorrupt, match="was signed, and the log has"):
        hand_over(tmp_path / "short", old=A, new=B)


def test_a_torn_tail_is_cut_off_and_told_first(tmp_path: Path) -> None:
    written(tmp_path, "call-1", A)
    (segment,) = (tmp_path / "log").glob("*.seg")
    with segment.open("ab") as file:
        file.write(b"torn")
    hand_over(tmp_path, old=A, new=B)
    assert verify(tmp_path, key=A.key).problems == ()


def entries_with(directory: Path, *bodies: dict[str, Json]) -> None:
    """Write entries into a log, as who has its files but not its key could."""
    journal, _ = Journal.open(directory / "log", options=JournalOptions())
    for body in bodies:
        journal.append(Kind.KEY_ROTATED, body, time_ns=1, reserved=True)
    journal.sync()
    journal.close()


def signed_over(directory: Path, signer: Signer) -> None:
    """Make a head over the log as it is, whatever it says."""
    shutil.rmtree(directory / "tlog")
    journal, _ = Journal.open(directory / "log", options=JournalOptions())
    tree = LogTree(directory / "tlog", signer, lambda index: handover.read_payloads(journal, index))
    tree._require_handed_over = lambda *_: None  # type: ignore[method-assign]
    tree.load(journal.head[0])
    journal.close()


def by(*signers: TestSigner, index: int) -> dict[str, Json]:
    """Make a statement that hands over to D, signed by these alone."""
    text = f"stockade key rotation v1\n{ORIGIN}\n{index}\n{D.key}\n"
    return {FIELD: notes.sign(text, signers).encode().decode()}


FORGED = [
    (by(D, index=2), "has not signed it"),
    (by(B, D, index=2), "has not signed it"),
    (by(A, index=2), "has not signed it"),
    (by(A, D, index=1), "it gives a key from 1 on"),
    ({FIELD: "nothing"}, "not a statement"),
    ({}, "not the body of a statement"),
]


@pytest.mark.parametrize(("body", "said"), FORGED)
def test_a_statement_that_the_logs_key_has_not_made(
    body: dict[str, Json], said: str, tmp_path: Path
) -> None:
    written(tmp_path, "call-1", A)
    entries_with(tmp_path, body)
    for signer in (A, D):
        with pytest.raises(AuditCorrupt, match="the key rotation at entry 2: ") as caught:
            Store.open(tmp_path, signer=signer)
        assert said in caught.value.message
    for signer in (A, D):
        signed_over(tmp_path, signer)
        problems = messages(verify(tmp_path, key=A.key))
        assert problems[0].startswith("the key rotation at entry 2: ")
        assert said in problems[0]


def rotations(*pairs: tuple[TestSigner, TestSigner]) -> Sequence[dict[str, Json]]:
    return [rotate(old, new, 2 + place) for place, (old, new) in enumerate(pairs)]


def test_a_chain_that_forks_is_named(tmp_path: Path) -> None:
    written(tmp_path, "call-1", A)
    entries_with(tmp_path, *rotations((A, B), (A, C)))
    signed_over(tmp_path, C)
    problems = messages(verify(tmp_path, key=A.key))
    assert "entry 3: a second successor of" in problems[0]
    assert "the chain forks" in problems[0]


def test_a_head_of_a_key_whose_time_is_over_is_named(tmp_path: Path) -> None:
    written(tmp_path, "call-1", A)
    hand_over(tmp_path, old=A, new=B)
    report = verify(tmp_path, key=A.key)
    assert report.ok
    late = Checkpoint(origin=ORIGIN, size=3, root=bytes(32)).text()
    kept = [("kept", notes.sign(late, [A]).encode())]
    assert "kept: " in messages(verify(tmp_path, key=A.key, heads=kept))[0]
    signed_over(tmp_path, A)
    (problem,) = messages(verify(tmp_path, key=A.key))
    assert "another key of the log did" in problem
