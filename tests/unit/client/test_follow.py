"""Where a follower stands: what it asks for, what it passes on, and when it gives up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.call.events import (
    SLOW_SUBSCRIBER,
    CallEvent,
    Denied,
    Event,
    KeepAlive,
    Lost,
    Output,
    Started,
    Wall,
)
from supervisor.call.types import Stream
from supervisor.client.follow import Follower, Retry, telling, worth_retrying
from supervisor.errors import (
    AuditUnavailable,
    CapacityError,
    NotFound,
    ShuttingDown,
    StockadeError,
    Unreachable,
)
from supervisor.v1 import tool_pb2

RETRY = Retry(attempts_max=3, delay_s=1, delay_max_s=3)
EXECUTE = tool_pb2.ExecuteRequest(request_id="r")
LOST = Unreachable("CONNECTION_LOST", "gone")
MISSING = Unreachable("SOCKET_MISSING", "gone")
SILENT = Unreachable("NO_ANSWER", "late")
DRAINING = ShuttingDown("SHUTTING_DOWN", "no new calls")
NOT_FOUND = NotFound("CALL_NOT_FOUND", "no")


def event(sequence: int, what: Event) -> CallEvent:
    return CallEvent(call_id="c", sequence=sequence, time_ns=0, event=what)


def piece(sequence: int, data: bytes, offset: int) -> CallEvent:
    return event(sequence, Output(stream=Stream.STDOUT, data=data, offset=offset))


def follower(**place: object) -> Follower:
    return Follower(**{"execute": EXECUTE, "retry": RETRY, "jitter": lambda: 1.0, **place})  # type: ignore[arg-type]


def test_begins_with_execute_and_repeats_it_until_it_is_on_record() -> None:
    one = follower()
    assert one.request() is EXECUTE
    one.broken(LOST)
    assert one.request() is EXECUTE


def test_goes_on_one_past_the_last_sequence() -> None:
    one = follower()
    one.take(event(1, Started(preparation_s=0)))
    one.take(piece(4, b"abc", 0))
    one.broken(LOST)
    assert one.request() == tool_pb2.AttachRequest(call_id="c", from_sequence=5)


def test_attach_begins_where_it_is_told() -> None:
    request = follower(execute=None, call_id="c", from_sequence=7).request()
    assert request == tool_pb2.AttachRequest(call_id="c", from_sequence=7)


def test_slow_subscriber_is_not_told_but_resumed() -> None:
    one = follower()
    one.take(piece(4, b"abc", 0))
    assert one.take(event(9, Lost(what="output", count=2, reason=SLOW_SUBSCRIBER))) is None
    assert one.stale
    one.broken(None)
    assert one.request() == tool_pb2.AttachRequest(call_id="c", from_sequence=5)
    assert not one.stale


def test_a_loss_on_record_is_passed_on() -> None:
    lost = event(9, Lost(what="denial", count=2, reason="queue full"))
    assert follower().take(lost) is lost


def test_overlap_after_resume_is_delivered_once() -> None:
    one = follower()
    one.take(piece(2, b"abc", 0))
    denied = event(3, Denied(wall=Wall.SYSCALL, name="bpf"))
    assert one.take(denied) is denied
    one.broken(LOST)
    assert one.take(piece(2, b"abc", 0)) is None
    assert one.take(denied) is None
    assert one.take(piece(4, b"bcde", 1)) == piece(4, b"de", 3)


def test_events_without_an_entry_are_passed_on() -> None:
    one = follower()
    one.take(piece(2, b"abc", 0))
    alive = event(2, KeepAlive())
    assert one.take(alive) is alive
    assert one.take(piece(2, b"def", 3)) == piece(2, b"def", 3)


def test_gives_up_after_so_many_attempts() -> None:
    one = follower()
    assert [one.broken(LOST) for _ in range(RETRY.attempts_max)] == [1, 2, 3]
    with pytest.raises(Unreachable) as caught:
        one.broken(LOST)
    assert caught.value is LOST


def test_progress_gives_new_attempts_and_repetition_does_not() -> None:
    one = follower()
    one.take(piece(2, b"abc", 0))
    for _ in range(RETRY.attempts_max):
        one.broken(LOST)
        one.take(event(2, KeepAlive()))
    with pytest.raises(Unreachable):
        one.broken(LOST)
    other = follower()
    for sequence in range(10):
        other.take(piece(sequence + 1, b"x", sequence))
        assert other.broken(LOST) == 1


def test_an_end_without_finished_is_a_break() -> None:
    one = follower()
    one.take(piece(2, b"abc", 0))
    for _ in range(RETRY.attempts_max):
        one.broken(None)
    with pytest.raises(Unreachable) as caught:
        one.broken(None)
    assert caught.value.reason == "STREAM_ENDED"


@pytest.mark.parametrize(
    "error",
    [
        NotFound("CALL_NOT_FOUND", ""),
        CapacityError("CALLS_LIMIT", ""),
        AuditUnavailable("JOURNAL_UNAVAILABLE", ""),
    ],
)
def test_other_errors_end_it(error: StockadeError) -> None:
    with pytest.raises(type(error)):
        follower(connected=True).broken(error)


def test_nobody_there_ends_it_only_where_nobody_ever_was() -> None:
    with pytest.raises(Unreachable):
        follower().broken(MISSING)
    assert follower(connected=True).broken(MISSING) == 1
    one = follower()
    one.take(piece(2, b"abc", 0))
    assert one.broken(MISSING) == 1


def test_the_first_refusal_is_told_where_nobody_is_there_later() -> None:
    one = follower()
    one.broken(DRAINING)
    for _ in range(RETRY.attempts_max - 1):
        one.broken(MISSING)
    with pytest.raises(ShuttingDown) as caught:
        one.broken(LOST)
    assert caught.value is DRAINING


def test_a_refusal_from_before_the_call_moved_on_is_forgotten() -> None:
    one = follower()
    one.broken(DRAINING)
    one.take(piece(2, b"abc", 0))
    for _ in range(RETRY.attempts_max):
        one.broken(MISSING)
    with pytest.raises(Unreachable):
        one.broken(MISSING)


@pytest.mark.parametrize(
    ("first", "error", "told"),
    [
        (None, LOST, LOST),
        (DRAINING, MISSING, DRAINING),
        (DRAINING, NOT_FOUND, NOT_FOUND),
        (LOST, MISSING, MISSING),
        (MISSING, SILENT, MISSING),
        (None, SILENT, SILENT),
    ],
)
def test_telling(first: StockadeError | None, error: StockadeError, told: StockadeError) -> None:
    assert telling(first, error) is told


@pytest.mark.parametrize(
    ("error", "connected", "worth"),
    [
        (ShuttingDown("SHUTTING_DOWN", ""), False, True),
        (LOST, False, True),
        (MISSING, False, False),
        (MISSING, True, True),
        (Unreachable("SOCKET_DENIED", ""), False, False),
        (AuditUnavailable("JOURNAL_UNAVAILABLE", ""), True, False),
    ],
)
def test_worth_retrying(error: StockadeError, connected: bool, worth: bool) -> None:
    assert worth_retrying(error, connected=connected) is worth


@given(st.integers(1, 40), st.floats(0, 1))
def test_delay_is_bounded(attempt: int, jitter: float) -> None:
    assert 0.5 <= RETRY.delay(attempt, lambda: jitter) <= RETRY.delay_max_s


@given(st.data())
def test_bytes_come_once_and_in_order_over_any_breaks(data: st.DataObject) -> None:
    """Whatever is cut off and sent again, what is passed on is the stream."""
    whole = bytes(range(60))
    cuts = sorted(data.draw(st.sets(st.integers(1, 59), max_size=8)))
    bounds = list(zip([0, *cuts], [*cuts, 60], strict=True))
    chunks = [piece(n + 1, whole[a:b], a) for n, (a, b) in enumerate(bounds)]
    one = follower()
    got = bytearray()
    position = 0
    while position < len(chunks):
        upto = len(chunks) - data.draw(st.integers(0, len(chunks) - position))
        for chunk in chunks[position:upto]:
            passed = one.take(chunk)
            if passed is not None and isinstance(passed.event, Output):
                got += passed.event.data
        if upto < len(chunks):
            one._attempts = 0
            one.broken(LOST)
            request = one.request()
            again = request.from_sequence - 1 if isinstance(request, tool_pb2.AttachRequest) else 0
            position = max(0, again - data.draw(st.integers(0, 2)))
        else:
            position = upto
    assert bytes(got) == whole


def test_a_mark_stays_whole_where_a_part_was_delivered_as_it_was() -> None:
    one = follower()
    one.take(piece(1, b"abcd", 0))
    mark = Output(stream=Stream.STDOUT, data=b"[mark]", offset=2, covered=6)
    given = one.take(event(2, mark))
    assert given is not None
    assert given.event == Output(stream=Stream.STDOUT, data=b"[mark]", offset=4, covered=4)
    assert one.take(event(2, mark)) is None
    last = one.take(piece(3, b"xyz", 6))
    assert last is not None
    assert last.event == Output(stream=Stream.STDOUT, data=b"z", offset=8)
