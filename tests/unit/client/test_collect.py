"""A finished call: bounded, checked against its digests, and careful where it writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.call import outcome
from supervisor.call.events import (
    Accepted,
    CallEvent,
    Denied,
    Event,
    Finished,
    Output,
    Timeline,
    Wall,
)
from supervisor.call.types import Digest, OutputFile, Stream, StreamSummary, Usage
from supervisor.client import collect
from supervisor.client.collect import (
    AsyncOutputs,
    BlobCheck,
    Collector,
    FinishedCall,
    Outputs,
    write_output,
)
from supervisor.errors import AuditCorrupt, InvariantError, OutcomeError
from tests.support.records import FLOW

SUCCESS = outcome.Exited(code=0)


def finished(how: outcome.Outcome = SUCCESS, *streams: StreamSummary) -> Finished:
    return Finished(
        outcome=how,
        timeline=Timeline(),
        streams=streams,
        outputs=(),
        skipped=(),
        usage=Usage(),
        denials=0,
        record="cd" * 32,
    )


def stream(data: bytes, kind: Stream = Stream.STDOUT) -> StreamSummary:
    return StreamSummary(stream=kind, digest=Digest.of(data), stored_bytes=len(data))


def output(data: bytes, offset: int = 0, kind: Stream = Stream.STDOUT) -> Output:
    return Output(stream=kind, data=data, offset=offset)


def collected(*happened: Event) -> FinishedCall:
    collector = Collector()
    accepted = Accepted(profile="p", profile_digest="d", mode="enforce")
    for sequence, what in enumerate((accepted, *happened), 1):
        collector.take(CallEvent(call_id="c", sequence=sequence, time_ns=0, event=what))
    return collector.finish(lambda _: b"")


def test_streams_are_put_together() -> None:
    call = collected(
        output(b"a"), output(b"e", 0, Stream.STDERR), output(b"b", 1), finished(
            outcome.Exited(code=0), stream(b"ab"), stream(b"e", Stream.STDERR))
    )  # fmt: skip
    assert (call.stdout, call.stderr) == (b"ab", b"e")
    assert not (call.stdout_truncated or call.stderr_truncated)
    assert call.ok


def test_bytes_that_are_not_the_recorded_ones() -> None:
    with pytest.raises(AuditCorrupt) as caught:
        collected(output(b"ab"), finished(outcome.Exited(code=0), stream(b"xy")))
    assert caught.value.reason == "DIGEST_MISMATCH"


def test_a_hole_ends_what_is_kept() -> None:
    call = collected(
        output(b"ab"), output(b"ef", 4), finished(outcome.Exited(code=0), stream(b"abcdef"))
    )
    assert (call.stdout, call.stdout_truncated) == (b"ab", True)


def test_a_stream_that_stops_early_is_truncated() -> None:
    call = collected(output(b"ab"), finished(outcome.Exited(code=0), stream(b"abcdef")))
    assert (call.stdout, call.stdout_truncated, call.stderr_truncated) == (b"ab", True, False)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "OUTPUT_BYTES_MAX", 3)
    monkeypatch.setattr(collect, "DENIALS_MAX", 2)
    denied = Denied(wall=Wall.SYSCALL, name="bpf")
    call = collected(output(b"abcd"), output(b"e", 4), *[denied, FLOW] * 5, finished())
    assert (call.stdout, call.stdout_truncated) == (b"abc", True)
    assert (len(call.denials), call.flows) == (2, (FLOW, FLOW))


def test_its_receipt_is_at_hand() -> None:
    assert collected(replace(finished(), receipt=b"proof")).receipt == b"proof"


def test_an_end_is_needed() -> None:
    with pytest.raises(InvariantError):
        collected(output(b"ab"))


@pytest.mark.parametrize(
    ("how", "reason", "exit_code"),
    [
        (outcome.Exited(code=3), "EXITED", 3),
        (outcome.TimedOut(limit_s=1), "TIMED_OUT", 124),
        (outcome.Signaled(signal=11), "SIGNALED", 139),
        (outcome.Failed(reason="R", message="m"), "FAILED", 125),
    ],
)
def test_raise_for_outcome(how: outcome.Outcome, reason: str, exit_code: int) -> None:
    call = collected(finished(how))
    assert (call.exit_code, call.ok) == (exit_code, False)
    with pytest.raises(OutcomeError) as caught:
        call.raise_for_outcome()
    assert (caught.value.reason, caught.value.exit_code) == (reason, exit_code)
    assert caught.value.metadata["call_id"] == "c"
    assert caught.value.call is call


def test_nothing_is_raised_for_success() -> None:
    collected(finished()).raise_for_outcome()


def test_outputs_are_read_when_asked_for() -> None:
    asked: list[Digest] = []
    file = OutputFile(path=b"a/\xff.txt", digest=Digest.of(b"x"), mode=0o644)

    def read(digest: Digest) -> bytes:
        asked.append(digest)
        return b"x"

    outputs = Outputs((file,), read)
    (name,) = outputs
    assert not asked
    assert (outputs[name], len(outputs), asked) == (b"x", 1, [file.digest])
    with pytest.raises(KeyError):
        outputs["b"]


def test_outputs_show_their_names_and_read_nothing() -> None:
    file = OutputFile(path=b"chart.png", digest=Digest.of(b"xyz"), mode=0o644)

    def read(_: Digest) -> bytes:
        raise AssertionError("nothing is read for a repr")

    async def read_async(_: Digest) -> bytes:
        raise AssertionError("nothing is read for a repr")

    assert repr(Outputs((file,), read)) == "Outputs({'chart.png': 3 bytes})"
    assert repr(AsyncOutputs((file,), read_async)) == "AsyncOutputs({'chart.png': 3 bytes})"


@pytest.mark.parametrize("whole", [b"", b"abc"])
def test_blob_check(whole: bytes) -> None:
    check = BlobCheck(Digest.of(whole))
    check.take(whole)
    check.close()
    assert check.offset == len(whole)


@pytest.mark.parametrize("data", [b"ab", b"abd", b"abcd"])
def test_blob_check_refuses(data: bytes) -> None:
    check = BlobCheck(Digest.of(b"abc"))
    with pytest.raises(AuditCorrupt) as caught:
        check.take(data)
        check.close()
    assert caught.value.reason == "DIGEST_MISMATCH"


def file(path: bytes, mode: int = 0o644) -> OutputFile:
    return OutputFile(path=path, digest=Digest.of(b"x"), mode=mode)


def test_write_output(tmp_path: Path) -> None:
    target = write_output(tmp_path, file(b"a/b.txt", 0o6755), b"x")
    assert (target.read_bytes(), target.stat().st_mode & 0o7777) == (b"x", 0o755)
    assert write_output(tmp_path, file(b"a/b.txt"), b"y").read_bytes() == b"y"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


@pytest.mark.parametrize("path", [b"", b"/etc/x", b"../x", b"a/../../x", b"a\0b"])
def test_write_output_stays_inside(tmp_path: Path, path: bytes) -> None:
    with pytest.raises(InvariantError) as caught:
        write_output(tmp_path / "in", file(path), b"x")
    assert caught.value.reason == "OUTPUT_PATH"
    assert not (tmp_path / "x").exists()


def test_write_output_follows_no_link(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    (inside / "folder").symlink_to(outside)
    (inside / "link").symlink_to(outside / "kept")
    with pytest.raises(InvariantError):
        write_output(inside, file(b"folder/kept"), b"x")
    write_output(inside, file(b"link"), b"x")
    assert (outside / "kept").read_bytes() == b"kept"
    assert not (inside / "link").is_symlink()


def test_a_record_with_marks_is_put_together_and_is_not_what_it_was() -> None:
    """Also where it has as many bytes as the stream had."""
    summary = StreamSummary(
        stream=Stream.STDOUT, digest=Digest.of(b"a secret b"), stored_bytes=10, redactions=1
    )
    collector = Collector()
    for part in (
        Accepted(profile="p", profile_digest="ab" * 32, mode="enforce"),
        Output(stream=Stream.STDOUT, data=b"a ", offset=0),
        Output(stream=Stream.STDOUT, data=b"[mark]", offset=2, covered=6),
        Output(stream=Stream.STDOUT, data=b" b", offset=8),
        finished(SUCCESS, summary),
    ):
        collector.take(CallEvent(call_id="c", sequence=1, time_ns=0, event=part))
    call = collector.finish(lambda digest: b"")
    assert (call.stdout, call.stdout_truncated) == (b"a [mark] b", True)
