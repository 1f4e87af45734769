"""The tree against its definition, and against the values that other implementations agree on."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit import merkle
from supervisor.audit.entry import leaf_hash
from tests.unit.audit import rfc6962

ENTRIES = tuple(str(number).encode() for number in range(300))
LEAVES = tuple(map(leaf_hash, ENTRIES))

# The eight entries and roots of the reference implementation of Certificate Transparency.
KNOWN_ENTRIES = tuple(
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
)  # fmt: skip
KNOWN_ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


class Rows:
    """Complete subtrees, computed from the leaves each time."""

    def __init__(self, leaves: tuple[bytes, ...]) -> None:
        self._leaves = leaves

    def at(self, level: int, index: int) -> bytes:
        begin, width = index << level, 1 << level
        assert begin + width <= len(self._leaves)
        return merkle.root_of_leaves(self._leaves[begin : begin + width])


SUBTREES = Rows(LEAVES)
sizes = st.integers(1, len(ENTRIES))


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_that_all_agree_on(size: int) -> None:
    leaves = tuple(map(leaf_hash, KNOWN_ENTRIES[:size]))
    assert merkle.root(size, Rows(leaves)).hex() == KNOWN_ROOTS[size]
    assert merkle.root_of_leaves(leaves).hex() == KNOWN_ROOTS[size]
    assert rfc6962.mth(KNOWN_ENTRIES[:size]).hex() == KNOWN_ROOTS[size]


@given(size=st.integers(0, len(ENTRIES)))
def test_the_root_is_the_definitions(size: int) -> None:
    assert merkle.root(size, SUBTREES) == rfc6962.mth(ENTRIES[:size])


@given(data=st.data(), size=sizes)
def test_an_inclusion_proof_is_the_definitions_and_holds(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, SUBTREES)
    assert proof == rfc6962.path(index, ENTRIES[:size])
    root = rfc6962.mth(ENTRIES[:size])
    assert merkle.verify_inclusion(LEAVES[index], index, size, proof, root)
    assert rfc6962.root_by_path(index, size, LEAVES[index], proof) == root


@given(data=st.data(), new=sizes)
def test_a_consistency_proof_is_the_definitions_and_holds(data: st.DataObject, new: int) -> None:
    old = data.draw(st.integers(1, new))
    proof = merkle.consistency_proof(old, new, SUBTREES)
    assert proof == rfc6962.proof(old, ENTRIES[:new])
    roots = rfc6962.mth(ENTRIES[:old]), rfc6962.mth(ENTRIES[:new])
    assert merkle.verify_consistency(old, roots[0], new, roots[1], proof)


@given(data=st.data(), size=sizes)
def test_an_inclusion_proof_shows_nothing_else(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, SUBTREES)
    root = merkle.root(size, SUBTREES)
    leaf = LEAVES[index]
    other = hashlib.sha256(leaf).digest()
    assert not merkle.verify_inclusion(other, index, size, proof, root)
    assert not merkle.verify_inclusion(leaf, index, size, proof, other)
    assert not merkle.verify_inclusion(leaf, size, size, proof, root)
    assert not merkle.verify_inclusion(leaf, -1, size, proof, root)
    assert not merkle.verify_inclusion(leaf, index, size, [*proof, other], root)
    elsewhere = data.draw(st.integers(0, size - 1))
    if elsewhere != index:
        assert not merkle.verify_inclusion(leaf, elsewhere, size, proof, root)
    for at in range(len(proof)):
        changed = [*proof[:at], other, *proof[at + 1 :]]
        assert not merkle.verify_inclusion(leaf, index, size, changed, root)
        assert not merkle.verify_inclusion(leaf, index, size, proof[:at] + proof[at + 1 :], root)


@given(data=st.data(), new=st.integers(2, len(ENTRIES)))
def test_a_consistency_proof_shows_nothing_else(data: st.DataObject, new: int) -> None:
    old = data.draw(st.integers(1, new - 1))
    proof = merkle.consistency_proof(old, new, SUBTREES)
    first, second = merkle.root(old, SUBTREES), merkle.root(new, SUBTREES)
    other = hashlib.sha256(first).digest()
    assert not merkle.verify_consistency(old, other, new, second, proof)
    assert not merkle.verify_consistency(old, first, new, other, proof)
    assert not merkle.verify_consistency(new, second, old, first, proof)
    assert not merkle.verify_consistency(old, first, new, second, [])
    assert not merkle.verify_consistency(old, first, new, second, [*proof, other])
    for at in range(len(proof)):
        changed = [*proof[:at], other, *proof[at + 1 :]]
        assert not merkle.verify_consistency(old, first, new, second, changed)


def test_the_empty_tree_is_the_beginning_of_any() -> None:
    root = merkle.root(5, SUBTREES)
    assert merkle.verify_consistency(0, merkle.EMPTY_ROOT, 5, root, [])
    assert merkle.verify_consistency(5, root, 5, root, [])
    assert not merkle.verify_consistency(0, root, 5, root, [])
    assert not merkle.verify_consistency(0, merkle.EMPTY_ROOT, 5, root, [root])
    assert not merkle.verify_consistency(5, root, 5, root, [root])


@pytest.mark.parametrize("asked", [(0, 0), (3, 3), (-1, 3)])
def test_there_is_no_proof_for_a_leaf_that_is_not_there(asked: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="leaf"):
        merkle.inclusion_proof(*asked, SUBTREES)


@pytest.mark.parametrize("asked", [(0, 3), (4, 3)])
def test_there_is_no_proof_from_nothing_or_backwards(asked: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="from a tree"):
        merkle.consistency_proof(*asked, SUBTREES)


def test_a_subtree_of_nothing_has_no_hash() -> None:
    with pytest.raises(ValueError, match="no leaves"):
        merkle._over(3, 3, SUBTREES)
