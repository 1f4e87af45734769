"""How fast the record is: megabytes a second of output, entries a second, and a call's share.

Prints numbers and asserts nothing. Run it: `python -m tests.bench.bench_journal [DIR]`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

from supervisor.audit.store import Store
from supervisor.call.events import Finished, Timeline
from supervisor.call.outcome import Exited
from supervisor.call.types import Caller, CallRequest, Stream, Usage
from tests.support.records import make_profile

CALLER = Caller(name="bench", transport="unix", uid=0)
TOTAL_BYTES = 512 << 20
CALLS = 300


def finished() -> Finished:
    return Finished(
        outcome=Exited(code=0),
        timeline=Timeline(),
        streams=(),
        outputs=(),
        skipped=(),
        usage=Usage(),
        denials=0,
    )


def request(number: int) -> CallRequest:
    return CallRequest(request_id=f"{number:032x}", profile="python", argv=(b"true",))


def text(size: int) -> bytes:
    lines = (
        f"{number} line of a log with {hashlib.md5(b'%d' % number).hexdigest()}\n"  # noqa: S324
        for number in range(size // 40)
    )
    return "".join(lines).encode()[:size]


async def throughput(store: Store, name: str, chunk: bytes) -> None:
    recorder = await store.begin(
        "mb-" + name.replace(" ", "-"), CALLER, request(hash(name) & 0xFFFF), make_profile(), {}
    )
    rounds = max(1, min(TOTAL_BYTES // len(chunk), 40_000))
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        recorder.output(Stream.STDOUT, chunk)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    await recorder.finish(finished())
    megabytes = rounds * len(chunk) / 1e6
    print(
        f"output {name:>14}: {megabytes / wall:8.0f} MB/s wall, {megabytes / cpu:8.0f} MB/s cpu, "
        f"{rounds / wall:8.0f} chunks/s"
    )


async def calls(store: Store, concurrency: int, output: bytes) -> None:
    async def one(number: int) -> None:
        store.check_admission(concurrency)
        recorder = await store.begin(
            f"call-{concurrency}-{len(output)}-{number}",
            CALLER,
            request(number),
            make_profile(),
            {},
        )
        recorder.started(0.01)
        recorder.output(Stream.STDOUT, output)
        await recorder.finish(finished())

    async def worker(first: int) -> None:
        for number in range(first, CALLS, concurrency):
            await one(number)

    begin, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker(first) for first in range(concurrency)))
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    print(
        f"calls, {concurrency:2} at once, {len(output):5} bytes: {CALLS / wall:7.0f} calls/s, "
        f"{wall / CALLS * 1e3:.2f} ms wall, {cpu / CALLS * 1e3:.2f} ms cpu each"
    )


async def main(directory: Path) -> None:
    store = Store.open(directory)
    for size in (4 << 10, 64 << 10, 256 << 10, 1 << 20):
        await throughput(store, f"text {size >> 10}K", text(size))
        await throughput(store, f"random {size >> 10}K", os.urandom(size))
    for concurrency in (1, 8, 32):
        await calls(store, concurrency, b"42\n")
        await calls(store, concurrency, b"")
    await store.close()
    begin = time.perf_counter()
    store = Store.open(directory)
    print(f"open after close: {(time.perf_counter() - begin) * 1e3:.0f} ms")
    await store.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        asyncio.run(main(Path(folder)))
