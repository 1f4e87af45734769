"""Follow a call in a terminal: bytes out as they come, signals in, and a last word at the end.

Raw bytes of the program go to our standard output and error unchanged, as they would without a
sandbox; everything that we say ourselves goes to standard error, made safe.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from collections import Counter
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from supervisor.call import outcome
from supervisor.call.events import (
    BROKER_DENIALS,
    Accepted,
    Denied,
    Finished,
    Flow,
    Lost,
    Output,
    Verdict,
    Wall,
)
from supervisor.call.safe import shorten
from supervisor.call.types import Stream, StreamSummary
from supervisor.cli import flows, standard
from supervisor.cli import output as out
from supervisor.errors import CallStateError, CapacityError, StockadeError

if TYPE_CHECKING:
    from supervisor.cli.terminal import LocalTerminal
    from supervisor.client import Execution

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OBSERVE = "observe"
LEARN = "who may read the record can learn from it: stockade profile learn"
EGRESS_BUDGET = "limits.egress"
DENIALS_SHOWN_MAX = 20
DENIAL_KINDS_MAX = 10_000
DENIAL_WIDTH = 300
"""A host's name fits, which has up to 253 characters: whose it is stands at its end."""
TOLD_AS_NAMES = BROKER_DENIALS - {"connect"}
"""What the broker denies is no call with arguments; connect(2) is one, whoever denies it."""


class Signals:
    """Forwards our signals to the call: the first as it is, the second as SIGKILL, the third
    ends us. A context manager; handlers only queue, since an RPC in a handler could deadlock."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._seen = 0
        self._former: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._forward, name="stockade-signals", daemon=True)

    def __enter__(self) -> Self:
        for number in FORWARDED:
            former = signal.getsignal(number)
            if former is not signal.SIG_IGN:  # nohup wants it ignored
                self._former[number] = former
                signal.signal(number, self._note)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._queue.put(None)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._seen += 1
        if self._seen > 2:
            raise KeyboardInterrupt
        self._queue.put(number if self._seen == 1 else signal.SIGKILL)

    def _forward(self) -> None:
        while (number := self._queue.get()) is not None:
            name = signal.Signals(number).name
            try:
                self._execution.signal(number, why=f"{name} at the command line")
            except CallStateError:
                return
            except StockadeError as error:
                out.report(error, as_json=False)
            else:
                again = "" if number == signal.SIGKILL else "; once more to kill the call"
                out.note(f"sent {name}{again}")


CONTENT_GONE = frozenset({"CONTENT_ERASED", "CONTENT_REMOVED", "CONTENT_LOCKED"})
"""Reasons that another attempt to follow the call changes nothing about."""


def follow(
    execution: Execution, *, as_json: bool, quiet: bool, terminal: LocalTerminal | None = None
) -> tuple[Finished | None, int]:
    """Print a call's events until it ends and give its Finished and the exit code; `terminal` is
    ours, where the call has one that follows it.

    Raises:
        StockadeError: the call cannot be followed any more; its hint names the call.
    """
    try:
        with terminal.follow(execution) if terminal is not None else contextlib.nullcontext():
            finished, code = _follow(execution, as_json=as_json, quiet=quiet, terminal=terminal)
        if finished is not None and execution.stdin_error is not None:
            out.report(_input_broke(execution.stdin_error), as_json=as_json)
            code = outcome.EXIT_NOT_RUN
        return finished, code
    except StockadeError as error:
        call_id = error.metadata.get("call_id")
        if call_id and error.reason not in CONTENT_GONE:
            add_hint(error, f"call {call_id} had started; stockade attach {call_id}")
        raise


def add_hint(error: StockadeError, hint: str) -> None:
    """Say one more thing about an error."""
    error.hint = "; ".join(part for part in (error.hint, hint) if part)


def _input_broke(error: Exception) -> StockadeError:
    if isinstance(error, StockadeError):
        return error
    return StockadeError("STDIN_UNREADABLE", f"standard input cannot be read: {error}")


def _follow(
    execution: Execution, *, as_json: bool, quiet: bool, terminal: LocalTerminal | None
) -> tuple[Finished | None, int]:
    sinks = {
        Stream.STDOUT: sys.stdout.buffer,
        Stream.STDERR: sys.stderr.buffer,
    }
    denials: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    observed = False
    with Signals(execution):
        for event in execution:
            sink = sinks[Stream.STDOUT]
            try:
                if as_json:
                    out.line(event)
                elif isinstance(event.event, Output):
                    sink = sinks[event.event.stream]
                    sink.write(event.event.data)
                    sink.flush()
            except OSError as error:
                if terminal is not None:
                    terminal.restore()
                return None, unwritable(execution, sink, error, as_json=as_json)
            match event.event:
                case Accepted(mode=mode):
                    observed = mode == OBSERVE
                case Denied() as denied if len(denials) < DENIAL_KINDS_MAX:
                    verb = "limit" if denied.wall is Wall.LIMIT else "denied"
                    denials[f"{verb} {describe_denial(denied)}"] += denied.count
                case Flow(verdict=Verdict.FAILED) as flow if len(failures) < DENIAL_KINDS_MAX:
                    failures[f"failed {describe_failure(flow)}"] += 1
                case Lost() as lost if not (quiet or as_json):
                    count = lost.count or "an unknown number"
                    out.note(f"lost {count} of {lost.what}: {lost.reason}")
                case Finished() as finished:
                    if terminal is not None:
                        terminal.restore()
                    if not as_json:
                        _last_word(execution.call_id, finished, denials, failures, quiet=quiet)
                    if observed and not (quiet or as_json):
                        out.note(f"observed: {LEARN} {execution.call_id}")
                    return finished, outcome.exit_code(finished.outcome)
    return None, outcome.EXIT_NOT_RUN


def note_truncated(summary: StreamSummary) -> None:
    """Say it where only a part of a stream is on record."""
    if summary.truncated:
        stored, total = out.size(summary.stored_bytes), out.size(summary.digest.size_bytes)
        begin, end = summary.missing
        where = f": bytes {begin} to {end} are missing" if summary.tail_bytes else ""
        out.note(f"{summary.stream}: {stored} of {total} are on record{where}")
    if summary.redactions:
        out.note(f"{summary.stream}: {summary.redactions} secrets are replaced on record")


def unwritable(execution: Execution, sink: BinaryIO, error: OSError, *, as_json: bool) -> int:
    """Stop a call whose output cannot be passed on, say so, and give the exit code.

    Raises:
        StockadeError: nobody reads any more, and the call could not be stopped.
    """
    standard.discard(sink)
    if isinstance(error, BrokenPipeError):
        execution.cancel(why="nobody reads the output any more")
        return standard.EXIT_PIPE_CLOSED
    name = "standard error" if sink is sys.stderr.buffer else "standard output"
    call_id = execution.call_id
    failure = CapacityError(
        "OUTPUT_UNWRITABLE",
        f"{name} cannot be written: {error.strerror}",
        hint=f"call {call_id} was stopped; what it wrote: stockade audit cat {call_id}",
        metadata={"call_id": call_id},
    )
    try:
        execution.cancel(why=f"the client's {failure.message}")
    except StockadeError as again:
        failure.hint = f"call {call_id} goes on, it could not be stopped: {again.message}"
    out.report(failure, as_json=as_json)
    return outcome.EXIT_NOT_RUN


def describe_denial(denied: Denied) -> str:
    """Name what was denied, as in `unshare(0x10000000)`, `cpu: 1.011 s used, 1 s allowed` or
    `dns: evil.example.com A`."""
    if denied.wall is Wall.LIMIT:
        more = f", {denied.detail}" if denied.detail else ""
        used, allowed = (outcome.amount(denied.name, n) for n in (denied.used, denied.allowed))
        if denied.rule == EGRESS_BUDGET and denied.used < denied.allowed:
            more += ", and more came at once than was left"
        return f"{denied.name}: {used} used, {allowed} allowed{more}"
    if denied.detail and denied.wall is Wall.NETWORK and denied.name in TOLD_AS_NAMES:
        return f"{denied.name}: {denied.detail}"
    if denied.detail:
        whole = denied.detail.startswith(f"{denied.name}(")
        return denied.detail if whole else f"{denied.name}({denied.detail})"
    arguments = list(denied.arguments)
    while len(arguments) > 1 and not arguments[-1]:
        arguments.pop()
    return f"{denied.name}({', '.join(hex(n) if n > 9 else str(n) for n in arguments)})"


def describe_failure(flow: Flow) -> str:
    """Name a connection that a rule allows and that did not come about, and why: the program
    itself saw it reset."""
    return f"connection to {flows.place(flow.name, flow.port)}: {flow.reason or 'nobody knows why'}"


def _last_word(
    call_id: str, finished: Finished, denials: Counter[str], failures: Counter[str], *, quiet: bool
) -> None:
    """Say what was not a normal end, what was denied, and what could not be reached; name the call
    where there is more."""
    failed = not isinstance(finished.outcome, outcome.Exited)
    if failed:
        told = outcome.describe(finished.outcome, started=finished.timeline.started_ns > 0)
        out.note(f"call {call_id} {told}", lines=True)
    if quiet:
        return
    for name, count in denials.most_common(DENIALS_SHOWN_MAX):
        out.note(f"{shorten(name, DENIAL_WIDTH)} x{count}")
    if len(denials) > DENIALS_SHOWN_MAX:
        out.note(f"and {len(denials) - DENIALS_SHOWN_MAX} other denials")
    for name, count in failures.most_common(DENIALS_SHOWN_MAX):
        out.note(f"{shorten(name, DENIAL_WIDTH)} x{count}")
    if len(failures) > DENIALS_SHOWN_MAX:
        out.note(f"and {len(failures) - DENIALS_SHOWN_MAX} other connections that failed")
    for summary in finished.streams:
        note_truncated(summary)
    for skipped in finished.skipped:
        out.note(f"output {os.fsdecode(skipped.path)} was not taken: {skipped.reason}")
    if (denials or failures) and not failed:
        why = f"; what would allow it: stockade profile why {call_id}" if denials else ""
        out.note(f"all of it: stockade audit show {call_id}{why}")
