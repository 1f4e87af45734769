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
from dataclasses import dataclass, field
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
from supervisor.egress.gates import Gate
from supervisor.egress.relay import IDLE_S, PIPE_BYTES, ROUNDS_MAX, SPLICE_FLAGS, Relays
from supervisor.egress.watch import READABLE, WRITABLE

ENDING = EPOLLERR | EPOLLHUP | EPOLLRDHUP
"""What epoll says of a socket behind whose bytes there is more to read: its end."""

FIRST_BYTES_S = 10.0
"""For a client to say what a gate wants to hear before anything is dialled."""

READ_BYTES = 64 * 1024
"""Taken at once to be looked at."""

SEND_S = 300.0
"""For a side to take what it is sent."""

FAREWELL_S = 2.0
FAREWELL_BYTES = 1 << 20
"""What a client may still send when it has been told no: it is read, so that the answer arrives."""


class Ended(Exception):
    """The connection ends now, and how."""

    def __init__(self, verdict: Verdict, reason: str = "") -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


@dataclass(slots=True, eq=False)
class _End:
    """One of both sockets: what may be spliced from it, who sends to it, and who waits for it.

    `lock` is for who sends to it, of whom there are `senders`; `owed` is what goes before all that
    they send. What was read from it while its task waited has left `undone`, or it has `ended`.
    """

    socket: socket.socket
    lock: asyncio.Lock
    senders: int = 0
    owed: memoryview = field(default_factory=lambda: memoryview(b""))
    undone: list[Action] = field(default_factory=list)
    ended: bool = False
    spliced: int = 0
    muted: bool = False
    reads: asyncio.Future[None] | None = None
    writes: asyncio.Future[None] | None = None


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
        self._client = _End(client, lock=asyncio.Lock())
        self._server: _End | None = None
        self._refused: Denied | None = None
        self._answered = self._said_all = False
        self._free = self._joined = False
        self._loop = relays.loop
        self._active = self._loop.time()
        self._idle = False
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
                await self._farewell()
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for end in (self._client, self._server):
                if end is not None:
                    self._relays.watch.drop(end.socket.fileno())
        if self._server is None:
            raise Ended(Verdict.CLOSED)
        return self._server.socket

    async def _join(self) -> _End:
        """Dial the far side, where that was not done yet."""
        if self._server is None:
            try:
                server = await self._dial()
            except Ended as end:
                await self._tell_unreached(end)
                raise
            self._server = _End(server, lock=asyncio.Lock())
            self._watch(self._server)
        return self._server

    async def _tell_unreached(self, end: Ended) -> None:
        refused = end.verdict is Verdict.DENIED
        await self._do(self._gate.unreached(end.reason, refused=refused))
        self._said_all = True

    def _watch(self, end: _End) -> None:
        self._relays.watch.add(end.socket.fileno(), functools.partial(self._ready, end))

    def _ready(self, end: _End, events: int) -> None:
        """Take what epoll says of one of the two sockets."""
        if events & (READABLE | EPOLLERR):
            if end.reads is not None:
                self._step(end, end.reads, more=bool(events & ENDING))
            elif events & EPOLLIN and not end.muted:
                end.muted = True
                self._relays.watch.mute(end.socket.fileno())
        if events & (WRITABLE | EPOLLERR) and end.writes is not None:
            _wake(end.writes)

    def _step(self, end: _End, waits: asyncio.Future[None], *, more: bool) -> None:
        """Move what comes while its task waits; wake that for what cannot be done at once. Where
        it is not over, a read that was not filled was the last one: what comes now is told."""
        is_client = end is self._client
        if waits.done():
            return
        try:
            for _ in range(ROUNDS_MAX if self._may_step(end) else 0):
                room = self._room(end, READ_BYTES)
                data = self._read(end)
                if data is None:
                    return
                end.ended = not data
                if not data:
                    break
                gate = self._gate
                end.undone = self._do_now(
                    gate.from_client(data) if is_client else gate.from_server(data)
                )
                if end.undone:
                    break
                if len(data) < room and not more:
                    return
        except Exception as error:  # noqa: BLE001 (raised again in the task)
            waits.set_exception(error)
        else:
            _wake(waits)

    def _may_step(self, end: _End) -> bool:
        """Say whether it need not be left to the task: before both sides are there, and behind what
        the other one has left to do, it must."""
        other = self._server if end is self._client else self._client
        return self._joined and not end.spliced and other is not None and not other.undone

    def _do_now(self, actions: list[Action]) -> list[Action]:
        """Do what needs no waiting; give what is left to do."""
        for number, action in enumerate(actions):
            match action:
                case ToServer(data=data) if self._server is not None:
                    sink = self._server
                case ToClient(data=data):
                    sink = self._client
                case _:
                    return actions[number:]
            if sink.senders or sink.owed:
                return actions[number:]
            if sink is self._client:
                self._answered = True
            else:
                self._charge(len(data))
            left = memoryview(data)
            sink.owed = left[_send_now(sink.socket, left) :]
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
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not self._free:
            raise Ended(Verdict.CLOSED)

    async def _pump(self, end: _End) -> None:
        """Move what comes from one side, until it ends or need not be looked at."""
        gate, is_client = self._gate, end is self._client
        rounds = 0
        while not self._free:
            if end.undone:
                actions, end.undone = end.undone, []
                await self._do(actions)
                continue
            if end.ended:
                await self._do(gate.client_ended() if is_client else gate.server_ended())
                return
            if end.spliced:
                moved = await self._splice(end)
            else:
                data = self._read(end)
                moved, end.ended = data is not None, data == b""
                if data:
                    await self._do(gate.from_client(data) if is_client else gate.from_server(data))
            rounds = rounds + 1 if moved else 0
            if not moved:
                await self._readable(end)
            elif rounds >= ROUNDS_MAX:
                rounds = 0
                await asyncio.sleep(0)

    async def _readable(self, end: _End) -> None:
        """Wait until there may be something to read, or bytes need not be looked at any more."""
        if end.muted:
            end.muted = False
            self._relays.watch.unmute(end.socket.fileno())
        end.reads = self._loop.create_future()
        try:
            await end.reads
        finally:
            end.reads = None
        if self._idle:
            raise TimeoutError

    async def _writable(self, end: _End) -> None:
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
                _wake(end.reads)

    def _room(self, end: _End, most: int) -> int:
        """Give how much may be read. What comes back is charged when it is read; what goes out,
        when it is sent: a gate may say something else than it was told."""
        return (
            most if end is self._client and not end.spliced else min(most, self._relays.budget.left)
        )

    def _read(self, end: _End) -> bytes | None:
        room = self._room(end, READ_BYTES)
        try:
            if room <= 0:
                self._peek(end)
                return b""
            data = end.socket.recv(room)
        except BlockingIOError:
            return None
        self._active = self._loop.time()
        if end is not self._client:
            self._relays.budget.spend(len(data))
            self.received += len(data)
        return data

    def _peek(self, end: _End) -> None:
        if end.socket.recv(1, socket.MSG_PEEK):
            self._over_budget()

    def _over_budget(self) -> None:
        self._relays.over_budget()
        raise Ended(Verdict.BUDGET)

    async def _splice(self, end: _End) -> bool:
        """Move some of what was offered; say whether there was any."""
        is_client = end is self._client
        sink = self._server if is_client else self._client
        if sink is None:
            raise ValueError("nobody to splice to")
        plumbing, budget = self._relays.plumbing, self._relays.budget
        pipe = plumbing.take()
        held = 0
        try:
            want = min(end.spliced, PIPE_BYTES, budget.left)
            try:
                if want:
                    held = os.splice(end.socket.fileno(), pipe.write, want, flags=SPLICE_FLAGS)
                else:
                    self._peek(end)
            except BlockingIOError:
                return False
            if not held:
                end.spliced = 0  # Its end: what is read next says so, too.
                return True
            budget.spend(held)
            self._active = self._loop.time()
            end.spliced -= held
            if is_client:
                self.sent += held
                actions = self._gate.spliced_from_client(held)
            else:
                self.received += held
                actions = self._gate.spliced_from_server(held)
            out = sink.socket.fileno()
            async with self._sending(sink):
                held -= _splice_now(pipe.read, out, held)
                if held:
                    async with asyncio.timeout(SEND_S):
                        while held:
                            await self._writable(sink)
                            held -= _splice_now(pipe.read, out, held)
        finally:
            (plumbing.drop if held else plumbing.give)(pipe)
        await self._do(actions)
        return True

    async def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case ToServer(data=data):
                    await self._send_out(data)
                case ToClient(data=data):
                    self._answered = True
                    await self._send(self._client, data)
                case SpliceFromClient(count=count):
                    self._client.spliced = count
                case SpliceFromServer(count=count) if self._server is not None:
                    self._server.spliced = count
                case Upgraded():
                    self._free = True
                    self._wake_readers()
                case EndToServer() if self._server is not None:
                    await self._shut(self._server)
                case EndToClient():
                    await self._shut(self._client)
                case Denied():
                    self._refused = action
                    self._denied(action)
                case Close(reason=reason):
                    self._said_all = True
                    if self._refused is not None:
                        raise Ended(Verdict.DENIED, self._refused.reason)
                    raise Ended(Verdict.RESET if reason else Verdict.CLOSED, reason)
                case _:
                    raise ValueError(f"{type(action).__name__} out of turn")

    async def _send_out(self, data: bytes) -> None:
        """Send to the far side, which is dialled for it, and charge it."""
        server = await self._join()
        self._charge(len(data))
        await self._send(server, data)

    def _charge(self, count: int) -> None:
        """Take what the far side is sent off the budget."""
        if count > self._relays.budget.left:
            self._over_budget()
        self._relays.budget.spend(count)
        self.sent += count

    @contextlib.asynccontextmanager
    async def _sending(self, end: _End) -> AsyncIterator[None]:
        """Be the only one that sends to an end, behind what is owed to it."""
        end.senders += 1
        try:
            async with end.lock:
                if end.owed:
                    owed, end.owed = end.owed, memoryview(b"")
                    await self._send_all(end, owed)
                yield
        finally:
            end.senders -= 1

    async def _send(self, end: _End, data: bytes) -> None:
        if data or end.owed:
            async with self._sending(end):
                await self._send_all(end, memoryview(data))

    async def _send_all(self, end: _End, left: memoryview) -> None:
        left = left[_send_now(end.socket, left) :]
        if left:
            async with asyncio.timeout(SEND_S):
                while left:
                    await self._writable(end)
                    left = left[_send_now(end.socket, left) :]

    async def _shut(self, end: _End) -> None:
        async with self._sending(end):
            # ENOTCONN: it was reset meanwhile, which reading from it says.
            with contextlib.suppress(OSError):
                end.socket.shutdown(socket.SHUT_WR)

    async def _farewell(self) -> None:
        """Let a client that was told no read why: a reset would outrun the answer."""
        client, left = self._client.socket, FAREWELL_BYTES
        with contextlib.suppress(OSError, TimeoutError):
            client.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(FAREWELL_S):
                while left > 0 and (
                    data := await asyncio.get_running_loop().sock_recv(client, READ_BYTES)
                ):
                    left -= len(data)


def _send_now(sink: socket.socket, data: memoryview) -> int:
    """Send until all is sent or the kernel has said that it takes no more: only then it tells when
    it does."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < len(data):
            sent += sink.send(data[sent:])
    return sent


def _splice_now(source: int, sink: int, count: int) -> int:
    """The same with what a pipe holds."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < count:
            sent += os.splice(source, sink, count - sent, flags=SPLICE_FLAGS)
    return sent


def _wake(waits: asyncio.Future[None]) -> None:
    if not waits.done():
        waits.set_result(None)
