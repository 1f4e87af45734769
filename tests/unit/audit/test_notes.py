"""Signed notes: as others write and sign them, and nothing that is not quite one."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.notes import (
    NOTE_BYTES_MAX,
    SIGNATURES_MAX,
    Algorithm,
    Note,
    NoteError,
    Signature,
    VerifierKey,
    cosign,
    cosigned,
    cosigned_at,
    sign,
)
from tests.unit.audit.keys import TestSigner

# From the documentation of Go's x/mod/sumdb/note, whose format the specification is.
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SEED = "YEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
LINE = (
    "— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
NOTE = f"{TEXT}\n{LINE}".encode()


def test_a_note_of_another_implementation_is_verified() -> None:
    key = VerifierKey.parse(KEY)
    note = Note.parse(NOTE)
    assert note.text == TEXT
    assert note.verified([key]) == (key,)
    assert note.encode() == NOTE
    assert str(key) == KEY


def test_a_note_is_signed_as_another_implementation_signs_it() -> None:
    seed = base64.b64decode(f"A{SEED}")[1:]
    signer = TestSigner("PeterNeumann", seed=seed)
    assert str(signer.key) == KEY
    assert sign(TEXT, [signer]).encode() == NOTE


def test_lines_of_others_are_passed_over() -> None:
    key = VerifierKey.parse(KEY)
    other = TestSigner("PeterNeumann")
    note = Note.parse(NOTE + sign(TEXT, [other]).signatures[0].line().encode())
    assert note.verified([key]) == (key,)
    assert note.verified([other.key, key]) == (other.key, key)
    assert note.verified([TestSigner("somebody.example.com").key]) == ()


@given(at=st.integers(0, len(TEXT) - 2), bit=st.integers(0, 6))
def test_no_bit_of_the_text_can_be_another(at: int, bit: int) -> None:
    text = bytearray(TEXT.encode())
    text[at] ^= 1 << bit
    changed = Note(text=text.decode(), signatures=Note.parse(NOTE).signatures)
    with pytest.raises(NoteError, match="the signature of PeterNeumann is wrong"):
        changed.verified([VerifierKey.parse(KEY)])


@given(at=st.integers(0, 63), bit=st.integers(0, 7))
def test_no_bit_of_the_signature_can_be_another(at: int, bit: int) -> None:
    (right,) = Note.parse(NOTE).signatures
    data = bytearray(right.data)
    data[at] ^= 1 << bit
    wrong = Signature(name=right.name, key_id=right.key_id, data=bytes(data))
    for signatures in ((wrong,), (right, wrong), (wrong, right)):
        with pytest.raises(NoteError, match="wrong"):
            Note(text=TEXT, signatures=signatures).verified([VerifierKey.parse(KEY)])


def test_a_signature_of_another_length_is_wrong() -> None:
    (right,) = Note.parse(NOTE).signatures
    key = VerifierKey.parse(KEY)
    for data in (b"", right.data[:-1], right.data + b"\0"):
        assert not key.verifies(TEXT, data)
    witness = TestSigner("witness.example.com", Algorithm.COSIGNATURE).key
    assert not witness.verifies(TEXT, bytes(64))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        TEXT.encode(),
        f"{TEXT}\n".encode(),
        f"{TEXT}\n{LINE}"[:-1].encode(),
        f"{TEXT}\n{LINE.replace('— ', '- ')}".encode(),
        f"{TEXT}\n{LINE.replace('PeterNeumann', 'Peter Neumann')}".encode(),
        f"{TEXT}\n{LINE.replace('PeterNeumann', 'Peter+Neumann')}".encode(),
        f"{TEXT}\n{LINE.replace('PeterNeumann', '')}".encode(),
        f"{TEXT}\n{LINE.replace('x08go', 'x0!go')}".encode(),
        f"{TEXT}\n{LINE.replace('nAM=', 'nAN=')}".encode(),
        f"{TEXT}\n— PeterNeumann x08gow==\n".encode(),
        f"{TEXT}\n{LINE}x\n".encode(),
        f"a\tb\n\n{LINE}".encode(),
        f"a\rb\n\n{LINE}".encode(),
        b"\xff\n\n" + LINE.encode(),
        f"{TEXT}\n{LINE * (SIGNATURES_MAX + 1)}".encode(),
        b"a" * NOTE_BYTES_MAX + NOTE,
    ],
)
def test_what_is_not_quite_a_note_is_none(data: bytes) -> None:
    with pytest.raises(NoteError):
        Note.parse(data)


def test_the_text_ends_at_the_last_empty_line() -> None:
    signer = TestSigner()
    text = "a\n\nb\n\n\nc\n"
    note = Note.parse(sign(text, [signer]).encode())
    assert note.text == text
    assert note.verified([signer.key]) == (signer.key,)
    assert len(Note.parse(f"{TEXT}\n{LINE * SIGNATURES_MAX}".encode()).signatures) == 64


@pytest.mark.parametrize("text", ["a", "", "a\tb\n", "a\0\n"])
def test_what_is_no_text_of_a_note_is_not_signed(text: str) -> None:
    with pytest.raises(ValueError, match="lines"):
        sign(text, [TestSigner()])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no public key"),
        ("a", "no public key"),
        ("a+b", "no public key"),
        (KEY.replace("+AR", "+!R"), "no public key"),
        (KEY.replace("+AR", "+BB"), "has the number [0-9a-f]{8}, not c74f20a3"),
        (KEY.replace("+AR", "+BR"), "no public key"),
        (KEY.replace("c74f20a3", "c74f20a4"), "has the number c74f20a3, not c74f20a4"),
        (KEY.replace("PeterNeumann", "Peter Neumann"), "no name of a key"),
        (KEY.replace("PeterNeumann", ""), "no name of a key"),
        (KEY.replace("PeterNeumann", "a" * 256), "no name of a key"),
        ("a+00000000+AQ==", "0 bytes"),
    ],
)
def test_what_is_no_key_is_told(text: str, said: str) -> None:
    with pytest.raises(NoteError, match=said):
        VerifierKey.parse(text)


def test_a_witness_signs_the_text_with_a_time() -> None:
    witness = TestSigner("witness.example.com/w1", Algorithm.COSIGNATURE)
    signature = cosign(TEXT, witness, 1679315147)
    assert cosigned(TEXT, 1679315147).startswith(b"cosignature/v1\ntime 1679315147\nIf you")
    assert cosigned_at(signature.data) == 1679315147
    note = Note(text=TEXT, signatures=(signature,))
    assert note.verified([witness.key]) == (witness.key,)
    later = Signature(
        name=signature.name,
        key_id=signature.key_id,
        data=(1679315148).to_bytes(8, "big") + signature.data[8:],
    )
    with pytest.raises(NoteError, match="wrong"):
        Note(text=TEXT, signatures=(later,)).verified([witness.key])
    with pytest.raises(ValueError, match="no key of a witness"):
        cosign(TEXT, TestSigner(), 1)


def test_the_same_key_has_another_number_as_a_witness() -> None:
    as_log, as_witness = TestSigner("a"), TestSigner("a", Algorithm.COSIGNATURE)
    assert as_log.key.public == as_witness.key.public
    assert as_log.key.key_id != as_witness.key.key_id
    assert VerifierKey.parse(str(as_witness.key)) == as_witness.key
