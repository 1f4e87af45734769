"""Events are values: frozen, compared by content, and the union is complete."""

from __future__ import annotations

import dataclasses
import inspect
import typing

import pytest

from supervisor.call import events
from supervisor.call.events import CallEvent, Denied, Event, KeepAlive, Output, Wall
from supervisor.call.types import Stream

UNION = typing.get_args(Event)
NO_EVENTS_THEMSELVES = {
    events.Timeline, events.CallEvent, events.ProgramStarted, events.MoreArgv, events.ProcessEnded,
}  # fmt: skip


def test_the_union_names_every_event_of_the_module() -> None:
    here = {
        value
        for _, value in inspect.getmembers(events, dataclasses.is_dataclass)
        if value.__module__ == events.__name__
    }
    assert here - NO_EVENTS_THEMSELVES == set(UNION)


@pytest.mark.parametrize("event", [*UNION, *NO_EVENTS_THEMSELVES])
def test_frozen_slotted_and_by_keyword(event: type) -> None:
    parameters = event.__dataclass_params__  # type: ignore[attr-defined]
    assert parameters.frozen
    assert "__slots__" in vars(event)
    assert all(field.kw_only for field in dataclasses.fields(event))


def test_equal_by_content() -> None:
    one = Output(stream=Stream.STDOUT, data=b"x", offset=0)
    assert one == Output(stream=Stream.STDOUT, data=b"x", offset=0)
    assert one != Output(stream=Stream.STDERR, data=b"x", offset=0)
    assert Denied(wall=Wall.SYSCALL, name="mount").count == 1


def test_nothing_changes_an_event() -> None:
    event = CallEvent(call_id="a", sequence=1, time_ns=0, event=KeepAlive())
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.sequence = 2  # type: ignore[misc]
