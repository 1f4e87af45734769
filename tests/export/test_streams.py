"""The stream sinks against real receivers: rsyslog, syslog-ng and journald, killed and stalled.

What rsyslog has acknowledged is its own to lose. Its queues are `Direct` here, so that it writes a
message before it answers for it; with its default queues, the same kills lose what it had answered
for by RELP. syslog-ng reads what a connection has and writes it in one go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from supervisor.export.event import Event
from supervisor.export.sink import Sink, SinkError
from supervisor.export.sinks.file import FileOptions, FileSink
from supervisor.export.sinks.journald import JournaldOptions, JournaldSink
from supervisor.export.sinks.relp import RelpOptions, RelpSink
from supervisor.export.sinks.syslog import SyslogOptions, SyslogSink
from supervisor.export.sinks.wire import Peer
from tests.support.journald import journald
from tests.support.receiver import Receiver
from tests.support.rounds import rounds
from tests.support.rsyslog import rsyslog
from tests.support.syslog_ng import syslog_ng
from tests.unit.export.sinks.samples import event, plain, secure
from tests.unit.export.sinks.servers import Certificates

log = logging.getLogger("tests.export")

EVENTS, EVENT_BYTES, BATCH_MAX = 20_000, 400, 400
ARRIVE_S = 30.0
CLIENT = "stockade.test"
WHOLE = re.compile(
    rb'(?:^|")([0-9]+)-0123456789abcdef-0[" ][^\n]*?\{"n":([0-9]+),"x":"y*"\}(?=\n)', re.MULTILINE
)

HOSTILE = [
    '"quoted" \\back\\ ]closed] [open[',
    "\u2028\u2029\x85\x9b31m\ufeff\u202e",
    "<13>1 - - - - - - forged",
    "100 <13>1 - - - - - - forged",
    "5 syslog 3 abc",
    '] "uid="forged"',
    "%n%s${jndi:ldap://x}$MSG",
    "",
    " ",
    "z" * 7000,
]


def sample(index: int, size: int = EVENT_BYTES) -> Event:
    head = b'{"n":%d,"x":"' % index
    return event(index, head + b"y" * (size - len(head) - 2) + b'"}')


class Kind:
    """A receiver of some kind, and the sink that sends to it."""

    def __init__(self, name: str, folder: Path, *, queue: str = "Direct") -> None:
        self._certificates = Certificates(folder)
        ca, chain = self._certificates.ca, self._certificates.chain()
        client = CLIENT if name.endswith("mutual") else ""
        self.client = client
        self.tls = name not in {"relp", "tcp"}
        self.relp = name.startswith("relp")
        where = folder / "receiver"
        if name.startswith("syslog-ng"):
            self.receiver = syslog_ng(where, ca=ca, chain=chain, client=bool(client))
        else:
            kind = {"relp-mutual": "relp-tls", "tls-mutual": "tls"}.get(name, name)
            self.receiver = rsyslog(where, kind, ca=ca, chain=chain, client=client, queue=queue)

    def peer(self, client: str | None = None) -> Peer:
        if not self.tls:
            return plain(self.receiver.port)
        shown = self.client if client is None else client
        return secure(self.receiver.port, self._certificates.tls(client=shown))

    def sink(self, client: str | None = None, proof_s: float = 0.2) -> RelpSink | SyslogSink:
        peer = self.peer(client)
        if self.relp:
            return RelpSink(RelpOptions(peer=peer, host="web1", facility=13))
        return SyslogSink(SyslogOptions(peer=peer, host="web1", facility=13, proof_s=proof_s))


KINDS = ["tls", "tls-mutual", "tcp", "relp", "relp-mutual", "syslog-ng", "syslog-ng-mutual"]


def arrived(receiver: Receiver) -> list[int]:
    """Give the index of each event that is whole in the file, as often as it is."""
    with contextlib.suppress(FileNotFoundError):
        found = WHOLE.findall(receiver.lines_path.read_bytes())
        assert all(index == number for index, number in found)
        return [int(index) for index, _ in found]
    return []


async def arrive(receiver: Receiver, count: int) -> list[int]:
    until = time.monotonic() + ARRIVE_S
    while len(set(found := arrived(receiver))) < count:
        assert time.monotonic() < until, (len(set(found)), receiver.log()[-2000:])
        await asyncio.sleep(0.05)
    return found


async def deliver(sink: Sink, batch: Sequence[Event]) -> None:
    """Send a batch until it is taken, as the feeder does."""
    until = time.monotonic() + ARRIVE_S
    while True:
        try:
            assert await sink.send(batch) == []
        except SinkError as error:
            assert time.monotonic() < until, error
            await asyncio.sleep(0.02)
        else:
            return


def kill(receiver: Receiver, chance: random.Random) -> None:
    receiver.kill()
    time.sleep(chance.random() / 5)
    receiver.start()


def stop(receiver: Receiver, chance: random.Random) -> None:
    receiver.stop()
    receiver.start()


def stall(receiver: Receiver, chance: random.Random) -> None:
    with receiver.stalled():
        time.sleep(chance.random() / 2)


def stall_and_kill(receiver: Receiver, chance: random.Random) -> None:
    """What it did not read lies in the kernel, which has acknowledged it."""
    with receiver.stalled():
        time.sleep(chance.random() / 2)
        receiver.kill()
        receiver.start()


TROUBLES: list[Callable[[Receiver, random.Random], None]] = [kill, stop, stall, stall_and_kill]


async def trouble(receiver: Receiver, chance: random.Random, sent: list[int]) -> None:
    """Do one thing after the other to a receiver, each at a random place."""
    marks = sorted(chance.sample(range(EVENTS), 2 * len(TROUBLES)))
    acts = chance.sample(TROUBLES * 2, 2 * len(TROUBLES))
    for mark, act in zip(marks, acts, strict=True):
        while sent[0] < mark:
            await asyncio.sleep(0)
        await asyncio.to_thread(act, receiver, chance)


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_lost_and_the_order_is_kept(tmp_path: Path, name: str) -> None:
    async def go(kind: Kind, chance: random.Random) -> None:
        sink, sent, at = kind.sink(), [0], 0
        with kind.receiver as receiver:
            troubles = asyncio.create_task(trouble(receiver, chance, sent))
            while at < EVENTS:
                end = min(EVENTS, at + chance.randrange(1, BATCH_MAX))
                await deliver(sink, [sample(index) for index in range(at, end)])
                sent[0] = at = end
            await troubles
            found = await arrive(receiver, EVENTS)
            await sink.close()
        assert list(dict.fromkeys(found)) == list(range(EVENTS))
        log.info("%s: %d events, %d duplicates", name, EVENTS, len(found) - EVENTS)

    for number in range(rounds(1)):
        seed = random.randrange(1 << 32)
        log.info("%s: seed %d", name, seed)
        folder = tmp_path / str(number)
        folder.mkdir()
        asyncio.run(go(Kind(name, folder), random.Random(seed)))


@pytest.mark.parametrize("name", KINDS)
def test_what_is_hostile_stays_in_its_line(tmp_path: Path, name: str) -> None:
    kind = Kind(name, tmp_path)
    datas = [text.encode() for text in HOSTILE]
    # What would break a line is no line, and is not sent.
    bad = [b"a\nb", b"a\r", b"a\0b", b"a\x1b[31m", b"\x7f"]

    async def go() -> None:
        sink = kind.sink()
        batch = [event(index, data) for index, data in enumerate([*datas, *bad])]
        rejected = await sink.send(batch)
        assert [one.position for one in rejected] == list(range(len(datas), len(batch)))
        await sink.send([sample(9)])
        await arrive(kind.receiver, 1)
        await sink.close()

    with kind.receiver as receiver:
        asyncio.run(go())
        lines = receiver.lines()
    assert len(lines) == len(datas) + 1
    for index, (line, data) in enumerate(zip(lines, datas, strict=False)):
        assert b"%d-0123456789abcdef-0" % index in line
        assert line.endswith(data.rstrip() if name.startswith("syslog-ng") else data)


@pytest.mark.parametrize("name", ["tls-mutual", "relp-mutual", "syslog-ng-mutual"])
@pytest.mark.parametrize("shown", ["", "other.test"])
def test_whom_the_receiver_does_not_know(tmp_path: Path, name: str, shown: str) -> None:
    if name == "syslog-ng-mutual" and shown:
        shown = ""  # it takes everybody whom the authority has certified
    kind = Kind(name, tmp_path)

    async def go() -> None:
        sink = kind.sink(client=shown, proof_s=5.0)
        with pytest.raises(SinkError):
            await sink.send([sample(1)])
        await sink.close()
        sink = kind.sink()
        await sink.send([sample(2)])
        assert await arrive(kind.receiver, 1) == [2]
        await sink.close()

    with kind.receiver:
        asyncio.run(go())


def test_the_end_is_a_proper_one(tmp_path: Path) -> None:
    kind = Kind("tls", tmp_path)

    async def go() -> None:
        sink = kind.sink()
        await sink.send([sample(1)])
        await sink.close()
        await arrive(kind.receiver, 1)

    with kind.receiver as receiver:
        asyncio.run(go())
        receiver.stop()
        assert "non-properly" not in receiver.log()
        assert "error" not in receiver.log()


@pytest.mark.root
def test_the_real_journal() -> None:
    datas = [
        b'{"a":1}',
        b'a"\n\xff\0MESSAGE=forged\nSTOCKADE_UID=forged\n',
        b"x" * 9_000_000,
        b"",
        b"last",
    ]

    async def go(path: Path) -> None:
        sink = JournaldSink(JournaldOptions(path=path))
        assert await sink.send([event(index, data) for index, data in enumerate(datas)]) == []
        assert await sink.send([sample(index) for index in range(5, 2000)]) == []
        await sink.close()

    with journald() as there:
        asyncio.run(go(there.socket))
        entries = there.entries(2000)
    assert [int(entry["STOCKADE_INDEX"]) for entry in entries] == list(range(2000))
    for entry, data in zip(entries, datas, strict=False):
        message = entry["MESSAGE"]
        assert (bytes(message) if isinstance(message, list) else message.encode()) == data
        assert entry["PRIORITY"] == "4"
        assert entry["STOCKADE_UID"].endswith("-0123456789abcdef-0")


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("name", ["tls", "relp", "relp-mutual", "syslog-ng", "file"])
def test_throughput(tmp_path: Path, name: str) -> None:
    """Tells and asserts no figure (--log-cli-level=info); rsyslog with its default queue."""
    count, size, step = 50_000, 1500, 1000
    batches = [[sample(n, size) for n in range(at, at + step)] for at in range(0, count, step)]

    async def go(sink: Sink, receiver: Receiver | None) -> None:
        begin = time.monotonic()
        for batch in batches:
            assert await sink.send(batch) == []
        sent = time.monotonic() - begin
        if receiver is not None:
            await arrive(receiver, count)
        written = time.monotonic() - begin
        await sink.close()
        log.info("%s: %.0f events/s sent, %.0f written", name, count / sent, count / written)

    if name == "file":
        asyncio.run(go(FileSink(FileOptions(path=tmp_path / "events")), None))
        assert (tmp_path / "events").stat().st_size == count * (size + 1)
        return
    kind = Kind(name, tmp_path, queue="FixedArray")
    with kind.receiver as receiver:
        asyncio.run(go(kind.sink(), receiver))
