"""The Merkle tree of RFC 6962 (section 2.1) over the leaf hashes of the log. Pure.

A tree is read through its complete subtrees: `Subtrees.at(level, index)` is the hash over the
leaves from index · 2^level on, 2^level of them. Roots and proofs of any size follow from those, and
whoever stores them (`tiles`) stores nothing else. Proofs are verified as in RFC 9162 (sections
2.1.3.2 and 2.1.4.2), by who has nothing but hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()
"""The root of a tree without leaves."""

PROOF_HASHES_MAX = 64
"""Of an inclusion proof: a tree has fewer than 2^64 leaves. A consistency proof has one more."""


class Subtrees(Protocol):
    """Who knows the hashes of complete subtrees."""

    def at(self, level: int, index: int) -> bytes:
        """Give the hash over 2^level leaves from index · 2^level on."""


def node_hash(left: bytes, right: bytes) -> bytes:
    """Give the hash of the node above two others."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of_leaves(leaves: Sequence[bytes]) -> bytes:
    """Give the root over leaf hashes that are all at hand."""
    if not leaves:
        return EMPTY_ROOT
    row = list(leaves)
    while len(row) > 1:
        # A node without a neighbour goes up as it is, which is the definition's uneven split.
        odd = row[-1:] if len(row) % 2 else []
        pairs = zip(row[0::2], row[1::2], strict=False)
        row = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs] + odd
    return row[0]


def root(size: int, subtrees: Subtrees) -> bytes:
    """Give the root of the first `size` leaves."""
    return _over(0, size, subtrees) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, subtrees: Subtrees) -> list[bytes]:
    """Give the hashes that lead from the leaf at `index` to the root over `size` leaves, from its
    sibling upwards.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} of a tree of {size}")
    begin, end, path = 0, size, list[bytes]()
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(_over(middle, end, subtrees))
            end = middle
        else:
            path.append(_over(begin, middle, subtrees))
            begin = middle
    return path[::-1]


def consistency_proof(old: int, new: int, subtrees: Subtrees) -> list[bytes]:
    """Give the hashes that show a tree of `new` leaves to begin with the tree of `old` leaves.

    Raises:
        ValueError: `old` is 0, which anything begins with, or greater than `new`.
    """
    if not 0 < old <= new:
        raise ValueError(f"from a tree of {old} to one of {new}")
    begin, end, path = 0, new, list[bytes]()
    known = True  # That what is left of the old tree is all of it, whose root the verifier has.
    while old < end:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(_over(middle, end, subtrees))
            end = middle
        else:
            path.append(_over(begin, middle, subtrees))
            begin, known = middle, False
    if not known:
        path.append(_over(begin, end, subtrees))
    return path[::-1]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Say whether `proof` shows the leaf hash at `index` under the root over `size` leaves."""
    if not 0 <= index < size:
        return False
    node, last, at = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            at = node_hash(sibling, at)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            at = node_hash(at, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and at == root


def verify_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Say whether `proof` shows that the tree of `new` leaves begins with that of `old`.

    The empty tree is the beginning of any: its root is checked, and the proof is empty.
    """
    if old == 0:
        return new >= 0 and old_root == EMPTY_ROOT and not proof
    if old == new:
        return old_root == new_root and not proof
    if not 0 < old < new or not proof:
        return False
    hashes = iter(proof if old & (old - 1) else [old_root, *proof])
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old_at = new_at = next(hashes)
    for sibling in hashes:
        if last == 0:
            return False
        if node & 1 or node == last:
            old_at, new_at = node_hash(sibling, old_at), node_hash(sibling, new_at)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new_at = node_hash(new_at, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old_at == old_root and new_at == new_root


def _over(begin: int, end: int, subtrees: Subtrees) -> bytes:
    """Give the hash over the leaves from `begin` up to `end`, as the definition splits them."""
    at = None
    for level, index in reversed(list(complete(begin, end))):
        left = subtrees.at(level, index)
        at = left if at is None else node_hash(left, at)
    if at is None:
        raise ValueError("no leaves")
    return at


def complete(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Give the complete subtrees, as (level, index), that a subtree of the definition consists of,
    from left to right: each is smaller than the one before it. `begin` is where it begins."""
    while begin < end:
        level = (end - begin).bit_length() - 1
        yield level, begin >> level
        begin += 1 << level


def _split(count: int) -> int:
    """Give the greatest power of two below a count of two or more."""
    return 1 << ((count - 1).bit_length() - 1)
