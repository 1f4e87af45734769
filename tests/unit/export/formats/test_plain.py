"""The record as our own JSON: all of each entry, and where it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.export.event import Entry, Head, Opening, uid_of
from supervisor.export.formats.ocsf import Ocsf
from supervisor.export.formats.plain import Plain
from tests.support.exported import HEAD, HOSTILE, SOURCE, collect

Pairs = list[tuple[Entry, Opening | None]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return collect(tmp_path_factory.mktemp("state"))


def made(entry: Entry, opening: Opening | None, head: Head = HEAD) -> dict[str, Any]:
    (event,) = Plain(SOURCE).encode(entry, opening, head)
    told: dict[str, Any] = json.loads(event.data)
    assert (event.uid, event.index, event.last) == (uid_of(entry, 0), entry.index, True)
    assert (event.kind, event.severity, event.time_ns) == (
        entry.kind,
        told["severity"],
        entry.time_ns,
    )
    return told


def test_an_entry_is_told_whole(pairs: Pairs) -> None:
    for entry, opening in pairs:
        told = made(entry, opening)
        assert told["body"] == entry.body
        assert {name: told[name] for name in ("index", "leaf", "time_ns", "kind")} == {
            "index": entry.index, "leaf": entry.leaf, "time_ns": entry.time_ns, "kind": entry.kind,
        }  # fmt: skip
        assert (told["log"], told["host"]) == (SOURCE.origin, SOURCE.host)
        assert told["head"] == HEAD._asdict()
        assert ("call" in told) == bool(entry.call)
        if entry.call in ("call-0", "call-1"):
            assert told["sequence"] == entry.sequence
            assert told["call"]["agent"] == "agent-7"
            assert told["call"]["profile"]["name"] == "python"


def test_it_is_as_severe_as_in_ocsf(pairs: Pairs) -> None:
    ocsf = Ocsf(SOURCE)
    for entry, opening in pairs:
        events = ocsf.encode(entry, opening, HEAD)
        assert made(entry, opening)["severity"] == max(event.severity for event in events)


def test_without_a_head_and_an_opening(pairs: Pairs) -> None:
    for entry, _ in pairs:
        told = made(entry, None, Head(0, ""))
        assert "head" not in told
        if entry.call:
            assert told["call"] == {"id": entry.call}


def test_what_a_sandbox_says_is_on_one_line(tmp_path: Path) -> None:
    body: dict[str, Any] = {"name": HOSTILE, HOSTILE: "\ud800", "n": 2**70}
    (event,) = Plain(SOURCE).encode(Entry(1, "ab" * 32, 1, "new", "", 0, body), None, HEAD)
    assert len(event.data.decode().splitlines()) == 1
    assert json.loads(event.data)["body"] == {"name": HOSTILE, HOSTILE: "\\ud800", "n": str(2**70)}
