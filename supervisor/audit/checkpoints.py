"""Heads of the tree: what is signed of the log (C2SP tlog-checkpoint), and the receipt of one entry
below such a head (C2SP tlog-proof). Pure.

A receipt is all that somebody needs who has the log's public key and an entry: no log, no daemon.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from supervisor.audit import merkle
from supervisor.audit.notes import Note, NoteError, VerifierKey, from_base64, to_base64

RECEIPT_SUFFIX = ".tlog-proof"
RECEIPT_BYTES_MAX = 1 << 20
SIZE_MAX = (1 << 63) - 1
NAMED_MAX = 3
"""Of keys that signed what they should not have."""

_FIRST_LINE = "c2sp.org/tlog-proof@v1"
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


class CheckpointError(Exception):
    """A head of a tree, or a receipt, that cannot be read or does not hold."""


class OtherKey(CheckpointError):
    """It is signed under the name that it should be, by a key that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How large a log is, and its root then; `origin` says which log."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the text of a note.

        Raises:
            CheckpointError: it is no checkpoint.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() or not all(lines):
            raise CheckpointError("not the three lines of a checkpoint")
        origin, size, root, *extensions = lines
        return cls(
            origin=origin,
            size=_number(size, "size"),
            root=_hash(root),
            extensions=tuple(extensions),
        )

    def text(self) -> str:
        """Write it as it is signed."""
        lines = (self.origin, str(self.size), to_base64(self.root), *self.extensions)
        if any(not line or "\n" in line for line in lines):
            raise ValueError("an empty line, or more than one, in a checkpoint")
        return "".join(f"{line}\n" for line in lines)


def read_checkpoint(data: bytes) -> Checkpoint:
    """Read a signed checkpoint, and verify nothing of it: its key is still to be found.

    Raises:
        CheckpointError: it is none.
    """
    try:
        return Checkpoint.parse(Note.parse(data).text)
    except NoteError as error:
        raise CheckpointError(str(error)) from None


def open_checkpoint(data: bytes, keys: Iterable[VerifierKey]) -> tuple[Checkpoint, Note]:
    """Read a signed checkpoint that one of `keys`, whose name is the log's origin, has signed.

    Raises:
        CheckpointError: it is none, or not signed by such a key; `OtherKey`.
    """
    known = tuple(keys)
    try:
        note = Note.parse(data)
        signed = note.verified(known)
    except NoteError as error:
        raise CheckpointError(str(error)) from None
    if not signed:
        raise _unsigned(note, known)
    checkpoint = Checkpoint.parse(note.text)
    if all(key.name != checkpoint.origin for key in signed):
        raise CheckpointError(f"a checkpoint of {checkpoint.origin!r}, signed by {signed[0].name}")
    return checkpoint, note


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """That an entry lies at `index` of a log: `hashes` lead from its leaf to the root of
    `checkpoint`, which is a signed note. `extra` is anything; nobody vouches for it."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> Receipt:
        """Read a receipt.

        Raises:
            CheckpointError: it is none.
        """
        if len(data) > RECEIPT_BYTES_MAX:
            raise CheckpointError(f"a receipt of more than {RECEIPT_BYTES_MAX} bytes")
        head, blank, checkpoint = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise CheckpointError("not a receipt") from None
        if not blank or lines.pop(0) != _FIRST_LINE or not lines:
            raise CheckpointError(f"not a receipt: {_FIRST_LINE!r} is its first line")
        extra = b""
        if lines[0].startswith("extra "):
            extra = _decoded(lines.pop(0).removeprefix("extra "), "extra data")
        if not lines or not lines[0].startswith("index "):
            raise CheckpointError("a receipt without an index")
        index = _number(lines.pop(0).removeprefix("index "), "index")
        if len(lines) > merkle.PROOF_HASHES_MAX:
            raise CheckpointError(f"a receipt with more than {merkle.PROOF_HASHES_MAX} hashes")
        hashes = tuple(map(_hash, lines))
        return cls(index=index, hashes=hashes, checkpoint=checkpoint, extra=extra)

    def encode(self) -> bytes:
        """Write it."""
        lines = [_FIRST_LINE]
        if self.extra:
            lines.append(f"extra {to_base64(self.extra)}")
        lines += [f"index {self.index}", *map(to_base64, self.hashes)]
        return "\n".join(lines).encode() + b"\n\n" + self.checkpoint

    def verify(self, leaf: bytes, keys: Iterable[VerifierKey]) -> Checkpoint:
        """Give the checkpoint below which the leaf hash of an entry lies.

        Raises:
            CheckpointError: it does not, or nobody of `keys` says so.
        """
        checkpoint, _ = open_checkpoint(self.checkpoint, keys)
        if not merkle.verify_inclusion(
            leaf, self.index, checkpoint.size, self.hashes, checkpoint.root
        ):
            raise CheckpointError(f"the entry is not at {self.index} of {checkpoint.origin}")
        return checkpoint


def _unsigned(note: Note, known: Sequence[VerifierKey]) -> CheckpointError:
    """Say who signed a head that none of the keys has signed."""
    names = sorted({key.name for key in known})
    under = [signature for signature in note.signatures if signature.name in names]
    if not under:
        return CheckpointError(f"a checkpoint that is not signed by {', '.join(names) or 'nobody'}")
    others = ", ".join(sorted({one.key_id.hex() for one in under})[:NAMED_MAX])
    ids = [key.key_id.hex() for key in known if key.name == under[0].name]
    one_of = "" if len(ids) == 1 else f"one of the {len(ids)} keys up to "
    return OtherKey(
        f"a checkpoint that is signed as {under[0].name} by the key {others}, and not by "
        f"{one_of}{ids[-1]}"
    )


def _number(text: str, what: str) -> int:
    if _NUMBER.fullmatch(text) is None or int(text) > SIZE_MAX:
        raise CheckpointError(f"{text[:40]!r} is no {what}")
    return int(text)


def _hash(text: str) -> bytes:
    data = _decoded(text, "hash")
    if len(data) != merkle.HASH_BYTES:
        raise CheckpointError(f"a hash of {len(data)} bytes")
    return data


def _decoded(text: str, what: str) -> bytes:
    data = from_base64(text)
    if not data:
        raise CheckpointError(f"{text[:60]!r} is no base64 for {what}")
    return data
