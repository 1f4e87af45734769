"""Heads that somebody keeps, and that this log does not begin with: it was rewritten, or cut back,
as by a state folder that was put back from a copy.

Nothing can take that back, so the log goes on, and says so: in the daemon's log, and in an entry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from supervisor.audit.checkpoints import Checkpoint, CheckpointError, open_checkpoint
from supervisor.audit.entry import Kind
from supervisor.audit.journal import Journal
from supervisor.audit.notes import VerifierKey, to_base64
from supervisor.audit.tree import LogTree
from supervisor.audit.witness import Contradicted, Pusher, Witness, WitnessObserver
from supervisor.call.types import Json
from supervisor.errors import StockadeError

log = logging.getLogger("stockade.audit")


def push_heads(
    tree: LogTree,
    journal: Journal,
    witnesses: Sequence[Witness],
    observer: WitnessObserver | None,
    clock_ns: Callable[[], int],
) -> Pusher:
    """Give what gives the heads of a log to its witnesses, and holds the log to what they have."""

    def append(body: Mapping[str, Json]) -> None:
        journal.append(Kind.HEAD_CONTRADICTED, body, time_ns=clock_ns(), reserved=True)

    return Pusher(
        tree.current,
        witnesses,
        prove=tree.consistency,
        check=lambda heads: check(tree, heads),
        contradicted=lambda witness, why: tell(witness, why, append),
        observer=observer,
    )


def check(tree: LogTree, heads: Iterable[bytes]) -> None:
    """Hold a log to heads of it that were kept; what none of its keys has signed says nothing.

    Raises:
        Contradicted: it does not begin with one of them, the largest of those.
        AuditUnavailable: `TREE_BEHIND`, while the tree is being made again.
        AuditCorrupt: `CHECKPOINT_BROKEN`, where a tile is gone or damaged.
    """
    signed = {head for data in heads if (head := _signed(data, tree.keys)) is not None}
    for head in sorted(signed, key=lambda one: one.size, reverse=True):
        size, root = tree.root(head.size)
        if root == head.root:
            continue
        if size < head.size:
            why = f"it has a head over {head.size} entries, and here are {size}: it was cut back"
        else:
            tree.require_other(head)  # nobody has checked the tiles below it
            why = f"its head over {head.size} entries has another root: it was rewritten"
        root_text = to_base64(head.root)
        raise Contradicted(why, size=head.size, root=root_text, shorter=size < head.size)


def _signed(data: bytes, keys: Sequence[VerifierKey]) -> Checkpoint | None:
    try:
        return open_checkpoint(data, keys)[0]
    except CheckpointError:
        return None


def tell(witness: str, why: Contradicted, append: Callable[[Mapping[str, Json]], object]) -> None:
    """Say that a witness has a head that the log does not begin with."""
    log.critical("the log is not the one that the witness %s knows: %s", witness, why)
    body: dict[str, Json] = {
        "witness": witness, "size": why.size, "root": why.root, "why": str(why),
    }  # fmt: skip
    try:
        append(body)
    except StockadeError as error:
        log.error("that could not be recorded: %s", error.message)
