"""The one exception tree: what went wrong, for the caller, for gRPC and for the shell.

    StockadeError
    ├── InvalidRequest        the request itself is wrong            INVALID_ARGUMENT      exit 2
    ├── Unauthenticated       the transport's identity is unknown    UNAUTHENTICATED       exit 4
    ├── NotPermitted          known, but not granted                 PERMISSION_DENIED     exit 4
    ├── NotFound              no such profile, call, record, blob    NOT_FOUND             exit 3
    ├── RequestConflict       request_id seen with another body      ALREADY_EXISTS        exit 3
    ├── CallStateError        the call is past that point            FAILED_PRECONDITION   exit 3
    ├── OutOfRange            a sequence or offset that is not there OUT_OF_RANGE          exit 3
    ├── ProfileError          a profile or configuration is wrong    FAILED_PRECONDITION   exit 2
    ├── HostError             this host cannot raise a wall          FAILED_PRECONDITION   exit 5
    ├── CapacityError         no room now; try later                 RESOURCE_EXHAUSTED    exit 6
    ├── DeadlineExceeded      the caller's time is up                DEADLINE_EXCEEDED     exit 1
    ├── AuditUnavailable      the record cannot be written           UNAVAILABLE           exit 7
    ├── ShuttingDown          the daemon drains                      UNAVAILABLE           exit 7
    ├── Unreachable           no daemon answers; client side only    UNAVAILABLE           exit 7
    ├── AuditCorrupt          the record is damaged                  DATA_LOSS             exit 8
    ├── OutcomeError          `raise_for_outcome()`; client side     ABORTED               exit 1
    ├── RuntimeFailed         the OCI runtime failed                 INTERNAL              exit 1
    ├── BrokerFailed          the call's egress broker failed        INTERNAL              exit 1
    └── InvariantError        a bug of ours                          INTERNAL              exit 1

An error is raised where it is known and mapped to gRPC once, in `api.status`. `reason` is
stable and what tests assert on; the message is for people; `hint` says what to do about it.
A denial, a non-zero exit and a limit that was reached are not errors: they are outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class StockadeError(Exception):
    """Base of everything that Stockade raises on purpose.

    `code` is the name of a gRPC status code, `reason` is UPPER_SNAKE_CASE (at most 63
    characters, AIP-193), `metadata` is machine-readable detail, and `retry_after_s` is set
    where trying again later makes sense.
    """

    code = "INTERNAL"
    exit_code = 1

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        hint: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]" + (f"\n  hint: {self.hint}" if self.hint else "")


class InvalidRequest(StockadeError):
    """The request itself is wrong; sending it again will not help."""

    code, exit_code = "INVALID_ARGUMENT", 2


class Unauthenticated(StockadeError):
    """The transport's identity is not in the configuration."""

    code, exit_code = "UNAUTHENTICATED", 4


class NotPermitted(StockadeError):
    """The caller is known and may not do this."""

    code, exit_code = "PERMISSION_DENIED", 4


class NotFound(StockadeError):
    """There is no such thing, or none that this caller may know of."""

    code, exit_code = "NOT_FOUND", 3


class RequestConflict(StockadeError):
    """The request id was used before with another body."""

    code, exit_code = "ALREADY_EXISTS", 3


class CallStateError(StockadeError):
    """The call is past the point where this is possible."""

    code, exit_code = "FAILED_PRECONDITION", 3


class InputUnread(CallStateError):
    """The program is gone, or reads no more: its input came too late, and nobody refused it."""


class OutOfRange(StockadeError):
    """A sequence or an offset that is not there."""

    code, exit_code = "OUT_OF_RANGE", 3


class ProfileError(StockadeError):
    """A profile, a fragment or the configuration is wrong."""

    code, exit_code = "FAILED_PRECONDITION", 2


class HostError(StockadeError):
    """This host cannot raise a wall that the profile needs."""

    code, exit_code = "FAILED_PRECONDITION", 5


class CapacityError(StockadeError):
    """There is no room now; `retry_after_s` says when to try again."""

    code, exit_code = "RESOURCE_EXHAUSTED", 6


class DeadlineExceeded(StockadeError):
    """The caller's deadline, or the server's for unary calls, has passed."""

    code, exit_code = "DEADLINE_EXCEEDED", 1


class AuditUnavailable(StockadeError):
    """The record cannot be written, so nothing is started."""

    code, exit_code = "UNAVAILABLE", 7


class ShuttingDown(StockadeError):
    """The daemon drains and takes no new calls."""

    code, exit_code = "UNAVAILABLE", 7


class Unreachable(StockadeError):
    """No daemon answers at the address, or the connection broke; never sent by the daemon."""

    code, exit_code = "UNAVAILABLE", 7


class AuditCorrupt(StockadeError):
    """The record is damaged; the message names the entry."""

    code, exit_code = "DATA_LOSS", 8


class OutcomeError(StockadeError):
    """A call that did not end with exit code 0, for callers who asked for an exception.

    `reason` is the outcome's name in upper case, and `call` the client's FinishedCall: its
    output, files and outcome. Never sent by the daemon.
    """

    code = "ABORTED"
    call: Any = None


class RuntimeFailed(StockadeError):
    """The OCI runtime failed; the message holds what it said and the command to replay it."""


class BrokerFailed(StockadeError):
    """The broker of a call's egress failed: nothing passes any more, and the call ends."""


class InvariantError(StockadeError):
    """A bug of ours; the reason says where."""
