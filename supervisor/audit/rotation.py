"""Rotation of the log's key: how one public key vouches for all that come after it. Pure.

A statement is the body of an entry. It is a signed note (C2SP signed-note) over the log's name, an
index and the new key; the old key signs it, and the new one too, so that nobody names as theirs a
key that they do not hold, and no log is left to a key that cannot sign.

    {"statement":"…"}       stockade key rotation v1
                            NAME OF THE LOG
                            INDEX
                            NEW KEY as name+id+base64
                            <blank>
                            — signatures of both

Heads over more than INDEX entries are the new key's, and all smaller ones the old key's: a head
that has the entry at INDEX is the new key's. The statement itself lies at INDEX or before, and
after the index of the statement before it. No key comes twice, and none gives two successors.

The first line has spaces, which no name of a log has: no head of a log can be such a statement.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from supervisor.audit import notes
from supervisor.audit.checkpoints import (
    SIZE_MAX,
    Checkpoint,
    CheckpointError,
    open_checkpoint,
    read_checkpoint,
)
from supervisor.audit.entry import Kind, body_of, decode_head
from supervisor.audit.notes import Algorithm, Note, NoteError, Signer, VerifierKey
from supervisor.call.types import Json

FIELD = "statement"
ROTATIONS_MAX = 10_000
"""How many keys a log has had at most: one a day for 27 years."""

_FIRST_LINE = "stockade key rotation v1"
_MARK = f'"kind":"{Kind.KEY_ROTATED}"'.encode()
_INDEX = re.compile(r"0|[1-9][0-9]{0,18}")


class RotationError(Exception):
    """A statement that cannot be read, or a chain of them that does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What a statement says: heads over more than `index` entries are the key's. Nothing of it is
    verified but that `key` has signed it."""

    key: VerifierKey
    index: int
    note: Note

    @classmethod
    def parse(cls, body: Mapping[str, object]) -> Rotation:
        """Read the body of an entry.

        Raises:
            RotationError: it is no statement, or the new key has not signed it.
        """
        text = body.get(FIELD)
        if not isinstance(text, str) or len(body) != 1:
            raise RotationError(f"not the body of a statement, which has {FIELD!r} alone")
        try:
            note = Note.parse(text.encode())
            first, origin, index, key, *rest = note.text.split("\n")
            if first != _FIRST_LINE or rest != [""] or _INDEX.fullmatch(index) is None:
                raise RotationError("a statement has four lines: what it is, log, index, key")
            new = VerifierKey.parse(key)
            agreed = note.verified([new])
        except (NoteError, ValueError) as error:
            raise RotationError(f"not a statement: {error}") from None
        if str(new) != key or new.algorithm is not Algorithm.ED25519:
            raise RotationError("the new key is not an Ed25519 key as name+id+base64")
        if new.name != origin:
            raise RotationError(f"the log is {origin}, and the new key is of {new.name}")
        if not agreed:
            raise RotationError(f"the new key {new.key_id.hex()} has not signed it")
        if int(index) > SIZE_MAX - 1:
            raise RotationError(f"{index} is no index")
        return cls(key=new, index=int(index), note=note)

    def signed_by(self, old: VerifierKey) -> bool:
        """Say whether a key has signed it.

        Raises:
            RotationError: a signature says that it is of that key, and is not.
        """
        try:
            return bool(self.note.verified([old]))
        except NoteError as error:
            raise RotationError(str(error)) from None


def rotate(old: Signer, new: Signer, index: int) -> dict[str, Json]:
    """Make the body of the entry that hands the log over, from `index` on.

    Raises:
        ValueError: the keys are of two logs, or the same, or not of Ed25519.
        StockadeError: one of them cannot sign.
    """
    if old.key.name != new.key.name:
        raise ValueError(f"{old.key.name} and {new.key.name} are two logs")
    if old.key.public == new.key.public:
        raise ValueError("the new key is the old one")
    if {old.key.algorithm, new.key.algorithm} != {Algorithm.ED25519}:
        raise ValueError("the key of a log is an Ed25519 key")
    if not 0 <= index < SIZE_MAX:
        raise ValueError(f"{index} is no index")
    text = f"{_FIRST_LINE}\n{new.key.name}\n{index}\n{new.key}\n"
    return {FIELD: notes.sign(text, [old, new]).encode().decode()}


def statement_in(entry: bytes) -> Mapping[str, object] | None:
    """Give the body of an entry of the log, its exact bytes, where it is a statement."""
    if _MARK not in entry:
        return None
    head = decode_head(entry)
    return body_of(entry) if head is not None and head.kind == Kind.KEY_ROTATED else None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChain:
    """The keys of one log in their order: `keys[n]` signs the heads over `sizes[n]` entries and
    more, up to where the next one begins."""

    keys: tuple[VerifierKey, ...]
    sizes: tuple[int, ...]

    @property
    def current(self) -> VerifierKey:
        """Give the last key."""
        return self.keys[-1]

    def at(self, size: int) -> VerifierKey | None:
        """Give the key that signs heads over `size` entries; None where it is an earlier one than
        any of these."""
        place = bisect_right(self.sizes, size)
        return self.keys[place - 1] if place else None

    def open(self, data: bytes) -> Checkpoint:
        """Read a signed head that the key has signed whose time it was.

        Raises:
            CheckpointError: it is none, or not signed by that key.
        """
        size = read_checkpoint(data).size
        whose = self.at(size)
        if whose is None:
            raise CheckpointError(
                f"a head over {size} entries is of an earlier key than "
                f"{self.keys[0].key_id.hex()}, which signs those over {self.sizes[0]} and more: "
                "give that earlier key"
            )
        checkpoint, note = open_checkpoint(data, self.keys)
        if not any(map(whose.made, note.signatures)):
            raise CheckpointError(
                f"a head over {checkpoint.size} entries is to be signed by {whose.key_id.hex()}, "
                "and another key of the log did"
            )
        return checkpoint


def follow(key: VerifierKey, statements: Iterable[tuple[int, Mapping[str, object]]]) -> KeyChain:
    """Give all keys of a log that `key` vouches for: itself and those after it.

    `statements` are all that lie in the log, as the index of the entry and its body, in the log's
    order. Where one of them made `key` the log's, those before it are none of its business.

    Raises:
        RotationError: they are no chain: which one, and why.
    """
    found = [(at, _parsed(at, body)) for at, body in _limited(statements)]
    keys, sizes, previous = [key], [0], -1
    start = _start(key, found)
    if start is not None:
        at, statement = found[start]
        _require_order(at, previous, statement)
        previous, sizes, found = statement.index, [statement.index + 1], found[start + 1 :]
    for at, statement in found:
        _require_order(at, previous, statement)
        _require_next(at, statement, keys)
        previous = statement.index
        keys.append(statement.key)
        sizes.append(statement.index + 1)
    return KeyChain(keys=tuple(keys), sizes=tuple(sizes))


def _limited(
    statements: Iterable[tuple[int, Mapping[str, object]]],
) -> Iterator[tuple[int, Mapping[str, object]]]:
    for count, (at, body) in enumerate(statements):
        if count == ROTATIONS_MAX:
            raise _broken(at, f"the log has had more than {ROTATIONS_MAX} keys")
        yield at, body


def _parsed(at: int, body: Mapping[str, object]) -> Rotation:
    try:
        return Rotation.parse(body)
    except RotationError as error:
        raise _broken(at, str(error)) from None


def _start(key: VerifierKey, found: Sequence[tuple[int, Rotation]]) -> int | None:
    """Find the statement that made `key` the log's; None where it is the first of these keys.

    The key itself has signed that statement, so it says itself since when it is.
    """
    for place, (at, statement) in enumerate(found):
        if statement.key.public == key.public:
            if any(_signed(*one, key) for one in found[:place]):
                raise _broken(at, f"the key {key.key_id.hex()} comes again")
            return place
    return None


def _require_order(at: int, previous: int, statement: Rotation) -> None:
    if not previous < at <= statement.index:
        raise _broken(
            at,
            f"it gives a key from {statement.index} on: it has to lie there or before, and after "
            f"{previous}, where the key before it begins",
        )


def _require_next(at: int, statement: Rotation, keys: Sequence[VerifierKey]) -> None:
    *former, current = keys
    if statement.key.name != current.name:
        raise _broken(at, f"it is of the log {statement.key.name}, not {current.name}")
    if any(statement.key.public == key.public for key in keys):
        raise _broken(at, f"the key {statement.key.key_id.hex()} comes again")
    if _signed(at, statement, current):
        return
    for key in former:
        if _signed(at, statement, key):
            raise _broken(at, f"a second successor of {key.key_id.hex()}: the chain forks")
    raise _broken(at, f"the log's key, {current.key_id.hex()}, has not signed it")


def _signed(at: int, statement: Rotation, key: VerifierKey) -> bool:
    try:
        return statement.signed_by(key)
    except RotationError as error:
        raise _broken(at, str(error)) from None


def _broken(at: int, why: str) -> RotationError:
    return RotationError(f"the key rotation at entry {at}: {why}")
