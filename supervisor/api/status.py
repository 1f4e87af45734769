"""Map the exception tree to gRPC, once: code, ErrorInfo, RetryInfo.

Every status that leaves the server is made here and carries exactly one ErrorInfo (AIP-193). What
is not in the tree is a bug of ours: INTERNAL with reason BUG, its text in the log and not on
the wire. UNKNOWN is never made.
"""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from supervisor.errors import StockadeError

DOMAIN = "stockade"

MESSAGE_BYTES_MAX = 4096
"""Details travel in trailers, and 8 KiB is what HTTP/2 peers commonly take for all of them (also
gRPC's default). The message stands there twice."""

METADATA_VALUE_BYTES_MAX = 512
BUG = "BUG"


def status_of(error: BaseException) -> grpc.Status:
    """Give the gRPC status of an error; INTERNAL with reason BUG where it is not in the tree."""
    if not isinstance(error, StockadeError):
        return build_status(
            grpc.StatusCode.INTERNAL,
            BUG,
            "the daemon met a bug of its own; its log has the details",
            metadata={"type": type(error).__name__},
        )
    metadata = dict(error.metadata)
    if error.hint:
        metadata["hint"] = error.hint
    return build_status(
        grpc.StatusCode[error.code],
        error.reason,
        error.message,
        metadata=metadata,
        retry_after_s=error.retry_after_s,
    )


def build_status(
    code: grpc.StatusCode,
    reason: str,
    message: str,
    *,
    metadata: dict[str, str] | None = None,
    retry_after_s: float | None = None,
) -> grpc.Status:
    """Give a status with one ErrorInfo, and a RetryInfo where `retry_after_s` is set."""
    info = ErrorInfo(reason=reason, domain=DOMAIN)
    for key, value in (metadata or {}).items():
        info.metadata[key] = _cut(str(value), METADATA_VALUE_BYTES_MAX)
    details = [_pack(info)]
    if retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(retry_after_s * 1e9))
        details.append(_pack(RetryInfo(retry_delay=delay)))
    number: int = code.value[0]
    status = Status(code=number, message=_cut(message, MESSAGE_BYTES_MAX // 2), details=details)
    return rpc_status.to_status(status)


def _pack(message: ErrorInfo | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def _cut(text: str, limit_bytes: int) -> str:
    raw = text.encode(errors="replace")
    if len(raw) <= limit_bytes:
        return text
    return raw[:limit_bytes].decode(errors="ignore") + " …"
