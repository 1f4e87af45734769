"""ExportService: how the sinks do that the record is sent to, and what is done about it.

What changes something is on record before it is done, in `export` entries; what came of it, where
that is not known before, in another one.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import re
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from supervisor.api import callers, policy, translate
from supervisor.api.config import Configuration
from supervisor.api.intercept import Context
from supervisor.api.paging import page, to_end
from supervisor.api.sinks import Reloaded
from supervisor.audit.codec import caller_to_json
from supervisor.audit.entry import Kind, StoredEntry
from supervisor.call.texts import brief
from supervisor.call.types import Json
from supervisor.engine import Engine
from supervisor.errors import (
    AuditCorrupt,
    AuditUnavailable,
    CallStateError,
    InvalidRequest,
    NotFound,
    OutOfRange,
)
from supervisor.export.channel import ChannelClosed, PeerFailed
from supervisor.export.exporter import Lag, SinkState
from supervisor.export.letters import Letter
from supervisor.v1 import export_pb2, export_pb2_grpc

NANOS = 10**9
WAIT_DEFAULT_S, WAIT_MAX_S = 30.0, 3600.0
TELL_S = 1.0
"""How often it is told of a test that goes on."""

LETTERS_AT_ONCE = 50
UIDS_MAX = 1000
UIDS_NAMED = 16
"""In an entry; of more, there is how many they are."""

_TOKEN = re.compile(r"([0-9]{1,20}) ([\x20-\x7e]{1,200})", re.ASCII)

T = TypeVar("T")


class Exporting(Protocol):
    """All sinks of a daemon, as `export.exporter.Exporter` has them."""

    @property
    def states(self) -> Sequence[SinkState]:
        """Give how each sink does."""

    def durable(self) -> int:
        """Give how many entries of the log may leave."""

    async def lag(self, name: str) -> Lag:
        """Say how far a sink is behind; raises KeyError."""

    async def replay(self, name: str, index: int) -> None:
        """Have a sink get everything from an entry on again; raises KeyError, ValueError."""

    def letters(self, name: str) -> list[Letter]:
        """Give the dead letters of a sink; reads the disk."""

    async def redeliver(
        self, name: str, uids: Sequence[str] | None = None
    ) -> Sequence[tuple[Letter, str]]:
        """Send dead letters again; give each with why it is one still."""

    async def discard(self, name: str, uids: Sequence[str] | None = None) -> int:
        """Give up on dead letters; give how many."""

    async def wait_acknowledged(self, name: str, index: int) -> None:
        """Wait until a sink has acknowledged all up to and with an entry; raises KeyError."""


class SinkControl(Protocol):
    """The sinks of a daemon and their configuration, as `api.sinks.Sinks` has them."""

    @property
    def config(self) -> Configuration:
        """Give what is in force."""

    @property
    def exporter(self) -> Exporting:
        """Give all sinks, which are started."""

    async def reload(self) -> Reloaded:
        """Read the configuration again and have its sinks, or change nothing."""


class ExportService(export_pb2_grpc.ExportServiceServicer):
    """Answers for the sinks; `source` is the configuration's file, None where there is none."""

    def __init__(self, engine: Engine, sinks: SinkControl, source: Path | None) -> None:
        self._store = engine.store
        self._profiles = engine.profiles
        self._sinks = sinks
        self._source = source

    async def ListSinks(
        self, request: export_pb2.ListSinksRequest, context: Context
    ) -> export_pb2.ListSinksResponse:
        """Tell how all sinks do."""
        callers.current().grants.require_exports_seen()
        exporter = self._sinks.exporter
        found = []
        for state in sorted(exporter.states, key=lambda one: one.name):
            with contextlib.suppress(NotFound), self._failures(state.name):  # Gone by now.
                found.append(sink(state, await exporter.lag(state.name)))
        return export_pb2.ListSinksResponse(sinks=found, durable=exporter.durable())

    async def TestSink(
        self, request: export_pb2.TestSinkRequest, context: Context
    ) -> AsyncIterator[export_pb2.TestSinkResponse]:
        """Write an entry and wait until a sink has it."""
        exporter, _ = self._managed(request.sink)
        wait_s = _wait_s(request)
        entry = await self._note("test", request.sink)
        began = time.monotonic()
        waiting = asyncio.ensure_future(exporter.wait_acknowledged(request.sink, entry.index))
        step_s = 0.0
        try:
            while True:
                await asyncio.wait((waiting,), timeout=step_s)
                waited_s = time.monotonic() - began
                step_s = min(TELL_S, wait_s - waited_s)
                with self._failures(request.sink):
                    if waiting.done():
                        waiting.result()
                    state = self._state(request.sink)
                    answer = export_pb2.TestSinkResponse(
                        index=entry.index,
                        acknowledged=waiting.done(),
                        waited=_duration(waited_s),
                        sink=sink(state, await exporter.lag(request.sink)),
                    )
                    if waiting.done():
                        letters = await to_end(exporter.letters, request.sink)
                        answer.refused = next(
                            (one.why for one in letters if one.index == entry.index), ""
                        )
                yield answer
                if answer.acknowledged or step_s <= 0:
                    return
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def ReplaySink(
        self, request: export_pb2.ReplaySinkRequest, context: Context
    ) -> export_pb2.ReplaySinkResponse:
        """Have a sink get entries again."""
        exporter, state = self._managed(request.sink)
        index = await self._place(request, exporter.durable())
        entries = state.index - index
        if entries <= 0:
            raise _ahead(request.sink, index, state.index)
        if not request.dry_run:
            await self._note("replay", request.sink, index=index, entries=entries)
            with self._failures(request.sink):
                try:
                    await exporter.replay(request.sink, index)
                except ValueError as error:
                    raise _ahead(request.sink, index, state.index) from error
        return export_pb2.ReplaySinkResponse(index=index, entries=entries)

    async def ListDeadLetters(
        self, request: export_pb2.ListDeadLettersRequest, context: Context
    ) -> export_pb2.ListDeadLettersResponse:
        """List dead letters of a sink."""
        callers.current().grants.require_exports_seen()
        self._state(request.sink)
        rows_max = translate.page_size(request.page_size)
        _check_uids(request.uids)
        after = _after(request.page_token)
        exporter = self._sinks.exporter

        def read() -> tuple[list[export_pb2.DeadLetter], str]:
            letters = _wanted(exporter.letters(request.sink), request.uids)
            place = bisect.bisect_right(letters, after, key=_order)

            def fetch(limit: int, token: str) -> tuple[list[Letter], str]:
                first = int(token)
                end = first + limit
                return letters[first:end], str(end) if end < len(letters) else ""

            def render(letter: Letter) -> export_pb2.DeadLetter:
                told = self._store.outlet.told(letter.index) if request.entries else ("", "")
                return dead_letter(letter, letter.why, *told)

            rows, token = page(fetch, render, rows_max=rows_max, token=str(place))
            return rows, f"{rows[-1].index} {rows[-1].uid}" if token else ""

        with self._failures(request.sink):
            rows, token = await to_end(read)
        return export_pb2.ListDeadLettersResponse(letters=rows, next_page_token=token)

    async def RedeliverDeadLetters(
        self, request: export_pb2.RedeliverDeadLettersRequest, context: Context
    ) -> AsyncIterator[export_pb2.RedeliverDeadLettersResponse]:
        """Send dead letters again, some at a time."""
        exporter, state = self._managed(request.sink)
        chosen = await self._chosen(exporter, request)
        if not chosen:
            yield export_pb2.RedeliverDeadLettersResponse()
            return
        if not state.running:
            raise _not_running(request.sink, state.why)
        await self._note("redeliver", request.sink, **_named(chosen))
        yield export_pb2.RedeliverDeadLettersResponse(letters=len(chosen))
        delivered = refused = 0
        try:
            for first in range(0, len(chosen), LETTERS_AT_ONCE):
                some = chosen[first : first + LETTERS_AT_ONCE]
                with self._failures(request.sink):
                    waiting = {one.uid for one in await to_end(exporter.letters, request.sink)}
                    uids = [uid for uid in some if uid in waiting]
                    done = await _whole(exporter.redeliver(request.sink, uids))
                answer = export_pb2.RedeliverDeadLettersResponse(
                    letters=len(chosen),
                    delivered=[letter.uid for letter, why in done if not why],
                    refused=[dead_letter(letter, why) for letter, why in done if why],
                )
                delivered += len(answer.delivered)
                refused += len(answer.refused)
                yield answer
        finally:
            self._store.own.append(
                Kind.EXPORT,
                self._body("redelivered", request.sink, delivered=delivered, refused=refused),
            )

    async def DiscardDeadLetters(
        self, request: export_pb2.DiscardDeadLettersRequest, context: Context
    ) -> export_pb2.DiscardDeadLettersResponse:
        """Give up on dead letters."""
        exporter, _ = self._managed(request.sink)
        chosen = await self._chosen(exporter, request)
        if not chosen:
            return export_pb2.DiscardDeadLettersResponse()
        await self._note("discard", request.sink, **_named(chosen))
        with self._failures(request.sink):
            discarded = await _whole(exporter.discard(request.sink, chosen))
        return export_pb2.DiscardDeadLettersResponse(discarded=discarded)

    async def Reload(
        self, request: export_pb2.ReloadRequest, context: Context
    ) -> export_pb2.ReloadResponse:
        """Read the sinks of the configuration again."""
        callers.current().grants.require_exports_managed()
        await self._note("reload")
        changes = await _whole(self._reload())
        return export_pb2.ReloadResponse(**changes)

    async def _reload(self) -> dict[str, tuple[str, ...]]:
        """Do it, and put on record what is in force from then on."""
        done = await self._sinks.reload()
        names = ("added", "removed", "changed", "unchanged", "ignored")
        changes = {name: tuple(getattr(done, name)) for name in names}
        told: dict[str, Json] = {name: list(changes[name]) for name in names}
        await self._note("reloaded", **told)
        in_force = policy.policy_of(self._sinks.config, self._source, self._profiles)
        await policy.note(self._store, in_force)
        return changes

    def _managed(self, name: str) -> tuple[Exporting, SinkState]:
        callers.current().grants.require_exports_managed()
        return self._sinks.exporter, self._state(name)

    def _state(self, name: str) -> SinkState:
        """Find a sink.

        Raises:
            NotFound: `SINK_UNKNOWN`, with the names that there are.
        """
        states = {state.name: state for state in self._sinks.exporter.states}
        if name not in states:
            raise _unknown(name, sorted(states))
        return states[name]

    @contextlib.contextmanager
    def _failures(self, name: str) -> Iterator[None]:
        """Name what exporting can fail with."""
        try:
            yield
        except KeyError as error:
            self._state(name)
            raise NotFound(
                "LETTER_UNKNOWN", f"the sink {name} has no dead letter {brief(str(error.args[0]))}"
            ) from error
        except (PeerFailed, ChannelClosed) as error:
            raise _not_running(name, str(error)) from error
        except ValueError as error:
            raise AuditCorrupt("LETTERS_DAMAGED", f"dead letters of {name}: {error}") from error
        except OSError as error:
            raise AuditUnavailable(
                "SINK_UNREADABLE", f"what is kept of the sink {name}: {error.strerror}"
            ) from error

    async def _place(self, request: export_pb2.ReplaySinkRequest, durable: int) -> int:
        """Find the entry to begin at.

        Raises:
            InvalidRequest: `REPLAY_FROM_MISSING`.
            OutOfRange: `REPLAY_BEYOND_LOG`.
        """
        which = request.WhichOneof("from")
        if which is None:
            raise InvalidRequest("REPLAY_FROM_MISSING", "say from which entry on, or which time")
        index: int | None = request.index
        if which == "time":
            time_ns = request.time.seconds * NANOS + request.time.nanos
            index = await to_end(self._store.outlet.since, time_ns)
        if index is None or index >= durable:
            wanted = f"entry {index}" if which == "index" else "entry that is so new"
            raise OutOfRange(
                "REPLAY_BEYOND_LOG",
                f"the log has no {wanted} yet: it has {durable}, counted from 0",
                metadata={"entries": str(durable)},
            )
        return index

    async def _chosen(self, exporter: Exporting, request: Any) -> list[str]:
        """Give the uids that a request is about: each is of a letter that waits.

        Raises:
            InvalidRequest: `LETTERS_MISSING`, `LETTERS_TOO_MANY`.
            NotFound: `LETTER_UNKNOWN`.
        """
        if bool(request.uids) == request.all:
            raise InvalidRequest(
                "LETTERS_MISSING", "say which dead letters: their uids, or all, and not both"
            )
        _check_uids(request.uids)
        with self._failures(request.sink):
            letters = await to_end(exporter.letters, request.sink)
            return [letter.uid for letter in _wanted(letters, request.uids)]

    async def _note(self, action: str, name: str = "", /, **more: Json) -> StoredEntry:
        return await self._store.own.note(Kind.EXPORT, self._body(action, name, **more))

    def _body(self, action: str, name: str = "", /, **more: Json) -> dict[str, Json]:
        body: dict[str, Json] = {
            "action": action,
            "caller": caller_to_json(callers.current().caller),
        }
        return body | ({"sink": name} if name else {}) | more


def sink(state: SinkState, lag: Lag) -> export_pb2.Sink:
    """Give how a sink does as a message."""
    said = state.said
    failing_since = float(said.get("failing_since", 0.0))
    status = export_pb2.SINK_STATUS_RUNNING
    if not state.running:
        status = export_pb2.SINK_STATUS_STOPPED
    elif failing_since:
        status = export_pb2.SINK_STATUS_FAILING
    message = export_pb2.Sink(
        name=state.name,
        kind=state.kind,
        format=state.format,
        status=status,
        why=state.why or str(said.get("why", "")),
        acknowledged=state.index,
        lag_entries=lag.entries,
        lag_bytes=lag.bytes,
        lag=_duration(lag.seconds),
        events=int(said.get("events", 0)),
        retries=int(said.get("retries", 0)),
        dead_letters=max(0, state.letters),
        replaying_from=state.replaying_from,
    )
    if status == export_pb2.SINK_STATUS_FAILING:
        message.failing_since.CopyFrom(_moment(failing_since))
    if state.acknowledged_at:
        message.acknowledged_at.CopyFrom(_moment(state.acknowledged_at))
    return message


def dead_letter(letter: Letter, why: str, kind: str = "", call: str = "") -> export_pb2.DeadLetter:
    """Give a dead letter as a message; `kind` and `call` are its entry's."""
    message = export_pb2.DeadLetter(
        index=letter.index, uid=letter.uid, why=why, kind=kind, call_id=call
    )
    message.time.FromNanoseconds(letter.time_ns)
    return message


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """Do something to its end, also where nobody waits for it any more: half of it is worse."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # the first one is raised below
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody waits for it any more
        raise


def _check_uids(uids: Sequence[str]) -> None:
    if len(uids) > UIDS_MAX:
        raise InvalidRequest("LETTERS_TOO_MANY", f"{UIDS_MAX} dead letters at a time")


def _wanted(letters: list[Letter], uids: Sequence[str]) -> list[Letter]:
    """Give the letters with these uids, all where there are none; raises KeyError for one that no
    letter has."""
    if not uids:
        return letters
    found = {letter.uid: letter for letter in letters}
    return sorted((found[uid] for uid in dict.fromkeys(uids)), key=_order)


def _named(uids: Sequence[str]) -> dict[str, Json]:
    """Give letters as an entry has them."""
    few: Json = list(uids[:UIDS_NAMED])
    return {"letters": len(uids), "uids": few}


def _order(letter: Letter) -> tuple[int, str]:
    return letter.index, letter.uid


def _after(token: str) -> tuple[int, str]:
    """Read a page's token: the last letter of the page before."""
    if not token:
        return -1, ""
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise InvalidRequest("PAGE_TOKEN_INVALID", "the page token is not one of ours")
    return int(found[1]), found[2]


def _wait_s(request: export_pb2.TestSinkRequest) -> float:
    if not request.HasField("wait"):
        return WAIT_DEFAULT_S
    wait_s = request.wait.seconds + request.wait.nanos / NANOS
    if not 0 <= wait_s <= WAIT_MAX_S:
        raise InvalidRequest("WAIT_INVALID", f"a test waits for {WAIT_MAX_S:g} s at most")
    return wait_s


def _unknown(name: str, names: Sequence[str]) -> NotFound:
    return NotFound(
        "SINK_UNKNOWN",
        f"there is no sink {brief(name)!r}",
        hint=f"there are: {', '.join(names)}"
        if names
        else "`sinks:` of the configuration has none",
        metadata={"sinks": ", ".join(names)},
    )


def _ahead(name: str, index: int, acknowledged: int) -> OutOfRange:
    return OutOfRange(
        "REPLAY_AHEAD",
        f"the sink {name} is yet to come to entry {index}: it has acknowledged all below "
        f"{acknowledged}",
        metadata={"acknowledged": str(acknowledged)},
    )


def _not_running(name: str, why: str) -> CallStateError:
    return CallStateError(
        "SINK_NOT_RUNNING",
        f"the process of the sink {name} does not run{f': {why}' if why else ''}",
        retry_after_s=TELL_S,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * NANOS))
    return duration


def _moment(seconds: float) -> Timestamp:
    moment = Timestamp()
    moment.FromNanoseconds(round(seconds * NANOS))
    return moment
