"""The one exception tree."""

from __future__ import annotations

import re

import grpc
import pytest

from supervisor import errors
from supervisor.errors import StockadeError

TREE = StockadeError.__subclasses__()


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = re.findall(r"[├└]── (\w+) .*? ([A-Z_]+) +exit (\d+)$", errors.__doc__ or "", re.M)
    assert drawn == [(e.__name__, e.code, str(e.exit_code)) for e in TREE]


@pytest.mark.parametrize("error", TREE, ids=lambda e: e.__name__)
def test_codes_are_grpc_codes(error: type[StockadeError]) -> None:
    assert error.code in grpc.StatusCode.__members__
    assert error.code not in {"OK", "UNKNOWN"}


@pytest.mark.parametrize("error", TREE, ids=lambda e: e.__name__)
def test_exit_codes_are_failures_that_no_program_result_looks_like(
    error: type[StockadeError],
) -> None:
    assert 1 <= error.exit_code < 124


def test_the_base_is_a_failure_of_ours() -> None:
    error = StockadeError("BUG", "what happened")
    assert (error.code, error.exit_code, error.metadata, error.hint) == ("INTERNAL", 1, {}, "")
    assert error.retry_after_s is None


def test_text_is_message_reason_and_hint() -> None:
    error = errors.HostError("NO_WALL", "no such wall", hint="build one")
    assert str(error) == "no such wall [NO_WALL]\n  hint: build one"
    assert str(errors.HostError("NO_WALL", "no such wall")) == "no such wall [NO_WALL]"


def test_metadata_is_a_copy() -> None:
    given = {"file": "a.yaml"}
    error = errors.ProfileError("PROFILE_INVALID", "wrong", metadata=given)
    given["file"] = "b.yaml"
    assert error.metadata == {"file": "a.yaml"}
