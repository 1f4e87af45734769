"""Move bytes between a sandbox and the far side through a gate that must see them.

Each direction has a task of its own, so that neither waits for the other; what the gate offers
(`SpliceFromClient`, `SpliceFromServer`) goes from socket to socket in the kernel. It ends with the
gate's word: a refusal, an end in order, or that bytes need not be looked at any more.

Whatever can be done at once is done so: a task waits only where the kernel has said that it must,
and sets no timer of its own for that. What comes while it waits for no more than that is moved
without waking it, so that a small message costs one turn of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP

from supervisor.call.events import Verdict
from supervisor.egress.actions import (
    Action,
    Close,
    Denied,
    EndToClient,
    EndToServer,
    SpliceFromClient,
    SpliceFromServer,
    ToClient,
    ToServer,
    Upgraded,
)
from supervisor.egress.ends import READ_BYTES, End, hear_out, send_now, splice_now, wake
from supervisor.egress.gates import Gate
from supervisor.egress.relay import IDLE_S, PIPE_BYTES, ROUNDS_MAX, SPLICE_FLAGS, Relays
from supervisor.egress.watch import READABLE, URGENT, URGENT_REASON, WRITABLE

ENDING = EPOLLERR | EPOLLHUP | EPOLLRDHUP
"""What epoll says of a socket behind whose bytes there is more to read: its end."""

FIRST_BYTES_S = 10.0
"""For a client to say what a gate wants to hear before anything is dialled."""

SEND_S = 300.0
"""For a side to take what it is sent."""


class Ended(Exception):
    """The connection ends now, and how."""

    def __init__(self, verdict: Verdict, reason: str = "") -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


class Passage:
    """One connection through a gate. `dial` gives the far side, `at_once` or when there is
    something for it; `denied` is told a refusal; `name` is what one of a
    client that says nothing is called.

    `sent` and `received` count what the far side was sent, and what came back.
    """

    def __init__(
        self,
        gate: Gate,
        client: socket.socket,
        relays: Relays,
        dial: Callable[[], Awaitable[socket.socket]],
        denied: Callable[[Denied], None],
        *,
        name: str,
        at_once: bool = False,
    ) -> None:
        self._gate = gate
        self._relays = relays
        self._dial = dial
        self._denied = denied
        self._name = name
        self._at_once = at_once
        self._client = End(client, lock=asyncio.Lock())
        self._server: End | None = None
        self._refused: Denied | None = None
        self._answered = self._said_all = False
        self._free = self._joined = False
        self._loop = relays.loop
        self._active = self._loop.time()
        self._idle = self._urgent = False
        self._failed: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.sent = 0
        self.received = 0

    async def run(self) -> socket.socket:
        """Move bytes until both sides may be joined; give the far side's socket.

        Raises:
            Ended: they may not, any more.
            OSError, TimeoutError: one of them broke, or nothing moved for `IDLE_S`.
        """
        try:
            self._watch(self._client)
            if self._at_once:
                await self._join()
            else:
                await self._first()
            if not self._free:
                await self._both()
        except Ended:
            if self._answered and self._said_all:
                await hear_out(self._client)
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for end in (self._client, self._server):
                if end is not None:
                    self._relays.watch.drop(end.socket.fileno())
                    if end.pipe is not None:
                        self._relays.plumbing.drop(end.pipe)
        if self._server is None:
            raise Ended(Verdict.CLOSED)
        return self._server.socket

    async def _join(self) -> End:
        """Dial the far side, where that was not done yet."""
        if self._server is None:
            try:
                server = await self._dial()
            except Ended as end:
                await self._tell_unreached(end)
                raise
            self._server = End(server, lock=asyncio.Lock())
            self._watch(self._server)
        return self._server

    async def _tell_unreached(self, end: Ended) -> None:
        refused = end.verdict is Verdict.DENIED
        await self._do(self._gate.unreached(end.reason, refused=refused))
        self._said_all = True

    def _watch(self, end: End) -> None:
        self._relays.watch.add(end.socket.fileno(), functools.partial(self._ready, end))

    def _ready(self, end: End, events: int) -> None:
        """Take what epoll says of one of the two sockets."""
        if events & URGENT:
            self._urgent = True
            self._wake_readers()
            return
        if events & (READABLE | EPOLLERR):
            if end.reads is not None:
                self._step(end, end.reads, more=bool(events & ENDING))
            elif events & EPOLLIN:
                self._mute(end)
        if events & (WRITABLE | EPOLLERR):
            if end.writes is not None:
                wake(end.writes)
            elif end.held and not end.senders:
                self._resume(end)

    def _step(self, end: End, waits: asyncio.Future[None], *, more: bool) -> None:
        """Move what comes while its task waits; wake that for what cannot be done at once. Where
        it is not over, a read that was not filled was the last one: what comes now is told."""
        if waits.done():
            return
        try:
            if self._may_step(end) and (
                self._step_spliced(end, waits) if end.spliced else self._step_read(end, more=more)
            ):
                return
        except Exception as error:  # noqa: BLE001 (raised again in the task)
            self._failed = error
            waits.set_exception(error)
        else:
            wake(waits)

    def _step_read(self, end: End, *, more: bool) -> bool:
        """Read and move on; say whether there is nothing left to do."""
        gate, is_client = self._gate, end is self._client
        for _ in range(ROUNDS_MAX):
            room = self._room(end, READ_BYTES)
            data = self._read(end)
            if data is None:
                return True
            end.ended = not data
            if not data:
                return False
            end.undone = self._do_now(
                gate.from_client(data) if is_client else gate.from_server(data)
            )
            if end.undone:
                return False
            if len(data) < room and not more:
                return True
        return False

    def _step_spliced(self, end: End, waits: asyncio.Future[None]) -> bool:
        """The same of what passes without being looked at; others have their turn in between."""
        sink = self._other(end)
        if sink.senders or sink.owed:
            return False
        for _ in range(ROUNDS_MAX):
            if sink.held:
                # It goes on where the sink takes more (`_resume`); until then nobody has to know
                # what else there is to read.
                self._mute(end)
                return True
            if not self._splice_some(end, sink):
                return True
            if end.undone or not end.spliced:
                return False
        self._loop.call_soon(functools.partial(self._step, end, waits, more=True))
        return True

    def _resume(self, sink: End) -> None:
        """Send what is left of a splice, and go on with it where its task waits."""
        source = self._other(sink)
        waits = source.reads if source.reads is not None and not source.reads.done() else None
        try:
            self._flush(sink)
        except OSError as error:
            self._failed = error
            if waits is not None:
                waits.set_exception(error)
            return  # A task that does not wait meets it again before it does.
        if not sink.held:
            self._unmute(source)
            if waits is not None:
                self._step(source, waits, more=True)

    def _mute(self, end: End) -> None:
        if not end.muted:
            end.muted = True
            self._relays.watch.mute(end.socket.fileno())

    def _unmute(self, end: End) -> None:
        if end.muted:
            end.muted = False
            self._relays.watch.unmute(end.socket.fileno())

    def _may_step(self, end: End) -> bool:
        """Say whether it need not be left to the task: before both sides are there, and behind what
        the other one has left to do, it must."""
        return self._joined and not self._other(end).undone

    def _other(self, end: End) -> End:
        other = self._server if end is self._client else self._client
        if other is None:
            raise ValueError("nobody is there to send to")
        return other

    def _do_now(self, actions: list[Action]) -> list[Action]:
        """Do what needs no waiting; give what is left to do."""
        for number, action in enumerate(actions):
            match action:
                case ToServer(data=data, last=False) if self._server is not None:
                    sink = self._server
                case ToClient(data=data, last=False):
                    sink = self._client
                case _:
                    return actions[number:]
            if sink.busy:
                return actions[number:]
            if sink is self._client:
                self._answered = True
            else:
                self._charge(len(data))
            left = memoryview(data)
            sink.owed = left[send_now(sink, left) :]
            if sink.owed:
                # With nothing more to send: the task waits until what is owed is sent.
                rest = ToClient(b"") if sink is self._client else ToServer(b"")
                return [rest, *actions[number + 1 :]]
        return []

    async def _first(self) -> None:
        """Listen to the client alone, until there is something for the far side."""
        deadline = self._loop.time() + FIRST_BYTES_S
        while self._server is None:
            data = self._read(self._client)
            try:
                async with asyncio.timeout_at(deadline):
                    while data is None:
                        await self._readable(self._client)
                        data = self._read(self._client)
            except TimeoutError:
                reason = f"nothing to go by in {FIRST_BYTES_S:.0f} s"
                self._denied(Denied(reason=reason, name=self._name))
                raise Ended(Verdict.DENIED, "nothing to go by") from None
            await self._do(self._gate.from_client(data) if data else self._gate.client_ended())
            if not data and self._server is None:
                raise Ended(Verdict.CLOSED)

    async def _both(self) -> None:
        self._check()
        self._joined = True
        tasks = [
            asyncio.create_task(self._pump(end)) for end in (self._client, self._server) if end
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            done = [task for task in tasks if task.done()]
            # The gate's word goes before what the sockets say: it may be over for one of them.
            for task in sorted(done, key=lambda one: isinstance(one.exception(), OSError)):
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not self._free:
            raise Ended(Verdict.CLOSED)

    async def _pump(self, end: End) -> None:
        try:
            await self._move(end)
        except Exception as error:
            self._failed = error
            raise

    async def _move(self, end: End) -> None:
        """Move what comes from one side, until it ends or need not be looked at."""
        gate, is_client = self._gate, end is self._client
        sink, rounds = self._other(end), 0
        while end.undone or not self._free:
            if end.undone:
                actions, end.undone = end.undone, []
                await self._do(actions)
                continue
            if end.ended:
                await self._send(sink, b"")  # What a pipe still holds was said before.
                await self._do(gate.client_ended() if is_client else gate.server_ended())
                return
            if end.spliced:
                moved = await self._splice(end)
                if not end.undone and self._is_stuck(end):
                    await self._readable(end)  # From here on without this task.
                    continue
            else:
                data = self._read(end)
                moved, end.ended = data is not None, data == b""
                if data:
                    await self._do(gate.from_client(data) if is_client else gate.from_server(data))
            rounds = rounds + 1 if moved else 0
            if not moved:
                if not sink.senders:
                    self._flush(sink)
                await self._readable(end)
            elif rounds >= ROUNDS_MAX:
                rounds = 0
                await asyncio.sleep(0)

    async def _readable(self, end: End) -> None:
        """Wait until there may be something to read, or bytes need not be looked at any more."""
        self._check_urgent()
        self._unmute(end)
        end.reads = self._loop.create_future()
        try:
            await end.reads
        finally:
            end.reads = None
        self._check_urgent()
        if self._idle:
            raise TimeoutError

    def _check_urgent(self) -> None:
        if self._urgent:
            raise Ended(Verdict.RESET, URGENT_REASON)

    async def _writable(self, end: End) -> None:
        """Wait until something may be sent."""
        end.writes = self._loop.create_future()
        try:
            await end.writes
        finally:
            end.writes = None

    def _check(self) -> None:
        """End the passage where nothing has moved for long."""
        left = self._active + IDLE_S - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
            return
        self._idle = True
        self._wake_readers()

    def _wake_readers(self) -> None:
        for end in (self._client, self._server):
            if end is not None and end.reads is not None:
                wake(end.reads)

    def _room(self, end: End, most: int) -> int:
        """Give how much may be read. What comes back is charged when it is read; what goes out,
        when it is sent: a gate may say something else than it was told."""
        return (
            most if end is self._client and not end.spliced else min(most, self._relays.budget.left)
        )

    def _read(self, end: End) -> bytes | None:
        room = self._room(end, READ_BYTES)
        try:
            if room <= 0:
                self._peek(end)
            data = end.socket.recv(room) if room > 0 else b""
        except BlockingIOError:
            return None
        if not data and self._failed is not None:
            # No end: the kernel tells of a reset once, and it was told to who sent.
            raise self._failed
        self._active = self._loop.time()
        if end is not self._client:
            self._relays.budget.spend(len(data))
            self.received += len(data)
        return data

    def _peek(self, end: End) -> None:
        if end.socket.recv(1, socket.MSG_PEEK):
            self._over_budget()

    def _over_budget(self) -> None:
        self._relays.over_budget()
        raise Ended(Verdict.BUDGET)

    async def _splice(self, end: End) -> bool:
        """Move some of what was offered; say whether there was any."""
        sink = self._other(end)
        async with self._sending(sink):
            return self._splice_some(end, sink)

    def _is_stuck(self, end: End) -> bool:
        """Say whether the sink takes no more for now of what was spliced."""
        sink = self._other(end)
        if sink.held:
            self._flush(sink)
        return bool(sink.held)

    def _splice_some(self, end: End, sink: End) -> bool:
        """Move as much as one pipe holds to a sink that is not busy; say whether there was any.
        What the sink does not take, and what the gate then says, is left to do."""
        plumbing, budget = self._relays.plumbing, self._relays.budget
        want = min(end.spliced, PIPE_BYTES, budget.left)
        pipe, held = plumbing.take(), 0
        try:
            if want:
                held = os.splice(end.socket.fileno(), pipe.write, want, flags=SPLICE_FLAGS)
            else:
                self._peek(end)
        except BlockingIOError:
            return False
        finally:
            if not held:
                plumbing.give(pipe)
        if not held:
            end.spliced = 0  # Its end: what is read next says so, too.
            return True
        sink.pipe = pipe
        budget.spend(held)
        self._active = self._loop.time()
        end.spliced -= held
        if end is self._client:
            self.sent += held
            actions = self._gate.spliced_from_client(held)
        else:
            self.received += held
            actions = self._gate.spliced_from_server(held)
        sink.held = held
        self._flush(sink)
        if sink.held and actions:
            # With nothing more to send: the task waits until the pipe is empty.
            actions = [ToClient(b"") if sink is self._client else ToServer(b""), *actions]
        end.undone = actions
        return True

    def _flush(self, sink: End) -> None:
        """Send what its pipe holds, as far as it goes now."""
        if sink.pipe is None:
            return
        sent = splice_now(sink.pipe.read, sink.socket.fileno(), sink.held)
        sink.held -= sent
        if sent:
            self._active = self._loop.time()
        if not sink.held:
            self._relays.plumbing.give(sink.pipe)
            sink.pipe = None

    async def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case ToServer(data=data, last=last):
                    await self._send_out(data, last=last)
                case ToClient(data=data, last=last):
                    self._answered = True
                    await self._send(self._client, data, last=last)
                case SpliceFromClient(count=count):
                    self._client.spliced = count
                case SpliceFromServer(count=count) if self._server is not None:
                    self._server.spliced = count
                case Upgraded():
                    for end in (self._client, self._server):
                        if end is not None:
                            await self._send(end, b"")
                    self._free = True
                    self._wake_readers()
                case EndToServer() if self._server is not None:
                    await self._shut(self._server)
                case EndToClient():
                    await self._shut(self._client)
                case Denied():
                    self._refused = action
                    self._denied(action)
                case Close(reason=reason, cut=cut):
                    async with self._sending(self._client):  # Behind what others still send.
                        self._said_all = not cut
                    if self._refused is not None:
                        raise Ended(Verdict.DENIED, self._refused.reason)
                    if self._client.lost is not None and not reason:
                        raise self._client.lost  # A part of an answer: that is no end in order.
                    raise Ended(Verdict.RESET if reason else Verdict.CLOSED, reason)
                case _:
                    raise ValueError(f"{type(action).__name__} out of turn")

    async def _send_out(self, data: bytes, *, last: bool) -> None:
        """Send to the far side, which is dialled for it, and charge it."""
        server = await self._join()
        self._charge(len(data))
        await self._send(server, data, last=last)

    def _charge(self, count: int) -> None:
        """Take what the far side is sent off the budget."""
        if count > self._relays.budget.left:
            self._over_budget()
        self._relays.budget.spend(count)
        self.sent += count

    @contextlib.asynccontextmanager
    async def _sending(self, end: End) -> AsyncIterator[None]:
        """Be the only one that sends to an end, behind what is owed to it."""
        end.senders += 1
        try:
            async with end.lock:
                if end.owed:
                    owed, end.owed = end.owed, memoryview(b"")
                    await self._send_all(end, owed)
                if end.held:
                    await self._flush_all(end)
                yield
        except OSError as error:
            end.lost = error
            raise
        finally:
            end.senders -= 1

    async def _send(self, end: End, data: bytes, *, last: bool = False) -> None:
        if data or end.owed or end.held:
            async with self._sending(end):
                await self._send_all(end, memoryview(data), last=last)

    async def _send_all(self, end: End, left: memoryview, *, last: bool = False) -> None:
        left = left[send_now(end, left, last=last) :]
        if left:
            async with asyncio.timeout(SEND_S):
                while left:
                    await self._writable(end)
                    left = left[send_now(end, left, last=last) :]

    async def _flush_all(self, end: End) -> None:
        async with asyncio.timeout(SEND_S):
            # First: that it takes more may have been told before anybody waited for it.
            self._flush(end)
            while end.held:
                await self._writable(end)
                self._flush(end)
        # Who was muted until there is room may not be told of it otherwise.
        self._unmute(self._other(end))

    async def _shut(self, end: End) -> None:
        async with self._sending(end):
            # ENOTCONN: it was reset meanwhile, which reading from it says.
            with contextlib.suppress(OSError):
                end.socket.shutdown(socket.SHUT_WR)
