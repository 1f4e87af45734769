"""Secrets through a whole store: none is on the disk, and what is there still verifies."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.audit import recorder as recorder_module
from supervisor.audit.entry import Kind
from supervisor.audit.interrupted import OpenCall
from supervisor.audit.recorder import CallRecorder
from supervisor.audit.recording import Redacted
from supervisor.audit.redaction.literals import RedactionFailed
from supervisor.audit.redaction.redactor import Redactor
from supervisor.audit.store import Store
from supervisor.audit.streams import StreamState
from supervisor.audit.verify import verify
from supervisor.call.events import (
    DAEMON_DIED,
    CallEvent,
    Denied,
    Finished,
    Lost,
    Output,
    Processes,
    Wall,
)
from supervisor.call.outcome import Failed
from supervisor.call.types import Correlation, Digest, OutputFile, Stream
from supervisor.errors import AuditUnavailable
from supervisor.profile.model import Capture, Redact
from tests.support.planted import credentials, left
from tests.support.records import (
    AS_IT_IS,
    FLOW,
    PROCESSES,
    WATCHED,
    begin,
    make_finished,
    make_profile,
    opened,
)
from tests.unit.audit.redaction.samples import literal_secrets
from tests.unit.audit.redaction.test_redactor_corpus import SPELLINGS

ON = Redact()
SECRETS = literal_secrets(100, seed=3)
API = b"correct-horse9"


Scenario = Callable[[Store, CallRecorder], Awaitable[None]]


def run(
    directory: Path,
    scenario: Scenario,
    *,
    redact: Redact = ON,
    secrets: dict[str, bytes] | None = None,
    **captures: Capture,
) -> None:
    async def main() -> None:
        async with opened(directory) as store:
            profile = make_profile(redact=redact, **captures)
            recorder = await begin(store, profile=profile, secrets=secrets)
            await scenario(store, recorder)

    asyncio.run(main())


def outputs(events: Iterator[CallEvent]) -> list[Output]:
    return [event.event for event in events if isinstance(event.event, Output)]


def joined(events: list[Output]) -> bytes:
    """Join what follows on each other; a hole or an overlap is a failure."""
    at = 0
    for output in events:
        assert output.offset == at
        at = output.end
    return b"".join(output.data for output in events)


def stored(store: Store, stream: Stream = Stream.STDOUT) -> bytes:
    return b"".join(piece.data for piece in store.read_stream("call-1", stream))


@pytest.mark.parametrize("redact", [ON, AS_IT_IS], ids=["redacted", "control"])
def test_two_hundred_planted_secrets_through_every_stream(redact: Redact, tmp_path: Path) -> None:
    spelt = itertools.cycle(SPELLINGS.values())
    planted = [next(spelt)(secret) for secret in SECRETS.values()]
    known = credentials()
    planted += [text for text, _ in known]
    data = b"\n..\n".join(planted)
    rng = random.Random(4)

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        for stream in Stream:
            at = 0
            while at < len(data):
                chunk = data[at : at + rng.choice([1, 3, 17, 97, 4096])]
                recorder.output(stream, chunk)
                at += len(chunk)
        recorder.stdin(data)  # once more, in one
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        summary = {item.stream: item for item in done.event.streams}[Stream.STDOUT]
        assert (summary.digest, summary.truncated) == (Digest.of(data), False)

    secrets = {} if redact.off else SECRETS
    run(tmp_path, scenario, redact=redact, secrets=secrets)
    assert verify(tmp_path).ok
    wanted = [secret for _, secret in known]
    found = left(tmp_path, [*SECRETS.values(), *wanted])
    if redact.off:
        assert set(wanted) <= set(found)
        assert len(found) > len(wanted) + 30  # many a spelling leaves a part as it was
    else:
        assert found == []


def test_each_border_of_a_secret(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        whole = b"say " + API + b" now\n"
        for border in range(len(whole) + 1):
            recorder.output(Stream.STDOUT, whole[:border])
            recorder.output(Stream.STDOUT, whole[border:])
        await recorder.finish(make_finished())
        assert stored(store).count(b"[REDACTED:api:") == len(whole) + 1
        assert left(tmp_path, [API]) == []

    run(tmp_path, scenario, secrets={"api": API})
    assert verify(tmp_path).ok


def test_who_listens_gets_what_the_program_said(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        chunks = [b"a " + API, b" b", os.urandom(9000), API[:5], API[5:], b" end"]
        events = [event for chunk in chunks for event in recorder.output(Stream.STDOUT, chunk)]
        assert joined(outputs(iter(events))) == b"".join(chunks)
        assert [event.sequence for event in events] == sorted({e.sequence for e in events})
        done = await recorder.finish(make_finished())
        recorded = outputs(store.events("call-1"))
        assert joined(recorded) == stored(store)
        assert [output.covered for output in recorded if output.covered] == [len(API)] * 2
        assert isinstance(done.event, Finished)
        assert done.event.streams[0].redactions == 2

    run(tmp_path, scenario, secrets={"api": API})


@pytest.mark.parametrize("seed", range(6))
def test_who_comes_later_misses_nothing(seed: int, tmp_path: Path) -> None:
    """At any moment: each byte that came is there, as it was or under a mark, when it came."""
    rng = random.Random(seed)

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        live: list[CallEvent] = []
        whole = b""

        def check(first: int, marks: list[int]) -> None:
            found = [e for e in store.events("call-1", first) if isinstance(e.event, Output)]
            came = {e.sequence: e for e in live if e.sequence >= first}
            at = len(whole) if not came else min(e.event.offset for e in came.values())  # type: ignore[union-attr]
            for event in found:
                output = event.event
                assert isinstance(output, Output)
                assert (output.offset, event.time_ns) == (at, came[event.sequence].time_ns)
                if output.covered:
                    marks.append(output.covered)
                    assert whole[output.offset : output.end] in API
                else:
                    assert whole[output.offset : output.end] == output.data
                at = output.end
            assert at == len(whole)

        for _ in range(40):
            chunk = rng.choice(
                [API + b" ", API[:6], b"clear ", rng.randbytes(rng.choice([5, 3000]))]
            )
            whole += chunk
            live += recorder.output(Stream.STDOUT, chunk)
            check(1, [])
            check(rng.randrange(recorder.last_sequence) + 1, [])
        await recorder.finish(make_finished())
        marks: list[int] = []
        check(1, marks)
        assert marks == [len(API)] * whole.count(API)
        check(rng.randrange(recorder.last_sequence) + 1, [])

    run(tmp_path, scenario, secrets={"api": API})


def test_without_a_secret_a_record_is_what_was_seen(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        rng = random.Random(8)
        seen = [
            event
            for _ in range(60)
            for event in recorder.output(
                rng.choice([Stream.STDOUT, Stream.STDERR]), rng.randbytes(rng.choice([3, 900]))
            )
        ]
        assert [e for e in store.events("call-1") if isinstance(e.event, Output)] == seen
        await recorder.finish(make_finished())
        assert [e for e in store.events("call-1") if isinstance(e.event, Output)] == seen

    run(tmp_path, scenario)


@pytest.mark.parametrize("cap", [4, 10, 30, 5000])
def test_a_cap_cuts_no_secret(cap: int, tmp_path: Path) -> None:
    data = b"say " + API + b" and more" + b"." * 9000

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        events = recorder.output(Stream.STDOUT, data)
        assert joined(outputs(iter(events))) == data
        assert [output.truncated for output in outputs(iter(events))] == [False, True]
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        tail = cap // 8
        assert (done.event.streams[0].stored_bytes, done.event.streams[0].tail_bytes) == (
            cap + tail, tail,
        )  # fmt: skip
        entries = [entry.body() for entry in store.entries("call-1") if entry.kind == "truncated"]
        cut = {"stream": "stdout", "offset": cap, "why": "cap"}
        assert entries == [cut, {**cut, "length": len(data) - cap - tail}][: 2 if tail else 1]
        recorded = [one for one in outputs(store.events("call-1")) if one.offset < cap]
        [at] = [one for one in outputs(store.events("call-1")) if one.truncated]
        assert at.offset == cap
        assert joined(recorded) + b"." * tail == stored(store)
        assert left(tmp_path, [API]) == []

    run(tmp_path, scenario, secrets={"api": API}, stdout=Capture(mode="head", bytes_max=cap))
    assert verify(tmp_path).ok


@pytest.mark.parametrize("chunk", [7, 1000, 1 << 20])
@pytest.mark.parametrize("shift", range(-15, 16, 3))
def test_no_part_of_a_secret_shows_at_a_border_of_the_gap(
    shift: int, chunk: int, tmp_path: Path
) -> None:
    """One lies across the cap, one in the gap, one across where the tail begins, one in that."""
    cap, size = 4000, 20_000
    whole = bytearray(b"abcdefg \n" * (size // 9 + 1))[:size]
    places = [cap + shift, 9000, size - 500 + shift, size - 200]
    for place in places:
        whole[place - 7 : place - 7 + len(API)] = API
    data = bytes(whole)

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        for begin_at in range(0, size, chunk):
            recorder.output(Stream.STDOUT, data[begin_at : begin_at + chunk])
        late = outputs(store.events("call-1"))
        assert all(one.offset <= cap for one in late)
        recorder.end(Stream.STDOUT)
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        (summary, _) = done.event.streams
        assert summary.digest == Digest.of(data)
        assert 300 < summary.tail_bytes <= 500
        for output in outputs(store.events("call-1")):
            if not output.covered:
                assert data[output.offset : output.end] == output.data
        on_record = stored(store)
        for length in range(3, len(API) + 1):
            for at in (0, len(API) - length):
                assert API[at : at + length] not in on_record
        assert on_record.endswith(data[-180:])
        assert on_record.count(b"[REDACTED:api:") >= 1 + (shift < 7)
        assert left(tmp_path, [API]) == []

    capture = Capture(mode="head", bytes_max=cap)
    run(tmp_path, scenario, secrets={"api": API}, stdout=capture)
    assert verify(tmp_path).ok


def test_what_comes_after_the_end_of_a_stream_is_not_stored_as_it_was(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        recorder.output(Stream.STDOUT, b"before\n")
        recorder.end(Stream.STDOUT)
        recorder.output(Stream.STDOUT, API)
        await recorder.finish(make_finished())
        assert stored(store) == b"before\n"
        assert left(tmp_path, [API]) == []

    run(tmp_path, scenario, secrets={"api": API})


def test_where_redaction_fails_past_the_cap_no_end_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Redactor.feed

    def failing(self: Redactor, data: bytes) -> bytes:
        if b"now" in data:
            raise RedactionFailed("on purpose")
        return feed(self, data)

    monkeypatch.setattr(Redactor, "feed", failing)

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        for data in (b"before\n" * 99, b"now " + API, b"after\n" * 99):
            recorder.output(Stream.STDOUT, data)
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        assert (done.event.streams[0].stored_bytes, done.event.streams[0].tail_bytes) == (64, 0)
        assert b"after" not in stored(store)

    run(tmp_path, scenario, stdout=Capture(mode="head", bytes_max=64))
    assert verify(tmp_path).ok


def test_where_redaction_fails_only_the_digest_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Redactor.feed

    def failing(self: Redactor, data: bytes) -> bytes:
        if b"now" in data:
            raise RedactionFailed("on purpose")
        return feed(self, data)

    monkeypatch.setattr(Redactor, "feed", failing)

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        data = b"before " + b"." * 9000, b"now " + API, b"after " + API
        events = [event for chunk in data for event in recorder.output(Stream.STDOUT, chunk)]
        assert joined(outputs(iter(events))) == b"".join(data)
        assert [output.truncated for output in outputs(iter(events))] == [False, True, True]
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        (summary, _) = done.event.streams
        assert summary.digest == Digest.of(b"".join(data))
        assert 0 < summary.stored_bytes < 9007
        (cut,) = [entry.body() for entry in store.entries("call-1") if entry.kind == "truncated"]
        assert cut == {"stream": "stdout", "offset": summary.stored_bytes, "why": "redaction"}
        assert left(tmp_path, [API]) == []

    run(tmp_path, scenario)  # and it is not even looked for
    assert verify(tmp_path).ok


def test_what_is_held_back_at_the_end_and_cannot_be_cleaned_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: StreamState) -> list[object]:
        raise RedactionFailed("on purpose")

    monkeypatch.setattr(StreamState, "rest", failing)

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        recorder.output(Stream.STDERR, b"short gh")
        await recorder.finish(make_finished())
        kinds = [entry.kind for entry in store.entries("call-1")]
        assert kinds.count(Kind.TRUNCATED) == 3
        assert left(tmp_path, [API]) == []

    run(tmp_path, scenario)
    assert verify(tmp_path).ok


def test_secrets_that_are_too_many_leave_the_digests_alone(tmp_path: Path) -> None:
    secrets = {f"s{number}": API + b"%d" % number for number in range(300)}

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        recorder.output(Stream.STDOUT, b"hello " + API + b"7")
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        assert done.event.streams[0].stored_bytes == 0
        assert "redaction" in recorder.intent.body()
        assert left(tmp_path, [API]) == []

    run(tmp_path, scenario, secrets=secrets)
    assert verify(tmp_path).ok


def test_what_was_held_back_when_the_daemon_died_is_told(tmp_path: Path) -> None:
    data = b"clear " * 2000 + API + b" tail " + API[:5]

    async def first() -> None:
        store = Store.open(tmp_path)
        recorder = await begin(store, profile=make_profile(redact=ON), secrets={"api": API})
        recorder.output(Stream.STDOUT, data)
        recorder.stdin(b"yes\n")
        await store._journal.commit()
        await store.close()

    async def second() -> None:
        async with opened(tmp_path) as store:
            call: OpenCall
            (call,) = store.interrupted
            await store.close_interrupted(call, "the daemon ended")
            lost = [e.event for e in store.events("call-1") if isinstance(e.event, Lost)]
            kept = sum(
                piece.end - piece.offset for piece in store.read_stream("call-1", Stream.STDOUT)
            )
            assert lost == [Lost(what="output", count=5, reason=DAEMON_DIED)]
            assert kept == len(data) - 5
            assert next(iter(store.read_stream("call-1", Stream.STDIN))).data == b"yes\n"
            finished = store.get_call("call-1").finished
            assert finished is not None
            (summary,) = [one for one in finished.streams if one.stream is Stream.STDOUT]
            assert summary.digest.sha256 == hashlib.sha256(stored(store)).hexdigest()
            assert left(tmp_path, [API]) == []

    asyncio.run(first())
    asyncio.run(second())
    assert verify(tmp_path).ok


def test_verification_counts_what_was_redacted(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        recorder.output(Stream.STDOUT, API + b" " + b"." * 9000)
        recorder._streams[Stream.STDOUT].redactions += 1
        await recorder.finish(make_finished())

    run(tmp_path, scenario, secrets={"api": API})
    (problem,) = verify(tmp_path).problems
    assert problem.message == "1 secrets of stdout were redacted, not 2"


def test_verification_sees_a_mark_that_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Redacted, "to_json", lambda self: {
        "begin": self.begin, "end": self.end, "size": self.size, "found": []
    })  # fmt: skip

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        recorder.output(Stream.STDOUT, API + b" " + b"." * 9000)
        await recorder.finish(make_finished())

    run(tmp_path, scenario, secrets={"api": API})
    assert "do not stand for" in verify(tmp_path).problems[0].message


def test_what_is_slow_says_so(tmp_path: Path) -> None:
    async def scenario(_: Store, recorder: CallRecorder) -> None:
        inline = recorder_module.SEARCHED_INLINE_BYTES
        assert not recorder.is_slow(Stream.STDOUT, inline)
        assert recorder.is_slow(Stream.STDOUT, inline + 1)
        assert not recorder.is_slow(Stream.STDIN, inline + 1)
        assert recorder.is_slow(Stream.STDIN, recorder_module.INLINE_BYTES + 1)

    run(tmp_path, scenario, stdin=Capture(mode="digest"))


@pytest.mark.parametrize("chunk", [b"hello\n", b"17 of 20\n", b"{}\n" * 5000])
def test_ordinary_output_is_on_record_at_once(chunk: bytes, tmp_path: Path) -> None:
    """Entry by entry as without redaction, before whoever waits gets it."""

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        for count in range(1, 4):
            (event,) = recorder.output(Stream.STDOUT, chunk)
            assert event.sequence == count + 1
            assert stored(store) == chunk * count
            assert recorder.held(Stream.STDOUT) == (len(chunk) * count, b"")
        for entry in store.entries("call-1", 2):
            assert "redacted" not in entry.body()

    run(tmp_path, scenario)


def test_what_a_pause_cuts_is_told_at_once_and_redacted_all_the_same(tmp_path: Path) -> None:
    """Whoever listens gets each byte when it comes; the record gets no half of a secret, and all
    of the rest once the stream has ended."""

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        (event,) = outputs(iter(recorder.output(Stream.STDOUT, b"key: " + API[:9])))
        assert event.data == b"key: " + API[:9]
        assert stored(store) == b"key: "
        assert joined(outputs(store.events("call-1"))) == b"key: " + API[:9]
        (entry,) = [one for one in store.entries("call-1") if one.kind == Kind.OUTPUT]
        assert entry.body()["length"] == len(event.data)
        recorder.output(Stream.STDOUT, API[9:])
        recorder.output(Stream.STDOUT, b"\nPassword: ")
        assert stored(store).startswith(b"key: [REDACTED:api:")
        assert stored(store).endswith(b"]\n")
        recorder.end(Stream.STDOUT)
        assert stored(store).endswith(b"]\nPassword: ")
        assert left(tmp_path, [API]) == []

    run(tmp_path, scenario, secrets={"api": API})
    assert verify(tmp_path).ok


def test_a_stream_that_ends_on_a_full_disk_says_what_is_missing(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        recorder.output(Stream.STDOUT, b"word gh")

        def full(*_: object) -> None:
            raise AuditUnavailable("RECORD_FULL", "full")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recorder.recording, "write", full)
            with pytest.raises(AuditUnavailable):
                recorder.end(Stream.STDOUT)
        (cut,) = [entry.body() for entry in store.entries("call-1") if entry.kind == "truncated"]
        assert cut == {"stream": "stdout", "offset": 5, "why": "record_full"}
        assert recorder.record_full

    run(tmp_path, scenario)


@pytest.mark.parametrize("redact", [ON, AS_IT_IS], ids=["redacted", "control"])
def test_planted_secrets_in_all_that_an_entry_tells(redact: Redact, tmp_path: Path) -> None:
    """In argv, env, paths, correlation; in what the probes, the walls and the broker tell; in why a
    call failed. Control: without redaction each is found."""
    known = credentials()
    secrets = {
        name: value for name, value in SECRETS.items() if b"\n" not in value and value.isascii()
    }
    texts = [*secrets.values(), *(text for text, _ in known if b"\n" not in text)]
    wanted = [*secrets.values(), *(secret for text, secret in known if b"\n" not in text)]
    owned = {value: {name: value} for name, value in secrets.items()}
    long = 300  # the request is a blob then, and its beginning stands in the entry

    async def main() -> None:
        async with opened(tmp_path) as store:
            for number, text in enumerate(texts):
                value = text.decode()
                recorder = await begin(
                    store,
                    f"call-{number}",
                    profile=make_profile(redact=redact),
                    secrets={} if redact.off else owned.get(text, {}),
                    argv=(b"run", text, b"-k=" + text) + (b"x" * 100,) * (long * (number % 2)),
                    env={"A": text},
                    working_directory=b"/work/" + text,
                    outputs=(value,),
                    correlation=Correlation(agent=value, session=value),
                )
                denied = Denied(wall=Wall.NETWORK, name=value, detail=value, program=text)
                recorder.tell([denied])
                recorder.tell([replace(WATCHED, detail=value)])
                recorder.tell([replace(FLOW, name=value, reason=value)])
                recorder.signalled("me", 15, value)
                event = replace(PROCESSES[0], argv=(b"a", text), path=text, directory=text)
                told = recorder.processes(Processes(events=(event,)))
                assert told.event == Processes(events=(event,))
                outputs = OutputFile(path=text, digest=store.blobs.put(b"content"), mode=0o644)
                failed = Failed(reason="EXEC_FAILED", message=value)
                end = make_finished(failed, outputs=(outputs,) * (1 + 200 * (number % 3 == 0)))
                done = await recorder.finish(end)
                assert isinstance(done.event, Finished)
                assert (done.event.outcome, done.event.outputs) == (failed, end.outputs)

    asyncio.run(main())
    found = left(tmp_path, wanted)
    assert found == (wanted if redact.off else [])
    report = verify(tmp_path)
    assert report.ok, report.problems[:3]


def test_what_a_dead_daemons_probes_tell_is_not_stored_as_it_is(tmp_path: Path) -> None:
    denied = Denied(wall=Wall.NETWORK, name=API.decode(), detail=credentials()[0][0].decode())

    async def first() -> None:
        store = Store.open(tmp_path)
        await begin(store, "with", profile=make_profile(redact=ON), secrets={"api": API})
        await begin(store, "without", profile=make_profile(redact=ON))
        await store._journal.commit()
        await store.close()

    async def second() -> None:
        async with opened(tmp_path) as store:
            for call in store.interrupted:
                await store.close_interrupted(call, "the daemon ended", events=[denied])
            (told,) = [e.event for e in store.events("with") if isinstance(e.event, Denied)]
            assert (told.name, told.detail) == ("[REDACTED:failed]", "[REDACTED:failed]")
            (told,) = [e.event for e in store.events("without") if isinstance(e.event, Denied)]
            assert told.name == API.decode()  # nobody handed it out
            assert "[REDACTED:aws-access-key:" in told.detail

    asyncio.run(first())
    asyncio.run(second())
    assert verify(tmp_path).ok
