"""Signed notes (C2SP signed-note): a text, and lines of who signed it.

A key is known by its name and by 32 bits of a hash; which algorithm it is of is part of that hash.
Ours are Ed25519. A witness signs otherwise (C2SP tlog-cosignature): a time comes before the text.

What is signed here is signed through `Signer`, so that a key can lie in a file or in a token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURES_MAX = 64
NOTE_BYTES_MAX = 1 << 20
NAME_CHARACTERS_MAX = 255
PUBLIC_BYTES = 32
KEY_ID_BYTES = 4
SIGNATURE_BYTES = 64

_DASH = "— "
_ODD = re.compile(r"[\x00-\x09\x0b-\x1f]")
_TIME = struct.Struct(">Q")


class NoteError(Exception):
    """A note or a key that cannot be read, or is not signed by whom it should be."""


class Algorithm(IntEnum):
    """What a signature is, as signed-note numbers them."""

    ED25519 = 1
    COSIGNATURE = 4


class Signer(Protocol):
    """Who holds a private key."""

    @property
    def key(self) -> VerifierKey:
        """Give its public half."""

    def sign(self, message: bytes) -> bytes:
        """Give the Ed25519 signature of a message.

        Raises:
            StockadeError: the key cannot be used now.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A line of a note; `data` is what follows the key's number."""

    name: str
    key_id: bytes
    data: bytes

    def line(self) -> str:
        """Write it."""
        return f"{_DASH}{self.name} {to_base64(self.key_id + self.data)}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """The public half of a key, by its name."""

    name: str
    public: bytes
    algorithm: Algorithm = Algorithm.ED25519

    def __post_init__(self) -> None:
        """Refuse what no note can name."""
        if not self.name or "+" in self.name or any(map(str.isspace, self.name)):
            raise NoteError(f"{self.name!r} is no name of a key: no spaces and no plus")
        if len(self.name) > NAME_CHARACTERS_MAX or _ODD.search(self.name):
            raise NoteError(f"{self.name[:40]!r} is no name of a key")
        if len(self.public) != PUBLIC_BYTES:
            raise NoteError(f"a public key of {len(self.public)} bytes, not {PUBLIC_BYTES}")

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read `name+id+base64`, as `str` writes it.

        Raises:
            NoteError: it is not that, or its number is not the key's.
        """
        name, plus, rest = text.strip().partition("+")
        number, second, encoded = rest.partition("+")
        data = from_base64(encoded) if plus and second else b""
        if not data or data[0] not in tuple(Algorithm):
            raise NoteError(f"{text[:60]!r} is no public key as name+id+base64")
        key = cls(name=name, public=data[1:], algorithm=Algorithm(data[0]))
        if number != key.key_id.hex():
            raise NoteError(f"the key of {name} has the number {key.key_id.hex()}, not {number}")
        return key

    @property
    def key_id(self) -> bytes:
        """Give the number that lines of signatures call it by."""
        algorithm = bytes([self.algorithm])
        return hashlib.sha256(b"%b\n%b%b" % (self.name.encode(), algorithm, self.public)).digest()[
            :KEY_ID_BYTES
        ]

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        encoded = to_base64(bytes([self.algorithm]) + self.public)
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def made(self, signature: Signature) -> bool:
        """Say whether a signature says that it is of this key."""
        return (signature.name, signature.key_id) == (self.name, self.key_id)

    def verifies(self, text: str, data: bytes) -> bool:
        """Say whether `data`, of a signature's line, is this key's signature of a note's text."""
        message = text.encode()
        if self.algorithm is Algorithm.COSIGNATURE:
            if len(data) != _TIME.size + SIGNATURE_BYTES:
                return False
            message, data = cosigned(text, cosigned_at(data)), data[_TIME.size :]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(data, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A text, which ends with a newline, and its signatures: nothing of it is verified yet."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Read a note.

        Raises:
            NoteError: it is none.
        """
        if len(data) > NOTE_BYTES_MAX:
            raise NoteError(f"a note of more than {NOTE_BYTES_MAX} bytes")
        try:
            whole = data.decode()
        except UnicodeDecodeError:
            raise NoteError("a note that is not UTF-8") from None
        if _ODD.search(whole):
            raise NoteError("a note with control characters")
        text, blank, rest = whole.rpartition("\n\n")
        if not blank or not rest.endswith("\n"):
            raise NoteError("a note without signatures")
        lines = rest[:-1].split("\n")
        if len(lines) > SIGNATURES_MAX:
            raise NoteError(f"a note with more than {SIGNATURES_MAX} signatures")
        return cls(text=f"{text}\n", signatures=tuple(map(_signature, lines)))

    def encode(self) -> bytes:
        """Write it."""
        lines = "".join(signature.line() for signature in self.signatures)
        return f"{self.text}\n{lines}".encode()

    def verified(self, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
        """Give those of the keys that have signed it.

        Raises:
            NoteError: a signature that says it is of one of them is not.
        """
        signed = []
        for key in keys:
            made = [signature for signature in self.signatures if key.made(signature)]
            if not all(key.verifies(self.text, signature.data) for signature in made):
                raise NoteError(f"the signature of {key.name} is wrong")
            if made:
                signed.append(key)
        return tuple(signed)


def sign(text: str, signers: Sequence[Signer]) -> Note:
    """Sign a text, which ends with a newline."""
    if not text.endswith("\n") or _ODD.search(text):
        raise ValueError("a note's text has lines, and nothing else that is a control character")
    message = text.encode()
    return Note(
        text=text,
        signatures=tuple(
            Signature(name=one.key.name, key_id=one.key.key_id, data=one.sign(message))
            for one in signers
        ),
    )


def cosigned(text: str, time_s: int) -> bytes:
    """Give what a witness signs of a note at a time, in seconds since the epoch."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def cosigned_at(data: bytes) -> int:
    """Give the time of a witness's signature, in seconds since the epoch."""
    seconds: int = _TIME.unpack_from(data)[0]
    return seconds


def cosign(text: str, signer: Signer, time_s: int) -> Signature:
    """Sign a note as a witness does; the signer's key is of that algorithm."""
    if signer.key.algorithm is not Algorithm.COSIGNATURE:
        raise ValueError(f"{signer.key.name} is no key of a witness")
    return Signature(
        name=signer.key.name,
        key_id=signer.key.key_id,
        data=_TIME.pack(time_s) + signer.sign(cosigned(text, time_s)),
    )


def _signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    data = from_base64(encoded)
    odd = "+" in name or any(map(str.isspace, name))
    if not line.startswith(_DASH) or not name or odd or not space or len(data) <= KEY_ID_BYTES:
        raise NoteError(f"{line[:60]!r} is no signature")
    return Signature(name=name, key_id=data[:KEY_ID_BYTES], data=data[KEY_ID_BYTES:])


def to_base64(data: bytes) -> str:
    """Encode as notes do (RFC 4648, section 4)."""
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """Decode base64 in its one spelling; b"" where it is not that."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if to_base64(data) == text else b""
