"""Each status becomes the class of supervisor.errors that it was made from."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from supervisor import errors
from supervisor.client import status

REASONS = {
    errors.InvalidRequest: "ARGV_EMPTY",
    errors.Unauthenticated: "PEER_UNKNOWN",
    errors.NotPermitted: "PROFILE_NOT_GRANTED",
    errors.NotFound: "PROFILE_NOT_FOUND",
    errors.RequestConflict: "REQUEST_ID_REUSED",
    errors.CallStateError: "STDIN_CLOSED",
    errors.OutOfRange: "SEQUENCE_AHEAD",
    errors.ProfileError: "PROFILE_INVALID",
    errors.HostError: "HOST_UNFIT",
    errors.CapacityError: "CALLS_LIMIT",
    errors.DeadlineExceeded: "DEADLINE_EXCEEDED",
    errors.AuditUnavailable: "JOURNAL_UNAVAILABLE",
    errors.ShuttingDown: "SHUTTING_DOWN",
    errors.AuditCorrupt: "CHAIN_BROKEN",
    errors.RuntimeFailed: "OCI_CREATE_FAILED",
    errors.BrokerFailed: "BROKER_NOT_STARTED",
    errors.InvariantError: "BUG",
}
CLIENT_ONLY = {errors.Unreachable, errors.OutcomeError}


def details(info: error_details_pb2.ErrorInfo, *more: object) -> list[tuple[str, bytes]]:
    message = status_pb2.Status(code=3, message="m")
    for detail in (info, *more):
        message.details.add().Pack(detail)
    return [("other", b"x"), (status.STATUS_KEY, message.SerializeToString())]


def test_every_class_has_a_reason_here() -> None:
    assert REASONS.keys() | CLIENT_ONLY == set(errors.StockadeError.__subclasses__())


@pytest.mark.parametrize("kind", REASONS, ids=lambda kind: kind.__name__)
def test_class(kind: type[errors.StockadeError]) -> None:
    info = error_details_pb2.ErrorInfo(reason=REASONS[kind], domain="stockade")
    info.metadata["hint"] = "do this"
    info.metadata["profile"] = "python"
    error = status.error_of(kind.code, "what", details(info))
    assert type(error) is kind
    assert (error.reason, error.message, error.hint) == (REASONS[kind], "what", "do this")
    assert error.metadata == {"profile": "python"}


def raised_by_the_daemon() -> Iterator[tuple[type[errors.StockadeError], str]]:
    """Give each class with each reason that the daemon's code makes it with in plain text."""
    classes = {kind.__name__: kind for kind in REASONS}
    for path in sorted(Path(errors.__file__).parent.rglob("*.py")):
        if {"cli", "client", "v1"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name):
                reason = node.args[0]
                if node.func.id in classes and isinstance(reason, ast.Constant) and reason.value:
                    yield classes[node.func.id], str(reason.value)


INWARD = {"ABANDONED"}
"""Reasons that never leave the daemon."""


def test_each_state_that_the_daemon_tells_of_a_call_comes_back_as_that() -> None:
    """HostError has the same code: the reason alone tells them apart."""
    raised = {one for kind, one in raised_by_the_daemon() if kind is errors.CallStateError}
    told = raised - INWARD
    assert len(told) > 5
    code = errors.CallStateError.code
    assert {one for one in told if status.class_of(code, one) is not errors.CallStateError} == set()


def test_retry_delay() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    info = error_details_pb2.ErrorInfo(reason="CALLS_LIMIT")
    assert status.error_of("RESOURCE_EXHAUSTED", "m", details(info, retry)).retry_after_s == 1.5


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("UNAVAILABLE", errors.Unreachable),
        ("DEADLINE_EXCEEDED", errors.Unreachable),
        ("RESOURCE_EXHAUSTED", errors.InvalidRequest),
        ("UNIMPLEMENTED", errors.NotFound),
        ("UNKNOWN", errors.InvariantError),
    ],
)
def test_status_that_no_daemon_made(code: str, kind: type[errors.StockadeError]) -> None:
    assert type(status.error_of(code, "m", [])) is kind


def test_every_code_gives_something() -> None:
    for code in grpc.StatusCode:
        assert issubclass(status.class_of(code.name, "X"), errors.StockadeError)


def test_details_that_do_not_decode_count_as_absent() -> None:
    error = status.error_of("UNAVAILABLE", "m", [(status.STATUS_KEY, b"\xff\xff\xff")])
    assert type(error) is errors.Unreachable
