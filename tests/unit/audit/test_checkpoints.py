"""Heads of the tree and receipts: what is one, whose it is, and what it shows."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit import merkle
from supervisor.audit.checkpoints import (
    RECEIPT_BYTES_MAX,
    Checkpoint,
    CheckpointError,
    Receipt,
    open_checkpoint,
)
from supervisor.audit.entry import leaf_hash
from supervisor.audit.notes import Algorithm, Note, cosign, sign
from tests.unit.audit import rfc6962
from tests.unit.audit.keys import ORIGIN, TestSigner

ENTRIES = tuple(b"entry %d" % number for number in range(13))
LEAVES = tuple(map(leaf_hash, ENTRIES))
SIGNER = TestSigner()

# The example of the specification, whose key it does not give.
EXAMPLE = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


class Rows:
    def at(self, level: int, index: int) -> bytes:
        return merkle.root_of_leaves(LEAVES[index << level : (index + 1) << level])


def checkpoint(size: int = len(ENTRIES)) -> Checkpoint:
    return Checkpoint(origin=ORIGIN, size=size, root=rfc6962.mth(ENTRIES[:size]))


def signed(size: int = len(ENTRIES)) -> bytes:
    return sign(checkpoint(size).text(), [SIGNER]).encode()


def receipt(index: int, size: int = len(ENTRIES)) -> Receipt:
    hashes = tuple(merkle.inclusion_proof(index, size, Rows()))
    return Receipt(index=index, hashes=hashes, checkpoint=signed(size))


def test_the_specifications_example_is_read_and_written() -> None:
    read = Checkpoint.parse(EXAMPLE)
    assert (read.origin, read.size) == ("example.com/behind-the-sofa", 20852163)
    assert read.root.hex()[:8] == "0ac5186a"
    assert read.text() == EXAMPLE


def test_more_lines_are_kept() -> None:
    text = f"{EXAMPLE}one\ntwo\n"
    assert Checkpoint.parse(text).extensions == ("one", "two")
    assert Checkpoint.parse(text).text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        EXAMPLE[:-1],
        EXAMPLE.replace("20852163\n", ""),
        f"\n{EXAMPLE}",
        f"{EXAMPLE}\n",
        f"{EXAMPLE}\na\n",
        EXAMPLE.replace("20852163", "020852163"),
        EXAMPLE.replace("20852163", "+20852163"),
        EXAMPLE.replace("20852163", "-1"),
        EXAMPLE.replace("20852163", "2_0"),
        EXAMPLE.replace("20852163", "\u0662"),
        EXAMPLE.replace("20852163", str(1 << 63)),
        EXAMPLE.replace("q2I=", "q2J="),
        EXAMPLE.replace("q2I=", "q2I"),
        EXAMPLE.replace("CsUY", ""),
    ],
)
def test_what_is_not_quite_a_checkpoint_is_none(text: str) -> None:
    with pytest.raises(CheckpointError):
        Checkpoint.parse(text)


@pytest.mark.parametrize("line", ["", "a\nb"])
def test_a_line_that_is_none_is_not_written(line: str) -> None:
    with pytest.raises(ValueError, match="line"):
        Checkpoint(origin=line, size=1, root=bytes(32)).text()
    with pytest.raises(ValueError, match="line"):
        Checkpoint(origin="a", size=1, root=bytes(32), extensions=(line,)).text()


def test_a_signed_checkpoint_is_opened_with_its_logs_key_alone() -> None:
    opened, note = open_checkpoint(signed(), [SIGNER.key])
    assert opened == checkpoint()
    assert note.encode() == signed()
    other = TestSigner("other.example.com")
    with pytest.raises(CheckpointError, match=r"not signed by other\.example\.com"):
        open_checkpoint(signed(), [other.key])
    with pytest.raises(CheckpointError, match="not signed by nobody"):
        open_checkpoint(signed(), [])
    with pytest.raises(CheckpointError, match=f"signature of {ORIGIN} is wrong"):
        open_checkpoint(signed().replace(b"\n13\n", b"\n14\n"), [SIGNER.key])
    with pytest.raises(CheckpointError, match=f"a checkpoint of {ORIGIN!r}, signed"):
        open_checkpoint(sign(checkpoint().text(), [other]).encode(), [other.key])
    with pytest.raises(CheckpointError, match="without signatures"):
        open_checkpoint(checkpoint().text().encode(), [SIGNER.key])


def test_a_witness_alone_does_not_speak_for_the_log() -> None:
    witness = TestSigner("witness.example.com", Algorithm.COSIGNATURE)
    text = checkpoint().text()
    alone = Note(text=text, signatures=(cosign(text, witness, 1),))
    with pytest.raises(CheckpointError, match=r"signed by witness\.example\.com"):
        open_checkpoint(alone.encode(), [SIGNER.key, witness.key])
    both = Note(text=text, signatures=(*sign(text, [SIGNER]).signatures, *alone.signatures))
    assert open_checkpoint(both.encode(), [SIGNER.key, witness.key])[0] == checkpoint()


@given(data=st.data(), size=st.integers(1, len(ENTRIES)), extra=st.binary(max_size=40))
def test_a_receipt_shows_its_entry_and_no_other(
    data: st.DataObject, size: int, extra: bytes
) -> None:
    index = data.draw(st.integers(0, size - 1))
    made = receipt(index, size)
    given_away = Receipt(
        index=made.index, hashes=made.hashes, checkpoint=made.checkpoint, extra=extra
    ).encode()
    read = Receipt.parse(given_away)
    assert (read.extra, read.encode()) == (extra, given_away)
    assert read.verify(LEAVES[index], [SIGNER.key]) == checkpoint(size)
    for other in set(range(len(ENTRIES))) - {index}:
        with pytest.raises(CheckpointError, match=f"not at {index}"):
            read.verify(LEAVES[other], [SIGNER.key])


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_of_a_receipt_can_be_another(at: int, bit: int) -> None:
    data = bytearray(receipt(5).encode())
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(CheckpointError):
        Receipt.parse(bytes(data)).verify(LEAVES[5], [SIGNER.key])


def test_a_receipt_is_written_as_the_specification_has_it() -> None:
    lines = receipt(5).encode().decode().split("\n")
    assert lines[:2] == ["c2sp.org/tlog-proof@v1", "index 5"]
    assert lines[2 : 2 + 4] == [
        Checkpoint(origin="a", size=1, root=one).text().split("\n")[2]
        for one in rfc6962.path(5, ENTRIES)
    ]
    assert "\n".join(lines[6:]) == f"\n{signed().decode()}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"c2sp.org/tlog-proof@v1\n", b"c2sp.org/tlog-proof@v2\n"),
        (b"index 5\n", b""),
        (b"index 5\n", b"index 05\n"),
        (b"index 5\n", b"index  5\n"),
        (b"index 5\n", b"extra !\nindex 5\n"),
        (b"index 5\n", b"extra YQ==\nextra YQ==\nindex 5\n"),
        (b"index 5\n", b"index 5\nYQ==\n"),
        (b"index 5\n", b"index 5\n" + b"A" * 43 + b"=\n" + (b"A" * 43 + b"=\n") * 64),
        (b"index 5\n", b"index \xff\n"),
        (b"\n\n", b"\n"),
    ],
)
def test_what_is_not_quite_a_receipt_is_none(old: bytes, new: bytes) -> None:
    data = receipt(5).encode()
    assert old in data
    with pytest.raises(CheckpointError):
        Receipt.parse(data.replace(old, new)).verify(LEAVES[5], [SIGNER.key])


def test_a_receipt_has_a_greatest_length() -> None:
    with pytest.raises(CheckpointError, match="more than"):
        Receipt.parse(receipt(5).encode() + b"a" * RECEIPT_BYTES_MAX)
    assert hashlib.sha256(receipt(0, 1).encode()).digest_size == 32
    assert receipt(0, 1).hashes == ()
