"""Every pair of state and step, and what the table as a whole promises."""

from __future__ import annotations

import itertools

import pytest

from supervisor.call.state import TRANSITIONS, State, Step, advance, diagram
from supervisor.errors import InvariantError

PAIRS = list(itertools.product(State, Step))
LEGAL = {
    (State.PENDING, Step.ADMITTED): State.PREPARING,
    (State.PREPARING, Step.ARMED): State.ARMED,
    (State.ARMED, Step.STARTED): State.RUNNING,
    (State.RUNNING, Step.ENDED): State.DRAINING,
    (State.PENDING, Step.FAILED): State.DRAINING,
    (State.PREPARING, Step.FAILED): State.DRAINING,
    (State.ARMED, Step.FAILED): State.DRAINING,
    (State.RUNNING, Step.FAILED): State.DRAINING,
    (State.DRAINING, Step.SEALED): State.CLOSED,
}


@pytest.mark.parametrize(("state", "step"), PAIRS)
def test_every_pair(state: State, step: Step) -> None:
    before = {s: dict(steps) for s, steps in TRANSITIONS.items()}
    if (state, step) in LEGAL:
        assert advance(state, step) is LEGAL[state, step]
    else:
        with pytest.raises(InvariantError) as caught:
            advance(state, step)
        assert caught.value.reason == "STATE_TABLE"
    assert before == TRANSITIONS


def test_nothing_runs_before_its_walls_were_read_back() -> None:
    into_running = {s for s, steps in TRANSITIONS.items() if State.RUNNING in steps.values()}
    into_armed = {s for s, steps in TRANSITIONS.items() if State.ARMED in steps.values()}
    assert into_running == {State.ARMED}
    assert into_armed == {State.PREPARING}


def test_every_state_leads_to_closed_and_only_through_draining() -> None:
    into_closed = {s for s, steps in TRANSITIONS.items() if State.CLOSED in steps.values()}
    assert into_closed == {State.DRAINING}
    for state in State:
        assert State.CLOSED in _reachable(state)


def _reachable(state: State) -> set[State]:
    seen, todo = {state}, [state]
    while todo:
        for target in TRANSITIONS[todo.pop()].values():
            if target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


def test_the_diagram_has_one_arrow_for_each_transition() -> None:
    arrows = [line.strip() for line in diagram().splitlines()[1:]]
    expected = {f"{state} --> {target}: {step}" for (state, step), target in LEGAL.items()}
    assert set(arrows) == expected | {"[*] --> pending", "closed --> [*]"}
    assert len(arrows) == len(expected) + 2
