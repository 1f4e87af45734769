"""What `doctor` says of the record's key and its witnesses."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from supervisor.api.config import Record
from supervisor.api.witness_config import WitnessEntry
from supervisor.audit.store import Store
from supervisor.audit.witness_word import WORD_NAME, WitnessWord
from supervisor.cli.doctor_record import log_key, witness_rows
from tests.unit.audit.test_witness_word import Told

FILE = WitnessEntry(file="/mnt/heads")


def row_of(state: Path) -> tuple[str, str]:
    (row,) = witness_rows(state, [FILE])
    assert row.wall == "witness /mnt/heads"
    return row.verdict, row.detail


def test_how_a_witness_does(tmp_path: Path) -> None:
    assert row_of(tmp_path)[0] == "absent"
    word = WitnessWord(tmp_path, Told(), lambda: 1_800_000_000.0)
    word.witness_took("/mnt/heads", 1_700_000_000.0)
    os.utime(tmp_path / WORD_NAME, (1_700_000_050, 1_700_000_050))
    assert row_of(tmp_path) == (
        "holds",
        "it had the newest head at 2023-11-14 22:13:20Z, as of 2023-11-14 22:14:10Z: told once a "
        "minute at most",
    )
    word.witness_fails("/mnt/heads", "no room")
    verdict, said = row_of(tmp_path)
    assert verdict == "fails"
    assert said.startswith("it takes none since 2027-01-15 08:00:00Z: no room; it had")
    word.witness_fails("/mnt/heads", "")
    word.head_contradicted("/mnt/heads", "it was cut back")
    assert row_of(tmp_path) == (
        "fails", "the log is not the one that it knows: it was cut back",
    )  # fmt: skip


def test_word_that_is_damaged_is_no_good_word(tmp_path: Path) -> None:
    (tmp_path / WORD_NAME).write_bytes(b"[")
    (row,) = witness_rows(tmp_path, [FILE])
    assert row.verdict == "fails"


def test_what_signs_the_log(tmp_path: Path) -> None:
    assert log_key(tmp_path, None).verdict == "absent"
    asyncio.run(Store.open(tmp_path).close())
    row = log_key(tmp_path, None)
    name, number, _ = (tmp_path / "log.pub").read_text().split("+", 2)
    assert (row.verdict, row.detail) == (
        "holds",
        f"{name}, {number}, by the key in {tmp_path / 'log.key'}; contents are for who has the "
        "disk",
    )
    (tmp_path / "log.key").chmod(0o644)
    assert log_key(tmp_path, None).verdict == "fails"


@pytest.mark.parametrize(
    ("key", "where"), [({"file": "/etc/k"}, "/etc/k"), ({"credential": "c"}, "the credential c")]
)
def test_where_the_key_is(tmp_path: Path, key: dict[str, str], where: str) -> None:
    asyncio.run(Store.open(tmp_path).close())
    record = Record.model_validate({"origin": "log.example.com/a", "key": key})
    assert f"by the key in {where};" in log_key(tmp_path, record).detail
