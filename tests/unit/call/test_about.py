"""What a line of the log is about: the task's call, or the one that it names."""

from __future__ import annotations

import asyncio
import logging
import threading

from supervisor.call.about import NOTHING, About, about, begin_call, of_call

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def made(**extra: str) -> logging.LogRecord:
    return logging.getLogger("t").makeRecord("t", 20, "f", 1, "m", (), None, extra=extra)


def test_tasks_have_a_call_each() -> None:
    async def one(call: str, traceparent: str) -> About:
        begin_call(call, traceparent)
        await asyncio.sleep(0)
        inner = await asyncio.create_task(asyncio.to_thread(lambda: about(made())))
        assert inner == about(made())
        return inner

    async def both() -> list[About]:
        return await asyncio.gather(one("a", TRACEPARENT), one("b", ""))

    assert asyncio.run(both()) == [About("a", TRACE), About("b", "")]
    assert about(made()) == NOTHING


def test_a_line_names_its_call_in_any_thread() -> None:
    found: list[About] = []
    thread = threading.Thread(target=lambda: found.append(about(made(**of_call("x")))))
    thread.start()
    thread.join()
    assert found == [About("x")]


def test_a_line_about_another_call_has_no_trace_of_this_one() -> None:
    async def scenario() -> None:
        begin_call("a", TRACEPARENT)
        assert about(made(**of_call("a"))) == About("a", TRACE)
        assert about(made(**of_call("b"))) == About("b", "")

    asyncio.run(scenario())
