"""INTENT and OUTCOME: what is in them, and what has to go to a blob."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from supervisor.audit.account import (
    OUTCOME_FILES_BYTES_MAX,
    REQUEST_INLINE_BYTES_MAX,
    StoredRequest,
    blobs_named,
    finished_of,
    has_egress,
    intent_body,
    is_inline,
    needs_blob,
    outcome_body,
)
from supervisor.audit.blobs import BlobStore
from supervisor.audit.entry import ENTRY_BYTES_MAX
from supervisor.audit.masked import Kept
from supervisor.audit.verify import verify
from supervisor.call.events import Finished
from supervisor.call.outcome import Failed
from supervisor.call.types import (
    CallRequest,
    Correlation,
    Digest,
    InputFile,
    Json,
    OutputFile,
    SkippedFile,
    Stream,
    Terminal,
)
from supervisor.errors import AuditUnavailable, StockadeError
from supervisor.profile.model import EffectiveProfile
from tests.support.records import (
    CALLER,
    HOST,
    RULE,
    begin,
    make_finished,
    make_profile,
    make_request,
    opened,
)


def kept(
    canonical: bytes, profile: EffectiveProfile
) -> tuple[EffectiveProfile, dict[str, Json], Kept, StoredRequest]:
    stored = StoredRequest(canonical=canonical, fingerprint=Digest.of(canonical).sha256)
    return profile, dict(HOST), Kept(request=canonical, mask=None, told=None), stored


def fail(what: str, error: OSError) -> StockadeError:
    return AuditUnavailable("JOURNAL_UNAVAILABLE", f"{what}: {error}")


def many_files(count: int) -> tuple[OutputFile, ...]:
    return tuple(
        OutputFile(path=b"file-%d" % number, digest=Digest.of(b"%d" % number), mode=0o600)
        for number in range(count)
    )


def body_for(request: CallRequest) -> dict[str, object]:
    return dict(intent_body(CALLER, request, *kept(request.canonical(), make_profile())))


def test_a_request_is_in_the_intent() -> None:
    request = make_request(env={"A": b"\xff"})
    body = body_for(request)
    assert body["request"] == json.loads(request.canonical())
    assert body["fingerprint"] == request.fingerprint()
    assert body["host"] == HOST


@pytest.mark.parametrize("way_out", [False, True])
def test_an_intent_says_whether_there_is_a_way_out(way_out: bool) -> None:
    request = make_request()
    profile = make_profile(egress=(RULE,) if way_out else ())
    body = intent_body(CALLER, request, *kept(request.canonical(), profile))
    assert has_egress(body) is way_out


def test_an_older_intent_knows_of_no_way_out() -> None:
    body = intent_body(CALLER, make_request(), *kept(b"{}", make_profile(egress=(RULE,))))
    profile = body["profile"]
    assert isinstance(profile, dict)
    del profile["egress"]
    assert not has_egress(body)


def test_a_long_request_goes_to_a_blob() -> None:
    correlation = Correlation(agent="a" * 5000)
    request = make_request(argv=(b"x" * 40_000, b"y"), correlation=correlation)
    assert not is_inline(request.canonical())
    body = body_for(request)
    assert "request" not in body
    assert len(json.dumps(body)) < ENTRY_BYTES_MAX // 4
    named = list(blobs_named("intent", body))  # type: ignore[arg-type]
    assert Digest.of(request.canonical()) in named


def test_the_longest_inline_request_fits(tmp_path: Path) -> None:
    room = REQUEST_INLINE_BYTES_MAX - len(make_request("request-of-call-1").canonical())

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store, argv=(b"true" + b"x" * room,))
            assert len(recorder.intent.json) < ENTRY_BYTES_MAX
            assert "request" in recorder.intent.body()
            await recorder.finish(make_finished())
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_a_call_with_ten_megabytes_of_arguments_is_on_record(tmp_path: Path) -> None:
    argument = b"x" * (10 << 20)

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store, argv=(b"echo", argument))
            await recorder.finish(make_finished())
            summary = store.get_call("call-1")
            assert summary.argv[0] == b"echo"
            assert sum(map(len, summary.argv)) <= 4096
            blob = recorder.intent.body()["request_blob"]
            assert isinstance(blob, dict)
            digest = Digest(sha256=str(blob["sha256"]), size_bytes=int(str(blob["size_bytes"])))
            assert json.loads(store.blobs.get(digest))["argv"][1] == argument.decode()
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_input_files_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            file = InputFile(path=b"in.txt", digest=Digest.of(b"data"), data=b"data")
            recorder = await begin(store, files=(file,))
            assert store.blobs.get(file.digest) == b"data"
            await recorder.finish(make_finished())
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_a_caller_has_what_it_gave_to_a_call(tmp_path: Path) -> None:
    files = (InputFile(path=b"a", digest=Digest.of(b"data"), data=b"data"),)
    long = make_request("request-of-call-2", argv=(b"x" * REQUEST_INLINE_BYTES_MAX,))
    given = [file.digest for file in files] + [Digest.of(long.canonical())]

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            assert not any(store.may_read_blob(digest, CALLER.name) for digest in given)
            one = await begin(store, files=files)
            two = await begin(store, "call-2", argv=long.argv)
            # Also while they run, and never more than their caller.
            assert all(store.may_read_blob(digest, CALLER.name) for digest in given)
            assert not any(store.may_read_blob(digest, "other") for digest in given)
            profile = Digest.of(make_profile().canonical)
            assert not store.may_read_blob(profile, CALLER.name)
            await one.finish(make_finished())
            await two.finish(make_finished())

    asyncio.run(scenario())


def test_many_files_go_to_a_blob_and_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            outputs = many_files(500)
            for number in range(500):
                store.blobs.put(b"%d" % number)
            skipped = (SkippedFile(path=b"x" * 4000, reason="TOO_LARGE"),)
            finished = make_finished(outputs=outputs, skipped=skipped)
            assert needs_blob(finished)
            recorder = await begin(store)
            done = (await recorder.finish(finished)).event
            assert isinstance(done, Finished)
            assert (done.outputs, done.skipped) == (outputs, skipped)
            assert store.get_call("call-1").finished == done
            assert list(store.events("call-1"))[-1].event == done
        (tmp_path / "index.db").unlink()
        async with opened(tmp_path) as store:
            assert store.get_call("call-1").finished == done
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_on_a_full_disk_the_list_of_files_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = BlobStore.at(tmp_path / "blobs", fail)

    def full(data: bytes) -> Digest:
        raise AuditUnavailable("RECORD_FULL", "full")

    monkeypatch.setattr(blobs, "put", full)
    finished = make_finished(
        outputs=many_files(1000), skipped=(SkippedFile(path=b"s", reason="TOO_MANY"),) * 1000
    )
    body, kept = outcome_body(finished, None, record_full=True, blobs=blobs)
    assert len(json.dumps(body)) < OUTCOME_FILES_BYTES_MAX * 2
    assert 0 < len(kept.outputs) < 1000
    assert body["files_dropped"] == 2000 - len(kept.outputs) - len(kept.skipped)


def test_a_broken_disk_is_not_taken_for_a_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = BlobStore.at(tmp_path / "blobs", fail)

    def broken(data: bytes) -> Digest:
        raise AuditUnavailable("JOURNAL_UNAVAILABLE", "broken")

    monkeypatch.setattr(blobs, "put", broken)
    with pytest.raises(AuditUnavailable) as caught:
        outcome_body(make_finished(outputs=many_files(1000)), None, record_full=False, blobs=blobs)
    assert caught.value.reason == "JOURNAL_UNAVAILABLE"


def test_a_long_message_is_cut(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            recorder.output(Stream.STDOUT, b"x")
            long = Failed(reason="RUNTIME", message="\x01" * 100_000)
            done = (await recorder.finish(make_finished(long))).event
            assert isinstance(done, Finished)
            assert isinstance(done.outcome, Failed)
            assert len(done.outcome.message) < 5000
            entry = list(store.entries("call-1"))[-1]
            assert finished_of(entry, store.blobs) == done

    asyncio.run(scenario())


def test_a_terminal_is_in_the_entry_also_of_a_long_request() -> None:
    """A replay needs its size, and whoever may see one may not read the request."""
    terminal = Terminal(rows=30, columns=100)
    for env in ({}, {"A": b"x" * REQUEST_INLINE_BYTES_MAX}):
        body = json.loads(json.dumps(body_for(make_request(terminal=terminal, env=env))))
        asked = body.get("request") or body["request_preview"]
        assert asked["terminal"] == {"rows": 30, "columns": 100, "term": "xterm"}
    assert "terminal" not in json.dumps(body_for(make_request(env=env)))
