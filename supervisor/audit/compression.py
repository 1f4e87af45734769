"""Zstd frames of contents: how they are made, and what may come out of one that anybody may have
made."""

from __future__ import annotations

import threading

import zstandard

ZSTD_LEVEL = 1


class _Compressors(threading.local):
    """One compressor a thread: they keep a megabyte each, and take one caller at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)


_compressors = _Compressors()


def compress(data: bytes | memoryview) -> bytes:
    """Give `data` as one zstd frame that says its content size."""
    return _compressors.compressor.compress(data)


def decompress(decompressor: zstandard.ZstdDecompressor, frame: bytes, size_max: int) -> bytes:
    """Give what is in one zstd frame, at most `size_max` bytes.

    Raises:
        zstandard.ZstdError: it is damaged, or says that it holds more.
    """
    # `max_output_size` bounds what comes of a frame that does not say how much it holds.
    if (claimed := zstandard.frame_content_size(frame)) > size_max:
        raise zstandard.ZstdError(f"it claims {claimed} bytes")
    return decompressor.decompress(frame, max_output_size=size_max)


def stored_bytes_max(size_bytes: int) -> int:
    """Give how long the file of a blob can be at most: what does not shrink grows a little, and is
    sealed."""
    return size_bytes + size_bytes // 64 + (64 << 10)
