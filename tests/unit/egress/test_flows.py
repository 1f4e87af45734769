"""What is told of flows and denials: at once, folded, bounded; counts add up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from supervisor.call.events import Denied, Flow, Lost, Verdict, Wall
from supervisor.egress.control import decode, encode
from supervisor.egress.flows import BUDGET_REASON, KINDS_REASON, FlowLog

FLOW = Flow(name="a", address="", port=1, rule="r", verdict=Verdict.CLOSED)


def denied(detail: str, **more: Any) -> Denied:
    return Denied(wall=Wall.NETWORK, name="dial", detail=detail, rule="r", **more)


def told(scenario: Callable[[FlowLog], None], **bounds: int) -> list[Any]:
    found: list[Any] = []

    async def main() -> None:
        log = FlowLog(found.append, **bounds)
        scenario(log)
        log.flush()

    asyncio.run(main())
    return found


def test_the_first_of_a_kind_is_told_at_once_and_repeats_later_with_their_count() -> None:
    async def main() -> None:
        found: list[Any] = []
        log = FlowLog(found.append)
        log.denied(denied("x", pid=1))
        assert found == [denied("x", pid=1)]
        log.denied(denied("x", pid=2))
        log.denied(denied("x", pid=3))
        assert len(found) == 1
        log.flush()
        assert found[1:] == [denied("x", pid=3, count=2)]
        log.flush()
        assert len(found) == 2
        log.denied(denied("x"))
        assert found[2:] == [denied("x")]
        log.flush()

    asyncio.run(main())


def test_what_waits_is_told_without_being_asked(monkeypatch: Any) -> None:
    monkeypatch.setattr("supervisor.egress.flows.FOLD_S", 0.01)

    async def main() -> None:
        found: list[Any] = []
        log = FlowLog(found.append)
        for _ in range(3):
            log.denied(denied("x"))
        while len(found) < 2:
            await asyncio.sleep(0.01)
        assert found[1].count == 2

    asyncio.run(main())


def test_kinds_beyond_the_bound_are_counted() -> None:
    def scenario(log: FlowLog) -> None:
        for number in range(5):
            log.denied(denied(str(number)))

    found = told(scenario, kinds_max=2)
    assert found == [
        denied("0"), denied("1"), Lost(what="denial", count=3, reason=KINDS_REASON),
    ]  # fmt: skip


def test_a_flood_of_one_name_hides_no_other() -> None:
    tls = Denied(wall=Wall.NETWORK, name="tls", detail="x", rule="r")

    def scenario(log: FlowLog) -> None:
        for number in range(5):
            log.denied(denied(str(number)))
        log.denied(tls)
        log.flush()
        log.denied(tls)

    assert told(scenario, kinds_max=2).count(tls) == 2
    assert told(scenario, kinds_max=9, denials_max=3).count(tls) == 2


def test_a_call_tells_no_more_than_the_record_takes() -> None:
    def scenario(log: FlowLog) -> None:
        for _ in range(4):
            log.flow(FLOW)
        for number in range(4):
            log.denied(denied(str(number)))

    found = told(scenario, flows_max=3, denials_max=1)
    assert found == [
        *[FLOW] * 3, denied("0"),
        Lost(what="flow", count=1, reason=BUDGET_REASON),
        Lost(what="denial", count=3, reason=BUDGET_REASON),
    ]  # fmt: skip


@given(st.lists(st.sampled_from("abcdef"), max_size=60), st.integers(0, 5), st.integers(0, 10))
def test_counts_add_up(details: list[str], kinds_max: int, denials_max: int) -> None:
    def scenario(log: FlowLog) -> None:
        for number, detail in enumerate(details):
            log.denied(denied(detail))
            if number % 7 == 6:
                log.flush()

    found = told(scenario, kinds_max=kinds_max, denials_max=denials_max)
    assert sum(one.count for one in found) == len(details)


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_a_sandbox_had_a_part_in_can_be_told(name: str, reason: str) -> None:
    odd = Flow(
        name=name * 40, address="", port=1, rule="", verdict=Verdict.DENIED, reason=reason * 200
    )
    found = told(lambda log: (log.flow(odd), log.denied(denied(reason * 200)))[0])
    for one in found:
        assert decode(encode(one)) == one
