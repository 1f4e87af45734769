"""The daemon's side of the brokers: one zygote for a daemon, one broker for each call with egress.

The zygote is started when the first such call comes, and again if it died: its brokers die with it,
and their calls end. What a broker says is checked (`control`) before anybody is told of it.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supervisor.call.events import Denied, Flow, Lost
from supervisor.call.safe import safe
from supervisor.egress.control import (
    FLOWS_MAX,
    MESSAGE_BYTES_MAX,
    ORDER_BYTES_MAX,
    Authority,
    BrokerEvent,
    ControlError,
    Done,
    Failed,
    Finish,
    Listening,
    Message,
    NameTaken,
    Policy,
    Ready,
    Secret,
    decode,
    encode,
    encode_policy,
)
from supervisor.errors import BrokerFailed
from supervisor.linux import process
from supervisor.linux.fds import closing_fd, receive_fds, wait_readable
from supervisor.linux.netns import Listeners
from supervisor.profile.model import EgressRule

ZYGOTE_S = 60.0
"""For the zygote to load all that it needs, and to answer an order. It takes 1 s; an emulated
machine on a busy host takes many times that."""

READY_S = 30.0
FINISH_S = 10.0
ZYGOTE_END_S = 5.0

BATCH_MAX = 8
"""Messages taken before the event loop gets its turn: each is an entry, and brokers are many."""

EVENTS_MAX = 1 << 20
EVENT_BYTES_MAX = 128 << 20
"""Of one broker, which bounds by itself what it tells (`flows`): more is no broker of ours."""

GONE = "BROKER_GONE"

# The parent of our package first: it is to be the same code, wherever this process found it.
_ENTRY = (
    "import sys; where = sys.argv.pop(1); where in sys.path or sys.path.insert(0, where); "
    "from supervisor.egress import zygote; zygote.main()"
)
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_SOCKET_FD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a call's broker is to do. `call` is the call's id in the kernel's maps, `uid` a user of
    its own; `secrets` have their values. `origins_fd` reads the map of what was asked for;
    `resolvers` and `authorities` are as in `Policy`, those of the host where there are none. The
    descriptors stay the caller's: who gives the listeners away closes its own afterwards, else a
    door without a broker still answers."""

    call_id: str
    call: int
    uid: int
    rules: tuple[EgressRule, ...]
    secrets: tuple[Secret, ...] = ()
    egress_bytes: int
    listeners: Listeners
    origins_fd: int
    resolvers: tuple[str, ...] = ()
    flows_max: int = FLOWS_MAX
    authority: Authority | None = None
    authorities: str = ""

    def policy(self) -> Policy:
        """Give what the broker itself is told."""
        lists = self.listeners
        tcp, udp, dns = (
            sum(one is not None for one in pair)
            for pair in (lists.door, lists.dns_udp, lists.dns_tcp)
        )
        return Policy(
            call_id=self.call_id,
            call=self.call,
            rules=self.rules,
            secrets=self.secrets,
            egress_bytes=self.egress_bytes,
            listening=Listening(tcp=tcp, dns_udp=udp, dns_tcp=dns),
            resolvers=self.resolvers,
            flows_max=self.flows_max,
            authority=self.authority,
            authorities=self.authorities,
        )


class Broker:
    """One call's broker, from its start to its end."""

    def __init__(
        self,
        control: socket.socket,
        pidfd: int,
        tell: Callable[[BrokerEvent], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._control = control
        self._pidfd = pidfd
        self._tell = tell
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._asked = False
        self._done = False
        self._closed = False
        self._events = self._event_bytes = 0
        control.setblocking(False)
        self._loop.add_reader(control.fileno(), self._readable)

    @property
    def alive(self) -> bool:
        """Say whether it is there, and nothing is known that keeps it from working."""
        return not self._closed and not self._ended.done()

    async def ready(self) -> None:
        """Wait until the broker is confined and accepts.

        Raises:
            BrokerFailed: `BROKER_NOT_STARTED`.
        """
        try:
            async with asyncio.timeout(READY_S):
                await asyncio.wait({self._ready, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise _not_started(f"it is not ready after {READY_S:.0f} s") from None
        if not self._ready.done():
            raise _not_started("it ended before it was ready")
        self._ready.result()

    async def finish(self, *, drain: bool = False) -> None:
        """Have all flows ended and told, and the process end; killed where it takes too long, and
        that flows may be missing is told. `drain`: see `Finish`."""
        if not self.alive:
            self.close()
            return
        self._asked = True
        # EPIPE: it has just died; that comes out below.
        with contextlib.suppress(OSError):
            self._control.send(encode(Finish(drain=drain)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S):
                await asyncio.wait({self._ended})
        lost = not self._done
        self.close()
        if lost:
            self._tell(Lost(what="flow", count=0, reason=GONE))

    def close(self) -> None:
        """Kill the broker at once: the kernel resets its flows. Nothing is told any more."""
        if self._closed:
            return
        self._closed = True
        process.send_signal(self._pidfd, signal.SIGKILL)
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        os.close(self._pidfd)
        if not self._ended.done():
            self._ended.set_result(None)

    def _readable(self) -> None:
        try:
            for _ in range(BATCH_MAX):
                if self._closed or self._ended.done():
                    return
                try:
                    data = self._control.recv(MESSAGE_BYTES_MAX + 1)
                except BlockingIOError:
                    return
                except ConnectionResetError:
                    data = b""
                if not data:
                    self._gone()
                    return
                self._event_bytes += len(data)
                self._take(decode(data))
        except ControlError as error:
            self._give_up(BrokerFailed("BROKER_MESSAGE_INVALID", f"a broker said: {error}"))
        except Exception as error:  # noqa: BLE001 (the loop would log it, and the call go on)
            self._give_up(error)

    def _take(self, message: Message) -> None:
        match message:
            case Ready() if not self._ready.done():
                self._ready.set_result(None)
            case Failed(reason=reason):
                self._give_up(BrokerFailed("BROKER_FAILED", f"the broker gave up: {safe(reason)}"))
            case Done() if self._asked:
                self._done = True
            case Flow() | Denied() | Lost() | NameTaken() if self._ready.done():
                self._events += 1
                over = self._events > EVENTS_MAX or self._event_bytes > EVENT_BYTES_MAX
                if self._done or over:
                    raise ControlError("more than it may")
                self._tell(message)
            case _:
                raise ControlError(f"{type(message).__name__} out of turn")

    def _gone(self) -> None:
        self._loop.remove_reader(self._control.fileno())
        if self._ended.done():
            return
        self._ended.set_result(None)
        if self._asked or not self._ready.done():
            return
        self._tell(Lost(what="flow", count=0, reason=GONE))
        self._fail(
            BrokerFailed(GONE, "the call's broker died: nothing passes any more, the call ends")
        )

    def _give_up(self, error: Exception) -> None:
        """Kill it and say why: what it said cannot be relied on."""
        if self._closed:
            return
        ready = self._ready
        self.close()
        if ready.done():
            self._fail(error)
        else:
            ready.set_exception(error)


class Zygote:
    """What brokers are forked from; see `supervisor.egress.zygote`."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is made, as the root of brokers: root's, empty, and nobody's to
        write in."""
        self._folder = folder
        self._lock = asyncio.Lock()
        self._socket: socket.socket | None = None
        self._pidfd = -1
        self._watch: asyncio.Task[None] | None = None

    async def start_broker(
        self,
        order: Order,
        tell: Callable[[BrokerEvent], None],
        fail: Callable[[Exception], None],
    ) -> Broker:
        """Start a call's broker and wait until it accepts.

        `tell` gets what it tells; `fail` is called once where it died without having been asked
        to, or said what it may not: nothing passes from then on.

        Raises:
            BrokerFailed: `BROKER_NOT_STARTED`.
        """
        policy = encode_policy(order.policy())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, closing_fd(_memfd(policy)) as memfd:
                listeners = [one.fileno() for one in order.listeners.all()]
                fds = [theirs.fileno(), memfd, order.origins_fd, *listeners]
                words = {"uid": order.uid, "flows_max": order.flows_max, "fds": len(fds)}
                # Copies: an order that was begun is carried out, also where nobody waits for it.
                copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0) for fd in fds]
                forking = asyncio.create_task(self._fork(json.dumps(words).encode(), copies))
            try:
                pidfd = await asyncio.shield(forking)
            except asyncio.CancelledError:
                forking.add_done_callback(_unwanted)
                raise
            broker = Broker(ours, pidfd, tell, fail)
        except BaseException:
            ours.close()
            raise
        try:
            await broker.ready()
        except BaseException:
            broker.close()
            raise
        return broker

    async def _fork(self, order: bytes, fds: list[int]) -> int:
        """Give the pidfd of a new child; the descriptors are closed."""
        try:
            async with self._lock:
                return await self._order(order, fds)
        finally:
            for fd in fds:
                os.close(fd)

    async def _order(self, order: bytes, fds: list[int]) -> int:
        """Have the zygote carry out an order; one that has died is replaced once."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        for _ in range(2):
            zygote = self._socket or self._spawn()
            try:
                zygote.sendmsg([order], rights)
                async with asyncio.timeout(ZYGOTE_S):
                    await wait_readable(zygote.fileno())
                data, passed = receive_fds(zygote, ORDER_BYTES_MAX, 1)
            except TimeoutError:
                await self._stop()
                raise _not_started(f"no answer in {ZYGOTE_S:.0f} s") from None
            except (BrokenPipeError, ConnectionResetError):
                data, passed = b"", []
            if passed:
                return passed[0]
            if data:
                raise _not_started(str(json.loads(data).get("error")))
            await self._stop()
        raise _not_started("the process that it is forked from dies")

    def _spawn(self) -> socket.socket:
        self._folder.mkdir(mode=0o555, parents=True, exist_ok=True)
        if any(self._folder.iterdir()):
            raise _not_started(f"{self._folder} is not empty")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-I", "-c", _ENTRY]
        argv += [os.fspath(_PACKAGE_PARENT), str(_SOCKET_FD), os.fspath(self._folder)]
        with theirs, closing_fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) as null:
            fds = {0: null, 1: null, 2: 2, _SOCKET_FD: theirs.fileno()}
            pid = process.spawn(argv, fds=fds)
        self._pidfd = os.pidfd_open(pid)
        self._watch = asyncio.create_task(_reap(self._pidfd))
        ours.setblocking(False)
        self._socket = ours
        return ours

    async def close(self) -> None:
        """End the zygote, and every broker that is left with it."""
        async with self._lock:
            await self._stop()

    async def _stop(self) -> None:
        if self._socket is None or self._watch is None:
            return
        self._socket.close()
        self._socket = None
        try:
            async with asyncio.timeout(ZYGOTE_END_S):
                await asyncio.shield(self._watch)
        except TimeoutError:
            process.send_signal(self._pidfd, signal.SIGKILL)
            await self._watch
        finally:
            os.close(self._pidfd)
            self._watch, self._pidfd = None, -1


def _unwanted(forking: asyncio.Task[int]) -> None:
    """End a child that nobody waited for; where it was not made, there is nobody to tell."""
    if not forking.cancelled() and forking.exception() is None:
        process.send_signal(forking.result(), signal.SIGKILL)
        os.close(forking.result())


async def _reap(pidfd: int) -> None:
    await process.wait(pidfd)


def _memfd(data: bytes) -> int:
    """Give a sealed memfd that holds `data`: whoever has it can read it, and nobody change it."""
    fd = os.memfd_create("policy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(
            fd,
            fcntl.F_ADD_SEALS,
            fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL,
        )
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _not_started(why: str) -> BrokerFailed:
    return BrokerFailed("BROKER_NOT_STARTED", f"a call's broker could not be started: {why}")
