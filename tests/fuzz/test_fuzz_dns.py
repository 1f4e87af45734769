"""DNS on both sides of the broker, from whatever bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import runner, target_answers, target_queries
from tests.support.rounds import rounds

TARGETS = {"queries": target_queries.TARGET, "answers": target_answers.TARGET}


@pytest.mark.parametrize("name", TARGETS)
def test_random_and_mutated_messages(name: str) -> None:
    result = runner.run(TARGETS[name], rounds(3000), seed=rounds(1))
    assert result.failure is None, result.failure


@given(st.binary(max_size=600))
def test_any_bytes_from_a_sandbox(data: bytes) -> None:
    target_queries.check(data)


@given(st.binary(min_size=4, max_size=4), st.lists(st.binary(max_size=70), max_size=6))
def test_any_labels_from_a_sandbox(ending: bytes, labels: list[bytes]) -> None:
    name = b"".join(bytes([len(label) & 63]) + label[: len(label) & 63] for label in labels)
    header = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0"
    for suffix in (b"", b"\x04wild\x07example\x03com"):
        target_queries.check(header + name + suffix + b"\0" + ending)
        target_queries.check(header + name + suffix + b"\0\0\x01\0\x01")


@given(st.binary(max_size=600))
def test_any_bytes_from_a_name_server(data: bytes) -> None:
    target_answers.check(data)
    header = target_answers.TARGET.seeds[0][:33]
    target_answers.check(header + data)
