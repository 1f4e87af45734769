"""The daemon's own entries: what it did, whom it let read the record, and whom it refused.

They stand in the log between those of the calls and belong to none. There are three ways to write
one, by what depends on it: `note` waits until it is durable; `note_read` does, too, and leaves the
room alone that calls need, since what it records has not been done yet and is refused with it;
`append` waits for nothing, and the journal makes it durable within a second.

What a caller chose goes through `chosen` before it is put into one, and before it is cut.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from supervisor.audit.chosen import Chosen
from supervisor.audit.entry import CALL_ID, CALL_KINDS, Kind, StoredEntry
from supervisor.audit.journal import RETRY_AFTER_S, Journal
from supervisor.audit.masks import Masks
from supervisor.audit.reading import read_own
from supervisor.audit.search import check_range
from supervisor.call.texts import brief
from supervisor.call.types import Json
from supervisor.errors import AuditUnavailable, CapacityError, InvalidRequest, InvariantError

CALLER_BYTES_MAX = 4096
_KIND = re.compile(r"[a-z_]{1,32}")
_TOKEN = re.compile(r"[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFilter:
    """Which of the daemon's own entries: those for which all that is set holds."""

    kind: str = ""
    since_ns: int = 0
    until_ns: int = 0
    call: str = ""
    caller: str = ""

    def check(self) -> None:
        """Make sure that it can be looked for.

        Raises:
            InvalidRequest: `FILTER_INVALID`.
        """
        if self.kind and (self.kind in CALL_KINDS or not _KIND.fullmatch(self.kind)):
            raise InvalidRequest("FILTER_INVALID", "kind: the daemon has no entries of its own so")
        if self.call and not CALL_ID.fullmatch(self.call):
            raise InvalidRequest("FILTER_INVALID", f"call: {brief(self.call)!r} is no call id")
        check_range(self.since_ns, self.until_ns)
        if len(self.caller.encode(errors="replace")) > CALLER_BYTES_MAX:
            raise InvalidRequest("FILTER_INVALID", f"caller: more than {CALLER_BYTES_MAX} bytes")

    def fits(self, entry: StoredEntry) -> bool:
        """Say whether an entry is wanted."""
        return (
            self.kind in ("", entry.kind)
            and entry.time_ns >= self.since_ns
            and (not self.until_ns or entry.time_ns < self.until_ns)
            and (not (self.call or self.caller) or self._fits_body(entry))
        )

    def _fits_body(self, entry: StoredEntry) -> bool:
        if self.call and self.call.encode() not in entry.json:
            return False  # A call id stands there as it is.
        body: Mapping[str, Any] = entry.body()
        return (not self.call or self.call in _calls(body)) and (
            not self.caller or self.caller in _callers(body)
        )


def _calls(body: Mapping[str, Any]) -> Iterator[object]:
    """Give the calls that an entry is about."""
    yield body.get("call")
    if isinstance(body.get("calls"), list):
        yield from body["calls"]
    for name, key in (("of", "call"), ("asked", "call_id")):
        if isinstance(body.get(name), dict):
            yield body[name].get(key)


def _callers(body: Mapping[str, Any]) -> Iterator[object]:
    """Give the names of who it was."""
    caller = body.get("caller")
    yield caller.get("name") if isinstance(caller, dict) else caller
    if isinstance(body.get("of"), list):  # Of refusals that were dropped.
        yield from (row.get("who") for row in body["of"] if isinstance(row, dict))


class OwnEntries:
    """Writes the daemon's own entries into an open log."""

    def __init__(self, journal: Journal, clock_ns: Callable[[], int], masks: Masks) -> None:
        self._journal = journal
        self.chosen = Chosen(masks)
        self._clock_ns = clock_ns

    async def note(
        self,
        kind: str,
        body: Mapping[str, Json],
        *,
        began: Callable[[StoredEntry], None] | None = None,
    ) -> StoredEntry:
        """Write an entry and wait until it is durable; it may use the reserve. `began` is told of
        it before that.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        entry = self.append(kind, body, reserved=True)
        if began is not None:
            began(entry)
        await self._journal.commit()
        return entry

    async def commit(self) -> None:
        """Wait until everything that was appended is on disk.

        Raises:
            AuditUnavailable: `JOURNAL_UNAVAILABLE`; what was appended may be lost.
        """
        await self._journal.commit()

    async def note_read(self, body: Mapping[str, Json], *, kind: str = Kind.READ) -> None:
        """Write that the record is about to be read, or by another `kind` that somebody comes to
        read it, and wait until that is durable.

        Where there is no room for another call, there is none for this: whoever reads cannot use
        up what calls need.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        try:
            self._journal.admit(0)
        except CapacityError as error:
            raise AuditUnavailable(
                "RECORD_FULL",
                "the record has no room to say that it is read, so it is not read",
                hint=f"{error.hint}; `stockade audit cat --dir STATE` reads the folder itself",
                retry_after_s=RETRY_AFTER_S,
            ) from error
        self.append(kind, body)
        await self._journal.commit()

    def find(self, wanted: OwnFilter, *, limit: int, token: str) -> tuple[list[StoredEntry], str]:
        """Give a page of them, newest first, and the token of the next, "" at the end. A page may
        have less than `limit`, or nothing, and another follow. Reads the disk.

        Raises:
            InvalidRequest: `FILTER_INVALID`, `PAGE_TOKEN_INVALID`.
            AuditCorrupt: `CHAIN_BROKEN`.
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
        """
        wanted.check()
        if token and not _TOKEN.fullmatch(token):
            raise InvalidRequest("PAGE_TOKEN_INVALID", "the page token is not one of ours")
        before = int(token) if token else sys.maxsize
        found, below = read_own(self._journal, before, limit=limit, wanted=wanted.fits)
        return found, str(below) if below else ""

    def append(self, kind: str, body: Mapping[str, Json], *, reserved: bool = False) -> StoredEntry:
        """Write an entry; the journal makes it durable with the next ones, within a second.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        if kind in CALL_KINDS or not _KIND.fullmatch(kind):
            raise InvariantError("KIND_INVALID", f"{kind!r} is no kind of the daemon's own")
        return self._journal.append(kind, body, time_ns=self._clock_ns(), reserved=reserved)
