"""Batches as objects."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard

from supervisor.export.event import Event
from supervisor.export.sinks.rows import RowsError, lines_of, name_of, parquet_of, pieces
from tests.support.deliveries import TIME_NS, event, events

DAY_NS = 86_400 * 10**9


def of(index: int, row: Any, *, time_ns: int = TIME_NS, class_uid: int = 6003) -> Event:
    data = json.dumps(row).encode()
    return dataclasses.replace(event(index), data=data, time_ns=time_ns, class_uid=class_uid)


def table(sent: list[Event]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(io.BytesIO(parquet_of(sent))).to_pylist()
    return found


def test_one_object_for_each_class_and_day() -> None:
    batch = [
        of(0, {}), of(1, {}, class_uid=1007), of(2, {}), of(3, {}, time_ns=TIME_NS + DAY_NS),
        of(4, {}, class_uid=1007),
    ]  # fmt: skip
    found = [(one.class_uid, one.day, one.positions) for one in pieces(batch)]
    assert found == [
        (6003, "20261127", (0, 2)), (1007, "20261127", (1, 4)), (6003, "20261128", (3,)),
    ]  # fmt: skip


def test_a_name_is_of_these_events_and_no_others() -> None:
    batch = events(12)
    name = name_of(batch, "x")
    assert name.startswith("00000000000000000000-00000000000000000011-")
    assert name == name_of(list(batch), "x")
    other = name_of([batch[0], *batch[2:]], "x")
    assert other != name
    assert name_of([event(5, number=0)], "x") != name_of([event(5, number=1)], "x")


def test_lines() -> None:
    batch = events(5)
    whole = lines_of(batch)
    assert whole == lines_of(batch)
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(whole)
    assert lines.split(b"\n") == [*(one.data for one in batch), b""]


def test_rows_are_sorted_by_time() -> None:
    batch = [of(at, {"n": at}, time_ns=TIME_NS - at % 3) for at in range(6)]
    assert [row["n"] for row in table(batch)] == [2, 5, 1, 4, 0, 3]


def test_all_columns_of_all_rows() -> None:
    """Also those that the first row does not have."""
    rows = [
        {"a": 1, "o": {"x": 1}, "none": None, "e": {}, "l": []},
        {"b": "t", "o": {"y": ["z"], "e": {"e": {}}}, "l": [{"k": 1}, {}]},
    ]
    found = table([of(at, row) for at, row in enumerate(rows)])
    assert found == [
        {"a": 1, "b": None, "o": {"x": 1, "y": None}, "l": None},
        {"a": None, "b": "t", "o": {"x": None, "y": ["z"]}, "l": [{"k": 1}]},
    ]


def test_what_has_free_keys_is_text() -> None:
    rows = [{"unmapped": {"k": 1}}, {"unmapped": {"k": "t"}}, {"unmapped": {}, "n": 1}]
    found = table([of(at, row) for at, row in enumerate(rows)])
    assert [row["unmapped"] for row in found] == ['{"k":1}', '{"k":"t"}', None]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{"a": 1}, {"a": "t"}], "no table"),
        ([{"a": 1}, {"a": {"b": 1}}], "no table"),
        ([[]], "no JSON object"),
    ],
)
def test_what_is_no_table(rows: list[Any], why: str) -> None:
    with pytest.raises(RowsError, match=why):
        parquet_of([of(at, row) for at, row in enumerate(rows)])


def test_what_is_no_row() -> None:
    with pytest.raises(RowsError, match="no JSON"):
        parquet_of([dataclasses.replace(event(0), data=b"CEF:0|x")])
    deep: Any = 1
    for _ in range(40):
        deep = {"d": deep}
    with pytest.raises(RowsError, match="deeper"):
        parquet_of([of(0, deep)])
