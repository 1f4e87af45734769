"""`python -m tests.unit.egress.storming --inspect http`: a broker's connections in a storm.

They are in this process; clients and far sides are in another one (`storm`). Where a side saw what
must not be, or waited in vain, this one says what the broker's code has of that flow.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import multiprocessing
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any
from unittest import mock

from supervisor.call.events import Verdict
from supervisor.egress import dial as dial_module
from supervisor.egress.connection import Connection
from supervisor.egress.passage import Passage
from supervisor.egress.relay import prepare
from supervisor.egress.terminate import Terminator, make_authority
from supervisor.profile.model import Inspect
from tests.support.brokers import rule
from tests.unit.egress.exchange import NAME
from tests.unit.egress.storm import Failure, Tally, Tls, Weather, rage
from tests.unit.egress.wired import HOME, Rig

CLIENTS = 32
"""At once: the more there are, the more happens between two looks at one of them."""

BUDGET = 1 << 50
BACKLOG = 256


class Stormed(AssertionError):
    """A storm found something; the text says what, and how to try it again."""


def storm(
    inspect: Inspect, *, seed: int, duration_s: float, clients: int = CLIENTS, **more: Any
) -> Tally:
    """Have a storm, and say what it did; `more` is for its `Weather`.

    Raises:
        Stormed: a message was lost, changed, or looked whole and was not; or somebody waited.
    """
    weather = Weather(seed=seed, duration_s=duration_s, clients=clients, **more)
    again = f"python -m tests.unit.egress.storming --inspect {inspect.value} --seed {seed}"
    resource_tracker.ensure_running()  # It has a file of its own, which stays.
    fds = _open_files()
    with mock.patch.object(dial_module, "refusal", lambda address, port: ""):
        tally, problems = asyncio.run(_storm(inspect, weather))
    if not problems and (left := _open_files() - fds):
        problems.append(f"files stay open: {dict(left)}")
    if problems:
        raise Stormed("\n".join((*problems, f"{again} --seconds {duration_s:.0f}")))
    return tally


async def _storm(inspect: Inspect, weather: Weather) -> tuple[Tally, list[str]]:
    with _listening() as server, _listening() as door:
        port = server.getsockname()[1]
        rig = Rig(rule(NAME, port, inspect=inspect), budget=BUDGET, secrets=())
        rig.asks(NAME, port)
        accepting = asyncio.create_task(_accept(rig, door))
        weather = _secured(rig, inspect, weather)
        try:
            with _world(weather, door, server) as told:
                outcome = await asyncio.to_thread(told.recv)
                problems = _problems(rig, outcome, tls=inspect is Inspect.TLS)
        finally:
            accepting.cancel()
            await rig.close()
    return outcome if isinstance(outcome, Tally) else Tally(), problems


def _listening() -> socket.socket:
    return socket.create_server((HOME, 0), backlog=BACKLOG)


async def _accept(rig: Rig, door: socket.socket) -> None:
    door.setblocking(False)
    while True:
        client, peer = await asyncio.get_running_loop().sock_accept(door)
        prepare(client)
        rig.open.append(Connection(rig.wiring, client, peer, rig.open.remove))


def _secured(rig: Rig, inspect: Inspect, weather: Weather) -> Weather:
    """Have what a rule wants where it looks for TLS."""
    if inspect not in {Inspect.TLS, Inspect.TERMINATE}:
        return weather
    far = make_authority([NAME])
    if inspect is Inspect.TLS:
        return replace(weather, tls=Tls(far=far, trusted=far.certificate))
    inside = make_authority([NAME])
    rig.wiring.terminator = Terminator(inside, far.certificate)
    return replace(weather, tls=Tls(far=far, trusted=inside.certificate))


@contextlib.contextmanager
def _world(
    weather: Weather, door: socket.socket, server: socket.socket
) -> Iterator[multiprocessing.connection.Connection]:
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(
        target=rage, args=(weather, door.getsockname(), server, theirs), daemon=True
    )
    process.start()
    theirs.close()
    try:
        with ours:
            yield ours
    finally:
        process.kill()
        process.join()
        process.close()


def _problems(rig: Rig, outcome: Tally | Failure, *, tls: bool) -> list[str]:
    problems = [str(one) for one in (*rig.failed, *rig.denials)]
    if isinstance(outcome, Failure):
        at = outcome.exchange
        problems += [f"the {outcome.side.value}: {outcome.text}", f"in {at}", *_seen(rig, outcome)]
        return problems
    verdicts = [flow.verdict for flow in rig.flows]
    if odd := set(verdicts) - {Verdict.CLOSED, Verdict.RESET}:
        problems.append(f"flows that ended as {odd}")
    reset = Counter(flow.reason for flow in rig.flows if flow.verdict is Verdict.RESET)
    # Where TLS passes through, OpenSSL answers an end without TLS's own word with an alert, which
    # may reach nobody any more.
    if reset.total() > outcome.broken and not tls:
        problems.append(f"{reset}: more than the {outcome.broken} that were broken off")
    if len(verdicts) + len(rig.open) != outcome.connections:
        problems.append(f"{len(verdicts)} flows of {outcome.connections} connections")
    return problems


def _open_files() -> Counter[str]:
    """Give what is open, by what it is: what an earlier test left may be closed meanwhile."""
    gc.collect()
    files: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # The one that lists them.
            files[str(entry.readlink())] += 1
    return files


def _seen(rig: Rig, failure: Failure) -> list[str]:
    """Say what the broker has of the flow of a failure."""
    for connection in rig.open:
        if failure.port in set(_ports(connection)):
            return [f"what the broker has of it: {connection._told}", *_state(connection)]
    return ["the broker has it no more; it told last of:", *map(str, rig.flows[-3:])]


def _ports(connection: Connection) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield connection._client.getpeername()[1]
        if connection._server is not None:
            yield connection._server.getsockname()[1]


def _state(connection: Connection) -> Iterator[str]:
    if (relay := connection._relay) is not None:
        yield f"  out {relay._out}"
        yield f"  back {relay._back}"
    coroutine: Any = connection.task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        yield f"  {frame.f_code.co_qualname} in line {frame.f_lineno}"
        passage = frame.f_locals.get("self")
        if isinstance(passage, Passage) and frame.f_code.co_name == "run":
            yield f"    client {passage._client}"
            yield f"    server {passage._server}"
        coroutine = coroutine.cr_await


def main() -> int:
    """Run; the exit code is 1 where it found something."""
    parser = argparse.ArgumentParser(prog="python -m tests.unit.egress.storming")
    parser.add_argument("--inspect", type=Inspect, default=Inspect.HTTP)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    options = parser.parse_args()
    try:
        tally = storm(
            options.inspect, seed=options.seed, duration_s=options.seconds, clients=options.clients
        )
    except Stormed as found:
        sys.stdout.write(f"{found}\n")
        return 1
    sys.stdout.write(f"seed {options.seed}: {tally}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
