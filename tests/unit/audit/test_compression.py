"""Zstd frames that anybody may have made."""

import struct

import pytest
import zstandard

from supervisor.audit.compression import compress, decompress, stored_bytes_max

READER = zstandard.ZstdDecompressor()


@pytest.mark.parametrize("data", [b"", b"x", bytes(1 << 20)])
def test_what_was_compressed_comes_back(data: bytes) -> None:
    frame = compress(data)
    assert decompress(READER, frame, 1 << 20) == data
    assert len(frame) <= stored_bytes_max(len(data))


def test_a_frame_with_more_than_it_may_have() -> None:
    with pytest.raises(zstandard.ZstdError, match="claims 1048577 bytes"):
        decompress(READER, compress(bytes((1 << 20) + 1)), 1 << 20)


def test_a_frame_that_does_not_say_how_much_it_holds() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    with pytest.raises(zstandard.ZstdError):
        decompress(READER, frame, 1 << 10)


def test_a_claim_that_no_memory_could_hold() -> None:
    frame = b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + struct.pack("<Q", 1 << 62) + b"\1\0\0"
    with pytest.raises(zstandard.ZstdError, match="claims"):
        decompress(READER, frame, 1 << 20)
