"""Verification of what entries say, against forgers who get every hash of the log right."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.blobs import BlobStore
from supervisor.audit.entry import (
    NO_LEAF,
    Head,
    Kind,
    Position,
    StoredEntry,
    encode_entry,
    leaf_hash,
)
from supervisor.audit.runs import Run
from supervisor.audit.store import Store
from supervisor.audit.verify_calls import CallCheck
from supervisor.audit.verify_log import Problem
from supervisor.call.types import Digest, OutputFile, Stream
from supervisor.profile.model import Capture
from tests.support.records import begin, make_finished, make_profile, opened

Forgery = Callable[[list[tuple[str, str, int, dict[str, Any]]]], None]


async def write(directory: Path, mode: str = "enforce") -> None:
    async with opened(directory) as store:
        recorder = await begin(store, profile=make_profile(mode=mode))
        recorder.started(0.1)
        recorder.output(Stream.STDOUT, b"one")
        recorder.output(Stream.STDOUT, b"two")
        outputs = (OutputFile(path=b"out", digest=store.blobs.put(b"file"), mode=0o644),)
        await recorder.finish(make_finished(outputs=outputs))


def forge(directory: Path, change: Forgery) -> list[Problem]:
    """Check the entries of the directory after a change, as if the log had been written so."""
    problems, in_runs = list[Problem](), list[Problem]()
    store = Store.open(directory)
    entries = [
        (entry.kind, entry.call_id, entry.sequence, entry.body())
        for entry in store.entries("call-1")
    ]
    change(entries)
    check = CallCheck(store.blobs, problems.append, live=False, expect={})
    again = CallCheck(store.blobs, in_runs.append, live=False, expect={})
    for index, (kind, call, sequence, body) in enumerate(entries):
        head = Head(index=index, prev=NO_LEAF, time_ns=1, kind=kind, call=call, sequence=sequence)
        payload = encode_entry(head, body)
        place = Position(segment=0, offset=index)
        leaf = leaf_hash(payload).hex()
        entry = StoredEntry(head=head, json=payload, leaf=leaf, position=place)
        check.take(entry)
        again.take_run(Run.of(entry))
    check.finish()
    again.finish()
    assert in_runs == problems
    asyncio.run(store.close())
    return problems


@pytest.fixture
def state(tmp_path: Path) -> Path:
    asyncio.run(write(tmp_path))
    return tmp_path


def test_nothing_is_wrong_with_what_was_written(state: Path) -> None:
    assert forge(state, lambda entries: None) == []


def _set(at: int, **changes: Any) -> Forgery:
    def change(entries: list[tuple[str, str, int, dict[str, Any]]]) -> None:
        entries[at][3].update(changes)

    return change


def _drop(at: int) -> Forgery:
    return lambda entries: entries.__delitem__(at)


def _add(kind: str, call: str = "call-1", sequence: int = 6, **body: Any) -> Forgery:
    return lambda entries: entries.append((kind, call, sequence, body))


def _before_outcome(kind: str, **body: Any) -> Forgery:
    return lambda entries: entries.insert(4, (kind, "call-1", 5, body))


def _stream(**changes: Any) -> Forgery:
    def change(entries: list[tuple[str, str, int, dict[str, Any]]]) -> None:
        entries[4][3]["streams"][0].update(changes)

    return change


FORGERIES: dict[str, tuple[int, Forgery]] = {
    "intent dropped": (0, _drop(0)),
    "entry dropped": (1, _drop(1)),
    "output dropped": (3, _drop(3)),
    "entry after the outcome": (5, _add("started", preparation_s=1)),
    "second intent": (5, _add("intent", sequence=1)),
    "call without intent": (5, _add("started", call="call-2", preparation_s=1)),
    "sequence from elsewhere": (5, _add("intent", call="call-3", sequence=2)),
    "kind of the daemon in a call": (4, _before_outcome("daemon_started")),
    "kind of a call in no call": (5, _add("started", call="", sequence=0)),
    "request changed": (0, _set(0, request={"argv": ["rm"]})),
    "fingerprint changed": (0, _set(0, fingerprint="0" * 64)),
    "profile that is not kept": (
        0,
        _set(0, profile={"name": "x", "digest": "0" * 64, "size_bytes": 1, "mode": "enforce"}),
    ),
    "offset changed": (3, _set(3, offset=1)),
    "frame moved": (3, _set(3, frame_offset=0)),
    "frame of another digest": (2, _set(2, frame_sha256="0" * 64)),
    "recording denied": (4, _set(4, recording=None)),
    "recording of another digest": (4, _set(4, recording={"sha256": "0" * 64, "size_bytes": 24})),
    "stream digest changed": (4, _stream(sha256="0" * 64)),
    "stored bytes changed": (4, _stream(stored_bytes=1)),
    "stream denied": (4, _set(4, streams=[])),
    "output file that is not kept": (
        4,
        _set(4, outputs=[{"path": "x", "sha256": "0" * 64, "size_bytes": 1, "mode": 0}]),
    ),
    "blob of another size": (
        5,
        _add("blob", call="", sequence=0, sha256=Digest.of(b"file2").sha256, size_bytes=1),
    ),
    "no body": (1 + 3, lambda entries: entries[4][3].clear()),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(name: str, state: Path) -> None:
    index, change = FORGERIES[name]
    problems = forge(state, change)
    assert problems
    assert index in {problem.index for problem in problems}


def test_a_blob_of_another_size_is_found(state: Path) -> None:
    file = Digest.of(b"file")
    blob = _add("blob", call="", sequence=0, sha256=file.sha256, size_bytes=99, caller="x")
    assert forge(state, _drop(4))  # the outcome is gone: the call is open, and has no part file
    assert forge(state, lambda entries: (entries.__delitem__(slice(0, 5)), blob(entries))[0])


def test_an_open_call_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            recorder.output(Stream.STDOUT, b"abc")

    asyncio.run(scenario())
    assert forge(tmp_path, lambda entries: None) == []
    assert Kind.OUTPUT == "output"


@pytest.mark.parametrize("kind", [Kind.BLOB, Kind.INTENT])
def test_every_entry_that_names_a_blob_has_its_size_right(kind: Kind, tmp_path: Path) -> None:
    """Also where another entry named the same blob before, with the right size."""

    def forgery(entries: list[tuple[str, str, int, dict[str, Any]]]) -> None:
        good = Digest.of(b"file")
        if kind is Kind.BLOB:
            false = {"sha256": good.sha256, "size_bytes": 5, "caller": "tester"}
            entries.append(("blob", "", 0, false))
        else:
            body = copy.deepcopy(entries[0][3])
            body["profile"]["size_bytes"] += 1
            entries.append(("intent", "call-2", 1, body))

    asyncio.run(write(tmp_path))
    (problem,) = forge(tmp_path, forgery)
    assert (problem.index, problem.kind) == (5, kind)


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_mark_that_is_not_the_calls_is_found(tmp_path: Path, mode: str) -> None:
    asyncio.run(write(tmp_path, mode))
    assert forge(tmp_path, lambda entries: None) == []
    for place in range(5):

        def remark(entries: list[tuple[str, str, int, dict[str, Any]]], at: int = place) -> None:
            body = entries[at][3]
            if mode == "observe":
                del body["mode"]
            else:
                body["mode"] = "observe"

        [problem] = forge(tmp_path, remark)
        assert f"whose mode was '{mode}'" in problem.message


async def write_gap(directory: Path) -> None:
    async with opened(directory) as store:
        capped = make_profile(stdout=Capture(mode="head", bytes_max=64))
        recorder = await begin(store, profile=capped)
        recorder.output(Stream.STDOUT, bytes(range(100)))
        await recorder.finish(make_finished())


GAP_FORGERIES: dict[str, Forgery] = {
    "gap begins elsewhere": _set(3, offset=60),
    "gap is longer": _set(3, length=29),
    "gap is shorter": _set(3, length=27),
    "gap goes back": _set(3, length=-1),
    "gap has no end": lambda entries: entries[3][3].__delitem__("length"),
    "gap of no length": _set(3, length="28"),
    "gap of another stream": _set(3, stream="stderr"),
    "gap of no stream": _set(2, stream="stdfoo"),
    "gap dropped": _drop(3),
    "end moved": _set(4, offset=93),
    "end dropped": _drop(4),
    "end denied": lambda entries: entries[5][3]["streams"][0].__delitem__("tail_bytes"),
    "end of another length": lambda entries: entries[5][3]["streams"][0].update(tail_bytes=9),
    "end before the end": lambda entries: entries[5][3]["streams"][0].update(size_bytes=101),
}


def test_nothing_is_wrong_with_a_gap_that_was_written(tmp_path: Path) -> None:
    asyncio.run(write_gap(tmp_path))
    assert forge(tmp_path, lambda entries: None) == []


@pytest.mark.parametrize("name", GAP_FORGERIES)
def test_a_forged_gap_is_found(name: str, tmp_path: Path) -> None:
    asyncio.run(write_gap(tmp_path))
    assert forge(tmp_path, GAP_FORGERIES[name])


def test_a_second_gap_is_found(tmp_path: Path) -> None:
    asyncio.run(write_gap(tmp_path))

    def twice(entries: list[tuple[str, str, int, dict[str, Any]]]) -> None:
        body = {"stream": "stdout", "offset": 100, "length": 0, "why": "cap"}
        kind, call, sequence, outcome = entries[5]
        entries[5:] = [("truncated", "call-1", 6, body), (kind, call, sequence + 1, outcome)]

    (problem, *_) = forge(tmp_path, twice)
    assert "the gap does not follow" in problem.message


@pytest.mark.parametrize(
    "content", [b'{"outputs":' + b"[" * 200_000 + b"]" * 200_000 + b"}", bytes(3 << 20)]
)
def test_a_list_of_files_that_is_none_is_no_list(
    content: bytes, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.audit.blobs.WHOLE_BYTES_MAX", 2 << 20)
    store = Store.open(state)
    digest = store.blobs.put(content)
    asyncio.run(store.close())

    def change(entries: list[tuple[str, str, int, dict[str, Any]]]) -> None:
        entries[4][3]["files_blob"] = {"sha256": digest.sha256, "size_bytes": digest.size_bytes}

    assert forge(state, change) == []  # It is what it was, and names nothing.


def test_a_frame_that_claims_to_hold_more_than_there_can_be(state: Path) -> None:
    one_segment, size = bytes([0b11100000]), struct.pack("<Q", 1 << 50)
    frame = b"\x28\xb5\x2f\xfd" + one_segment + size + b"\x01\x00\x00"
    sha256 = hashlib.sha256(frame).hexdigest()
    (
        path := BlobStore(state / "blobs", lambda *_: AssertionError()).recording_path(sha256)
    ).parent.mkdir(exist_ok=True)
    path.write_bytes(frame)

    def change(entries: list[tuple[str, str, int, dict[str, Any]]]) -> None:
        entries[2][3].update(frame_sha256=sha256, frame_length=len(frame), length=3)
        del entries[3]
        entries[3] = (*entries[3][:2], 4, entries[3][3])
        entries[3][3]["recording"] = {"sha256": sha256, "size_bytes": len(frame)}

    problems = forge(state, change)
    assert f"claims {1 << 50} bytes" in str(problems[0])
