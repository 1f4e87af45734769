"""`image`: what the store says, printed; the store itself is tested in its own room."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from supervisor.errors import NotFound
from supervisor.oci import images
from supervisor.oci.images import StoredImage
from tests.unit.cli.conftest import Stockade

IMAGE = StoredImage(name="debian\x1b", digest="a" * 64, size_bytes=3 << 20)


@dataclass
class FakeStore:
    """What the verbs ask of the store."""

    state: Path
    images: list[StoredImage] = field(default_factory=lambda: [IMAGE])

    def import_layout(self, layout: Path, name: str) -> StoredImage:
        return StoredImage(name=name, digest="b" * 64, size_bytes=len(str(layout)))

    def list(self) -> list[StoredImage]:
        return self.images

    def remove(self, wanted: str) -> StoredImage:
        if wanted != "debian":
            raise NotFound("IMAGE_NOT_FOUND", wanted)
        return IMAGE


@pytest.fixture(autouse=True)
def _store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ImageStore", FakeStore)


def test_import(stockade: Stockade, tmp_path: Path) -> None:
    said = stockade("image", "import", tmp_path, "debian").stdout
    assert said == f"image: oci:debian@sha256:{'b' * 64}\n"
    found = json.loads(stockade("image", "import", "--json", tmp_path, "debian").stdout)
    assert found == {"name": "debian", "digest": "b" * 64, "size_bytes": len(str(tmp_path))}


def test_ls(stockade: Stockade) -> None:
    _, row = stockade("image", "ls").stdout.splitlines()
    assert row == f"debian\\e  3.0 MiB  sha256:{'a' * 64}"
    assert json.loads(stockade("image", "ls", "--json").stdout)[0]["digest"] == "a" * 64


def test_rm(stockade: Stockade) -> None:
    assert stockade("image", "rm", "debian").stdout.startswith("removed debian\\e sha256:aa")
    result = stockade("image", "rm", "other")
    assert result.exit_code == 3
    assert "[IMAGE_NOT_FOUND]" in result.stderr


def test_layout_must_be_there(stockade: Stockade) -> None:
    assert stockade("image", "import", "/nonexistent", "x").exit_code == 2
