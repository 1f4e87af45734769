"""The values inside: frozen, and an image written as in YAML."""

from __future__ import annotations

import dataclasses

import pytest

from supervisor.profile.model import Image, ImageKind, WritableMount


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


def test_values_cannot_be_changed() -> None:
    mount = WritableMount(path="/work", size_bytes=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mount.exec = True  # type: ignore[misc]
