"""One ErrorInfo in each status, for every class of the tree."""

from __future__ import annotations

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from supervisor import errors
from supervisor.api.status import status_of
from supervisor.client.status import error_of


def tree(kind: type[errors.StockadeError]) -> list[type[errors.StockadeError]]:
    """Give the classes of supervisor.errors; other rooms' own kinds inherit their code."""
    children = (child for child in kind.__subclasses__() if child.__module__ == errors.__name__)
    return [kind, *(found for child in children for found in tree(child))]


def details(status: grpc.Status) -> Status:
    ((key, value),) = status.trailing_metadata
    assert key == "grpc-status-details-bin"
    return Status.FromString(value)


@pytest.mark.parametrize("kind", tree(errors.StockadeError))
def test_every_class_has_a_status(kind: type[errors.StockadeError]) -> None:
    status = status_of(kind("SOME_REASON", "text", hint="do it", metadata={"a": "b"}))
    assert status.code.name == kind.code
    assert status.code is not grpc.StatusCode.UNKNOWN
    rich = details(status)
    assert (rich.code, rich.message) == (status.code.value[0], status.details)
    (detail,) = rich.details
    info = ErrorInfo()
    assert detail.Unpack(info)
    assert (info.domain, info.reason) == ("stockade", "SOME_REASON")
    assert dict(info.metadata) == {"a": "b", "hint": "do it"}


def test_retry() -> None:
    rich = details(status_of(errors.CapacityError("CALLS_LIMIT", "full", retry_after_s=0.25)))
    retry = RetryInfo()
    assert rich.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 250


def test_a_bug_tells_nothing_of_itself() -> None:
    status = status_of(ValueError("/etc/secret"))
    assert status.code is grpc.StatusCode.INTERNAL
    assert b"secret" not in details(status).SerializeToString()


def test_what_is_long_still_fits_into_trailers() -> None:
    error = errors.ProfileError("PROFILE_INVALID", "ä" * 100_000, hint="ö" * 100_000)
    status = status_of(error)
    assert len(details(status).SerializeToString()) < 4096
    assert status.details.startswith("ää")


def test_the_client_gets_the_same_error_back() -> None:
    error = errors.CapacityError(
        "CALLS_LIMIT", "full", hint="wait", metadata={"limit": "5"}, retry_after_s=2.0
    )
    status = status_of(error)
    back = error_of(status.code.name, status.details, status.trailing_metadata)
    assert type(back) is errors.CapacityError
    assert (back.reason, back.hint, back.metadata, back.retry_after_s) == (
        error.reason, error.hint, error.metadata, error.retry_after_s,
    )  # fmt: skip
