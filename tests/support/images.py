"""Tiny images: a root filesystem of static programs, as a folder and as an OCI layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

HELLO = """
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void list(const char *path)
{
	struct dirent *entry;
	DIR *folder = opendir(path);
	printf("%s:", path);
	while (folder && (entry = readdir(folder)))
		if (entry->d_name[0] != '.')
			printf(" %s", entry->d_name);
	printf("\\n");
}
int main(int argc, char **argv)
{
	char text[64] = "";
	int fd = open("/etc/image", O_RDONLY);
	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
		printf("%s", text);
	for (int i = 1; i < argc; i++) {
		fd = open(argv[i], O_WRONLY | O_CREAT, 0644);
		printf("write %s: %s\\n", argv[i], fd < 0 ? strerror(errno) : "done");
	}
	list("/");
	return 0;
}
"""
ARCHITECTURE = {"architecture": "amd64", "os": "linux"}


def make_root(folder: Path) -> Path:
    """Build a root filesystem with one static program, /bin/hello, and one file of its own."""
    root = folder / "root"
    for name in ("bin", "etc", "opt"):
        (root / name).mkdir(parents=True)
    (root / "etc/image").write_text("of the image\n")
    source = folder / "hello.c"
    source.write_text(HELLO)
    subprocess.run(["gcc", "-static", "-Os", "-o", root / "bin/hello", source], check=True)
    return root


def make_layout(root: Path, layout: Path) -> Path:
    """Pack `root` into an OCI image layout with one layer (OCI image-spec 1.0)."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        sha256 = hashlib.sha256(data).hexdigest()
        (blobs / sha256).write_bytes(data)
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{sha256}", "size": len(data)}

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(root.rglob("*")):
            archive.add(path, path.relative_to(root).as_posix(), recursive=False)
    tar = buffer.getvalue()
    layer = put(gzip.compress(tar), "layer.v1.tar+gzip")
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]}
    config = put(json.dumps({**ARCHITECTURE, "config": {}, "rootfs": rootfs}).encode(),
                 "config.v1+json")  # fmt: skip
    manifest = put(
        json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode(),
        "manifest.v1+json",
    )
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    return layout
