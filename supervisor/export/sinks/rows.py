"""Batches as objects of a store: which there are, what they are called, and their bytes. No I/O.

A batch becomes one object for each class and day of its events. Its key says from where to where in
the log it goes, and ends with a digest of the uids in it: the same events have the same key, so
that a repeat overwrites, and others never have it.
"""

from __future__ import annotations

import datetime
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from supervisor.export.event import Event

DEPTH_MAX = 32
ZSTD_LEVEL = 3
NS = 10**9


class RowsError(Exception):
    """Events cannot be rows of one table; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One object: events of one class and day (UTC), by position in the batch, in their order."""

    class_uid: int
    day: str
    positions: tuple[int, ...]


def pieces(batch: Sequence[Event]) -> list[Piece]:
    """Cut a batch, in the order of each one's first event."""
    found: dict[tuple[int, str], list[int]] = {}
    for at, event in enumerate(batch):
        found.setdefault((event.class_uid, _day(event.time_ns)), []).append(at)
    return [
        Piece(class_uid=class_uid, day=day, positions=tuple(positions))
        for (class_uid, day), positions in found.items()
    ]


def name_of(events: Sequence[Event], ending: str) -> str:
    """Give the last part of a key: first and last index, in the order of text, and the digest."""
    uids = "\n".join(event.uid for event in events)
    digest = hashlib.sha256(uids.encode()).hexdigest()[:16]
    return f"{events[0].index:020d}-{events[-1].index:020d}-{digest}.{ending}"


def lines_of(events: Sequence[Event]) -> bytes:
    """Give JSON lines under zstd, the same bytes for the same events."""
    whole = b"".join(event.data + b"\n" for event in events)
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(whole)


def parquet_of(events: Sequence[Event]) -> bytes:
    """Give a Parquet file, its rows sorted by time, and as they came within one time.

    The columns are those that these events have. `unmapped` and what else has no keys of OCSF's
    own are free, so `unmapped` is text, JSON; what is empty is left out: Parquet has no empty
    struct.

    Raises:
        RowsError: an event is no JSON object, or a column would be of two types.
    """
    rows = [_row(event) for event in sorted(events, key=lambda event: event.time_ns)]
    try:
        table = pa.Table.from_pylist(rows, schema=pa.schema(_fields(rows)))
        out = io.BytesIO()
        pq.write_table(table, out, compression="zstd")
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise RowsError(f"no table can be made of them: {error}") from None
    return out.getvalue()


def _fields(rows: Sequence[Mapping[str, Any]]) -> list[pa.Field]:
    """Give the columns: all keys of all rows; `from_pylist` alone takes the first row's."""
    names = sorted(set().union(*rows))
    return [pa.field(name, pa.array([row.get(name) for row in rows]).type) for name in names]


def _row(event: Event) -> dict[str, Any]:
    try:
        row = orjson.loads(event.data)
    except orjson.JSONDecodeError as error:
        raise RowsError(f"an event is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise RowsError("an event is no JSON object")
    if row.get("unmapped"):
        row["unmapped"] = orjson.dumps(row["unmapped"]).decode()
    kept = _kept(row, DEPTH_MAX)
    return kept if isinstance(kept, dict) else {}


def _kept(value: Any, depth: int) -> Any:
    """Take out what is empty: None stands for it."""
    if not depth:
        raise RowsError(f"an event is nested deeper than {DEPTH_MAX}")
    if isinstance(value, dict):
        kept = {name: _kept(one, depth - 1) for name, one in value.items()}
        return {name: one for name, one in kept.items() if one is not None} or None
    if isinstance(value, list):
        return [one for each in value if (one := _kept(each, depth - 1)) is not None] or None
    return value


def _day(time_ns: int) -> str:
    return datetime.datetime.fromtimestamp(time_ns // NS, datetime.UTC).strftime("%Y%m%d")
