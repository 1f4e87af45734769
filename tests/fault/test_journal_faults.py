"""A disk that fails, is full, writes short, is slow, or loses its power: nothing durable is lost,
every INTENT has one OUTCOME, and the log grew from each head that was ever given away.

The writer of the record is a process, its disk a file system of ours (tests/support/faultfs.py):
what it had not synced when the power went may be there or not, block by block.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from supervisor.audit import verify as verify_module
from supervisor.audit.checkpoints import Receipt
from supervisor.audit.entry import Kind
from supervisor.audit.space import sync_directory
from supervisor.audit.store import Store
from supervisor.audit.tiles import WIDTH
from supervisor.audit.verify import VerifyReport, verify
from supervisor.audit.verify_log import LogCheck, Problem
from supervisor.audit.witness import heads_within
from supervisor.errors import AuditCorrupt
from tests.support.faultdisk import LIE, SHORT, SLOW
from tests.support.faultfs import FaultFs, fault_fs
from tests.support.plain import where
from tests.support.records import begin, make_finished
from tests.support.rounds import rounds
from tests.support.writer import CONTENT, EXIT_RECORD

pytestmark = pytest.mark.root
log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
ROUNDS_EACH = 3
CAMPAIGN_ROUNDS = 8
"""On one disk, before there is a new one."""

LIES = 3
LOAD_S_MAX = 0.25
OPEN_S_MAX = 30.0
LOG = "/state/log/*.seg"
PATHS = ("*", LOG, "/state/blobs/*", "/state/tlog/*", "/state/index.db*")
ALL_BUT_THE_MARK = "*[!e]"
"""`/state/log/durable` lies in one sector. A writer that is killed between two halves of it leaves
damage; a file system that stores blocks takes it whole. That a half is followed by the rest is
tested in tests/unit/audit/test_mark.py."""

FAULTS = {
    "power": (),
    "power, sealed": (),
    "power, sealed, removed": (),
    "no space": (("write", "ENOSPC"), ("allocate", "ENOSPC"), ("create", "ENOSPC")),
    "no quota": (("write", "EDQUOT"), ("allocate", "EDQUOT")),
    "write": (("write", "EIO"), ("allocate", "EIO"), ("create", "EIO"), ("rename", "EIO")),
    "fsync": (("sync", "EIO"),),
    "short": (("write", SHORT),),
    "short and full": (("write", SHORT), ("write", "ENOSPC")),
    "slow": (("sync", SLOW),),
}


@dataclasses.dataclass(slots=True)
class Told:
    """What a writer said over all its lives."""

    begun: set[str] = dataclasses.field(default_factory=set)
    outcomes: dict[str, str] = dataclasses.field(default_factory=dict)
    heads: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    figures: Counter[str] = dataclasses.field(default_factory=Counter)

    def take(self, said: list[list[str]]) -> None:
        for kind, *words in said:
            self.figures[kind] += 1
            if kind == "begun":
                self.begun.add(words[0])
            elif kind == "done" and words[-1] == ".":
                self.outcomes[words[0]] = words[1]
                if len(words) == 4:
                    receipt = Receipt.parse(base64.b64decode(words[2]))
                    self.heads.append((words[0], receipt.checkpoint))
            elif kind in ("refused", "failed"):
                self.figures[words[-1]] += 1


@dataclasses.dataclass(slots=True)
class Bench:
    """A disk with a state folder, a witness elsewhere, and what was told."""

    fs: FaultFs
    folder: Path
    told: Told = dataclasses.field(default_factory=Told)
    lives: int = 0
    modes: tuple[str, ...] = ()

    @property
    def state(self) -> Path:
        return self.fs.path / "state"

    @property
    def witness(self) -> Path:
        return self.folder / "witness"

    def live(self, wait_s: float) -> int | None:
        """Let a writer write for a while and kill it; give its exit code, None where it lived."""
        self.lives += 1
        name = f"life-{self.lives}"
        writer = subprocess.Popen(
            [
                sys.executable, "-m", "tests.support.writer",
                self.state, self.witness, name, *self.modes,
            ],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert writer.stdout is not None
        assert writer.stderr is not None
        lines: list[str] = []
        errors: list[str] = []
        threads = [
            threading.Thread(target=lines.extend, args=(writer.stdout,)),
            threading.Thread(target=errors.extend, args=(writer.stderr,)),
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + OPEN_S_MAX
        while "open\n" not in lines and writer.poll() is None:
            assert time.monotonic() < deadline, "the writer does not begin"
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            writer.wait(wait_s)
        code = writer.poll()
        writer.kill()
        writer.wait()
        for thread in threads:
            thread.join()
        assert code in (None, EXIT_RECORD), "".join(errors)
        self.told.take([line.split() for line in lines if line.endswith("\n")])
        return code

    def recover(self) -> None:
        """Be the next daemon: close what is open."""

        async def run() -> None:
            store = Store.open(self.state)
            for call in store.interrupted:
                await store.close_interrupted(call, "killed")
            await store.close()

        asyncio.run(run())

    def verify(self) -> VerifyReport:
        """Hold the record to all that was ever told of it."""
        heads = list(self.told.heads)
        if self.witness.exists():
            heads += [("witness", head) for head in heads_within(self.witness.read_bytes())]
        return verify(self.state, expect=self.told.outcomes, heads=heads)

    def require_whole(self) -> None:
        report = self.verify()
        assert report.problems == (), report.problems[:5]
        assert report.open_calls == ()
        self.told.figures["removed"] = report.removed_calls
        assert bool(where(self.state, CONTENT)) <= ("sealed" not in self.modes)
        problems: list[Problem] = []
        counts = {Kind.INTENT: Counter[str](), Kind.OUTCOME: Counter[str]()}
        for entry in LogCheck(self.state / "log", problems.append, live=False).entries():
            if entry.kind in counts:
                counts[Kind(entry.kind)][entry.call_id] += 1
        assert not problems
        assert set(counts[Kind.INTENT].values()) <= {1}
        assert counts[Kind.INTENT] == counts[Kind.OUTCOME]
        assert self.told.begun <= set(counts[Kind.INTENT])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with fault_fs(tmp_path) as fs:
        yield Bench(fs, tmp_path)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", FAULTS)
def test_rounds(tmp_path: Path, kind: str) -> None:
    figures: Counter[str] = Counter()
    left = rounds(ROUNDS_EACH)
    while left > 0:
        folder = tmp_path / f"{left}"
        folder.mkdir()
        with fault_fs(folder) as fs:
            bench = Bench(fs, folder, modes=tuple(kind.split(", ")[1:]))
            for _ in range(min(left, CAMPAIGN_ROUNDS)):
                seed = random.randrange(1 << 30)
                log.info("%s: seed %d", kind, seed)
                one_round(bench, kind, random.Random(seed), figures)
            assert bench.live(0.3) is None, "it does not start on a disk that works again"
            bench.recover()
            bench.require_whole()
            if "sealed" not in bench.modes:  # the control of what looks for it
                assert where(bench.state, CONTENT)
            figures.update(bench.told.figures)
        left -= CAMPAIGN_ROUNDS
    log.info("%s: %s", kind, dict(sorted(figures.items())))
    assert figures["begun"] > 0
    assert figures["done"] > 0
    if FAULTS[kind]:
        assert figures["injected"] > 0
    assert (figures["removed"] > 0) is kind.endswith("removed")


def one_round(bench: Bench, kind: str, rng: random.Random, figures: Counter[str]) -> None:
    first = not figures["rounds"]
    for operation, does in FAULTS[kind]:
        after = 20 if first else rng.randrange(rng.choice([3, 40, 400]))
        times = rng.choice([1, 3, -1]) if does != SLOW else 5
        path = "*" if first else rng.choice(PATHS)
        if does == SHORT and path == "*":
            path = ALL_BUT_THE_MARK
        bench.fs.fault(operation, does, path=path, after=after, times=times)
    bench.live(LOAD_S_MAX if first else rng.uniform(0, LOAD_S_MAX))
    figures["rounds"] += 1
    figures["injected"] += bool(bench.fs.heal())
    if not FAULTS[kind] or rng.random() < 0.5:
        bench.fs.cut_power(rng.randrange(1 << 30))
        figures["power cuts"] += 1
    bench.recover()
    bench.require_whole()
    if rng.random() < 0.3:  # What the next daemon did is lost, too, as far as it was not synced.
        bench.fs.cut_power(rng.randrange(1 << 30))
        bench.recover()
        bench.require_whole()


def test_the_disk_loses_what_was_not_synced(bench: Bench) -> None:
    """The control: without an fsync a power cut takes it, or the other tests mean nothing."""
    disk = bench.fs.path
    bench.fs.fault("sync", LIE, path="/lied")
    for name in ("synced", "lied", "never"):
        with (disk / name).open("wb") as file:
            file.write(b"content")
            file.flush()
            if name != "never":
                os.fsync(file.fileno())
    sync_directory(disk)
    (disk / "unnamed").write_bytes(b"content")
    bench.fs.cut_power(share=0.0)
    assert {path.name: path.read_bytes() for path in disk.iterdir()} == {
        "synced": b"content", "lied": b"", "never": b"",
    }  # fmt: skip


def test_what_a_failed_fsync_left_in_memory_is_written_again(bench: Bench) -> None:
    """The next daemon reads from memory what the disk never got, and an fsync of clean pages
    succeeds: it has to write it again before it calls it durable."""
    bench.fs.fault("sync", "EIO", path="/state/log/*.seg", after=10)
    assert bench.live(OPEN_S_MAX) == EXIT_RECORD
    assert bench.fs.heal() == 1, "the fsync was tried again"
    bench.recover()
    bench.fs.cut_power(share=0.0)
    bench.recover()
    bench.require_whole()


def test_a_recording_that_was_not_synced_is_written_again(bench: Bench) -> None:
    bench.fs.fault("sync", "EIO", path="/state/blobs/part/life-*", after=2)
    assert bench.live(OPEN_S_MAX) == EXIT_RECORD
    assert bench.fs.heal() >= 1
    bench.recover()
    bench.fs.cut_power(share=0.0)
    bench.recover()
    bench.require_whole()


def test_a_new_state_folder_is_durable_with_its_first_entry(bench: Bench) -> None:
    bench.live(0.1)
    assert bench.told.begun
    bench.fs.cut_power(share=0.0)
    bench.recover()
    bench.require_whole()


def test_a_head_is_durable_and_finds_its_tiles(bench: Bench) -> None:
    async def run() -> None:
        store = Store.open(bench.state)
        for number in range(WIDTH // 2 + 10):
            await (await begin(store, f"call-{number}")).finish(make_finished())
        await store.close()

    asyncio.run(run())
    bench.fs.cut_power(share=0.0)
    report = bench.verify()
    assert report.problems == (), report.problems[:5]
    assert report.entries > WIDTH


@pytest.mark.timeout(7200)
def test_a_disk_that_lies_is_noticed(tmp_path: Path) -> None:
    """Nothing helps against an fsync that lies: what was promised may be gone. But whoever kept a
    receipt, a digest or a head is told so; and a log that is short of its mark, or of a head that
    is left, is not opened."""
    figures: Counter[str] = Counter()
    for number in range(rounds(LIES)):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        with fault_fs(folder) as fs:
            one_lie(Bench(fs, folder), figures)
    log.info("%s", dict(sorted(figures.items())))
    assert figures["lost"] > 0, "no lie took anything"


def one_lie(bench: Bench, figures: Counter[str]) -> None:
    bench.live(0.2)
    bench.recover()
    bench.require_whole()
    seed = random.randrange(1 << 30)
    log.info("lie: seed %d", seed)
    bench.fs.fault("sync", LIE, path=random.Random(seed).choice(("*", "/state/log/*", LOG)))
    bench.live(0.4)
    assert bench.fs.heal(), "nothing was synced"
    bench.fs.cut_power(seed)
    try:
        bench.recover()
        figures["opened"] += 1
    except AuditCorrupt as error:
        figures[error.reason] += 1
        assert not bench.verify().ok
    there = {
        entry.call_id
        for entry in LogCheck(bench.state / "log", lambda _: None, live=False).entries()
        if entry.kind == Kind.OUTCOME and entry.leaf == bench.told.outcomes.get(entry.call_id)
    }
    lost = set(bench.told.outcomes) - there
    figures["lost"] += len(lost)
    with mock.patch.object(verify_module, "PROBLEMS_MAX", 1 << 30):  # each of the lost is asked for
        named = {problem.call for problem in bench.verify().problems}
    assert lost <= named, "what was promised is gone, and nobody is told"
