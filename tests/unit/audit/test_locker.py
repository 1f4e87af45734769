"""Contents of encrypted calls: found by who may, under keys of their own, and nowhere in plain."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest

from supervisor.audit import locker as module
from supervisor.audit.entry import Kind
from supervisor.audit.recording import FrameRef
from supervisor.audit.store import Store
from supervisor.audit.vault import KEY_HELD_S, UPLOAD_HELD_S, Encryption, Vault
from supervisor.audit.verify import verify
from supervisor.call.events import Finished
from supervisor.call.types import Digest, InputFile, OutputFile, Stream
from supervisor.errors import (
    AuditCorrupt,
    AuditUnavailable,
    CallStateError,
    CapacityError,
    InvariantError,
    NotFound,
    StockadeError,
)
from supervisor.profile.model import Redact
from tests.support.plain import where
from tests.support.records import (
    CALLER,
    HOST,
    IDENTITY,
    RECIPIENT,
    begin,
    make_finished,
    make_profile,
    make_request,
    opened,
)
from tests.unit.audit.test_retention import OLD, files_of, removed, run

SECRET = b"correct horse battery staple"
LOCKED = Encryption(recipients=(RECIPIENT,))
READING = Encryption(recipients=(RECIPIENT,), identities=(IDENTITY,))
GIVEN, LEFT, UPLOADED = (b"%s: %s" % (name, SECRET) for name in (b"given", b"left", b"uploaded"))
Scenario = Callable[[Store], Awaitable[None]]


def with_store(directory: Path, scenario: Scenario, encryption: Encryption = LOCKED) -> None:
    async def main() -> None:
        async with opened(directory, encryption=encryption) as store:
            await scenario(store)

    asyncio.run(main())


def upload(store: Store, data: bytes, caller: str = CALLER.name) -> Digest:
    digest = Digest.of(data)
    writer = store.locker.upload(caller, store.masks, digest)
    writer.write(data)
    writer.commit()
    store.grant_blob(writer.stored, caller)
    store.locker.uploaded(caller, digest, writer.stored)
    return digest


async def whole_call(store: Store, call_id: str = "call-1", *, long: bool = False) -> Finished:
    """Run a call that has something of everything."""
    files = (
        InputFile(path=b"given", digest=Digest.of(GIVEN), data=GIVEN),
        InputFile(path=b"uploaded", digest=upload(store, UPLOADED)),
    )
    argv = (b"sh", b"p" * 40_000 + SECRET) if long else (b"sh",)
    recorder = await begin(store, call_id, files=files, stdin=SECRET, argv=argv)
    recorder.stdin(SECRET)
    recorder.output(Stream.STDOUT, b"out " + SECRET)
    recorder.output(Stream.STDERR, b"err " + SECRET)
    with store.locker.left_behind(call_id) as writer:
        writer.write(LEFT)
        digest = writer.commit()
    assert digest == Digest.of(LEFT)
    outputs = (OutputFile(path=b"left", digest=digest, mode=0o644),)
    event = await recorder.finish(make_finished(outputs=outputs))
    assert isinstance(event.event, Finished)
    return event.event


def plain_anywhere(directory: Path) -> list[str]:
    """Name the files that hold the secret, or a digest of what went through the call."""
    digests = [Digest.of(data).sha256 for data in (SECRET, GIVEN, LEFT, UPLOADED, b"out " + SECRET)]
    raw = map(bytes.fromhex, digests)
    return where(directory, SECRET, *(digest.encode() for digest in digests), *raw)


def read(store: Store, digest: Digest, caller: str = CALLER.name) -> bytes:
    with store.locker.open(caller, digest) as reader:
        return b"".join(reader.chunks())


def expire(store: Store) -> None:
    """Let as much time pass as no key is held."""
    vault = store.locker.vault
    past = vault._clock_s
    vault._clock_s = lambda: past() + 2 * max(KEY_HELD_S, UPLOAD_HELD_S)


@pytest.mark.parametrize("long", [False, True])
def test_nothing_in_plain_reaches_the_disk(long: bool, tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        await whole_call(store, long=long)

    for encryption in (LOCKED, None):
        state = tmp_path / ("locked" if encryption else "plain")
        with_store(state, scenario, encryption or Encryption())
        found = plain_anywhere(state)
        if encryption is None:
            assert len(found) >= 4, "the control must be found"
        else:
            assert found == []
    assert verify(tmp_path / "locked").problems == ()


def test_what_a_caller_gets_is_as_without_encryption(tmp_path: Path) -> None:
    ends: list[Finished] = []

    async def scenario(store: Store) -> None:
        ends.append(await whole_call(store))
        for data in (GIVEN, UPLOADED, LEFT):
            assert store.may_read_blob(Digest.of(data), CALLER.name)
            assert store.locker.has(CALLER.name, Digest.of(data))
            assert read(store, Digest.of(data)) == data
            assert not store.may_read_blob(Digest.of(data), "another")

    with_store(tmp_path / "locked", scenario)
    with_store(tmp_path / "plain", scenario, Encryption())
    assert ends[0].streams == ends[1].streams
    assert ends[0].outputs == ends[1].outputs


def test_the_record_has_no_digest_that_a_guess_could_be_held_to(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        await whole_call(store)
        bodies = {entry.kind: entry.body() for entry in store.entries("call-1")}
        assert bodies[Kind.INTENT]["request"]["stdin"] == {  # type: ignore[index,call-overload]
            "sha256": "", "size_bytes": len(SECRET),
        }  # fmt: skip
        assert bodies[Kind.INTENT]["encrypted"]["to"] == [RECIPIENT]  # type: ignore[index,call-overload]
        assert bodies[Kind.OUTPUT]["sealed"] is True
        summary = store.get_call("call-1").finished
        assert summary is not None
        assert {one.digest.sha256 for one in summary.streams} == {""}
        restored = store.records.restored(store.get_call("call-1")).finished
        assert restored is not None
        assert restored.outputs[0].digest == Digest.of(LEFT)
        assert {one.stream: one.digest for one in restored.streams} == {
            Stream.STDIN: Digest.of(SECRET),
            Stream.STDOUT: Digest.of(b"out " + SECRET),
            Stream.STDERR: Digest.of(b"err " + SECRET),
        }
        *_, last = store.events("call-1")
        assert isinstance(last.event, Finished)
        assert last.event.streams == restored.streams
        hidden = module.without_any_digest(restored)
        assert {one.digest.sha256 for one in (*hidden.streams, *hidden.outputs)} == {""}
        sizes = [one.digest.size_bytes for one in restored.outputs]
        assert [one.digest.size_bytes for one in hidden.outputs] == sizes

    with_store(tmp_path, scenario)


def test_two_calls_with_the_same_file_share_nothing(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        stored: list[set[str]] = []
        for call_id in ("call-1", "call-2"):
            await whole_call(store, call_id)
            body = next(iter(store.entries(call_id))).body()
            files = body["request"]["files"]  # type: ignore[index,call-overload]
            stored.append({file["sha256"] for file in files})  # type: ignore[index,union-attr,call-overload,misc]
        assert len(stored[0]) == len(stored[1]) == 2
        assert not stored[0] & stored[1]

    with_store(tmp_path, scenario)


@pytest.mark.parametrize("identities", [(), (str(pyrage.x25519.Identity.generate()),)])
def test_a_daemon_without_an_identity_is_locked_out(
    identities: tuple[str, ...], tmp_path: Path
) -> None:
    async def first(store: Store) -> None:
        await whole_call(store)

    async def later(store: Store) -> None:
        summary = store.get_call("call-1").finished
        assert summary is not None
        with pytest.raises(CallStateError, match="no identity") as caught:
            list(store.read_stream("call-1", Stream.STDOUT))
        assert caught.value.reason == "CONTENT_LOCKED"
        with pytest.raises(CallStateError):
            list(store.events("call-1"))
        with pytest.raises(CallStateError):
            read(store, summary.outputs[0].digest)
        with pytest.raises(CallStateError):
            store.find_request(CALLER.name, "request-of-call-1")
        assert store.records.restored(store.get_call("call-1")).finished == summary
        for data in (GIVEN, UPLOADED, LEFT):  # by what they are, nothing is found any more
            assert not store.may_read_blob(Digest.of(data), CALLER.name)

    with_store(tmp_path, first)
    with_store(tmp_path, later, Encryption(recipients=(RECIPIENT,), identities=identities))


def test_with_an_identity_all_of_it_is_read_again(tmp_path: Path) -> None:
    fingerprints: list[str] = []

    async def first(store: Store) -> None:
        await whole_call(store)
        found = store.find_request(CALLER.name, "request-of-call-1")
        assert found is not None
        fingerprints.append(found[1])

    async def later(store: Store) -> None:
        assert b"".join(one.data for one in store.read_stream("call-1", Stream.STDERR)) == (
            b"err " + SECRET
        )
        assert store.find_request(CALLER.name, "request-of-call-1") == ("call-1", fingerprints[0])
        restored = store.records.restored(store.get_call("call-1")).finished
        assert restored is not None
        assert read(store, restored.outputs[0].digest) == LEFT
        body = next(iter(store.entries("call-1"))).body()
        for file in body["request"]["files"]:  # type: ignore[index,call-overload,union-attr]
            stored = Digest(sha256=file["sha256"], size_bytes=file["size_bytes"])  # type: ignore[index,call-overload,arg-type]
            assert store.may_read_blob(stored, CALLER.name)
            assert read(store, stored) in (GIVEN, UPLOADED)
            content = store.locker.content(CALLER.name, stored)
            assert content in (Digest.of(GIVEN), Digest.of(UPLOADED))

    with_store(tmp_path, first)
    with_store(tmp_path, later, READING)
    assert fingerprints != [""]


def test_the_index_is_made_again_without_a_key(tmp_path: Path) -> None:
    async def first(store: Store) -> None:
        await whole_call(store, long=True)

    granted: list[bool] = []

    async def later(store: Store) -> None:
        listed = next(iter(store.entries("call-1"))).body()["request_files"]
        digest = Digest(sha256=listed["sha256"], size_bytes=listed["size_bytes"])  # type: ignore[index,call-overload,arg-type]
        files = [Digest(**file) for file in json.loads(store.blobs.get(digest))["files"]]
        granted.extend(store.may_read_blob(file, CALLER.name) for file in files)
        assert store.get_call("call-1").finished is not None

    with_store(tmp_path, first)
    for path in tmp_path.glob("index.db*"):
        path.unlink()
    with_store(tmp_path, later)
    assert granted == [True, True]


def test_an_upload_is_held_for_a_while_and_used_again(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        digest = upload(store, UPLOADED)
        for number in (1, 2):
            file = InputFile(path=b"f", digest=digest)
            recorder = await begin(store, f"call-{number}", files=(file,))
            with store.locker.open(CALLER.name, digest, f"call-{number}") as reader:
                assert b"".join(reader.chunks()) == UPLOADED
            await recorder.finish(make_finished())
        expire(store)
        assert not store.may_read_blob(digest, CALLER.name)
        with pytest.raises(NotFound) as caught:
            read(store, digest)
        assert caught.value.reason == "BLOB_NOT_FOUND"

    with_store(tmp_path, scenario)
    assert not any("upload" in path.name for path in (tmp_path / "keys").iterdir())


def test_what_was_kept_before_is_used_under_the_key_of_the_call(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        upload(store, UPLOADED)

    async def after(store: Store) -> None:
        digest = Digest.of(UPLOADED)
        assert store.may_read_blob(digest, CALLER.name)
        recorder = await begin(store, files=(InputFile(path=b"f", digest=digest),))
        await recorder.finish(make_finished())
        body = next(iter(store.entries("call-1"))).body()
        assert body["request"]["files"][0]["sha256"] != digest.sha256  # type: ignore[index,call-overload]

    with_store(tmp_path, before, Encryption())
    with_store(tmp_path, after)


def test_a_key_that_cannot_be_kept_keeps_the_call_from_beginning(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        for path in (tmp_path / "keys").iterdir():
            path.unlink()
        (tmp_path / "keys").rmdir()
        with pytest.raises(AuditUnavailable) as caught:
            await begin(store)
        assert caught.value.reason == "RECORD_UNAVAILABLE"
        with pytest.raises(NotFound):
            store.get_call("call-1")
        assert store._live == {}

    with_store(tmp_path, scenario)


def test_a_call_that_does_not_begin_leaves_no_key(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        missing = InputFile(path=b"f", digest=Digest.of(b"never uploaded"))
        with pytest.raises(NotFound):
            await begin(store, files=(missing,))
        assert list((tmp_path / "keys").iterdir()) == []

    with_store(tmp_path, scenario)


def test_frames_are_for_their_place_and_their_call_alone(tmp_path: Path) -> None:
    """Also for who can write entries that fit: the key says no."""

    async def scenario(store: Store) -> None:
        for call_id in ("call-1", "call-2"):
            recorder = await begin(store, call_id)
            recorder.output(Stream.STDOUT, b"first")
            recorder.output(Stream.STDOUT, b"other")
            await recorder.finish(make_finished())
        refs = [
            FrameRef.from_json(entry.body())
            for entry in store.entries("call-1")
            if entry.kind == Kind.OUTPUT
        ]
        with_key = store.records.open_recording("call-1")
        assert [with_key.read(ref) for ref in refs] == [b"first", b"other"]
        for lie in (
            replace(refs[0], offset=5),
            replace(refs[1], offset=0),
            replace(refs[0], stream=Stream.STDERR),
        ):
            with pytest.raises(AuditCorrupt, match="does not open"):
                with_key.read(lie)
        with_key.close()
        other = store.records.open_recording("call-2")
        theirs = os.pread(other._fd, 1 << 20, 0)
        other.close()
        mine = Path(store.blobs.recording_path(store.records.recording_digest("call-1")))
        mine.write_bytes(theirs)
        with pytest.raises(AuditCorrupt):
            list(store.read_stream("call-1", Stream.STDOUT))

    with_store(tmp_path, scenario)


def test_names_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NAMES_MAX", 3)

    async def scenario(store: Store) -> None:
        digests = [upload(store, b"%d" % number) for number in range(5)]
        known = [store.locker.known(CALLER.name, digest) for digest in digests]
        assert [one is not None for one in known] == [False, False, True, True, True]

    with_store(tmp_path, scenario)


def test_files_with_secrets_are_kept_for_the_caller_whose_they_are(tmp_path: Path) -> None:
    """Else one caller's could push out another's."""
    token = b"url = https://bob:hunter2hunter2@db.example.com/\n"

    async def scenario(store: Store) -> None:
        upload(store, token + b"1", "ann")
        owners = [set(store.blobs.originals._shares)]
        recorder = await begin(store, profile=make_profile(redact=Redact()))
        recorder.files.keep([token + b"2"])
        owners.append(set(store.blobs.originals._shares))
        await recorder.finish(make_finished())
        assert owners == [{"ann"}, {"ann", CALLER.name}]

    with_store(tmp_path, scenario, Encryption())


def test_a_request_is_compared_by_what_it_was(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        request = make_request(stdin=SECRET)
        recorder = await store.begin("call-1", CALLER, request, make_profile(), HOST)
        await recorder.finish(make_finished())
        found = store.find_request(CALLER.name, request.request_id)
        assert found == ("call-1", request.fingerprint())

    with_store(tmp_path, scenario)


def test_what_comes_for_a_call_that_has_ended_is_not_kept_in_plain(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        recorder = await begin(store, "call-1")
        await recorder.finish(make_finished())
        with pytest.raises(InvariantError, match="call-1 has ended"):
            store.locker.files("call-1", CALLER.name, None).keep([SECRET])
        assert plain_anywhere(tmp_path) == []

    with_store(tmp_path, scenario, LOCKED)


def test_sealed_content_that_is_asked_for_is_in_use(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        digest = upload(store, SECRET)
        (path,) = (tmp_path / "blobs").rglob("*.seal")
        os.utime(path, ns=(0, 0))
        assert store.locker.has(CALLER.name, digest)
        assert path.stat().st_mtime_ns > 0

    with_store(tmp_path, scenario, LOCKED)


def test_retention_removes_what_is_sealed(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, encryption=LOCKED) as store:
            store.contents.close()
            given = InputFile(path=b"in", digest=Digest.of(SECRET), mode=0o644, data=SECRET)
            recorder = await begin(store, "call-1", files=(given,), argv=(b"x" * 30_000,))
            recorder.output(Stream.STDOUT, SECRET)
            digest = recorder.files.keep([SECRET])
            outputs = (OutputFile(path=b"out", digest=digest, mode=0o644),)
            await recorder.finish(make_finished(outputs=outputs))
            sealed = {name for name in files_of(tmp_path) if name.endswith(".seal")}
            assert len(sealed) == 3  # the file, what became of it, and the request
            (key,) = (tmp_path / "keys").iterdir()
            kept = tmp_path.with_name("hard-link")
            os.link(key, kept)
            before = kept.read_bytes()
            run(store, OLD)
            assert not key.exists()
            assert before not in kept.read_bytes()  # it was overwritten, too
            (body,) = removed(store)
            assert body["calls"] == ["call-1"]
            assert sealed < set(body["files"])
            assert not sealed & files_of(tmp_path)

    asyncio.run(main())
    report = verify(tmp_path)
    assert (report.problems, report.removed_calls) == ((), 1)


@pytest.mark.parametrize("dies_after", [False, True])
def test_the_key_of_what_was_removed_goes_also_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_after: bool
) -> None:
    class Killed(Exception):
        pass

    def dying(self: Vault, call_id: str) -> None:
        if dies_after:
            real(self, call_id)
        raise Killed

    real = Vault.destroy
    key = tmp_path / "keys" / "call-1"

    async def first() -> None:
        async with opened(tmp_path, encryption=READING) as store:
            store.contents.close()
            recorder = await begin(store, "call-1")
            recorder.output(Stream.STDOUT, SECRET)
            await recorder.finish(make_finished())
            monkeypatch.setattr(Vault, "destroy", dying)
            with pytest.raises(Killed):
                run(store, OLD)
            monkeypatch.undo()

    async def second() -> None:
        async with opened(tmp_path, encryption=READING) as store:
            store.contents.close()
            run(store, None)
            assert not key.exists()
            with pytest.raises(NotFound, match=r"removed on .* by retention"):
                list(store.read_stream("call-1", Stream.STDOUT))
            with pytest.raises(NotFound, match=r"removed on .* by retention"):
                store.records.fingerprint("call-1")
            ((summary,), _) = store.list_calls(limit=2)
            assert summary.finished is not None
            assert store.records.restored(summary).finished == summary.finished

    asyncio.run(first())
    assert key.exists() is not dies_after
    assert verify(tmp_path).problems == ()
    asyncio.run(second())
    assert verify(tmp_path).problems == ()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AuditUnavailable("RECORD_FULL", "no room"), "JOURNAL_FULL"),
        (CapacityError("FDS_EXHAUSTED", "no descriptor"), "FDS_EXHAUSTED"),
    ],
)
def test_a_call_whose_first_entry_cannot_be_written_leaves_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: StockadeError, reason: str
) -> None:
    def full(*_: object, **__: object) -> None:
        assert [path.name for path in (tmp_path / "keys").iterdir()] == ["call-1"]
        raise error

    async def scenario(store: Store) -> None:
        monkeypatch.setattr(store._journal, "append", full)
        with pytest.raises(CapacityError) as caught:
            await begin(store, "call-1")
        assert caught.value.reason == reason
        monkeypatch.undo()
        assert list((tmp_path / "keys").iterdir()) == []

    with_store(tmp_path, scenario)
