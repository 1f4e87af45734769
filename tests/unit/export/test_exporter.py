"""The daemon's side of a sink: its process comes again, its cursor is kept, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from supervisor.audit.cursors import Cursors
from supervisor.audit.journal import Journal, JournalOptions
from supervisor.audit.segment import MAGIC, segment_name
from supervisor.export import exporter as module
from supervisor.export import place
from supervisor.export.build import Order
from supervisor.export.channel import ChannelClosed
from supervisor.export.event import Head, Source
from supervisor.export.exporter import Exporter
from supervisor.export.letters import Letter
from supervisor.export.pump import PumpOptions
from supervisor.export.sinks.file import FileOptions
from supervisor.export.worker import NICE
from supervisor.linux import cgroup, idle

SOURCE = Source(origin="log.example.com/a", host="host", version="0")


class Log:
    """A log that is written to."""

    def __init__(self, folder: Path) -> None:
        options = JournalOptions(linger_s=60.0, segment_bytes=20_000)
        self.journal = Journal.open(folder / "log", options=options)[0]

    def write(self, count: int) -> None:
        for _ in range(count):
            at = self.journal.head[0]
            self.journal.append("denied", {"n": at}, time_ns=at, call="call-1", sequence=at + 2)
        self.journal.sync()

    def durable(self) -> int:
        return self.journal.head[0]

    def head(self) -> Head:
        return Head(size=self.durable(), root="ab" * 32)

    def firsts(self) -> Sequence[int]:
        return self.journal.segments

    def open(self, first: int) -> int:
        return os.open(self.journal.directory / segment_name(first), os.O_RDONLY | os.O_CLOEXEC)

    def beyond(self, segment: int, offset: int) -> int:
        return 1000 + offset

    def opening(self, call: str) -> tuple[int, int, Mapping[str, Any]] | None:
        return (0, 1, {"caller": {"name": call}})


def order(path: Path, **changes: Any) -> Order:
    fields: dict[str, Any] = {
        "name": "archive", "kind": "file", "options": FileOptions(path=path), "made_by": "json",
        "source": SOURCE, "uid": 0, "pump": PumpOptions(batch_events=50, linger_s=0.01),
    }  # fmt: skip
    return Order(**fields | changes)


@contextlib.asynccontextmanager
async def exporting(log: Log, state: Path, *orders: Order) -> AsyncIterator[Exporter]:
    exporter = Exporter(orders, log, state)
    exporter.start()
    try:
        yield exporter
    finally:
        await exporter.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def came(path: Path) -> list[int]:
    if not path.exists():
        return []
    return [json.loads(line)["index"] for line in path.read_bytes().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@pytest.fixture
def pids(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the processes that were started, in their order."""
    started: list[int] = []
    spawn = module._spawn
    monkeypatch.setattr(
        module, "_spawn", lambda *given: started.append(pid := spawn(*given)) or pid
    )
    return started


def test_the_log_goes_out_and_the_cursor_follows(log: Log, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    log.write(120)

    async def main() -> None:
        async with exporting(log, tmp_path, order(out)) as exporter:
            await until(lambda: exporter.states[0].index == 120)
            log.write(5)
            await until(lambda: exporter.states[0].index == 125)
        cursor = Cursors(tmp_path).read("archive")
        assert (cursor.index, cursor.leaf) == (125, log.journal.head[1].hex())
        log.write(5)
        async with exporting(log, tmp_path, order(out)) as exporter:
            await until(lambda: exporter.states[0].index == 130)

    asyncio.run(main())
    assert came(out) == list(range(130))
    line = json.loads(out.read_bytes().splitlines()[3])
    assert (line["call"]["id"], line["log"]) == ("call-1", SOURCE.origin)
    assert line["head"] == {"size": 120, "root": "ab" * 32}


@pytest.mark.root
def test_its_process_leaves_calls_the_processor(
    log: Log, tmp_path: Path, pids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of this test alone: a daemon of another lane may have somebody in the usual one.
    monkeypatch.setattr(idle, "NAME", f"stockade-idle-test-{os.getpid()}")
    log.write(1)

    async def main() -> None:
        async with exporting(log, tmp_path, order(tmp_path / "out")) as exporter:
            await until(lambda: exporter.states[0].index == 1)
            assert os.getpriority(os.PRIO_PROCESS, pids[0]) == NICE
            assert f"/{idle.NAME}\n" in Path(f"/proc/{pids[0]}/cgroup").read_text()

    asyncio.run(main())
    assert not (cgroup.detect().controllers["cpu"] / idle.NAME).exists()


@pytest.mark.root
def test_one_that_is_late_leaves_calls_nothing_more(
    log: Log, tmp_path: Path, pids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "LATE_S", 0.1)
    log.write(1)

    async def main() -> None:
        async with exporting(log, tmp_path, order(tmp_path / "out")) as exporter:
            await until(lambda: exporter.states[0].index == 1)
            os.kill(pids[0], signal.SIGSTOP)
            log.write(1)
            await until(lambda: idle.group_of(pids[0]) == idle.group_of(os.getpid()))
            os.kill(pids[0], signal.SIGCONT)
            await until(lambda: idle.group_of(pids[0]) == idle.NAME)

    asyncio.run(main())


def test_a_process_that_is_killed_comes_again_and_goes_on(
    log: Log, tmp_path: Path, pids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_MIN_S", 0.01)
    out = tmp_path / "out.jsonl"

    async def main() -> None:
        async with exporting(log, tmp_path, order(out)) as exporter:
            for round_ in range(4):
                log.write(300)
                await until(lambda: exporter.states[0].running)
                await until(lambda: exporter.states[0].index > 300 * round_)  # noqa: B023
                os.kill(pids[-1], signal.SIGKILL)
                await until(lambda: len(pids) == round_ + 2)  # noqa: B023
            await until(lambda: exporter.states[0].index == 1200)

    asyncio.run(main())
    found = came(out)
    assert list(dict.fromkeys(found)) == list(range(1200))


def test_a_cursor_of_another_log_stops_the_sink_and_says_so(log: Log, tmp_path: Path) -> None:
    (tmp_path / "cursors").mkdir()
    (tmp_path / "cursors" / "archive").write_text(f"stockade cursor v1\n5\n{'ab' * 32}\n")
    log.write(10)

    async def main() -> None:
        async with exporting(log, tmp_path, order(tmp_path / "out")) as exporter:
            await until(lambda: "not the one that was acknowledged" in exporter.states[0].why)

    asyncio.run(main())
    assert came(tmp_path / "out") == []


def test_a_damaged_cursor_is_not_begun_anew(log: Log, tmp_path: Path) -> None:
    (tmp_path / "cursors").mkdir()
    (tmp_path / "cursors" / "archive").write_text("garbage")
    log.write(10)

    async def main() -> None:
        async with exporting(log, tmp_path, order(tmp_path / "out")) as exporter:
            await until(lambda: "damaged" in exporter.states[0].why)
            assert not exporter.states[0].running

    asyncio.run(main())
    assert (tmp_path / "cursors" / "archive").read_text() == "garbage"
    assert not (tmp_path / "out").exists()


def test_one_sink_that_cannot_work_keeps_no_other_from_it(log: Log, tmp_path: Path) -> None:
    log.write(10)
    bad = order(tmp_path / "no" / "folder", name="bad")

    async def main() -> None:
        async with exporting(log, tmp_path, bad, order(tmp_path / "out")) as exporter:
            await until(lambda: exporter.states[1].index == 10)
            await until(lambda: bool(exporter.states[0].said.get("why")))
            assert exporter.states[0].index == 0

    asyncio.run(main())
    assert came(tmp_path / "out") == list(range(10))


def test_sinks_come_go_and_change_while_others_go_on(log: Log, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    log.write(20)

    async def main() -> None:
        async with exporting(log, tmp_path, order(first, name="stays"), order(second)) as exporter:
            await until(lambda: [state.index for state in exporter.states] == [20, 20])
            changes = await exporter.apply(
                [
                    order(first, name="stays"),
                    order(third),
                    order(tmp_path / "new", name="comes"),
                ]
            )
            assert changes == (("comes",), (), ("archive",), ("stays",))
            log.write(10)
            await until(lambda: {state.index for state in exporter.states} == {30})
            changes = await exporter.apply([order(first, name="stays")])
            assert changes == ((), ("archive", "comes"), (), ("stays",))
            assert [state.name for state in exporter.states] == ["stays"]
            log.write(10)
            await until(lambda: exporter.states[0].index == 40)
            changes = await exporter.apply([order(first, name="stays"), order(third)])
            await until(lambda: {state.index for state in exporter.states} == {40})

    asyncio.run(main())
    assert came(first) == list(range(40))
    assert came(second) == list(range(20))
    assert came(third) == list(range(20, 40))  # it goes on where the one before it was
    assert came(tmp_path / "new") == list(range(30))


def test_a_replay_gives_what_was_acknowledged_again_and_takes_nothing_back(
    log: Log, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    log.write(50)

    async def main() -> None:
        async with exporting(log, tmp_path, order(out)) as exporter:
            await until(lambda: exporter.states[0].index == 50)
            for index in (50, 51, -1):
                with pytest.raises(ValueError, match=f"entry {index}"):
                    await exporter.replay("archive", index)
            with pytest.raises(KeyError):
                await exporter.replay("other", 0)
            await exporter.replay("archive", 30)
            assert exporter.states[0].replaying_from == 30
            await until(lambda: exporter.states[0].replaying_from is None)
            assert exporter.states[0].index == 50
            log.write(1)
            await exporter.wait_acknowledged("archive", 50)

    asyncio.run(main())
    assert came(out) == [*range(50), *range(30, 51)]
    assert Cursors(tmp_path).read("archive").index == 51


def test_a_replay_outlives_its_process_a_change_and_another_replay(
    log: Log, tmp_path: Path, pids: list[int]
) -> None:
    folder, away = tmp_path / "out", tmp_path / "away"
    folder.mkdir()
    log.write(50)

    async def main() -> None:
        async with exporting(log, tmp_path, order(folder / "events")) as exporter:
            await until(lambda: exporter.states[0].index == 50)
            folder.rename(away)
            await until(lambda: exporter.states[0].acknowledged_at > 0)
            at = exporter.states[0].acknowledged_at
            await exporter.replay("archive", 30)
            await until(lambda: bool(exporter.states[0].said.get("failures")))
            await exporter.replay("archive", 40)
            assert exporter.states[0].replaying_from == 30
            await until(lambda: len(pids) == 3)
            os.kill(pids[-1], signal.SIGKILL)
            await until(lambda: len(pids) == 4)
            assert exporter.states[0].replaying_from == 30
            await exporter.apply([order(folder / "events", pump=PumpOptions(batch_events=7))])
            assert exporter.states[0].replaying_from == 30
            assert exporter.states[0].acknowledged_at == at
            away.rename(folder)
            await until(lambda: exporter.states[0].replaying_from is None)
            assert exporter.states[0].index == 50

    asyncio.run(main())
    assert came(folder / "events") == [*range(50), *range(30, 50)]


def test_a_replay_of_what_is_gone_ends_and_says_so(
    log: Log, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log.write(50)

    async def main() -> None:
        async with exporting(log, tmp_path, order(tmp_path / "events")) as exporter:
            await until(lambda: exporter.states[0].index == 50)
            with mock.patch.object(log, "firsts", lambda: [40]):
                await exporter.replay("archive", 30)
                await until(lambda: exporter.states[0].replaying_from is None)
            log.write(1)
            await exporter.wait_acknowledged("archive", 50)

    asyncio.run(main())
    assert any("its replay ends before entry 30" in one for one in caplog.messages)


def test_who_waits_for_a_sink_that_goes_is_told(log: Log, tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(log, tmp_path, order(tmp_path / "out")) as exporter:
            waiting = asyncio.create_task(exporter.wait_acknowledged("archive", 7))
            await asyncio.sleep(0)
            await exporter.apply([])
            with pytest.raises(KeyError):
                await waiting

    asyncio.run(main())


def test_how_far_a_sink_is_behind(log: Log, tmp_path: Path) -> None:
    for _ in range(20):
        log.journal.append("policy", {}, time_ns=10**18)
    log.journal.sync()

    async def main() -> None:
        nowhere = order(tmp_path / "none" / "out")
        async with exporting(log, tmp_path, nowhere) as exporter:
            await until(lambda: exporter.states[0].said.get("waiting_since"))
            entries, size, seconds = await exporter.lag("archive")
            assert (entries, size) == (20, 1000 + len(MAGIC))
            assert seconds > 0
            (tmp_path / "none").mkdir()
            await until(lambda: exporter.states[0].index == 20)
            assert await exporter.lag("archive") == (0, 0, 0.0)
            assert exporter.durable() == 20

    asyncio.run(main())


def test_dead_letters_are_sent_again_or_given_up(log: Log, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    log.write(3)

    async def main() -> None:
        with mock.patch.object(module, "LETTERS_AT_ONCE", 1):
            async with exporting(log, tmp_path, order(out)) as exporter:
                await exporter.wait_acknowledged("archive", 2)
                assert exporter.letters("archive") == []
                with pytest.raises(KeyError):
                    await exporter.redeliver("archive", ["1-ab-0"])
                leaf = json.loads(out.read_bytes().splitlines()[1])["leaf"]
                uid = f"1-{leaf[:16]}-0"
                wrong = Letter(index=2, uid=f"2-{'0' * 16}-7", why="no", time_ns=1)
                letters = exporter._links["archive"].letters
                letters.add([Letter(index=1, uid=uid, why="full", time_ns=1), wrong])
                exporter._links["archive"]._dead |= {uid, wrong.uid}
                (first, told), (second, why) = await exporter.redeliver("archive")
                assert (first.uid, told, second.uid) == (uid, "", wrong.uid)
                assert why == "its entry makes no such event any more"
                assert [one.why for one in exporter.letters("archive")] == [why]
                assert exporter.states[0].letters == 1
                assert await exporter.discard("archive") == 1
                assert exporter.letters("archive") == []
                assert exporter.states[0].letters == 0

    asyncio.run(main())
    assert came(out) == [0, 1, 2, 1]


def test_a_letter_that_comes_twice_is_one(log: Log, tmp_path: Path) -> None:
    log.write(1)

    async def main() -> None:
        exporter = Exporter([order(tmp_path / "out")], log, tmp_path)
        letter = {"index": 0, "uid": "", "why": "no", "time_ns": 1}
        for number in (0, 1, 0):
            uid = f"0-{'0a' * 8}-{number}"
            await exporter._links["archive"]._handle(
                {"ask": "refused", "letter": {**letter, "uid": uid}}, ()
            )
        assert exporter.states[0].letters == 2 == len(exporter.letters("archive"))

    asyncio.run(main())


SAYS = {
    "garbage": "end.send(b'{')",
    "state": "tell(tell='state', segment='x', why='no')",
    "cursor": "tell(tell='acknowledged', index=10**9, leaf='0' * 64)",
    "letter": "tell(ask='refused', id=1, letter=dict(index=0, uid='u', why='', time_ns=1))",
    "flood": "[tell(tell='acknowledged', index=0, leaf='0' * 64) for _ in range(20)]; tell(tell=5)",
}


@pytest.mark.parametrize("what", SAYS)
def test_a_process_that_says_what_it_may_not_is_ended(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    log.write(3)
    taken_over = (
        "import json, socket, sys, time; end = socket.socket(fileno=int(sys.argv[2]));"
        f"tell = lambda **said: end.send(json.dumps(said).encode()); {SAYS[what]}; time.sleep(600)"
    )
    monkeypatch.setattr(module, "_ENTRY", taken_over)
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    ended = asyncio.Event()
    pids: list[int] = []
    spawn, end = module._spawn, module._end

    async def ends(pidfd: int) -> None:
        await end(pidfd)
        ended.set()

    monkeypatch.setattr(module, "_spawn", lambda *given: pids.append(pid := spawn(*given)) or pid)
    monkeypatch.setattr(module, "_end", ends)

    async def main() -> None:
        async with exporting(log, tmp_path, order(tmp_path / "out")) as exporter:
            async with asyncio.timeout(60):
                await ended.wait()
            assert not Path(f"/proc/{pids[0]}").exists()
            (state,) = exporter.states
            assert (state.running, state.index, state.letters, state.said) == (False, 0, 0, {})
            assert state.why.startswith("its process was ended: ")
            assert (await exporter.lag("archive")).entries == 3
        assert Cursors(tmp_path).read("archive").index == 0

    asyncio.run(main())


def test_letters_of_a_sink_that_does_not_run_stay(log: Log, tmp_path: Path) -> None:
    async def main() -> None:
        exporter = Exporter([order(tmp_path / "out")], log, tmp_path)
        exporter._links["archive"].letters.add([Letter(index=0, uid="a", why="no", time_ns=1)])
        with pytest.raises(ChannelClosed, match="does not run"):
            await exporter.redeliver("archive")
        assert [letter.uid for letter in exporter.letters("archive")] == ["a"]

    asyncio.run(main())


def test_entries_that_are_no_events_are_behind_a_sink_as_well(log: Log, tmp_path: Path) -> None:
    out = tmp_path / "out"
    log.write(20)

    async def main() -> None:
        async with exporting(log, tmp_path, order(out, made_by="spans")) as exporter:
            await exporter.wait_acknowledged("archive", 19)
            assert await exporter.lag("archive") == (0, 0, 0.0)

    asyncio.run(main())
    assert came(out) == []


def test_what_its_process_logs_is_in_the_daemons_log(
    log: Log, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log.write(1)
    quick = PumpOptions(wait_min_s=0.01, wait_max_s=0.02)

    async def main() -> None:
        async with exporting(log, tmp_path, order(tmp_path / "no" / "out", pump=quick)):
            await until(lambda: "it fails" in caplog.text)

    asyncio.run(main())
    (record,) = [one for one in caplog.records if "it fails" in one.message]
    assert (record.name, record.levelname) == ("stockade.export", "WARNING")
    assert record.message == f"sink archive: it fails: {tmp_path}/no/out: No such file or directory"
