"""Images of the daemon's own, content addressed: an OCI layout, unpacked once by umoci.

`images/sha256/<manifest digest>/bundle/rootfs` is the root filesystem, `images/names/<name>` says
which digest a name meant when it was imported. Profiles name the digest, so a name decides nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import HostError, InvalidRequest, NotFound
from supervisor.linux.host import find_program, run_program

NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?")
DIGEST = re.compile(r"[0-9a-f]{64}")
MANIFESTS_MAX = 1
UNPACK_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image of the store; `size_bytes` is that of its files, `name` is "" where its name was
    given to another."""

    name: str
    digest: str
    size_bytes: int


class ImageStore:
    """The images under a state directory."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "images"

    def root_folder(self, digest: str) -> Path:
        """Give the root filesystem of the image with that manifest digest (64 hex characters).

        Raises:
            HostError: `IMAGE_NOT_FOUND`.
        """
        folder = self._folder / "sha256" / digest / "bundle" / "rootfs"
        if not folder.is_dir():
            raise HostError(
                "IMAGE_NOT_FOUND",
                f"no image with digest sha256:{digest} is in the store",
                hint="stockade image import LAYOUT NAME",
            )
        return folder

    def import_layout(self, layout: Path, name: str) -> StoredImage:
        """Unpack an OCI image layout (a folder with one manifest) and give it a name.

        Nothing is left behind where it fails.

        Raises:
            InvalidRequest: IMAGE_NAME_INVALID, IMAGE_LAYOUT_INVALID.
            HostError: umoci is missing or failed.
        """
        if not NAME.fullmatch(name):
            raise InvalidRequest(
                "IMAGE_NAME_INVALID", f"{name!r}: lower-case letters, digits, '.', '_' and '-' only"
            )
        digest = _manifest_digest(layout)
        target = self._folder / "sha256" / digest
        if not target.is_dir():
            self._unpack(layout, target)
        names = self._folder / "names"
        names.mkdir(parents=True, exist_ok=True, mode=0o700)
        (names / f".{name}").write_text(digest)
        (names / f".{name}").rename(names / name)
        return StoredImage(name=name, digest=digest, size_bytes=_size(target))

    def _unpack(self, layout: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as scratch:
            # umoci takes an image by tag; a copy of the layout gets one of ours, and the
            # caller's layout stays as it is.
            copy = Path(scratch) / "layout"
            shutil.copytree(layout, copy, symlinks=True)
            _tag(copy, "stockade")
            bundle = Path(scratch) / "image" / "bundle"
            bundle.parent.mkdir(mode=0o755)
            umoci = find_program("umoci")
            run_program(
                [umoci, "unpack", "--image", f"{copy}:stockade", str(bundle)], UNPACK_TIMEOUT_S
            )
            bundle.chmod(0o755)
            bundle.parent.rename(target)

    def list(self) -> list[StoredImage]:
        """List the images by name, those that lost theirs first.

        Raises:
            InvalidRequest: `STATE_MISSING`, there is no such state directory.
        """
        if not self._folder.parent.is_dir():
            raise InvalidRequest(
                "STATE_MISSING",
                f"there is no state folder {self._folder.parent}",
                hint="--state names the daemon's",
            )
        names = self._folder / "names"
        named = {
            entry.name: entry.read_text()
            for entry in (names.iterdir() if names.is_dir() else ())
            if not entry.name.startswith(".")
        }
        folder = self._folder / "sha256"
        found = list(named.items())
        found += [
            ("", entry.name)
            for entry in (folder.iterdir() if folder.is_dir() else ())
            if DIGEST.fullmatch(entry.name) and entry.name not in named.values()
        ]
        return [
            StoredImage(name=name, digest=digest, size_bytes=_size(folder / digest))
            for name, digest in sorted(found)
        ]

    def remove(self, wanted: str) -> StoredImage:
        """Remove an image by name or digest; its files go with its last name.

        Raises:
            NotFound: `IMAGE_NOT_FOUND`.
            InvalidRequest: `STATE_MISSING`.
        """
        wanted = wanted.removeprefix("sha256:")
        images = self.list()
        gone = [image for image in images if wanted in (image.name, image.digest)]
        if not wanted or not gone:
            raise NotFound("IMAGE_NOT_FOUND", f"no image {wanted!r} is in the store")
        for image in gone:
            if image.name:
                (self._folder / "names" / image.name).unlink()
        digest = gone[0].digest
        if not any(image.digest == digest for image in images if image not in gone):
            shutil.rmtree(self._folder / "sha256" / digest)
        return gone[0]


def _manifest_digest(layout: Path) -> str:
    manifests = _index(layout)["manifests"]
    if len(manifests) != MANIFESTS_MAX:
        raise InvalidRequest(
            "IMAGE_LAYOUT_INVALID",
            f"{layout}/index.json names {len(manifests)} manifests; exactly one is needed",
            hint="skopeo copy SOURCE oci:FOLDER:TAG into an empty folder",
        )
    algorithm, _, digest = str(manifests[0].get("digest", "")).partition(":")
    if algorithm != "sha256" or not DIGEST.fullmatch(digest):
        raise InvalidRequest(
            "IMAGE_LAYOUT_INVALID", f"{layout}/index.json: digest {algorithm}:{digest}"
        )
    return digest


def _index(layout: Path) -> dict[str, list[dict[str, object]]]:
    try:
        index = json.loads((layout / "index.json").read_text())
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            "IMAGE_LAYOUT_INVALID",
            f"{layout} is no OCI image layout: {error}",
            hint="a folder with oci-layout, index.json and blobs/",
        ) from error
    manifests = index.get("manifests") if isinstance(index, dict) else None
    if not isinstance(manifests, list) or not all(isinstance(one, dict) for one in manifests):
        raise InvalidRequest("IMAGE_LAYOUT_INVALID", f"{layout}/index.json has no manifests")
    checked: dict[str, list[dict[str, object]]] = index
    return checked


def _tag(layout: Path, tag: str) -> None:
    index = _index(layout)
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (layout / "index.json").write_text(json.dumps(index))


def _size(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        total += sum((Path(parent) / name).lstat().st_size for name in files)
    return total
