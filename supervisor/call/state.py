"""Where a call is, as one table.

A call is admitted (PENDING), gets its sandbox built (PREPARING), has its walls read back
(ARMED), is let go (RUNNING), and is stopped and read to the end (DRAINING) before its outcome is
sealed (CLOSED). Whatever ends a call, the way to CLOSED leads through DRAINING as soon as there
is anything to tear down: a sandbox that was half built is torn down by the same code as one that
ran to its end.

    PENDING ──ADMITTED──► PREPARING ──ARMED──► ARMED ──STARTED──► RUNNING ──ENDED──► DRAINING
       │                      │                  │                                      │
       └──────FAILED──────────┴──────────────────┴──FAILED──► DRAINING ────SEALED────► CLOSED

Two rules. Everything that changes a state goes through `advance`. An event that the table does
not list raises and changes nothing.
"""

from __future__ import annotations

import enum

from supervisor.errors import InvariantError


class State(enum.StrEnum):
    """Where a call is."""

    PENDING = "pending"
    PREPARING = "preparing"
    ARMED = "armed"
    RUNNING = "running"
    DRAINING = "draining"
    CLOSED = "closed"


class Step(enum.StrEnum):
    """What moves a call on."""

    ADMITTED = "admitted"  # INTENT is durable
    ARMED = "armed"  # the walls were read back
    STARTED = "started"  # the program was let go
    ENDED = "ended"  # the program is gone, or is to be killed
    FAILED = "failed"  # it cannot be run under its walls, or was stopped before it ran
    SEALED = "sealed"  # OUTCOME is durable and the sandbox is gone


TRANSITIONS: dict[State, dict[Step, State]] = {
    State.PENDING: {Step.ADMITTED: State.PREPARING, Step.FAILED: State.DRAINING},
    State.PREPARING: {Step.ARMED: State.ARMED, Step.FAILED: State.DRAINING},
    State.ARMED: {Step.STARTED: State.RUNNING, Step.FAILED: State.DRAINING},
    State.RUNNING: {Step.ENDED: State.DRAINING, Step.FAILED: State.DRAINING},
    State.DRAINING: {Step.SEALED: State.CLOSED},
    State.CLOSED: {},
}


def advance(state: State, step: Step) -> State:
    """Give the state after `step`.

    Raises:
        InvariantError: `STATE_TABLE`, where the table does not list the step.
    """
    try:
        return TRANSITIONS[state][step]
    except KeyError:
        raise InvariantError("STATE_TABLE", f"step {step} in state {state}") from None


def diagram() -> str:
    """Give the table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.PENDING}"]
    for state, steps in TRANSITIONS.items():
        lines += [f"    {state} --> {target}: {step}" for step, target in steps.items()]
    return "\n".join([*lines, f"    {State.CLOSED} --> [*]"])
