"""RFC 6962, section 2.1, as it stands there: the tree, its proofs, and how they are checked.

Written from the text alone, to hold `merkle` and `tiles` to it: nothing of ours is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def largest_power_below(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(d: Sequence[bytes]) -> bytes:
    """2.1: the Merkle Tree Hash of a list of entries."""
    if not d:
        return sha256(b"")
    if len(d) == 1:
        return sha256(b"\x00" + d[0])
    k = largest_power_below(len(d))
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:]))


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    """2.1.1: the audit path of the entry m."""
    if len(d) == 1:
        return []
    k = largest_power_below(len(d))
    if m < k:
        return [*path(m, d[:k]), mth(d[k:])]
    return [*path(m - k, d[k:]), mth(d[:k])]


def proof(m: int, d: Sequence[bytes]) -> list[bytes]:
    """2.1.2: the consistency proof of the first m entries."""
    return subproof(m, d, True)


def subproof(m: int, d: Sequence[bytes], b: bool) -> list[bytes]:
    n = len(d)
    if m == n:
        return [] if b else [mth(d)]
    k = largest_power_below(n)
    if m <= k:
        return [*subproof(m, d[:k], b), mth(d[k:])]
    return [*subproof(m - k, d[k:], False), mth(d[:k])]


def root_by_path(m: int, n: int, leaf: bytes, hashes: Sequence[bytes]) -> bytes:
    """The root that an audit path leads to, by the definition's own recursion."""
    if n == 1:
        if hashes:
            raise ValueError("too many hashes")
        return leaf
    k = largest_power_below(n)
    *rest, last = hashes
    if m < k:
        return sha256(b"\x01" + root_by_path(m, k, leaf, rest) + last)
    return sha256(b"\x01" + last + root_by_path(m - k, n - k, leaf, rest))
