"""What is told of a call: all of it, once."""

from __future__ import annotations

import ctypes

from supervisor.bpf import layout
from supervisor.bpf.decode import DeniedRecord, ExitRecord, Refused, Tried, WatchedRecord
from supervisor.bpf.syscalls import Asked
from supervisor.bpf.watch import LOST_NAMES, Account, Denial, Made

CONNECT = Refused(hook=layout.HOOK_CONNECT, name="connect", detail="203.0.113.9:443 tcp")
KEY = b"key"


def denied(key: bytes = KEY) -> DeniedRecord:
    return DeniedRecord(sequence=1, call=5, pid=70, program=b"sh", key=key, refused=CONNECT)


def ended() -> ExitRecord:
    return ExitRecord(
        sequence=2, call=5, time_ns=0, pid=70, parent_pid=60, status=0, user_ns=0, system_ns=0,
        memory_peak_bytes=0,
    )  # fmt: skip


def denial(count: int, pid: int = 70) -> Denial:
    return Denial(refused=CONNECT, pid=pid, program=b"sh", count=count)


def test_records_are_told_apart() -> None:
    told = Account().take([denied(), ended()])
    assert told.denials == [denial(1)]
    assert told.processes == [ended()]
    assert told.lost == {}


def test_repeats_are_told_once() -> None:
    account = Account()
    account.take([denied()])
    now = Tried(count=1, pid=71, program=b"sh")
    assert account.repeats(KEY, CONNECT, now) is None
    assert account.repeats(KEY, CONNECT, Tried(count=5, pid=71, program=b"sh")) == denial(4, 71)
    assert account.repeats(KEY, CONNECT, Tried(count=5, pid=71, program=b"sh")) is None


def test_repeats_keep_the_path_of_the_first() -> None:
    """The key has no path."""
    account = Account()
    account.take([denied()])
    bare = Refused(hook=layout.HOOK_CONNECT, name="connect", detail="by number")
    assert account.repeats(KEY, bare, Tried(count=3, pid=70, program=b"sh")) == denial(2)


def test_a_kind_whose_first_event_was_lost_is_told_whole() -> None:
    assert Account().repeats(b"other", CONNECT, Tried(count=3, pid=70, program=b"sh")) == denial(3)


def test_a_kind_that_was_told_from_its_counter_is_not_told_again_by_its_event() -> None:
    account = Account()
    assert account.repeats(KEY, CONNECT, Tried(count=3, pid=70, program=b"sh")) == denial(3)
    assert account.take([denied()]).denials == []
    assert account.repeats(KEY, CONNECT, Tried(count=4, pid=70, program=b"sh")) == denial(1)


def test_counters_give_what_is_new() -> None:
    account, row = Account(), layout.CallRow()
    assert account.counters(row).lost == {}
    row.lost[layout.EVENT_EXEC], row.lost[layout.EVENT_EXIT] = 3, 1
    row.rest[layout.HOOK_SENDMSG] = 7
    told = account.counters(row)
    assert told.lost == {"exec": 3, "exit": 1}
    [rest] = told.denials
    assert (rest.refused.name, rest.refused.detail, rest.count, rest.pid) == ("sendmsg", "", 7, 0)
    again = account.counters(row)
    assert (again.lost, again.denials) == ({}, [])
    row.lost[layout.EVENT_EXEC] += 2
    assert account.counters(row).lost == {"exec": 2}


def test_a_denial_without_an_event_is_not_lost() -> None:
    """It is counted in `folded`, or in the row's rest."""
    row = layout.CallRow()
    row.lost[layout.EVENT_DENIED] = row.lost[layout.EVENT_REFUSED] = 9
    assert Account().counters(row).lost == {}


def watched(place: int = 39, number: int = 39) -> WatchedRecord:
    return WatchedRecord(
        sequence=1, call=5, pid=70, program=b"sh", place=place, number=number,
        arguments=(1, 2, 3, 4, 5, 6), killed=False,
    )  # fmt: skip


def made(number: int, count: int, arguments: tuple[int, ...] = (), *, killed: bool = False) -> Made:
    return Made(number=number, arguments=arguments, pid=0, program=b"", count=count, killed=killed)


def test_a_watched_call_is_told_first_and_then_counted() -> None:
    account, row = Account(), Asked(watch=frozenset({39}), kill=frozenset()).row(0)
    row.count[39] = 5
    # Its event still lies in the ring: what is counted now would be told twice.
    assert account.made(row, every=False) == []
    [first] = account.take([watched()]).watched
    assert (first.count, first.pid, first.arguments) == (1, 70, (1, 2, 3, 4, 5, 6))
    assert account.made(row, every=False) == [made(39, 4)]
    assert account.made(row, every=True) == []
    row.count[39] = 7
    assert account.made(row, every=True) == [made(39, 2)]


def test_a_watched_call_without_an_event_is_told_from_its_row() -> None:
    row = Asked(watch=frozenset({39}), kill=frozenset({101})).row(0)
    row.count[39], row.count[101], row.count[layout.PLACE_INET6] = 3, 1, 2
    told = Account().made(row, every=True)
    assert told == [made(39, 3), made(101, 1, killed=True), made(41, 2, (10,))]


def test_an_event_that_found_no_place_is_not_lost() -> None:
    row = layout.CallRow()
    row.lost[layout.EVENT_WATCHED] = 9
    assert Account().counters(row).lost == {}


def test_every_kind_of_event_has_a_name() -> None:
    kinds = {value for name, value in vars(layout).items() if name.startswith("EVENT_")}
    assert set(LOST_NAMES) == kinds - {layout.EVENT_KINDS}
    assert ctypes.sizeof(layout.CallRow) % 8 == 0
