"""What the doctor concludes from its trial of egress; the trial itself is in test_doctor.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor.call.events import Denied, Flow, Verdict, Wall
from supervisor.egress.plan import Plan
from supervisor.profile.model import Inspect
from supervisor.sandbox.doctor_egress import NAME, OTHER, RULES, faults

SEEN: dict[str, list[Any]] = {
    "allowed": ["done", "('198.18.0.1', 443)"],
    "other": ["unknown", "-2"],
    "port": ["refused", "Operation not permitted"],
    "address": ["refused", "Operation not permitted"],
    "lie": ["done", "('198.18.0.1', 443)"],
}


def denied(name: str, detail: str) -> Denied:
    return Denied(wall=Wall.NETWORK, name=name, detail=detail, rule="egress")


DENIED = (
    denied("dns", f"{OTHER} A"),
    denied("connect", f"198.18.0.1:22 tcp ({NAME})"),
    denied("connect", "203.0.113.9:443 tcp"),
    denied("tls", f"{NAME}:443: not TLS"),
)
FLOW = Flow(name=NAME, address="", port=443, rule=f"{NAME}:443", verdict=Verdict.DENIED)


def test_all_as_it_has_to_be() -> None:
    assert faults(SEEN, DENIED, [FLOW]) == []


@pytest.mark.parametrize("step", SEEN)
def test_each_step_that_ends_otherwise_is_a_fault(step: str) -> None:
    other = ["refused", ""] if SEEN[step][0] == "done" else ["done", ""]
    assert len(faults({**SEEN, step: other}, DENIED, [FLOW])) == 1


@pytest.mark.parametrize("missing", range(len(DENIED)))
def test_each_denial_that_is_not_told_is_a_fault(missing: int) -> None:
    told = [one for number, one in enumerate(DENIED) if number != missing]
    assert len(faults(SEEN, told, [FLOW])) == 1


@pytest.mark.parametrize(
    "flows",
    [[], [replace(FLOW, verdict=Verdict.CLOSED)], [replace(FLOW, sent=1)]],
    ids=["none", "let through", "something was sent"],
)
def test_the_connection_has_to_be_told_as_denied(flows: list[Flow]) -> None:
    assert len(faults(SEEN, DENIED, flows)) == 1


def test_the_trial_dials_nobody() -> None:
    """What is sent is no TLS, and this is where TLS is looked for before anything is resolved."""
    rule = Plan.of(RULES).decide(NAME, 443)
    assert rule is not None
    assert rule.inspect_at(443) is Inspect.TLS
    assert Plan.of(RULES).decide(OTHER, 443) is None
