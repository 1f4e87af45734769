"""One public key gives all later ones of a log, by statements that the key before has signed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit import notes, rotation
from supervisor.audit.checkpoints import Checkpoint, CheckpointError, OtherKey
from supervisor.audit.notes import Algorithm, Note
from supervisor.audit.rotation import FIELD, KeyChain, Rotation, RotationError, follow, rotate
from supervisor.call.types import Json
from tests.unit.audit.keys import ORIGIN, TestSigner

Statements = list[tuple[int, Mapping[str, Json]]]


def signer(number: int, name: str = ORIGIN) -> TestSigner:
    return TestSigner(name, seed=bytes([number]) * 32)


A, B, C, D = map(signer, range(4))
CHAIN: Statements = [(5, rotate(A, B, 7)), (9, rotate(B, C, 9)), (20, rotate(C, D, 20))]


def head(size: int, *signers: TestSigner, origin: str = ORIGIN) -> bytes:
    text = Checkpoint(origin=origin, size=size, root=bytes(32)).text()
    return notes.sign(text, signers).encode()


def test_what_a_statement_says() -> None:
    body = rotate(A, B, 7)
    lines = str(body[FIELD]).split("\n")
    assert lines[:5] == ["stockade key rotation v1", ORIGIN, "7", str(B.key), ""]
    said = Rotation.parse(body)
    assert (said.key, said.index) == (B.key, 7)
    assert said.signed_by(A.key)
    assert not said.signed_by(C.key)


def test_one_key_gives_all_later_ones() -> None:
    chain = follow(A.key, CHAIN)
    assert chain == KeyChain(keys=(A.key, B.key, C.key, D.key), sizes=(0, 8, 10, 21))
    assert chain.current == D.key
    assert [chain.at(size) for size in (0, 7, 8, 9, 10, 20, 21, 1 << 60)] == [
        A.key, A.key, B.key, B.key, C.key, C.key, D.key, D.key,
    ]  # fmt: skip
    assert follow(A.key, []) == KeyChain(keys=(A.key,), sizes=(0,))


def test_a_later_key_gives_those_after_it_alone() -> None:
    chain = follow(C.key, CHAIN)
    assert chain == KeyChain(keys=(C.key, D.key), sizes=(10, 21))
    assert chain.at(9) is None
    assert follow(D.key, CHAIN) == KeyChain(keys=(D.key,), sizes=(21,))
    with pytest.raises(CheckpointError, match="earlier key"):
        chain.open(head(9, C))


def test_a_head_is_of_the_key_whose_time_it_was() -> None:
    chain = follow(A.key, CHAIN)
    assert chain.open(head(7, A)).size == 7
    assert chain.open(head(8, B)).size == 8
    assert chain.open(head(8, A, B)).size == 8
    for size, wrong in ((7, B), (8, A), (9, A), (9, C), (21, A), (1 << 40, C)):
        with pytest.raises(CheckpointError, match="another key of the log did"):
            chain.open(head(size, wrong))
    with pytest.raises(OtherKey) as raised:
        chain.open(head(8, signer(9)))
    ids = signer(9).key.key_id.hex(), chain.current.key_id.hex()
    assert "by the key {}, and not by one of the 4 keys up to {}".format(*ids) in str(raised.value)
    with pytest.raises(CheckpointError, match="which signs those over 8 and more"):
        follow(B.key, CHAIN).open(head(7, A))
    forged = head(8, B).replace(b"\n8\n", b"\n9\n", 1)
    with pytest.raises(CheckpointError, match="is wrong"):
        chain.open(forged)


def broken(statements: Statements, said: str, key: TestSigner = A) -> None:
    with pytest.raises(RotationError, match=said):
        follow(key.key, statements)


def test_a_missing_link() -> None:
    broken(CHAIN[1:], r"entry 9: .* has not signed it")
    broken([CHAIN[0], CHAIN[2]], r"entry 20: .* has not signed it")
    broken(CHAIN, r"entry 5: .* has not signed it", signer(9))


def test_another_order() -> None:
    broken([CHAIN[1], CHAIN[0], CHAIN[2]], "entry 9: .* has not signed it")
    broken([CHAIN[0], CHAIN[2], CHAIN[1]], "entry 20: .* has not signed it")


@pytest.mark.parametrize(
    ("at", "index"),
    [
        (7, 9),  # before the key that signs it is the log's
        (7, 7),
        (3, 9),
        (9, 8),  # from before the statement on
        (9, 0),
    ],
)
def test_another_place(at: int, index: int) -> None:
    broken([CHAIN[0], (at, rotate(B, C, index))], f"entry {at}: it gives a key from {index} on")


def test_an_index_at_which_it_does_not_lie_yet_is_none() -> None:
    broken([(8, rotate(A, B, 7))], "entry 8: it gives a key from 7 on")
    broken([(8, rotate(A, B, 7))], "entry 8: it gives a key from 7 on", B)


def test_a_key_that_was_used() -> None:
    broken([*CHAIN, (30, rotate(D, B, 30))], "entry 30: the key .* comes again")
    broken([*CHAIN, (30, rotate(D, A, 30))], "entry 30: the key .* comes again")
    broken([*CHAIN, (30, rotate(D, B, 30))], "entry 30: the key .* comes again", B)


def test_a_statement_twice() -> None:
    broken([CHAIN[0], (8, CHAIN[0][1])], "entry 8: it gives a key from 7 on")
    broken([(5, rotate(A, B, 7)), (8, rotate(A, B, 8))], "entry 8: the key .* comes again")


def test_a_fork() -> None:
    broken([*CHAIN, (30, rotate(A, signer(9), 30))], "entry 30: .* the chain forks")
    broken([CHAIN[0], (9, rotate(A, C, 9))], "entry 9: .* the chain forks")
    broken([*CHAIN, (30, rotate(B, signer(9), 30))], "entry 30: .* the chain forks", B)


def test_another_log() -> None:
    other, next_of_other = signer(0, "other.example.com/log"), signer(1, "other.example.com/log")
    broken([(5, rotate(other, next_of_other, 7))], "entry 5: it is of the log other.example.com")


def changed(body: Mapping[str, Json], was: str, now: str) -> dict[str, Json]:
    text = str(body[FIELD])
    assert was in text
    return {FIELD: text.replace(was, now, 1)}


def signed(*lines: str, by: tuple[TestSigner, ...] = (A, B)) -> dict[str, Json]:
    return {FIELD: notes.sign("".join(f"{line}\n" for line in lines), by).encode().decode()}


FIRST = "stockade key rotation v1"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {FIELD: 5},
        {FIELD: ""},
        {FIELD: "\ud800"},
        {**rotate(A, B, 7), "more": 1},
        changed(rotate(A, B, 7), "\n7\n", "\n8\n"),
        changed(rotate(A, B, 7), FIRST, "stockade key rotation v2"),
        changed(rotate(A, B, 7), str(B.key), str(C.key)),
        signed("stockade key rotation v2", ORIGIN, "7", str(B.key)),
        signed(FIRST, ORIGIN, "7"),
        signed(FIRST, ORIGIN, "7", str(B.key), "more"),
        signed(FIRST, ORIGIN, "07", str(B.key)),
        signed(FIRST, ORIGIN, "-1", str(B.key)),
        signed(FIRST, ORIGIN, "9" * 19, str(B.key)),
        signed(FIRST, "other.example.com", "7", str(B.key)),
        signed(FIRST, ORIGIN, "7", f" {B.key}"),
        signed(FIRST, ORIGIN, "7", str(TestSigner(ORIGIN, Algorithm.COSIGNATURE).key)),
        signed(FIRST, ORIGIN, "7", str(B.key), by=(A,)),
        signed(FIRST, ORIGIN, "7", str(B.key), by=(A, C)),
    ],
)
def test_what_is_no_statement(body: Mapping[str, Json]) -> None:
    with pytest.raises(RotationError):
        Rotation.parse(body)
    broken([(5, body)], "entry 5: ")


def test_the_old_key_has_to_sign() -> None:
    broken([(5, signed(FIRST, ORIGIN, "7", str(B.key), by=(B,)))], "has not signed it")
    both = Note.parse(str(rotate(A, B, 7)[FIELD]).encode())
    other = Note.parse(str(rotate(A, B, 8)[FIELD]).encode())
    mixed = Note(text=both.text, signatures=(other.signatures[0], both.signatures[1]))
    broken([(5, {FIELD: mixed.encode().decode()})], "entry 5: the signature of .* is wrong")


def test_no_head_of_a_log_is_a_statement() -> None:
    chain = follow(A.key, [])
    with pytest.raises(CheckpointError):
        chain.open(str(rotate(A, B, 7)[FIELD]).encode())
    with pytest.raises(RotationError):
        Rotation.parse({FIELD: head(7, A, B).decode()})


@pytest.mark.parametrize(
    ("old", "new", "index"),
    [
        (A, A, 7),
        (A, TestSigner(ORIGIN, seed=bytes(32)), 7),
        (A, signer(1, "other.example.com"), 7),
        (A, TestSigner(ORIGIN, Algorithm.COSIGNATURE), 7),
        (A, B, -1),
        (A, B, 1 << 63),
    ],
)
def test_what_is_not_signed(old: TestSigner, new: TestSigner, index: int) -> None:
    with pytest.raises(ValueError, match=r"log|old one|index"):
        rotate(old, new, index)


def test_there_is_an_end_to_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "ROTATIONS_MAX", len(CHAIN))
    assert follow(A.key, CHAIN).current == D.key
    broken([*CHAIN, (30, rotate(D, signer(9), 30))], "more than 3 keys")


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=12), st.data())
def test_any_chain_holds_and_none_of_its_links_can_go(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    statements: Statements = []
    previous = -1
    for number, (ahead, late) in enumerate(steps):
        at = previous + ahead
        previous = at + late
        statements.append((at, rotate(signer(number), signer(number + 1), previous)))
    keys = tuple(signer(number).key for number in range(len(steps) + 1))
    for number, key in enumerate(keys):
        assert follow(key, statements).keys == keys[number:]
    if len(steps) > 1:
        gone = data.draw(st.integers(0, len(steps) - 2))
        broken([*statements[:gone], *statements[gone + 1 :]], "has not signed it")
