"""`image`: what a store says, printed; and once with the real store and its umoci."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from supervisor.errors import NotFound
from supervisor.oci import images
from supervisor.oci.images import StoredImage
from tests.unit.cli.conftest import Stockade
from tests.unit.oci.layout import write_layout

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


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ImageStore", FakeStore)


@pytest.mark.usefixtures("store")
def test_import(stockade: Stockade, tmp_path: Path) -> None:
    said = stockade("image", "import", tmp_path, "debian").stdout
    assert said == f"image: oci:debian@sha256:{'b' * 64}\n"
    found = json.loads(stockade("image", "import", "--json", tmp_path, "debian").stdout)
    assert found == {"name": "debian", "digest": "b" * 64, "size_bytes": len(str(tmp_path))}


@pytest.mark.usefixtures("store")
def test_ls(stockade: Stockade) -> None:
    _, row = stockade("image", "ls").stdout.splitlines()
    assert row == f"debian\\e  3.0 MiB  sha256:{'a' * 64}"
    assert json.loads(stockade("image", "ls", "--json").stdout)[0]["digest"] == "a" * 64


@pytest.mark.usefixtures("store")
def test_rm(stockade: Stockade) -> None:
    assert stockade("image", "rm", "debian").stdout.startswith("removed debian\\e sha256:aa")
    result = stockade("image", "rm", "other")
    assert result.exit_code == 3
    assert "[IMAGE_NOT_FOUND]" in result.stderr


def test_layout_must_be_there(stockade: Stockade) -> None:
    assert stockade("image", "import", "/nonexistent", "x").exit_code == 2


@pytest.mark.root  # umoci gives unpacked files their owners
def test_the_real_store(stockade: Stockade, tmp_path: Path) -> None:
    digest = write_layout(tmp_path / "layout", {"usr/bin/tool": b"#!/bin/sh\n"})
    state = ("--state", tmp_path / "state")
    for words in (("ls",), ("rm", "tools")):
        missing = stockade("image", *words, *state)
        assert (missing.exit_code, missing.stdout) == (2, "")
        assert f"there is no state folder {tmp_path}/state [STATE_MISSING]" in missing.stderr
    (tmp_path / "state").mkdir()
    assert stockade("image", "ls", *state).stderr == "stockade: no images\n"
    said = stockade("image", "import", tmp_path / "layout", "tools", *state)
    assert (said.exit_code, said.stdout) == (0, f"image: oci:tools@sha256:{digest}\n")
    again = json.loads(
        stockade("image", "import", tmp_path / "layout", "more", *state, "--json").stdout
    )
    assert json.loads(stockade("image", "ls", "--json", *state).stdout) == [
        again, {**again, "name": "tools"},
    ]  # fmt: skip
    assert stockade("image", "rm", "more", *state).stdout == f"removed more sha256:{digest}\n"
    _, row = stockade("image", "ls", *state).stdout.splitlines()
    assert row.split()[0] == "tools"
    assert stockade("image", "rm", f"sha256:{digest}", *state).exit_code == 0
    gone = stockade("image", "rm", "tools", *state)
    assert (gone.exit_code, "[IMAGE_NOT_FOUND]" in gone.stderr) == (3, True)


def test_the_real_store_refuses(stockade: Stockade, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    state = ("--state", tmp_path / "state")
    (tmp_path / "state").mkdir()
    none = stockade("image", "import", tmp_path / "empty", "tools", *state)
    assert (none.exit_code, "[IMAGE_LAYOUT_INVALID]" in none.stderr) == (2, True)
    write_layout(tmp_path / "layout", {"f": b""})
    name = stockade("image", "import", tmp_path / "layout", "../up", *state)
    assert (name.exit_code, "[IMAGE_NAME_INVALID]" in name.stderr) == (2, True)
    assert stockade("image", "ls", *state).stderr == "stockade: no images\n"
