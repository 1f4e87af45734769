"""The image store: import, list, remove, and nothing left where an import fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import HostError, InvalidRequest, NotFound
from supervisor.oci.images import ImageStore

from .layout import write_layout

FILES = {"usr/bin/tool": b"#!/bin/sh\n", "etc/motd": b"hello\n"}
needs_root = pytest.mark.root  # umoci gives unpacked files their owners


def tree(folder: Path) -> dict[str, bytes]:
    """Give every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@needs_root
def test_an_image_is_found_by_its_digest(tmp_path: Path) -> None:
    digest = write_layout(tmp_path / "layout", FILES)
    store = ImageStore(tmp_path / "state")
    stored = store.import_layout(tmp_path / "layout", "tools")
    assert (stored.name, stored.digest) == ("tools", digest)
    assert store.list() == [stored]
    assert tree(store.root_folder(digest)) == FILES


@needs_root
def test_the_caller_s_layout_stays_as_it_is(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", FILES, tag="v1")
    before = tree(tmp_path / "layout")
    ImageStore(tmp_path / "state").import_layout(tmp_path / "layout", "tools")
    assert tree(tmp_path / "layout") == before


@needs_root
def test_a_sandbox_may_read_the_image_and_nobody_the_store(tmp_path: Path) -> None:
    digest = write_layout(tmp_path / "layout", FILES)
    store = ImageStore(tmp_path / "state")
    store.import_layout(tmp_path / "layout", "tools")
    bundle = store.root_folder(digest).parent
    assert bundle.stat().st_mode & 0o005 == 0o005
    assert (tmp_path / "state/images/sha256").stat().st_mode & 0o077 == 0


@needs_root
def test_two_names_share_the_files_until_the_last_goes(tmp_path: Path) -> None:
    digest = write_layout(tmp_path / "layout", FILES)
    store = ImageStore(tmp_path / "state")
    first = store.import_layout(tmp_path / "layout", "one")
    second = store.import_layout(tmp_path / "layout", "two")
    assert [image.name for image in store.list()] == ["one", "two"]
    assert store.remove("one") == first
    assert tree(store.root_folder(digest)) == FILES
    assert store.list() == [second]
    assert store.remove("two") == second
    assert store.list() == []
    with pytest.raises(HostError):
        store.root_folder(digest)
    assert not list((tmp_path / "state/images/sha256").iterdir())


@needs_root
def test_removing_by_digest_removes_every_name(tmp_path: Path) -> None:
    digest = write_layout(tmp_path / "layout", FILES)
    store = ImageStore(tmp_path / "state")
    for name in ("one", "two"):
        store.import_layout(tmp_path / "layout", name)
    assert store.remove(f"sha256:{digest}").digest == digest
    assert store.list() == []


@needs_root
def test_a_name_can_be_given_to_another_image(tmp_path: Path) -> None:
    old = write_layout(tmp_path / "old", FILES)
    new = write_layout(tmp_path / "new", {"etc/motd": b"changed\n"})
    store = ImageStore(tmp_path / "state")
    store.import_layout(tmp_path / "old", "tools")
    store.import_layout(tmp_path / "new", "tools")
    assert [(image.name, image.digest) for image in store.list()] == [("", old), ("tools", new)]
    # Profiles name digests: what a profile meant before, it still means.
    assert tree(store.root_folder(old)) == FILES
    assert store.remove(old).digest == old
    assert [image.name for image in store.list()] == ["tools"]
    assert tree(store.root_folder(new)) == {"etc/motd": b"changed\n"}


@needs_root
def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", FILES)
    for blob in (tmp_path / "layout/blobs/sha256").iterdir():
        if blob.stat().st_size > 5000:
            blob.write_bytes(b"not the layer")
    store = ImageStore(tmp_path / "state")
    with pytest.raises(HostError) as raised:
        store.import_layout(tmp_path / "layout", "tools")
    assert raised.value.reason == "PROGRAM_FAILED"
    assert store.list() == []
    assert tree(tmp_path / "state") == {}
    assert not list((tmp_path / "state/images/sha256").iterdir())


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    assert store.list() == []
    with pytest.raises(HostError) as missing:
        store.root_folder("0" * 64)
    assert missing.value.reason == "IMAGE_NOT_FOUND"
    for wanted in ("tools", "", "sha256:", "0" * 64, "../names"):
        with pytest.raises(NotFound) as gone:
            store.remove(wanted)
        assert gone.value.reason == "IMAGE_NOT_FOUND"


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "Tools", "a/b", "../a", "-a", "a-", "a\n", "ä", "a" * 129]
)
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    write_layout(tmp_path / "layout", FILES)
    with pytest.raises(InvalidRequest) as raised:
        ImageStore(tmp_path / "state").import_layout(tmp_path / "layout", name)
    assert raised.value.reason == "IMAGE_NAME_INVALID"
    assert not (tmp_path / "state").exists()


def _manifests(change: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    def spoil(layout: Path) -> None:
        index = json.loads((layout / "index.json").read_text())
        index["manifests"] = change(index["manifests"])
        (layout / "index.json").write_text(json.dumps(index))

    return spoil


SPOILT: dict[str, Callable[[Path], Any]] = {
    "no index": lambda layout: (layout / "index.json").unlink(),
    "no JSON": lambda layout: (layout / "index.json").write_text("{"),
    "no text": lambda layout: (layout / "index.json").write_bytes(b"\xff\xfe"),
    "no object": lambda layout: (layout / "index.json").write_text("[]"),
    "no manifests": lambda layout: (layout / "index.json").write_text("{}"),
    "an empty list": _manifests(lambda manifests: []),
    "two manifests": _manifests(lambda manifests: manifests * 2),
    "a number": _manifests(lambda manifests: 1),
    "an object": _manifests(lambda manifests: {"0": manifests[0]}),
    "null": _manifests(lambda manifests: None),
    "a word in the list": _manifests(lambda manifests: ["sha256:" + "0" * 64]),
    "no digest": _manifests(lambda manifests: [{}]),
    "another hash": _manifests(lambda manifests: [{"digest": "sha512:" + "0" * 128}]),
    "a path as digest": _manifests(lambda manifests: [{"digest": "sha256:../../" + "0" * 58}]),
    "upper case": _manifests(lambda manifests: [{"digest": "sha256:" + "A" * 64}]),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_layouts_that_are_none(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    layout = tmp_path / "layout"
    write_layout(layout, FILES)
    spoil(layout)
    with pytest.raises(InvalidRequest) as raised:
        ImageStore(tmp_path / "state").import_layout(layout, "tools")
    assert raised.value.reason == "IMAGE_LAYOUT_INVALID"
    assert not (tmp_path / "state").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as raised:
        ImageStore(tmp_path / "state").import_layout(tmp_path / "nowhere", "tools")
    assert raised.value.reason == "IMAGE_LAYOUT_INVALID"


@needs_root
def test_a_manifest_that_does_not_have_its_digest_is_refused(tmp_path: Path) -> None:
    """The digest is what profiles pin: the content has to be the one that it names."""
    layout = tmp_path / "layout"
    digest = write_layout(layout, FILES)
    other = write_layout(tmp_path / "other", {"etc/motd": b"another\n"})
    for blob in (tmp_path / "other/blobs/sha256").iterdir():
        (layout / "blobs/sha256" / blob.name).write_bytes(blob.read_bytes())
    manifest = layout / "blobs/sha256" / digest
    manifest.write_bytes((layout / "blobs/sha256" / other).read_bytes())
    assert hashlib.sha256(manifest.read_bytes()).hexdigest() != digest
    store = ImageStore(tmp_path / "state")
    with pytest.raises(HostError):
        store.import_layout(layout, "tools")
    assert store.list() == []
