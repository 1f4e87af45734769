"""What is missing is a problem, unless each that names it was let go."""

from __future__ import annotations

from typing import Any

from supervisor.audit.entry import Head, Kind, Position, StoredEntry, encode_entry
from supervisor.audit.verify_log import Problem
from supervisor.audit.verify_removed import Missing

SHA256 = "ab" * 32


class Case:
    """Missing files, and what is reported of them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.missing = Missing(self.problems.append)
        self.index = 0

    def entry(self, kind: Kind, body: dict[str, Any], call: str = "") -> StoredEntry:
        head = Head(index=self.index, prev=bytes(32), time_ns=1, kind=kind, call=call, sequence=1)
        self.index += 1
        position = Position(segment=0, offset=8)
        return StoredEntry(head=head, json=encode_entry(head, body), leaf="", position=position)

    def lacks(self, call: str, *, kept: bool = False) -> int:
        entry = self.entry(Kind.INTENT if call else Kind.BLOB, {}, call)
        self.missing.add(entry, SHA256, "it is missing", "" if kept else None)
        return entry.index

    def removed(self, *calls: str, uploads: tuple[int, ...] = (), open_: bool = False) -> None:
        body = {"calls": [*calls], "uploads": [*uploads]}
        entry = self.entry(Kind.REMOVED, body)
        self.missing.take(entry, set() if open_ else {"one", "two"})

    def told(self) -> list[int | None]:
        self.missing.finish()
        return [problem.index for problem in self.problems]


def test_what_nothing_excuses_is_told_once() -> None:
    case = Case()
    case.lacks("one")
    case.lacks("two")
    assert case.told() == [0]


def test_what_was_let_go_is_excused() -> None:
    case = Case()
    case.lacks("one")
    case.removed("one")
    assert case.told() == []
    assert case.missing.removed == {"one"}


def test_one_that_was_not_let_go_still_needs_it() -> None:
    case = Case()
    case.lacks("one")
    case.lacks("two")
    case.removed("one")
    assert case.told() == [1]


def test_who_names_it_later_needs_it_again() -> None:
    case = Case()
    case.lacks("one")
    case.removed("one")
    case.lacks("two")
    assert case.told() == [2]


def test_uploads_are_let_go_by_their_entry() -> None:
    case = Case()
    first, second = case.lacks(""), case.lacks("")
    case.removed(uploads=(first,))
    assert case.told() == [second]


def test_what_entries_are_read_with_is_never_excused() -> None:
    case = Case()
    case.lacks("one", kept=True)
    case.removed("one")
    assert case.told() == [0]


def test_nothing_of_a_live_or_held_call_may_go() -> None:
    case = Case()
    case.removed("one", open_=True)
    for kind in (Kind.HELD, Kind.HELD, Kind.RELEASED):
        case.missing.take(case.entry(kind, {"call": "two"}), set())
    case.removed("two")
    case.missing.take(case.entry(Kind.RELEASED, {"call": "two"}), set())
    case.removed("two")
    assert [problem.message for problem in case.problems] == [
        "it removes what call one has, which had not ended",
        "it removes what call two has, which was held",
    ]
    assert case.missing.removed == {"two"}
