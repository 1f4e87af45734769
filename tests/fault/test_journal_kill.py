"""The writer is killed at random moments: nothing durable is lost, and the log still verifies."""

from __future__ import annotations

import asyncio
import base64
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from supervisor.audit.checkpoints import Receipt
from supervisor.audit.entry import Kind
from supervisor.audit.notes import VerifierKey
from supervisor.audit.verify import verify
from tests.support.records import opened
from tests.support.rounds import rounds

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import asyncio, base64, os, sys
from pathlib import Path
from supervisor.audit.journal import JournalOptions
from supervisor.audit.store import Store
from supervisor.call.events import Denied, Wall
from supervisor.call.types import Stream
from tests.support.records import begin, make_finished

MOUNT = Denied(wall=Wall.SYSCALL, name="mount", arguments=(1, 2, 3))

async def one(store, name):
    recorder = await begin(store, name)
    print("begun", name, flush=True)
    recorder.started(0.1)
    for size in range(1, 12):
        recorder.output(Stream.STDOUT, os.urandom(size * 300))
        recorder.tell([MOUNT] * size)  # as many of them together
        await asyncio.sleep(0)
    done = await recorder.finish(make_finished())
    print("done", name, done.event.record, base64.b64encode(done.event.receipt).decode(), ".",
          flush=True)

async def main():
    store = Store.open(Path(sys.argv[1]), options=JournalOptions(segment_bytes=100_000))
    for call in store.interrupted:
        await store.close_interrupted(call, "killed")
    print("open", flush=True)
    for turn in range(10_000):
        await asyncio.gather(*(one(store, f"{sys.argv[2]}-{turn}-{n}") for n in range(4)))

asyncio.run(main())
"""


def run_and_kill(state: Path, name: str, wait_s: float) -> list[list[str]]:
    """Start a writer, kill it after a while; give what it said had happened."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(state), name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "open\n"
    time.sleep(wait_s)
    writer.send_signal(signal.SIGKILL)
    said, _ = writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    return [line.split() for line in said.splitlines() if line.count(" ")]


def checked(state: Path, leaf: str, encoded: str) -> bytes:
    """Check the receipt that a client was given; give the signed head in it."""
    receipt = Receipt.parse(base64.b64decode(encoded))
    key = VerifierKey.parse((state / "log.pub").read_text())
    receipt.verify(bytes.fromhex(leaf), [key])
    return receipt.checkpoint


def test_what_was_told_stays_told(tmp_path: Path) -> None:
    begun: set[str] = set()
    outcomes: dict[str, str] = {}
    heads: list[tuple[str, bytes]] = []
    for number in range(rounds(12)):
        for said in run_and_kill(tmp_path, f"round-{number}", random.uniform(0, 0.15)):
            if said[0] == "begun":
                begun.add(said[1])
            elif len(said) == 5:  # A line that was cut off has no end.
                outcomes[said[1]] = said[2]
                heads.append((said[1], checked(tmp_path, said[2], said[3])))
        published = tmp_path / "tlog" / "checkpoint"
        if published.exists():
            heads.append((f"published in round {number}", published.read_bytes()))
        open_calls = verify(tmp_path).open_calls
        assert not set(open_calls) & set(outcomes)

    async def recover() -> None:
        async with opened(tmp_path) as store:
            for call in store.interrupted:
                await store.close_interrupted(call, "killed")
            for call_id in begun:
                kinds = [entry.kind for entry in store.entries(call_id)]
                assert kinds.count(Kind.INTENT) == kinds.count(Kind.OUTCOME) == 1
                assert store.get_call(call_id).finished is not None

    asyncio.run(recover())
    report = verify(tmp_path, expect=outcomes, heads=heads)
    assert report.problems == ()
    assert report.consistent == len(heads) > rounds(12)
    assert report.open_calls == ()
    assert report.calls >= len(begun) > 0
