"""A link to the daemon's console, for a browser on the daemon's host."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.client.sync import Supervisor
from supervisor.v1 import console_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """`url` opens one session, once, before `expires_ns`, in a browser of user `uid`."""

    url: str
    expires_ns: int
    uid: int


def open_console(supervisor: Supervisor, *, uid: int | None = None) -> Link:
    """Give a link to what this caller may read; for a browser of user `uid`, this caller's own
    where not given.

    Raises:
        CallStateError: `CONSOLE_OFF`.
        CapacityError: `CONSOLE_SESSIONS`.
        InvalidRequest: `USER_MISSING`.
    """
    request = console_pb2.OpenSessionRequest(uid=uid)
    stub = supervisor._stubs.console
    answer = supervisor._unary(stub.OpenSession, request, idempotent=False)
    return Link(url=answer.url, expires_ns=answer.expires.ToNanoseconds(), uid=answer.uid)
