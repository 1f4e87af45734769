"""Run every server of the world in the network namespace that it is started in.

    python -m tests.egress.servers FOLDER DEVICE TOKEN

FOLDER has zone.json and git/; log.jsonl and ca.pem are written there. Prints `ready`, and ends
when its standard input does.
"""

from __future__ import annotations

import functools
import re
import resource
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

from tests.egress.servers import names, places
from tests.egress.servers.authority import Authority
from tests.egress.servers.log import Log
from tests.egress.servers.tap import tap
from tests.egress.servers.web import CHUNK, Site, Style, Visit, blocks, listen

HELLO_MAX = 1 << 14
TLS_HANDSHAKE = 0x16
ECH = re.compile(rb"\xfe\x0d..toy-ech:([a-z0-9.-]+)", re.DOTALL)
"""The extension encrypted_client_hello (RFC 9849); what is in ours can be read by everybody."""

ENDLESS = 1 << 40
DESCRIPTORS = 4096

STYLES = {
    places.LENGTH_FIRST: Style.LENGTH_FIRST,
    places.NO_BODIES: Style.NO_BODIES,
}


class World:
    """What the servers share, and how each begins."""

    def __init__(self, folder: Path, token: str) -> None:
        self.log = Log(folder / "log.jsonl")
        self.authority = Authority(folder)
        self.zone = names.Zone(folder / "zone.json", self.log)
        self._git = str(folder / "git")
        self._token = token

    def site(self, address: str) -> Site:
        """Give what is at home at an address."""
        return Site(
            token=self._token, log=self.log, git=self._git,
            style=STYLES.get(address, Style.CHUNKED_FIRST), only=places.ONLY.get(address, ""),
            resolve=functools.partial(self.zone.answer, server=address, over="https")
            if address in places.FOREIGN else None,
        )  # fmt: skip

    def web(self, address: str, port: int) -> None:
        """Serve HTTP and HTTPS on one port, as whoever comes likes, or DNS over TLS."""
        site = self.site(address)

        def serve(raw: socket.socket) -> None:
            if not (hello := raw.recv(HELLO_MAX, socket.MSG_PEEK)):
                return
            if hello[0] != TLS_HANDSHAKE:
                Visit(raw, site, address, port, "").serve()
                return
            shown: list[str] = []
            inner = ECH.search(hello)
            with self._accept(raw, address, port, shown, inner and inner[1].decode()) as conn:
                if port == places.DOT:
                    over = {"server": address, "over": "tls"}
                    names.serve_stream(self.zone, conn.recv, conn.sendall, **over)
                else:
                    Visit(conn, site, address, port, "".join(shown)).serve()

        listen(address, port, serve, self.log)

    def _accept(
        self, raw: socket.socket, address: str, port: int, shown: list[str], inner: str | None
    ) -> ssl.SSLSocket:
        def see(conn: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: object) -> None:
            shown.append(name or "")
            self.log("hello", to=address, port=port, sni=name or "", inner=inner or "")
            if name:
                conn.context = self.authority.context(name)

        # A context of its own, not the cached one: `see` is for one connection.
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own.sni_callback = see
        self.authority.certify(own, address)
        return own.wrap_socket(raw, server_side=True)

    def resolver(self, address: str) -> None:
        """Serve DNS on UDP and TCP."""
        names.serve_datagrams(self.zone, address)
        over = {"server": address, "over": "tcp"}

        def serve(conn: socket.socket) -> None:
            names.serve_stream(self.zone, conn.recv, conn.sendall, **over)

        listen(address, 53, serve, self.log)

    def streams(self, address: str) -> None:
        """Serve echo, discard and chargen (RFC 862 to 864)."""

        def echo(conn: socket.socket) -> None:
            while data := conn.recv(CHUNK):
                self.log("bytes", to=address, port=places.ECHO, count=len(data))
                conn.sendall(data)

        def discard(conn: socket.socket) -> None:
            while data := conn.recv(CHUNK):
                self.log("bytes", to=address, port=places.DISCARD, count=len(data))

        def chargen(conn: socket.socket) -> None:
            self.log("bytes", to=address, port=places.CHARGEN, count=0)
            for block in blocks(ENDLESS):
                conn.sendall(block)

        for port, serve in (
            (places.ECHO, echo), (places.DISCARD, discard), (places.CHARGEN, chargen)
        ):  # fmt: skip
            listen(address, port, serve, self.log)

    def sockets(self) -> None:
        """Start the server of WebSockets, with the system's Python, whose library it uses."""
        chain = self.authority.chain("ws.example.com")
        self._sockets = subprocess.Popen(
            [places.PYTHON, Path(__file__).with_name("sockets.py"), chain, *places.SOCKETS],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._sockets.stdout is not None
        assert self._sockets.stdout.readline() == b"ready\n"

    def close(self) -> None:
        """End what is a process of its own."""
        assert self._sockets.stdin is not None
        self._sockets.stdin.close()
        self._sockets.wait()

    def datagrams(self, address: str, port: int) -> None:
        """Answer datagrams with the canary: QUIC for all that a wall can tell."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((address, port))

        def loop() -> None:
            while True:
                data, peer = sock.recvfrom(CHUNK)
                self.log("datagram", to=address, port=port, data=data[:48].decode("latin-1"))
                sock.sendto(f"canary {self._token} of udp\n".encode(), peer)

        threading.Thread(target=loop, daemon=True).start()


def main() -> None:
    """Start everything, and wait for the end of standard input."""
    folder, device, token = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    world = World(folder, token)
    tap(device, world.log)
    for address in (*places.RESOLVERS, *places.FOREIGN):
        world.resolver(address)
    for address in places.FOREIGN:
        world.web(address, places.DOT)
    for address in places.SITES:
        for port in (80, 443, 8080):
            world.web(address, port)
    for address in (*places.SHARED, *places.OTHER):
        world.streams(address)
    for address in (*places.SHARED, *places.FOREIGN):
        world.datagrams(address, 443)
    world.sockets()
    print("ready", flush=True)  # noqa: T201
    sys.stdin.read()
    world.close()


main()
