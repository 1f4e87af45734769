"""A storm: clients and a far side in a process of their own, with real sockets and no rhythm.

Each moves its bytes in pieces from one to a megabyte, with naps in between. Every byte is compared,
and what breaks off (`exchange`) must be seen as broken by the other side. Nobody waits in silence
for longer than `silence_s`: that is a hang, and no question of speed.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import socket
import ssl
import struct
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from random import Random

from supervisor.egress.control import Authority
from supervisor.egress.terminate import server_context, upstream_context
from tests.unit.egress.exchange import NAME, Exchange, Framing, How, Side, Within

SILENCE_S = 30.0
"""For the other side to say or take anything at all, on two cores that others use, too."""

EXCHANGES_MAX = 5
"""On one connection."""

HEAD_BYTES_MAX = 4096
PIECES_OUT = (1, 10, 5000, 70_000, 1 << 20)
PIECES_IN = (1, 7, 1000, 65_536, 1 << 20)
EAGER_BYTES = 1 << 20
SMALL_BUFFERS = (4096, 30_000)

TLS_ENDS = {None, "UNEXPECTED_EOF_WHILE_READING", "TLSV1_ALERT_DECODE_ERROR"}
"""What `ssl` gives as the reason of a reset, of an end without TLS's own word, and of the alert
that the other side sends when it meets one. Whatever else it finds wrong is wrong."""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The far side's certificate, and whom the clients trust, in PEM."""

    far: Authority
    trusted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How a storm is: the same exchanges for a seed, though never at the same time."""

    seed: int
    duration_s: float
    clients: int
    silence_s: float = SILENCE_S
    tls: Tls | None = None


@dataclass(slots=True)
class Tally:
    """What a storm did."""

    connections: int = 0
    exchanges: int = 0
    broken: int = 0
    bytes: int = 0

    def add(self, other: Tally) -> None:
        self.connections += other.connections
        self.exchanges += other.exchanges
        self.broken += other.broken
        self.bytes += other.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a side saw that must not be; `port` is the one that the broker has on that flow, or its
    client's."""

    side: Side
    port: int
    exchange: Exchange | None
    text: str


class Wrong(Exception):
    """What a side saw is not what the other one meant."""


class Cut(Exception):
    """The other side ended or reset the connection before its message was whole."""


@contextlib.contextmanager
def _until_cut() -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        if error.reason not in TLS_ENDS:
            raise  # Bytes that are not the other side's.
        raise Cut(repr(error)) from None
    except ConnectionError as error:
        raise Cut(repr(error)) from None


class Paced:
    """A socket that is read and written without a rhythm."""

    def __init__(self, end: socket.socket, random: Random, silence_s: float) -> None:
        self.end = end
        self.eager = False
        self._random = random
        end.settimeout(silence_s)

    def secure(self, context: ssl.SSLContext, name: str = "") -> None:
        """Speak TLS from here on: as a client where there is a name."""
        self.end = context.wrap_socket(
            self.end,
            server_side=not name,
            server_hostname=name or None,
            suppress_ragged_eofs=False,  # `ssl` would take a reset for an end in order.
        )

    def send(self, data: bytes) -> None:
        """Send it all.

        Raises:
            Cut: nobody takes it any more.
        """
        left = memoryview(data)
        while left:
            size = EAGER_BYTES if self.eager else self._random.choice(PIECES_OUT)
            left = left[self._sent(left[:size]) :]
            self._nap()

    def receive(self, most: int) -> bytes:
        """Read some bytes, or none at the end.

        Raises:
            Cut: it was reset.
        """
        size = EAGER_BYTES if self.eager else self._random.choice(PIECES_IN)
        with _until_cut():
            data = self.end.recv(min(most, size))
        self._nap()
        return data

    def skip(self, count: int) -> None:
        """Read so many bytes, or what there is of them."""
        while count and (data := self.receive(count)):
            count -= len(data)

    def until_end(self) -> None:
        """Read whatever comes until the other side has ended or reset the connection."""
        try:
            while self.receive(EAGER_BYTES):
                continue
        except Cut:
            return  # A reset is an end.

    def head(self) -> bytes:
        """Read a head; nothing where there is none.

        Raises:
            Cut: it is not whole.
        """
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            more = self.receive(1)
            if not more and not data:
                return b""
            data += more
            self._must(more, data)
        return data

    def line(self) -> bytes:
        data = b""
        while not data.endswith(b"\r\n"):
            more = self.receive(1)
            data += more
            self._must(more, data)
        return data[:-2]

    def body(self, exchange: Exchange, size: int, at: int = 0) -> None:
        """Read `size` bytes of an exchange's body, and compare them."""
        while size:
            data = self.receive(size)
            self._must(data, b"")
            if data != exchange.body(len(data), at):
                raise Wrong(f"other bytes at {at}")
            at, size = at + len(data), size - len(data)

    def leave(self, how: How) -> None:
        """Break off; an end is one for the other side only."""
        if how is How.END:
            self.half_close()
            self.until_end()
        elif how is How.RESET:
            self.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.end.close()

    def half_close(self) -> None:
        try:
            # TLS would forget its keys here, and still has to read.
            socket.socket.shutdown(self.end, socket.SHUT_WR)
        except OSError:
            return  # It was reset meanwhile, which whoever reads is told.

    def _must(self, more: bytes, data: bytes) -> None:
        if not more:
            raise Cut("the end")
        if len(data) > HEAD_BYTES_MAX:
            raise Wrong(f"no line or head ends here: {data[:80]!r}")

    def _sent(self, data: memoryview) -> int:
        with _until_cut():
            return self.end.send(data)

    def _nap(self) -> None:
        if self.eager:
            return
        chance = self._random.random()
        if chance < 0.02:
            time.sleep(self._random.random() * 0.02)
        elif chance < 0.1:
            time.sleep(self._random.random() * 0.0005)


@dataclass(slots=True)
class Client:
    """One connection after the other, until the time is over."""

    weather: Weather
    random: Random
    door: tuple[str, int]
    port: int
    context: ssl.SSLContext | None
    tally: Tally = field(default_factory=Tally)
    exchange: Exchange | None = None
    paced: Paced | None = None

    def run(self) -> None:
        end = time.monotonic() + self.weather.duration_s
        while time.monotonic() < end:
            self.exchange = None
            paced = self.paced = self._connect()
            for _ in range(self.random.randint(1, EXCHANGES_MAX)):
                self.exchange = Exchange.drawn(self.random.getrandbits(63))
                if not self._ask(paced, self.exchange):
                    break
            paced.end.close()

    def _connect(self) -> Paced:
        end = socket.socket()
        if self.random.random() < 0.3:
            small = self.random.choice(SMALL_BUFFERS)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, small)
        paced = Paced(end, self.random, self.weather.silence_s)
        end.connect(self.door)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is not None:
            paced.secure(self.context, NAME)
        self.tally.connections += 1
        return paced

    def _ask(self, paced: Paced, exchange: Exchange) -> bool:
        """Have one exchange; say whether another one may follow."""
        paced.eager = exchange.eager
        asked = exchange.asked(self.port)
        self.tally.exchanges += 1
        self.tally.broken += exchange.broken is not None
        try:
            if how := exchange.breaks(Side.CLIENT, Within.REQUEST):
                paced.send(exchange.until_break(asked))
                paced.leave(how)
                return False
            paced.send(asked)
            if how := exchange.breaks(Side.CLIENT, Within.RESPONSE):
                paced.skip(len(exchange.until_break(exchange.answered())))
                paced.leave(how)
                return False
            if exchange.polite:
                paced.half_close()
            self._read(paced, exchange)
        except Cut as error:
            if exchange.broken is None:
                raise Wrong(f"a whole exchange was cut: {error}") from None
            return False
        if exchange.broken is not None:
            raise Wrong("a response that was broken off looks whole")
        self.tally.bytes += len(asked) + exchange.response
        return not exchange.polite and exchange.framing is not Framing.UNTIL_CLOSE

    def _read(self, paced: Paced, exchange: Exchange) -> None:
        """Read a response, as whoever knows no more than its head does."""
        head = paced.head().lower()
        if not head:
            raise Cut("no response")
        if not head.startswith(b"http/1.1 200 "):
            if exchange.broken is not None:
                raise Cut("another answer")  # The broker's own, that the far side is gone.
            raise Wrong(f"another answer: {head[:200]!r}")
        if b"transfer-encoding: chunked" in head:
            count = self._read_chunks(paced, exchange)
        elif b"content-length: " in head:
            count = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            paced.body(exchange, count)
        else:
            count = 0
            while data := paced.receive(EAGER_BYTES):
                if data != exchange.body(len(data), count):
                    raise Wrong(f"other bytes at {count}")
                count += len(data)
        if count != exchange.response and exchange.broken is None:
            raise Wrong(f"a body of {count} bytes")

    def _read_chunks(self, paced: Paced, exchange: Exchange) -> int:
        count = 0
        while size := int(paced.line(), 16):
            paced.body(exchange, size, count)
            count += size
            if paced.line():
                raise Wrong("a chunk that is longer than it says")
        if paced.line():
            raise Wrong("trailers")
        return count


@dataclass(slots=True)
class Far:
    """What answers one connection."""

    weather: Weather
    random: Random
    paced: Paced
    context: ssl.SSLContext | None
    exchange: Exchange | None = None

    def run(self) -> None:
        try:
            if self.context is not None:
                self.paced.secure(self.context)
            while self._answer():
                continue
        except Cut:
            # Only a head can be cut here without its number: no exchange was begun then.
            self.paced.end.close()
        except ConnectionError:
            self.paced.end.close()  # Within the handshake, by a client that broke off at once.

    def _answer(self) -> bool:
        """Have one exchange; say whether another one may follow."""
        paced = self.paced
        paced.eager, self.exchange = False, None
        head = paced.head()
        if not head:
            paced.end.close()
            return False
        number = int(head.split(b"X-Number: ")[1].split(b"\r\n")[0])
        exchange = self.exchange = Exchange.drawn(number)
        paced.eager = exchange.eager
        try:
            return self._have(exchange)
        except Cut as error:
            if exchange.broken is None or exchange.broken.side is not Side.CLIENT:
                raise Wrong(f"what nobody broke off was cut: {error}") from None
            paced.end.close()
            return False

    def _have(self, exchange: Exchange) -> bool:
        paced, size = self.paced, exchange.request or 0
        if how := exchange.breaks(Side.FAR, Within.REQUEST):
            paced.body(exchange, len(exchange.until_break(exchange.body(size))))
            paced.leave(how)
            return False
        paced.body(exchange, size)
        if exchange.breaks(Side.CLIENT, Within.REQUEST) and size:
            raise Wrong("a request that was broken off looks whole")
        answer = exchange.answered()
        if how := exchange.breaks(Side.FAR, Within.RESPONSE):
            paced.send(exchange.until_break(answer))
            paced.leave(how)
            return False
        paced.send(answer)
        if exchange.framing is Framing.UNTIL_CLOSE:
            self._close()
            return False
        if exchange.breaks(Side.CLIENT, Within.RESPONSE):
            paced.until_end()
            paced.end.close()
            return False
        return True

    def _close(self) -> None:
        if isinstance(self.paced.end, ssl.SSLSocket):
            try:
                self.paced.end.unwrap()
            except (ConnectionError, ssl.SSLError):
                self.paced.end.close()  # The other side did not wait for the word of an end.
                return
        self.paced.end.close()


class World:
    """All clients and what answers them."""

    def __init__(self, weather: Weather, door: tuple[str, int], server: socket.socket) -> None:
        self._weather = weather
        self._server = server
        self.outcome: queue.Queue[Tally | Failure] = queue.Queue()
        self._answering: list[threading.Thread] = []
        self._failed: list[Client | Far] = []
        """Kept, so that their sockets stay open: what the broker has of them can still be seen."""
        tls = weather.tls
        self._context = None if tls is None else _strict(server_context(tls.far))
        trusting = None if tls is None else _strict(upstream_context(tls.trusted))
        port = server.getsockname()[1]
        self._clients = [
            Client(weather, Random(f"{weather.seed} client {n}"), door, port, trusting)
            for n in range(weather.clients)
        ]

    def start(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._last, daemon=True).start()

    def _last(self) -> None:
        """Tell how it was when all clients have had their time, and what answered has ended."""
        started = [self._guarded(Side.CLIENT, client) for client in self._clients]
        for thread in started:
            thread.join()
        for thread in self._answering:
            thread.join()
        tally = Tally()
        for client in self._clients:
            tally.add(client.tally)
        self.outcome.put(tally)

    def _accept(self) -> None:
        for number in itertools.count():
            end, _ = self._server.accept()
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            random = Random(f"{self._weather.seed} far {number}")
            paced = Paced(end, random, self._weather.silence_s)
            far = Far(self._weather, random, paced, self._context)
            self._answering.append(self._guarded(Side.FAR, far))

    def _guarded(self, side: Side, one: Client | Far) -> threading.Thread:
        def run() -> None:
            try:
                one.run()
            except Exception:  # noqa: BLE001 (whatever it is, it is what was looked for)
                self._failed.append(one)
                self.outcome.put(_failure(side, one))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


def _strict(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have an end without TLS's own word be an error; of a reset, `ssl` may say no more than
    that, too."""
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def _failure(side: Side, one: Client | Far) -> Failure:
    text, port = traceback.format_exc(), 0
    if one.paced is not None and one.paced.end.fileno() >= 0:
        try:
            end = one.paced.end
            port = (end.getsockname() if side is Side.CLIENT else end.getpeername())[1]
        except OSError as error:
            text += f"(its socket: {error})\n"
    return Failure(side=side, port=port, exchange=one.exchange, text=text)


def rage(weather: Weather, door: tuple[str, int], server: socket.socket, told: Connection) -> None:
    """Be the process of a storm: tell its outcome, and stay until that was looked at."""
    world = World(weather, door, server)
    world.start()
    told.send(world.outcome.get())
    told.poll(None)  # Until the other end is closed.
