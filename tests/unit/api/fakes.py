"""An engine and a store in memory.

The engine knows two programs: `echo` prints its arguments and ends, `hang` lives until it is
stopped. Where `failure` is set, everything that is asked of either raises it.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from supervisor.audit.entry import Head, Position, StoredEntry, leaf_hash
from supervisor.audit.holdings import Holder
from supervisor.audit.index import CallSummary
from supervisor.audit.masks import Masks
from supervisor.audit.originals import Originals
from supervisor.audit.redaction.found import Piece
from supervisor.audit.retention import Going, Plan
from supervisor.audit.search import CallFilter
from supervisor.audit.vault import Removal
from supervisor.call.events import (
    Accepted,
    CallEvent,
    Event,
    Finished,
    Output,
    Started,
    Timeline,
)
from supervisor.call.outcome import Exited, Outcome, Stopped
from supervisor.call.state import State
from supervisor.call.types import (
    Caller,
    CallRequest,
    Digest,
    Json,
    Stream,
    StreamSummary,
    Usage,
    canonical_json,
)
from supervisor.errors import (
    CallStateError,
    CapacityError,
    InvalidRequest,
    NotFound,
    OutOfRange,
    ProfileError,
    RequestConflict,
    ShuttingDown,
)
from supervisor.profile.load import Problem
from supervisor.profile.model import (
    Capture,
    EffectiveProfile,
    Image,
    ImageKind,
    Limits,
    ProfileLine,
    RecordPolicy,
    SyscallPolicy,
    WritableMount,
)
from supervisor.profile.walls import WallState
from tests.unit.api.fake_locker import FakeEraser, FakeLocker, FakeRecords
from tests.unit.api.fake_own import START_NS, FakeOutlet, FakeOwn

WORK_BYTES = 1 << 20
WALL_S = 60.0


def make_profile(name: str) -> EffectiveProfile:
    """Give a profile with a /work of 1 MiB, a minute of time and LANG set."""
    full = Capture(mode="full")
    canonical = canonical_json({"profile": name})
    return EffectiveProfile(
        name=name,
        lineage=(name,),
        why=f"tests of {name}",
        require=(),
        runtime="runc",
        image=Image(kind=ImageKind.HOST),
        read=(),
        write=(WritableMount(path="/work", size_bytes=WORK_BYTES),),
        syscalls=SyscallPolicy(allow=frozenset({"read"}), kill=frozenset(), sets=frozenset()),
        env={"LANG": "C.UTF-8"},
        limits=Limits(
            wall_s=WALL_S, cpu_s=30, memory_bytes=1 << 28, pids=64, files=256, output_bytes=1 << 24
        ),
        record=RecordPolicy(stdin=full, stdout=full, stderr=full),
        mode="enforce",
        canonical=canonical,
        digest=hashlib.sha256(canonical).hexdigest(),
        lines=(ProfileLine(path="limits.wall", value="60s", file=f"{name}.yaml", line=3),),
    )


class FakeProfiles:
    """python and shell are fine, broken is not."""

    def __init__(self) -> None:
        self._profiles = {name: make_profile(name) for name in ("python", "shell")}
        self.names = ("broken", "python", "shell")
        self.shipped_missing = ""
        self.failure: Exception | None = None

    def problems(self, name: str) -> tuple[Problem, ...]:
        wrong = Problem(file="broken.yaml", line=1, column=1, message="is wrong")
        return (wrong,) if name == "broken" else ()

    def effective(self, name: str) -> EffectiveProfile:
        if self.failure is not None:
            raise self.failure
        if name == "broken":
            raise ProfileError("PROFILE_INVALID", "broken.yaml:1:1: is wrong\n    ^")
        if name not in self._profiles:
            raise NotFound("PROFILE_NOT_FOUND", f"there is no profile {name!r}")
        return self._profiles[name]


class FakeWriter:
    """A blob that is being written."""

    def __init__(self, blobs: FakeBlobs) -> None:
        self._blobs = blobs
        self._data = b""

    def write(self, data: bytes) -> None:
        self._data += data

    def commit(self) -> Digest:
        digest = Digest.of(self._data)
        self._blobs.contents[digest.sha256] = self._data
        return digest

    @property
    def stored(self) -> Digest:
        return self._expected

    def close(self) -> None:
        self._blobs.closed += 1


class FakeReader:
    """A blob that is being read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.closed = False

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), 1 << 20):
            assert not self.closed
            yield self._data[start : start + (1 << 20)]

    def close(self) -> None:
        self.closed = True


class FakeBlobs:
    """Contents by digest."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.originals = Originals()
        self.opened = 0
        self.closed = 0

    def has(self, digest: Digest) -> bool:
        return len(self.contents.get(digest.sha256, b"")) == digest.size_bytes and (
            digest.sha256 in self.contents
        )

    holds = has

    def writer(self) -> FakeWriter:
        self.opened += 1
        return FakeWriter(self)

    def open(self, digest: Digest) -> FakeReader:
        return FakeReader(self.contents[digest.sha256])


class FakeContents:
    """What is gone, and what was asked to be held."""

    def __init__(self, fail: Callable[[], None]) -> None:
        self._fail = fail
        self.gone: dict[str, Removal] = {}
        self.held: list[tuple[str, Mapping[str, Json], bool]] = []

    def plan(self) -> Plan:
        self._fail()
        holder = Holder(first_index=1, last_index=4, call_id="call-1", ended_ns=1, held=False)
        going = Going(holder=holder, why="age", files={"ab": 10, "cd": 5})
        return Plan(going=[going] * 2, rest="x", held=3, in_use=4, contents_bytes=99, believed_ns=7)

    async def hold(self, call_id: str, body: Mapping[str, Json], *, release: bool = False) -> int:
        self.held.append((call_id, body, release))
        return len(self.held)

    def removal(self, call_id: str) -> Removal | None:
        return self.gone.get(call_id)

    def blob_removal(self, digest: Digest) -> Removal | None:
        return self.gone.get(digest.sha256)


class FakeStore:
    """The record of the engine's calls."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.blobs = FakeBlobs()
        self.masks = Masks(bytes(32))
        self.locker = FakeLocker(self)
        self.records = FakeRecords()
        self.eraser = FakeEraser()
        self.own = FakeOwn(engine.fail)
        self.contents = FakeContents(engine.fail)
        self.outlet = FakeOutlet(entries=1000)
        self.granted: set[tuple[Digest, str]] = set()
        self.entry_bytes = 200
        self.wanted: list[CallFilter] = []

    async def note(self, kind: str, body: Mapping[str, Json]) -> None:
        await self.own.note(kind, body)

    def check_admission(self, live_calls: int) -> None:
        self._engine.fail()

    def find_request(self, caller: str, request_id: str) -> tuple[str, str] | None:
        self._engine.fail()
        for call in self._engine.calls.values():
            if (call.caller.name, call.request.request_id) == (caller, request_id):
                return call.call_id, call.request.fingerprint()
        return None

    def head(self) -> tuple[bytes, str]:
        self._engine.fail()
        return b"a signed head", "log.example.com+12345678+key"

    def receipt(self, call_id: str) -> bytes:
        self._engine.fail()
        return f"a receipt of {call_id}".encode()

    def find_calls(
        self, wanted: CallFilter, *, limit: int, page_token: str
    ) -> tuple[list[int], bool]:
        wanted.check()
        before = wanted.parse_token(page_token)
        self.wanted.append(wanted)
        calls = [summary for summary, _ in self._all() if self._fits(wanted, summary)]
        keys = [self._key(summary) for summary in calls]
        keys = [key for key in keys if before is None or key < before]
        return keys[:limit], len(keys) > limit

    def calls_at(self, keys: Iterable[int]) -> list[CallSummary]:
        found = {self._key(summary): summary for summary, _ in self._all()}
        return [found[key] for key in keys]

    def _all(self) -> list[tuple[CallSummary, State]]:
        return self._engine.list(
            caller=None, profile="", live_only=False, limit=1000, page_token=""
        )[0]

    def _key(self, summary: CallSummary) -> int:
        return list(self._engine.calls).index(summary.call_id)

    @staticmethod
    def _fits(wanted: CallFilter, row: CallSummary) -> bool:
        return (
            wanted.caller in ("", row.caller.name)
            and wanted.profile in ("", row.profile)
            and (row.denials > 0 or not wanted.denied_only)
            and row.accepted_ns >= wanted.since_ns
        )

    def profile(self, call_id: str) -> bytes:
        return make_profile(self._engine.calls[call_id].request.profile).canonical

    def entries(self, call_id: str, from_sequence: int = 1) -> Iterator[StoredEntry]:
        self._engine.fail()
        call = self._engine.calls[call_id]
        for event in call.events:
            if event.sequence >= from_sequence:
                json = canonical_json({"sequence": event.sequence, "pad": "x" * self.entry_bytes})
                head = Head(
                    index=event.sequence - 1,
                    prev=bytes(32),
                    time_ns=event.time_ns,
                    kind="output",
                    call=call_id,
                    sequence=event.sequence,
                )
                yield StoredEntry(
                    head=head,
                    json=json,
                    leaf=leaf_hash(json).hex(),
                    position=Position(segment=0, offset=0),
                )

    def read_stream(self, call_id: str, stream: Stream) -> Iterator[Piece]:
        self._engine.fail()
        for event in self._engine.calls[call_id].events:
            if isinstance(event.event, Output) and event.event.stream is stream:
                output = event.event
                yield Piece(offset=output.offset, end=output.end, data=output.data)

    def grant_blob(
        self, digest: Digest, caller: str, told: Mapping[str, Json] | None = None
    ) -> None:
        self.granted.add((digest, caller))

    def may_read_blob(self, digest: Digest, caller: str) -> bool:
        self._engine.fail()
        return (digest, caller) in self.granted


@dataclass(eq=False, slots=True, kw_only=True)
class FakeCall:
    """One call and everything that happened in it."""

    call_id: str
    caller: Caller
    request: CallRequest
    denials: int = 0
    events: list[CallEvent] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    finished: Finished | None = None
    encrypted: bool = False
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def add(self, event: Event) -> None:
        sequence = len(self.events) + 1
        self.events.append(
            CallEvent(
                call_id=self.call_id,
                sequence=sequence,
                time_ns=START_NS + sequence,
                event=event,
            )
        )

    def finish(self, outcome: Outcome) -> None:
        stdout = b"".join(
            event.event.data for event in self.events if isinstance(event.event, Output)
        )
        self.finished = Finished(
            outcome=outcome,
            timeline=Timeline(accepted_ns=START_NS, preparing_ns=START_NS + 1),
            streams=(
                StreamSummary(
                    stream=Stream.STDOUT, digest=Digest.of(stdout), stored_bytes=len(stdout)
                ),
            ),
            outputs=(),
            skipped=(),
            usage=Usage(),
            denials=self.denials,
            record="ab" * 32,
            record_bytes=100,
        )
        self.add(self.finished)


class FakeSubscription:
    """Follows one call."""

    def __init__(self, call: FakeCall, from_sequence: int, attached: bool, kills: bool) -> None:
        self._call = call
        self._from = from_sequence
        self._kills = kills
        self.call_id = call.call_id
        self.attached = attached
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[CallEvent]:
        position = self._from - 1
        while True:
            while position < len(self._call.events):
                event = self._call.events[position]
                position += 1
                if isinstance(event.event, Accepted):
                    event = replace(event, event=replace(event.event, attached=self.attached))
                yield event
                if isinstance(event.event, Finished):
                    return
            async with self._call.changed:
                await self._call.changed.wait()

    async def close(self) -> None:
        self.closed = True
        if self._kills and self._call.finished is None:
            await stop(self._call, Stopped(by=self._call.caller.name, reason="DISCONNECTED"))


async def stop(call: FakeCall, outcome: Outcome) -> None:
    """End a call that hangs."""
    async with call.changed:
        call.finish(outcome)
        call.changed.notify_all()


class FakeEngine:
    """Admission and live calls, without any sandbox."""

    def __init__(self) -> None:
        self.profiles = FakeProfiles()
        self.store = FakeStore(self)
        self.calls: dict[str, FakeCall] = {}
        self.subscriptions: list[FakeSubscription] = []
        self.calls_max = 64
        self.failure: Exception | None = None
        self.delay_s = 0.0
        self.health_problems: tuple[str, ...] = ()
        self.drained_with: float | None = None
        self.host_walls = {"guard": WallState(standing=False, why="this kernel has no BPF LSM")}

    def walls(self) -> Mapping[str, WallState]:
        return self.host_walls

    @property
    def healthy(self) -> bool:
        return not self.health_problems

    def fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def submit(self, caller: Caller, request: CallRequest) -> FakeSubscription:
        self.fail()
        found = self.store.find_request(caller.name, request.request_id)
        if found is not None:
            if found[1] != request.fingerprint():
                raise RequestConflict("REQUEST_ID_REUSED", "same id, other body")
            return self._subscribe(self.calls[found[0]], 1, attached=True)
        if self.drained_with is not None:
            raise ShuttingDown("SHUTTING_DOWN", "the daemon drains", retry_after_s=1.0)
        if sum(call.finished is None for call in self.calls.values()) >= self.calls_max:
            raise CapacityError("CALLS_LIMIT", "no room", retry_after_s=0.5)
        await asyncio.sleep(self.delay_s)
        call = FakeCall(
            call_id=str(uuid.UUID(int=len(self.calls) + 1)), caller=caller, request=request
        )
        profile = self.profiles.effective(request.profile)
        call.add(Accepted(profile=profile.name, profile_digest=profile.digest, mode=profile.mode))
        call.add(Started(preparation_s=0.01))
        self.calls[call.call_id] = call
        if request.argv[0] == b"echo":
            data = b" ".join(request.argv[1:]) + b"\n"
            call.add(Output(stream=Stream.STDOUT, data=data, offset=0))
            call.finish(Exited(code=0))
        return self._subscribe(call, 1, kills=request.kill_on_disconnect)

    async def attach(self, call_id: str, from_sequence: int) -> FakeSubscription:
        self.fail()
        call = self._find(call_id)
        if from_sequence > len(call.events) + 1:
            raise OutOfRange("SEQUENCE_AHEAD", "not there yet")
        return self._subscribe(call, from_sequence, attached=True)

    def _subscribe(
        self, call: FakeCall, from_sequence: int, *, attached: bool = False, kills: bool = False
    ) -> FakeSubscription:
        subscription = FakeSubscription(call, from_sequence, attached, kills)
        self.subscriptions.append(subscription)
        return subscription

    async def write_stdin(self, call_id: str, *, offset: int, data: bytes, end: bool) -> int:
        self.fail()
        self._live(call_id)
        return offset + len(data)

    async def resize_terminal(self, call_id: str, *, rows: int, columns: int) -> None:
        self.fail()
        self._live(call_id).sizes.append((rows, columns))

    async def signal(self, call_id: str, *, by: str, signal: int, why: str) -> None:
        self.fail()
        await stop(self._live(call_id), Stopped(by=by, reason="SIGNAL", signal=signal))

    def get(self, call_id: str) -> tuple[CallSummary, State]:
        self.fail()
        return _row(self._find(call_id))

    def list(
        self,
        *,
        caller: str | None,
        profile: str,
        live_only: bool,
        limit: int,
        page_token: str,
    ) -> tuple[list[tuple[CallSummary, State]], str]:
        self.fail()
        if page_token and not page_token.isdecimal():
            raise InvalidRequest("PAGE_TOKEN_INVALID", "not a token of ours")
        rows = [
            row
            for row in map(_row, reversed(self.calls.values()))
            if caller in (None, row[0].caller.name)
            and profile in ("", row[0].profile)
            and not (live_only and row[1] is State.CLOSED)
        ]
        if live_only:
            return rows[:limit], ""  # as the real one: live calls have no pages
        start = int(page_token or 0)
        token = str(start + limit) if start + limit < len(rows) else ""
        return rows[start : start + limit], token

    def owner(self, call_id: str) -> str:
        self.fail()
        return self._find(call_id).caller.name

    async def drain(self, grace_s: float) -> None:
        self.drained_with = grace_s
        for call in self.calls.values():
            if call.finished is None:
                await stop(call, Stopped(by="daemon", reason="SHUTDOWN"))

    def _find(self, call_id: str) -> FakeCall:
        if call_id not in self.calls:
            raise NotFound("CALL_NOT_FOUND", f"there is no call {call_id!r}")
        return self.calls[call_id]

    def _live(self, call_id: str) -> FakeCall:
        call = self._find(call_id)
        if call.finished is not None:
            raise CallStateError("CALL_CLOSED", "the call has ended")
        return call


def _row(call: FakeCall) -> tuple[CallSummary, State]:
    summary = CallSummary(
        call_id=call.call_id,
        request_id=call.request.request_id,
        fingerprint=call.request.fingerprint(),
        caller=call.caller,
        profile=call.request.profile,
        profile_digest="00" * 32,
        mode="enforce",
        argv=call.request.argv,
        accepted_ns=call.events[0].time_ns,
        correlation=call.request.correlation,
        last_sequence=len(call.events),
        denials=call.denials,
        finished=call.finished,
        encrypted=call.encrypted,
    )
    return summary, State.CLOSED if call.finished is not None else State.RUNNING
