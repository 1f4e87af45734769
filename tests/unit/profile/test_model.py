"""The values inside: frozen, and an image written as in YAML."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.profile.model import Image, ImageKind, PortRange, WritableMount, united


@pytest.mark.parametrize(
    ("image", "written"),
    [
        (Image(kind=ImageKind.HOST), "host"),
        (Image(kind=ImageKind.DIR, path="/srv/image"), "dir:/srv/image"),
        (
            Image(kind=ImageKind.OCI, name="python", digest="ab" * 32),
            f"oci:python@sha256:{'ab' * 32}",
        ),
    ],
)
def test_images_are_written_as_in_yaml(image: Image, written: str) -> None:
    assert str(image) == written


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), max_size=8))
def test_united_ranges_hold_the_same_ports_sorted_and_apart(pairs: list[tuple[int, int]]) -> None:
    ranges = [PortRange(low=low, high=low + more) for low, more in pairs]
    whole = united(ranges)
    assert {p for p in range(60) if any(p in r for r in whole)} == {
        p for p in range(60) if any(p in r for r in ranges)
    }
    assert all(one.high + 1 < other.low for one, other in itertools.pairwise(whole))


def test_values_cannot_be_changed() -> None:
    mount = WritableMount(path="/work", size_bytes=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mount.exec = True  # type: ignore[misc]
