"""Planted secrets, and the search of a folder for what is left of them, raw and decompressed."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import re2
import zstandard

from tests.unit.audit.redaction.samples import rule_samples

LEFT_BYTES = 8
"""So many bytes of a secret in a row must be left nowhere."""

MAGIC = b"\x28\xb5\x2f\xfd"


def credentials(count: int = 100) -> list[tuple[bytes, bytes]]:
    """Give texts with what looks like a credential, and the credential."""
    samples = (
        sample
        for seed in itertools.count()
        for name, sample in rule_samples(random.Random(seed)).items()
        if name not in ("iban", "card", "us-ssn", "e-mail")
    )
    found = itertools.islice(samples, count)
    return [(text.encode(), secret.encode()) for text, secret in found]


def disk(directory: Path) -> Iterator[bytes]:
    """Give every file below a folder as it is, and each zstd frame in it, decompressed."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            raw = path.read_bytes()
            yield raw
            at = raw.find(MAGIC)
            while at >= 0:
                decompressor = zstandard.ZstdDecompressor().decompressobj()
                with contextlib.suppress(zstandard.ZstdError):  # it only looks like a frame
                    yield decompressor.decompress(raw[at:])
                at = raw.find(MAGIC, at + 1)


def windows(secret: bytes) -> Iterator[bytes]:
    for line in secret.split(b"\n"):
        if line.startswith(b"-----"):
            continue  # the log's own key begins so, too
        for at in range(0, max(1, len(line) - LEFT_BYTES + 1), 3):
            if line[at : at + LEFT_BYTES]:
                yield line[at : at + LEFT_BYTES]


def left(directory: Path, secrets: list[bytes]) -> list[bytes]:
    """Give the secrets of which something is on the disk."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = 512 << 20
    parts = {window for one in secrets for window in windows(one)}
    pattern = re2.compile(b"|".join(re2.escape(part) for part in sorted(parts)), options)
    found = {match.group() for data in disk(directory) for match in pattern.finditer(data)}
    return [one for one in secrets if any(window in found for window in windows(one))]
