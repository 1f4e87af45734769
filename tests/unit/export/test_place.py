"""The process of a sink goes behind calls, and beside them while it is late."""

from __future__ import annotations

from unittest import mock

import pytest

from supervisor.errors import HostError
from supervisor.export import place as module
from supervisor.export.place import LATE_S, Place

Put = list[bool]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Give where it was put: idly or not."""
    found: Put = []

    def fake(_: object, pid: int, *, idly: bool) -> None:
        assert pid == 7
        found.append(idly)

    monkeypatch.setattr(module.idle, "put", fake)
    return found


class Clock:
    """A clock that is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_who_is_late_goes_beside_calls_until_it_has_all(put: Put) -> None:
    clock = Clock()
    place = Place("siem", 7, clock=clock)
    assert put == [True]
    place.follow(0, 100)
    clock.now += LATE_S
    place.follow(50, 500)
    assert put == [True]
    clock.now += 0.1
    place.follow(99, 600)
    place.follow(99, 600)
    assert put == [True, False]
    place.follow(100, 700)
    assert put == [True, False]
    place.follow(700, 700)
    assert put == [True, False, True]
    clock.now += LATE_S + 0.1
    place.follow(700, 800)
    assert put == [True, False, True]
    clock.now += LATE_S + 0.1
    place.follow(799, 900)
    assert put == [True, False, True, False]


def test_who_keeps_up_is_never_late(put: Put) -> None:
    clock = Clock()
    place = Place("siem", 7, clock=clock)
    for index in range(1000):
        clock.now += 1.0
        place.follow(index, index + 30)
    assert put == [True]


def test_one_that_stands_still_is_late_whatever_it_says_itself(put: Put) -> None:
    clock = Clock()
    place = Place("siem", 7, clock=clock)
    for durable in range(100):
        clock.now += 1.0
        place.follow(3, 5 + durable)
    assert put == [True, False]


@pytest.mark.parametrize(
    "fault", [OSError(13, "no"), ValueError("no"), HostError("CGROUP_V2_REQUIRED", "no")]
)
def test_where_it_cannot_be_put_there_that_is_said(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with mock.patch.object(module.idle, "put", side_effect=fault):
        Place("siem", 7)
    (said,) = caplog.messages
    assert said.startswith("sink siem: its process cannot be put behind calls")
