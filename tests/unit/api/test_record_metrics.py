"""How far the log is signed, since when it is not, and the marks of its disk."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from supervisor.api.record_metrics import RecordCollector
from supervisor.audit.outlet import Signing
from supervisor.audit.watermark import Mark, Watermark


@dataclass
class FakeRecord:
    durable: int = 0
    signed: int = 0
    unsigned: bool = False
    watermark: Watermark | None = None
    now: float = 100.0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        record: Any = self
        self.registry.register(RecordCollector(record, clock=lambda: self.now))

    @property
    def outlet(self) -> FakeRecord:
        return self

    def signing(self) -> Signing:
        return Signing(self.durable, self.signed, self.unsigned)

    def value(self, name: str, /, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"stockade_{name}", labels)


def test_how_far_it_is() -> None:
    record = FakeRecord(durable=7, signed=5)
    assert record.value("log_entries") == 7
    assert record.value("head_entries") == 5
    assert record.value("head_unsigned") == 0
    record.unsigned = True
    assert record.value("head_unsigned") == 1
    assert record.value("state_watermark_bytes", mark="soft") is None


def test_a_head_is_behind_since_it_was_seen_to_be() -> None:
    record = FakeRecord(durable=7, signed=7)
    record.now += 1000  # nothing happened: that is no age
    assert record.value("head_behind_seconds") == 0
    record.durable = 8
    assert record.value("head_behind_seconds") == 0
    record.now, record.durable = record.now + 15, 9
    assert record.value("head_behind_seconds") == 15
    record.signed = 8  # a newer head, and there is more again
    assert record.value("head_behind_seconds") == 0
    record.now += 2
    assert record.value("head_behind_seconds") == 2
    record.signed = 9
    assert record.value("head_behind_seconds") == 0


def test_marks(tmp_path: Path) -> None:
    mark = Watermark(tmp_path, soft=Mark(size_bytes=200), hard=Mark(size_bytes=100))
    record = FakeRecord(watermark=mark)
    assert record.value("state_watermark_bytes", mark="soft") == 200
    assert record.value("state_watermark_bytes", mark="hard") == 100


def test_marks_that_cannot_be_told(tmp_path: Path) -> None:
    def look(_: Path) -> os.statvfs_result:
        raise OSError(5, "Input/output error")

    mark = Watermark(tmp_path, soft=Mark(size_bytes=2), hard=Mark(size_bytes=1), look=look)
    record = FakeRecord(durable=3, watermark=mark)
    assert record.value("state_watermark_bytes", mark="soft") is None
    assert record.value("log_entries") == 3
