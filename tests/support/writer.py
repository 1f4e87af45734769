"""A process that writes a record as the daemon does, and says what it has been promised.

    python -m tests.support.writer STATE WITNESS NAME [sealed] [removed]

With `sealed`, contents are encrypted; with `removed`, all but the newest of them goes at once.

One line for each event, on standard output: `open`; `begun CALL`, when its program could run;
`done CALL LEAF RECEIPT .`, when its caller could be told; `refused CALL REASON`; `failed REASON`,
when the record can no longer be written: it then exits with 7, as the daemon does.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from pathlib import Path

from supervisor.audit import passed
from supervisor.audit.journal import JournalOptions
from supervisor.audit.retention import RetainPolicy
from supervisor.audit.store import Store
from supervisor.audit.vault import PLAIN, Encryption
from supervisor.audit.witness import FileWitness
from supervisor.call.events import Denied, Finished, Wall
from supervisor.call.types import Stream
from supervisor.errors import StockadeError
from tests.support.records import RECIPIENT, begin, make_finished

CALLS_AT_ONCE = 4
TURNS_MAX = 10_000
SEGMENT_BYTES = 100_000
OPTIONS = JournalOptions(
    segment_bytes=SEGMENT_BYTES, reserve_bytes=1 << 20, allocate_step_bytes=1 << 20, linger_s=0.05
)
EXIT_RECORD = 7
RETAINED = RetainPolicy(size_bytes=10_000)
MOUNT = Denied(wall=Wall.SYSCALL, name="mount", arguments=(1, 2, 3))
CONTENT = b"what nobody may find in the clear "


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def one(store: Store, call_id: str) -> None:
    try:
        store.check_admission(CALLS_AT_ONCE)
        recorder = await begin(store, call_id)
        say("begun", call_id)
        recorder.started(0.1)
        for size in range(1, 12):
            recorder.output(Stream.STDOUT, CONTENT + os.urandom(size * 300))
            recorder.tell([MOUNT] * size)  # as many of them together
            await asyncio.sleep(0)
        done = await recorder.finish(make_finished())
    except StockadeError as error:
        say("refused", call_id, error.reason)
        await asyncio.sleep(0.01)
        return
    assert isinstance(done.event, Finished)
    receipt = base64.b64encode(done.event.receipt).decode()
    say("done", call_id, done.event.record, receipt, ".")


async def write(store: Store, name: str) -> None:
    for call in store.interrupted:
        await store.close_interrupted(call, "killed")
    say("open")
    for turn in range(TURNS_MAX):
        calls = (one(store, f"{name}-{turn}-{number}") for number in range(CALLS_AT_ONCE))
        await asyncio.gather(*calls)
        retention = store.contents._retention
        if retention is not None:
            await asyncio.to_thread(retention.run_once)
        if store.failure is not None:
            raise store.failure


def main(state: str, witness: str, name: str, *modes: str) -> int:
    if "removed" in modes:
        passed.GRACE_NS = 0
    try:
        store = Store.open(
            Path(state),
            options=OPTIONS,
            witnesses=[FileWitness(Path(witness))],
            encryption=Encryption(recipients=(RECIPIENT,)) if "sealed" in modes else PLAIN,
            retain=RETAINED if "removed" in modes else None,
        )
        asyncio.run(write(store, name))
    except StockadeError as error:
        say("failed", error.reason)
        return EXIT_RECORD
    except OSError as error:  # as `serve` has it
        say("failed", f"STATE_UNUSABLE {error.strerror}")
        return EXIT_RECORD
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
