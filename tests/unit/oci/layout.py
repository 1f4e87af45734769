"""A tiny OCI image layout, written by hand: one layer, one manifest."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MEDIA = "application/vnd.oci.image"


def write_layout(folder: Path, files: Mapping[str, bytes], *, tag: str = "latest") -> str:
    """Write an image that holds `files`; give the digest of its manifest in hexadecimal."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    layer = _layer(files)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{MEDIA}.manifest.v1+json",
        "config": _put(blobs, f"{MEDIA}.config.v1+json", json.dumps(config).encode()),
        "layers": [_put(blobs, f"{MEDIA}.layer.v1.tar", layer)],
    }
    described = _put(blobs, f"{MEDIA}.manifest.v1+json", json.dumps(manifest).encode())
    described["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    return str(described["digest"]).removeprefix("sha256:")


def _layer(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _put(blobs: Path, media_type: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}
