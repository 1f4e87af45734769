"""What the record takes: entries a second, its share of a call, verifying it, finding in it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from supervisor.audit.directory import LOG_NAME
from supervisor.audit.journal import FRESH_MAX
from supervisor.audit.recorder import TOLD_AT_ONCE, CallRecorder
from supervisor.audit.redaction.literals import Literals
from supervisor.audit.redaction.prefilter import open_hyperscan
from supervisor.audit.redaction.redactor import Redactor
from supervisor.audit.redaction.rules import shipped
from supervisor.audit.search import CallFilter
from supervisor.audit.segment import MAGIC, read_frames, segment_name
from supervisor.audit.store import Store
from supervisor.audit.verify import verify
from supervisor.call.events import Denied, Wall
from supervisor.call.types import Stream
from supervisor.errors import HostError
from supervisor.profile.model import Capture
from tests.bench.figures import Figure, percentile
from tests.support.records import begin, make_finished, make_profile

ENTRIES = 200_000
ENTRIES_OF_STREAM = 10_000
ENTRIES_OF_CALL = 20
AT_ONCE = 100
PLAIN = 20_000
PLAINLY = "hashed and written, no more"
SYNCED = "written and synced in a thread, no more"
SYNCED_BYTES = 300
SINGLE = 3000
CALLS = 300
LISTED = 1_000_000
LIST_TURNS = 20
REDACTED_BYTES = 256 << 20
CHUNK_BYTES = 64 << 10
SECRET = b"correct horse battery staple"
MB = 1e6

GROUP_MIN, SINGLE_MIN, VERIFY_MIN = 100_000, 3000, 100_000
CALL_MS_MAX = 5
LIST_MS_MAX = 200
REDACT_MB_S_MIN = 100

SEARCHES: dict[str, CallFilter] = {
    "the newest": CallFilter(),
    "a denial": CallFilter(denied="mount"),
    "a word": CallFilter(text="mount"),
    "a session": CallFilter(session="none"),
    "an outcome": CallFilter(outcome="not_ok"),
    "a time": CallFilter(since_ns=1, until_ns=1 << 62),
    "denied at all": CallFilter(denied_only=True),
}


def cost(scale: float) -> Iterator[Figure]:
    """Measure all of it, on the file system of the working folder."""
    with tempfile.TemporaryDirectory(prefix="stockade-bench-", dir=Path.cwd()) as folder:
        yield from asyncio.run(_singles(Path(folder) / "singles", scale))
        yield from asyncio.run(_entries(Path(folder) / "entries", scale))
        yield from _verified(Path(folder) / "entries")
        yield from asyncio.run(_calls(Path(folder) / "calls", scale))
        yield from asyncio.run(_found(Path(folder) / "found", scale))
        yield asyncio.run(_recorded(Path(folder) / "stream", scale))
    for named, engine in _engines():
        yield _redacted(scale, named, engine)


async def _singles(folder: Path, scale: float) -> list[Figure]:
    """Append entries one by one, before there are others for the disk to write; beside it, what the
    disk and two threads alone take."""
    store = Store.open(folder)
    singles = max(200, int(SINGLE * scale))
    began = time.perf_counter()
    for number in range(singles):
        await store.note("bench", {"number": number})
    single = singles / (time.perf_counter() - began)
    await store.close()
    return [
        Figure(name="entries, each durable before the next", unit="1/s", ours=single,
               goal=SINGLE_MIN, at_least=True),
        Figure(name="the same, as a share", unit="1/s", ours=single,
               bare=await _synced(folder, singles), peer=SYNCED),
    ]  # fmt: skip


async def _synced(folder: Path, count: int) -> float:
    """Give how many writes a second a thread of an event loop can make durable, one by one."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, count * SYNCED_BYTES)
        entry = bytes(SYNCED_BYTES)

        def write(number: int) -> None:
            os.pwrite(file.fileno(), entry, number * SYNCED_BYTES)
            os.fdatasync(file.fileno())

        began = time.perf_counter()
        for number in range(count):
            await asyncio.to_thread(write, number)
        return count / (time.perf_counter() - began)


async def _entries(folder: Path, scale: float) -> list[Figure]:
    """Append entries in groups, with their places in the signed tree."""
    store = Store.open(folder)
    count = max(20_000, int(ENTRIES * scale))
    began, busy = time.perf_counter(), time.process_time()
    await fill(store, count, each=ENTRIES_OF_STREAM)
    grouped = count / (time.perf_counter() - began)
    busy = (time.process_time() - busy) / count
    await store.close()
    return [
        Figure(name="entries, durable in groups", unit="1/s", ours=grouped,
               goal=GROUP_MIN, at_least=True),
        Figure(name="processor time of an entry, in groups", unit="µs", ours=busy * 1e6,
               bare=_plainly(folder) * 1e6, peer=PLAINLY),
    ]  # fmt: skip


def _plainly(folder: Path) -> float:
    """Give the processor time that Python needs to hash entries of a log, each after the one before
    it, and to write them, durable in groups: what no record can do without."""
    with (folder / LOG_NAME / segment_name(0)).open("rb") as log:
        size = os.fstat(log.fileno()).st_size
        payloads = [
            frame.payload
            for frame in itertools.islice(read_frames(log.fileno(), len(MAGIC), size), PLAIN)
        ]
    with tempfile.TemporaryFile(dir=folder) as file:
        began, at = time.process_time(), 0
        for number, payload in enumerate(payloads, 1):
            frame = payload + hashlib.sha256(b"\x00" + payload).digest()
            at += os.pwrite(file.fileno(), frame, at)
            if number % FRESH_MAX == 0:
                os.fdatasync(file.fileno())
        os.fdatasync(file.fileno())
        return (time.process_time() - began) / len(payloads)


async def fill(store: Store, count: int, *, each: int) -> None:
    """Record calls with `each` entries, some at a time, all of them durable in the end."""
    for first in range(0, count // each, AT_ONCE):
        last = min(first + AT_ONCE, count // each)
        await asyncio.gather(*(_denied(store, number, each) for number in range(first, last)))


async def _denied(store: Store, number: int, each: int) -> None:
    recorder = await begin(store, f"call-{number}")
    recorder.started(0.01)
    for first in range(0, each - 3, TOLD_AT_ONCE):
        some = range(first, min(first + TOLD_AT_ONCE, each - 3))
        wall = Wall.SYSCALL
        recorder.tell([Denied(wall=wall, name="mount", arguments=(n, number)) for n in some])
    await recorder.finish(make_finished())


def _verified(folder: Path) -> Iterator[Figure]:
    began, busy = time.perf_counter(), time.process_time()
    report = verify(folder)
    if not report.ok:
        raise RuntimeError(f"the record is damaged: {report.problems[:3]}")
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    yield Figure(
        name="verify", unit="entries/s", ours=report.entries / seconds,
        goal=VERIFY_MIN, at_least=True,
    )  # fmt: skip
    yield Figure(
        name="processor time of an entry, to verify it", unit="µs",
        ours=busy / report.entries * 1e6,
        bare=_plainly(folder) * 1e6, peer=PLAINLY,
    )  # fmt: skip


async def _calls(folder: Path, scale: float) -> list[Figure]:
    """Time what the record has a small call wait for, from INTENT to its receipt."""
    store = Store.open(folder)
    waits: list[float] = []
    for number in range(max(20, int(CALLS * scale))):
        began = time.perf_counter()
        recorder: CallRecorder = await begin(store, f"call-{number}")
        recorder.started(0.01)
        recorder.output(Stream.STDOUT, b"42\n")
        await recorder.finish(make_finished())
        waits.append(time.perf_counter() - began)
    await store.close()
    return [
        Figure(name="the record of a small call, p50", unit="ms",
               ours=percentile(waits, 50) * 1e3, goal=CALL_MS_MAX)
    ]  # fmt: skip


async def _found(folder: Path, scale: float) -> list[Figure]:
    """Time searches over an index of many entries."""
    store = Store.open(folder)
    count = max(20_000, int(LISTED * scale))
    await fill(store, count, each=ENTRIES_OF_CALL)
    store.list_calls(CallFilter(text="warm"), limit=1)  # What waits to be searchable becomes so.
    figures = []
    for name, wanted in SEARCHES.items():
        search = functools.partial(store.list_calls, wanted, limit=100)
        figures.append(
            Figure(name=f"audit ls over {count} entries, {name}", unit="ms",
                   ours=_median(search) * 1e3, goal=LIST_MS_MAX)
        )  # fmt: skip
    await store.close()
    return figures


def _median(action: Callable[[], object]) -> float:
    times = []
    for _ in range(LIST_TURNS):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _engines() -> Iterator[tuple[str, ModuleType | None]]:
    """Give what rules are searched for by: RE2, and Hyperscan where there is a package of it."""
    yield "redaction of a stream", None
    with contextlib.suppress(HostError):  # other machines than x86-64
        yield "redaction of a stream, Hyperscan", open_hyperscan()


def _chunk() -> bytes:
    """Give text, as much as comes out of a pipe at once."""
    text = Path("/usr/share/common-licenses/GPL-3").read_bytes()
    return (text * (CHUNK_BYTES // len(text) + 1))[:CHUNK_BYTES]


async def _recorded(folder: Path, scale: float) -> Figure:
    """Record one stream as a call's is: hashed, searched for secrets, compressed and written."""
    store = Store.open(folder)
    profile = make_profile(stdout=Capture(mode="full"))
    recorder = await begin(store, "call", profile=profile, secrets={"secret": SECRET})
    chunk, turns = _chunk(), max(64, int(REDACTED_BYTES * scale) // CHUNK_BYTES)
    began = time.perf_counter()
    for _ in range(turns):
        recorder.output(Stream.STDOUT, chunk)
    await recorder.finish(make_finished())
    seconds = time.perf_counter() - began
    summary = next(one for one in recorder.streams() if one.stream is Stream.STDOUT)
    await store.close()
    if summary.stored_bytes != turns * CHUNK_BYTES:
        raise RuntimeError("not all of it is on record")
    return Figure(
        name="a stream on record, redacted", unit="MB/s", ours=turns * CHUNK_BYTES / MB / seconds,
        goal=REDACT_MB_S_MIN, at_least=True,
    )  # fmt: skip


def _redacted(scale: float, named: str, engine: ModuleType | None) -> Figure:
    """Search one stream of a text for secrets, in chunks as they come from a pipe."""
    chunk = _chunk()
    redactor = Redactor(Literals({"secret": SECRET}), shipped(hyperscan=engine), bytes(32))
    turns = max(64, int(REDACTED_BYTES * scale) // CHUNK_BYTES)
    began = time.perf_counter()
    done = sum(len(redactor.feed(chunk)) for _ in range(turns))
    done += len(redactor.finish())
    seconds = time.perf_counter() - began
    if done != turns * CHUNK_BYTES:
        raise RuntimeError("something was found where nothing is")
    return Figure(
        name=named, unit="MB/s", ours=done / MB / seconds,
        goal=REDACT_MB_S_MIN, at_least=True,
    )  # fmt: skip
