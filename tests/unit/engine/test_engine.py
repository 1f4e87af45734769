"""Admission, ids, health, and what is refused."""

from __future__ import annotations

import uuid
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from supervisor.engine import engine as engine_module
from supervisor.engine.engine import new_call_id


def test_a_call_id_is_a_uuid_of_version_7() -> None:
    ids = [new_call_id() for _ in range(500)]
    assert len(set(ids)) == len(ids)
    for text in ids:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122


@given(st.lists(st.integers(0, (1 << 48) - 1), min_size=2, max_size=5, unique=True))
def test_call_ids_sort_by_the_millisecond(milliseconds: list[int]) -> None:
    found = []
    for one in milliseconds:
        with mock.patch.object(engine_module.time, "time_ns", lambda one=one: one * 1_000_000):
            found.append(new_call_id())
    assert sorted(found) == [text for _, text in sorted(zip(milliseconds, found, strict=True))]
    assert [int(text.replace("-", "")[:12], 16) for text in found] == milliseconds
