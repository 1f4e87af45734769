"""Values that have more than fields."""

from __future__ import annotations

import pytest

from supervisor.call.types import Digest
from supervisor.client.values import RecordEntry


@pytest.mark.parametrize(
    ("json", "body"), [(b'{"kind":"intent"}', {"kind": "intent"}), (b"[1]", {"value": [1]})]
)
def test_body(json: bytes, body: object) -> None:
    entry = RecordEntry(
        index=0, sequence=1, time_ns=0, kind="intent", json=json, leaf=Digest.of(json)
    )
    assert entry.body() == body
