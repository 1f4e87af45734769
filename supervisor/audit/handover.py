"""Hand a log over to another key, while no daemon has it.

The old key signs a last head over all that there is. Then an entry says which key comes after it,
signed by both (`rotation`), and once that is durable the new key signs the first head of its own.
Whoever believes the old key can follow.

An attempt that ends anywhere in between leaves a log that one of the two keys can go on with, or
that both are refused for until the same is done again: it goes on where it had come to.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.audit.directory import AGAIN, LOG_NAME, TREE_NAME, lock_state
from supervisor.audit.entry import Kind
from supervisor.audit.journal import Journal, JournalOptions
from supervisor.audit.keys import known_key, next_key, own_key, settle
from supervisor.audit.notes import Signer, VerifierKey
from supervisor.audit.reading import read_payloads
from supervisor.audit.rotation import rotate
from supervisor.audit.tree import LogTree
from supervisor.errors import AuditUnavailable, HostError, InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver:
    """What the log came to: `key` signs it. `former` did before, None where it was `key`'s already;
    `index` is the entry that says so, -1 then."""

    key: VerifierKey
    former: VerifierKey | None
    index: int


def hand_over(
    directory: Path,
    *,
    old: Signer | None = None,
    new: Signer | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
) -> HandedOver:
    """Hand the log in a state folder over from `old` to `new`: the key in the folder each, where
    none is given, and the new one is made there. The old one in the folder is removed.

    Doing it again, after it was interrupted, ends it.

    Raises:
        InvalidRequest: `ROTATION_INVALID`, where the keys are of two logs.
        AuditUnavailable: `STATE_LOCKED`, where a daemon has the folder; or there is no room.
        AuditCorrupt: the log is not the one that was signed.
        HostError: a key cannot be used, or `KEY_OTHER`, where the log is of neither.
    """
    lock_fd = lock_state(directory, hint=AGAIN)
    try:
        known = known_key(directory)
        to = new or next_key(directory, _origin(known, old))
        done = _handed_over(directory, known, old, to, clock_ns)
        settle(directory, to.key, own=new is None)
    finally:
        os.close(lock_fd)
    return done


def _origin(known: VerifierKey | None, old: Signer | None) -> str:
    if known is None and old is None:
        raise HostError(
            "KEY_INVALID", "the log has no key", hint="it gets one when the daemon starts"
        )
    return known.name if known is not None else old.key.name if old is not None else ""


def _handed_over(
    directory: Path,
    known: VerifierKey | None,
    old: Signer | None,
    new: Signer,
    clock_ns: Callable[[], int],
) -> HandedOver:
    with _journal(directory, clock_ns) as journal:
        former = [known] if known is not None else []
        try:
            _load(directory, journal, new, *former)
        except HostError as error:
            if error.reason != "KEY_OTHER":
                raise
        else:
            return HandedOver(key=new.key, former=None, index=-1)
        signer = old or own_key(directory, is_new=False)
        index, _ = journal.head
        try:
            statement = rotate(signer, new, index)
        except ValueError as error:
            raise InvalidRequest(
                "ROTATION_INVALID",
                f"{signer.key} cannot hand over to {new.key}: {error}",
                hint="a log keeps its name: origin: is the same for both keys",
            ) from None
        _load(directory, journal, signer, *former)
        journal.append(Kind.KEY_ROTATED, statement, time_ns=clock_ns(), reserved=True)
        journal.sync()
        _load(directory, journal, new, signer.key)
        return HandedOver(key=new.key, former=signer.key, index=index)


@contextlib.contextmanager
def _journal(directory: Path, clock_ns: Callable[[], int]) -> Iterator[Journal]:
    journal, end = Journal.open(directory / LOG_NAME, options=JournalOptions())
    try:
        if end.torn is not None:
            journal.append(Kind.LOG_CUT, end.torn.to_json(), time_ns=clock_ns(), reserved=True)
            journal.sync()
        yield journal
    finally:
        journal.close()


def _load(directory: Path, journal: Journal, signer: Signer, *former: VerifierKey) -> None:
    """Take up the tree, and have its head signed over all that is durable.

    Raises:
        HostError: `KEY_OTHER`, where the log is not this key's.
        AuditUnavailable: `RECORD_FULL`.
    """
    tree = LogTree(
        directory / TREE_NAME, signer, lambda index: read_payloads(journal, index), keys=former
    )
    size, _ = journal.head
    tree.load(size)
    if tree.behind:
        raise AuditUnavailable(
            "RECORD_FULL",
            "there is no room for the head of the log",
            hint="make room on the filesystem of the state directory, and do it again",
        )
