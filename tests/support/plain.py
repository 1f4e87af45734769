"""Looking for plain bytes in all of a folder: as they lie there, and decompressed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import zstandard


def where(folder: Path, *wanted: bytes) -> list[str]:
    """Name the files that hold any of these, raw or in a zstd frame, wherever it begins."""
    return [
        str(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(one in text for text in _texts(path) for one in wanted)
    ]


def _texts(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    at = data.find(zstandard.FRAME_HEADER)
    while at >= 0:
        # Four bytes may only look like the beginning of a frame; what a torn one has is looked at.
        reader = zstandard.ZstdDecompressor().stream_reader(data[at:])
        with contextlib.suppress(zstandard.ZstdError):
            yield b"".join(iter(lambda source=reader: source.read(1 << 16), b""))  # type: ignore[misc]
        at = data.find(zstandard.FRAME_HEADER, at + 1)
