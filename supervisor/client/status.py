"""Turn a gRPC status back into the error that the daemon raised.

The class follows from the code; where several classes share one, the reason in ErrorInfo decides.
A status without ErrorInfo was made by gRPC itself, on this side or on the way.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from supervisor import errors

STATUS_KEY = "grpc-status-details-bin"
HINT_KEY = "hint"
NO_ANSWER = "NO_ANSWER"

_BY_CODE: dict[str, type[errors.StockadeError]] = {
    "INVALID_ARGUMENT": errors.InvalidRequest,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "PERMISSION_DENIED": errors.NotPermitted,
    "NOT_FOUND": errors.NotFound,
    "ALREADY_EXISTS": errors.RequestConflict,
    "OUT_OF_RANGE": errors.OutOfRange,
    "RESOURCE_EXHAUSTED": errors.CapacityError,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "DATA_LOSS": errors.AuditCorrupt,
}

_BY_REASON: dict[str, tuple[tuple[tuple[str, ...], type[errors.StockadeError]], ...]] = {
    "FAILED_PRECONDITION": (
        (
            (
                "CALL_",
                "CONSOLE_",
                "CONTENT_",
                "HEAD_",
                "NOT_ENCRYPTED",
                "NOT_HELD",
                "RETENTION_",
                "SINK_",
                "STDIN_",
                "TERMINAL_",
            ),
            errors.CallStateError,
        ),
        (("PROFILE_", "FRAGMENT_", "CONFIG_", "POLICY_", "TLS_"), errors.ProfileError),
        (("",), errors.HostError),
    ),
    "UNAVAILABLE": (
        (("SHUTTING_DOWN",), errors.ShuttingDown),
        (("",), errors.AuditUnavailable),
    ),
    "INTERNAL": (
        (("OCI_", "RUNTIME_", "RUNC_"), errors.RuntimeFailed),
        (("BROKER_",), errors.BrokerFailed),
        (("",), errors.InvariantError),
    ),
}
"""Code → prefixes of a reason → class; the first that fits."""


def error_of(
    code: str, message: str, trailing: Iterable[tuple[str, str | bytes]]
) -> errors.StockadeError:
    """Give the error for a status: `code` by name, and the trailing metadata.

    UNAVAILABLE without ErrorInfo comes back as `Unreachable`, and so does our own deadline, with
    `NO_ANSWER`; the caller knows the address and can say more.
    """
    info, retry_after_s = _details(trailing)
    if info is None:
        return _of_transport(code, message)
    metadata = dict(info.metadata)
    hint = metadata.pop(HINT_KEY, "")
    return class_of(code, info.reason)(
        info.reason, message, hint=hint, metadata=metadata, retry_after_s=retry_after_s
    )


def class_of(code: str, reason: str) -> type[errors.StockadeError]:
    """Give the class of supervisor.errors for a code and a reason."""
    if code in _BY_CODE:
        return _BY_CODE[code]
    for prefixes, kind in _BY_REASON.get(code, ()):
        if reason.startswith(prefixes):
            return kind
    return errors.InvariantError


def _of_transport(code: str, message: str) -> errors.StockadeError:
    if code == "UNAVAILABLE":
        return errors.Unreachable("CONNECTION_LOST", message)
    if code == "DEADLINE_EXCEEDED":
        return errors.Unreachable(NO_ANSWER, "it did not answer in time")
    if code == "RESOURCE_EXHAUSTED":
        return errors.InvalidRequest("MESSAGE_TOO_LARGE", message)
    if code == "UNIMPLEMENTED":
        return errors.NotFound("RPC_UNKNOWN", message, hint="is the daemon as new as this client?")
    return errors.InvariantError(f"TRANSPORT_{code}", message)


def _details(
    trailing: Iterable[tuple[str, str | bytes]],
) -> tuple[error_details_pb2.ErrorInfo | None, float | None]:
    """Unpack ErrorInfo and RetryInfo; details that do not decode count as absent."""
    info: error_details_pb2.ErrorInfo | None = None
    retry_after_s: float | None = None
    for key, value in trailing:
        if key != STATUS_KEY or not isinstance(value, bytes):
            continue
        try:
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                    info = error_details_pb2.ErrorInfo()
                    detail.Unpack(info)
                elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                    retry = error_details_pb2.RetryInfo()
                    detail.Unpack(retry)
                    retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        except DecodeError:
            return None, None
    return info, retry_after_s
