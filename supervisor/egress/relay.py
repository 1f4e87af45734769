"""Move bytes between a sandbox and what the broker dialled for it, without looking at them.

Each direction goes socket → pipe → socket with splice(2): the kernel passes pages on and copies
nothing through this process. A pipe is borrowed while it holds bytes. Where the far side reads
slowly its pipe stays full, and the near side is read no more: TCP does the rest.

A pipe is filled again only once it is empty, and a side that can be read meanwhile is muted
(`watch`): bytes that nobody can take wake nobody.

Every socket is set to be reset when it is closed, and that is taken back where a flow ended in
order. So a broker that is killed leaves nothing in the kernel's buffers that would still go out.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from select import EPOLLERR

from supervisor.call.events import Verdict
from supervisor.egress.watch import READABLE, URGENT, URGENT_REASON, WRITABLE, Watch
from supervisor.linux.fds import Pipe, make_pipe

PIPE_BYTES = 1024 * 1024
"""Of one borrowed pipe, as many as one process may have it. Its rate against a direct way, in
`make bench`: 0.52 with 128 KiB, 0.5 to 0.6 with 256, 0.65 with 512 and with 1024, which does a bulk
upload more good."""

PIPES_MAX = 32
"""Large pipes of one call: 32 MiB, half of what the kernel lets one user have
(fs.pipe-user-pages-soft). Beyond, pipes are as small as the kernel makes them."""

SMALL_BYTES = 64 * 1024
"""Of each buffer of a small socket; the kernel takes twice as much for its own needs."""

NEAR_BYTES = 1024 * 1024
"""Of what waits for a sandbox in any socket: it is no long way there."""

ROUNDS_MAX = 2
"""Of reading and writing in a row, 2 MiB, before other flows get their turn."""

IDLE_S = 900.0
"""A flow that moves nothing for so long is ended: some services answer after minutes."""

FLOW_S_MAX = 86_400.0
"""A flow is ended then in any case."""

CHECK_S = 5.0

SPLICE_F_MOVE = 1
SPLICE_F_NONBLOCK = 2
SPLICE_FLAGS = SPLICE_F_MOVE | SPLICE_F_NONBLOCK

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
CLOSE_IN_ORDER = struct.pack("ii", 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a relay ended; `sent` are bytes towards the far side, `received` those that came back."""

    verdict: Verdict
    reason: str = ""
    sent: int = 0
    received: int = 0


class Budget:
    """What a call may still move, all flows and both directions together.

    It is exact: bytes are taken off it when they are read, and no more is read than is left.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.left = allowed

    def spend(self, count: int) -> None:
        """Take bytes off; they were asked for with `left` in view."""
        if count > self.left:
            raise ValueError(f"{count} bytes of {self.left}")
        self.left -= count


def prepare(connection: socket.socket) -> None:
    """Set what every socket of a flow has: no delay, keepalive, reset when it is closed."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)


def keep_near(connection: socket.socket) -> None:
    """Bound what the kernel holds for a sandbox that does not read."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NEAR_BYTES // 2)


def keep_small(connection: socket.socket) -> None:
    """Bound what the kernel holds for a socket, at the cost of how fast it is over long ways."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, SMALL_BYTES)


def close_in_order(connection: socket.socket) -> None:
    """Close a prepared socket whose buffered bytes are to arrive."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLOSE_IN_ORDER)
    connection.close()


class Plumbing:
    """The pipes of a call, borrowed by directions that hold bytes."""

    def __init__(self, pipes_max: int = PIPES_MAX, pipe_bytes: int = PIPE_BYTES) -> None:
        self._free: list[Pipe] = []
        self._large: set[int] = set()
        self._max = pipes_max
        self._bytes = pipe_bytes

    def take(self) -> Pipe:
        """Lend an empty pipe."""
        if self._free:
            return self._free.pop()
        if len(self._large) >= self._max:
            return make_pipe()
        pipe = make_pipe(self._bytes)
        self._large.add(pipe.read)
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take an empty pipe back."""
        if pipe.read in self._large:
            self._free.append(pipe)
        else:
            self._close(pipe)

    def drop(self, pipe: Pipe) -> None:
        """Close a pipe that may hold bytes."""
        self._large.discard(pipe.read)
        self._close(pipe)

    def _close(self, pipe: Pipe) -> None:
        os.close(pipe.read)
        os.close(pipe.write)

    def close(self) -> None:
        """Close the pipes that nobody has."""
        for pipe in self._free:
            self.drop(pipe)
        self._free.clear()


@dataclass(slots=True, eq=False)
class _Way:
    """One direction of a relay."""

    source: socket.socket
    sink: socket.socket
    pipe: Pipe | None = None
    held: int = 0
    moved: int = 0
    readable: bool = True
    writable: bool = True
    muted: bool = False
    ended: bool = False
    finished: bool = False


class _OverBudget(Exception):
    """There is something to read, and nothing left to read it from."""


class Relay:
    """One flow whose bytes move; made by `Relays.start`."""

    def __init__(
        self,
        relays: Relays,
        client: socket.socket,
        server: socket.socket,
        done: Callable[[End], None],
    ) -> None:
        self._relays = relays
        self._out = _Way(client, server)
        self._back = _Way(server, client)
        self._done = done
        self._again = False
        self.ended = False
        self.started = self.active = relays.loop.time()

    def ready(self, from_client: bool, events: int) -> None:
        """Take what epoll says of one of the two sockets."""
        if self.ended:
            return
        near, far = (self._out, self._back) if from_client else (self._back, self._out)
        if events & URGENT:
            self.end(Verdict.RESET, URGENT_REASON)
            return
        if events & EPOLLERR:
            number = near.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                self._broken(number, by_client=from_client)
                return
        if events & READABLE:
            near.readable = True
            if near.held and not near.muted:
                near.muted = True
                self._relays.watch.mute(near.source.fileno())
        if events & WRITABLE:
            far.writable = True
        self.pump()

    def pump(self) -> None:
        """Move what can be moved now; the rest of a long run follows after other flows' turn."""
        self._again = False
        if self.ended:
            return
        more = False
        for way in (self._out, self._back):
            try:
                more |= self._run(way)
            except _OverBudget:
                self._relays.over_budget()
                return
            except OSError as error:
                # Which of both it was is for the reason only: both are reset.
                self._broken(error.errno or errno.EIO, by_client=way is self._out)
                return
        if self._out.finished and self._back.finished:
            self.end(Verdict.CLOSED)
        elif more and not self._again:
            self._again = True
            self._relays.loop.call_soon(self.pump)

    def _run(self, way: _Way) -> bool:
        """Say whether there may be more to move at once."""
        if way.finished:
            return False
        for _ in range(ROUNDS_MAX):
            moved = not way.held and self._fill(way)
            moved |= self._drain(way)
            if way.ended and not way.held:
                way.finished = True
                self._return_pipe(way)
                _shutdown(way.sink)
                return False
            if not moved:
                return False
            self.active = self._relays.loop.time()
        return True

    def _fill(self, way: _Way) -> bool:
        """Take bytes into the pipe, which is empty."""
        if way.ended or not way.readable:
            return False
        budget = self._relays.budget
        want = min(PIPE_BYTES, budget.left)
        if not want:
            return self._peek(way)
        if way.pipe is None:
            way.pipe = self._relays.plumbing.take()
        try:
            count = os.splice(way.source.fileno(), way.pipe.write, want, flags=SPLICE_FLAGS)
        except BlockingIOError:
            way.readable = False
            self._return_pipe(way)
            return False
        if not count:
            way.ended = True
        way.held += count
        budget.spend(count)
        return True

    def _peek(self, way: _Way) -> bool:
        """Tell the end of a flow that fits the budget exactly from one byte too many."""
        try:
            if way.source.recv(1, socket.MSG_PEEK):
                raise _OverBudget
        except BlockingIOError:
            way.readable = False
            return False
        way.ended = True
        return True

    def _drain(self, way: _Way) -> bool:
        if not way.held or not way.writable or way.pipe is None:
            return False
        try:
            count = os.splice(way.pipe.read, way.sink.fileno(), way.held, flags=SPLICE_FLAGS)
        except BlockingIOError:
            way.writable = False
            return False
        way.held -= count
        way.moved += count
        if way.muted and not way.held:
            way.muted = False
            self._relays.watch.unmute(way.source.fileno())
        return count > 0

    def _return_pipe(self, way: _Way) -> None:
        if way.pipe is not None:
            self._relays.plumbing.give(way.pipe)
            way.pipe = None

    def _broken(self, number: int, *, by_client: bool) -> None:
        side = "the sandbox's side" if by_client else "the far side"
        self.end(Verdict.RESET, f"{side}: {os.strerror(number)}")

    def end(self, verdict: Verdict, reason: str = "") -> None:
        """End the flow: both sockets are closed, in order only where both sides were done."""
        if self.ended:
            return
        self.ended = True
        self._relays.forget(self, self._out.source, self._back.source)
        for way in (self._out, self._back):
            if way.pipe is not None:
                self._relays.plumbing.drop(way.pipe)
                way.pipe = None
        close = close_in_order if verdict is Verdict.CLOSED else socket.socket.close
        for way in (self._out, self._back):
            close(way.source)
        end = End(verdict=verdict, reason=reason, sent=self._out.moved, received=self._back.moved)
        self._done(end)


def _shutdown(sink: socket.socket) -> None:
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError as error:
        # It was reset meanwhile: reading from it says so.
        if error.errno != errno.ENOTCONN:
            raise


class Relays:
    """All relays of a call. `over` is called once, when a byte more would be over the budget; every
    relay has ended then."""

    def __init__(
        self,
        budget: Budget,
        over: Callable[[], None],
        plumbing: Plumbing | None = None,
        *,
        idle_s: float = IDLE_S,
        flow_s: float = FLOW_S_MAX,
        check_s: float = CHECK_S,
    ) -> None:
        self.budget = budget
        self.plumbing = plumbing or Plumbing()
        self.loop = asyncio.get_running_loop()
        self._over = over
        self._idle_s, self._flow_s, self._check_s = idle_s, flow_s, check_s
        self.watch = Watch()
        self._relays: set[Relay] = set()
        self._is_over = False
        self._timer = self.loop.call_later(check_s, self._check)

    def __len__(self) -> int:
        return len(self._relays)

    def start(
        self, client: socket.socket, server: socket.socket, done: Callable[[End], None]
    ) -> Relay:
        """Relay between two prepared sockets, which are the relay's from now on; `done` is called
        once, perhaps before this returns."""
        relay = Relay(self, client, server, done)
        self._relays.add(relay)
        for end, from_client in ((client, True), (server, False)):
            self.watch.add(end.fileno(), functools.partial(relay.ready, from_client))
        relay.pump()
        return relay

    def over_budget(self) -> None:
        """End every relay: the budget is used up, and there is more to move."""
        if self._is_over:
            return
        self._is_over = True
        self.stop(Verdict.BUDGET)
        self._over()

    def stop(self, verdict: Verdict, reason: str = "") -> None:
        """End every relay."""
        for relay in list(self._relays):
            relay.end(verdict, reason)

    def forget(self, relay: Relay, *ends: socket.socket) -> None:
        """Watch a relay's sockets no more; they are still open."""
        self._relays.discard(relay)
        for end in ends:
            self.watch.drop(end.fileno())

    def close(self) -> None:
        """Stop what is left and close the epoll and the pipes."""
        self.stop(Verdict.STOPPED)
        self._timer.cancel()
        self.watch.close()
        self.plumbing.close()

    def _check(self) -> None:
        self._timer = self.loop.call_later(self._check_s, self._check)
        now = self.loop.time()
        for relay in list(self._relays):
            if now - relay.active > self._idle_s:
                relay.end(Verdict.RESET, f"idle for {self._idle_s:.0f} s")
            elif now - relay.started > self._flow_s:
                relay.end(Verdict.RESET, f"open for {self._flow_s:.0f} s")
