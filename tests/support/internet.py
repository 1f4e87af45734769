"""A network namespace that plays the internet, at the other end of a wire to one that is given.

Addresses are those for documentation (RFC 5737, RFC 3849): every one of them is at home over
there, where an application hears what is sent to it and every frame that comes is written down.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.style.tree import ROOT

PROGRAM = ROOT / "tests/escape/programs/internet.py"
PYTHON = "/usr/bin/python3"
PORT = 443
NEAR, FAR = "way0", "far0"
NEAR_MAC, FAR_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"
NEAR4, NEAR6, FAR4, FAR6 = "192.0.2.2", "2001:db8::2", "192.0.2.1", "2001:db8::1"
NEAR_LINK, FAR_LINK = "fe80::2", "fe80::1"
FAR_MORE = ("fe80::7:1", "fe80::7:2", "fe80::7:3", "192.0.2.132", "2001:db8::132")
"""Addresses that the kernel over there asks nobody from: what comes to them is a program's."""

COME_S = 20.0
SETTINGS = {"tcp_fastopen": 0x607, "ping_group_range": "0 2147483647"}
"""TCP Fast Open for everybody, without a cookie first; ping sockets for everybody."""

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

# Sent from every processor, so that no frame which was sent before can come after all of them.
SENTINELS = """
import os, socket, sys
for cpu in os.sched_getaffinity(0):
    os.sched_setaffinity(0, {cpu})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(f"{sys.argv[1]}-{cpu}.".encode(), (sys.argv[2], int(sys.argv[3])))
"""

# The kernel looks at new wires when it finds the time (net/core/link_watch.c).
IS_LAID = """
import socket, sys, time
for address in sys.argv[2:]:
    end = time.monotonic() + float(sys.argv[1])
    while True:
        try:
            with socket.create_connection((address, 443), 1) as sock:
                sock.sendall(b"laid")
                assert sock.recv(10) == b"heard"
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
"""


class Internet:
    """The far end: what it saw and heard so far. `near` is the given namespace, a path."""

    def __init__(self, process: subprocess.Popen[bytes], near: str) -> None:
        self.near = near
        self._process = process
        self._changed = threading.Condition()
        self._said: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self) -> None:
        """Have it end, and read what it said until then."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join(COME_S)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._said.append(json.loads(line))
                self._changed.notify_all()

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a line that is `wanted`, also one that has been said before."""

        def found() -> dict[str, Any] | None:
            return next((line for line in self._said if wanted(line)), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() is not None, COME_S), self._said[-20:]
            line = found()
        assert line is not None
        return line

    def everything(self) -> tuple[list[bytes], list[str]]:
        """Give every frame that came and what was heard, once all that is under way is there."""
        nonce = secrets.token_hex(8)
        subprocess.run([*self.inside, PYTHON, "-c", SENTINELS, nonce, FAR4, str(PORT)], check=True)
        for cpu in os.sched_getaffinity(0):
            self._wait_for_sentinel(f"{nonce}-{cpu}.")
        with self._changed:
            said = list(self._said)
        frames = [bytes.fromhex(line["frame"]) for line in said if "frame" in line]
        return frames, [line["heard"] for line in said if "heard" in line]

    def _wait_for_sentinel(self, text: str) -> None:
        self.wait_for(lambda line: text.encode().hex() in line.get("frame", ""))
        self.wait_for(lambda line: line.get("heard") == text)

    @property
    def inside(self) -> tuple[str, ...]:
        """Give the command that runs another in the given namespace, in no cgroup of a call."""
        return ("nsenter", f"--net={self.near}")

    def visit(self, to: str, *, udp: bool) -> str:
        """Go the other way; give what a listener at `to` said, or the name of an error."""
        number = secrets.token_hex(8)
        order = {"id": number, "from": FAR6 if ":" in to else FAR4, "to": to, "udp": udp}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return str(self.wait_for(lambda line: line.get("visited") == number)["got"])


@contextlib.contextmanager
def holder() -> Iterator[str]:
    """Make a network namespace with nothing but loopback; give its path."""
    command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield f"/proc/{process.pid}/ns/net"
        finally:
            process.stdin.close()


@contextlib.contextmanager
def internet(near: str) -> Iterator[Internet]:
    """Lay a wire out of the namespace `near`, with a route over it to all that is outside."""
    with holder() as far, contextlib.ExitStack() as stack:
        _ip(near, f"link add {NEAR} address {NEAR_MAC} type veth peer name {FAR} address {FAR_MAC}")
        stack.callback(_ip, near, f"link delete {NEAR}")
        _ip(near, f"link set {FAR} netns {far.split('/')[2]}")
        _ip(near, *_configure(NEAR, NEAR4, NEAR6, NEAR_LINK))
        _ip(far, *_configure(FAR, FAR4, FAR6, FAR_LINK, *FAR_MORE))
        for where in (near, far):
            settings = [f"net.ipv4.{name}={value}" for name, value in SETTINGS.items()]
            _run(where, ["sysctl", "-q", "-w", *settings])
        # A sandbox's kernel cannot ask for neighbours: what it asks with was made by the sandbox.
        _ip(
            near,
            f"neighbour add {FAR6} lladdr {FAR_MAC} dev {NEAR}",
            f"route add default via {FAR4}",
            f"route add default via {FAR6}",
        )
        _ip(
            far,
            f"neighbour add {NEAR6} lladdr {NEAR_MAC} dev {FAR}",
            "route add local 198.51.100.0/24 dev lo",
            "route add local 203.0.113.0/24 dev lo",
            "route add local 2001:db8:1::/48 dev lo",
        )
        process = stack.enter_context(
            subprocess.Popen(
                ["nsenter", f"--net={far}", PYTHON, PROGRAM, FAR, str(PORT)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT,
            )
        )  # fmt: skip
        there = Internet(process, near)
        stack.callback(there.end)
        there.wait_for(lambda line: "ready" in line)
        _run(near, [PYTHON, "-c", IS_LAID, str(COME_S), FAR4, FAR6])
        yield there


def _configure(device: str, *addresses: str) -> Iterator[str]:
    yield f"link set {device} addrgenmode none"
    for address in addresses:
        more = "/64 nodad" if ":" in address else "/24 broadcast 192.0.2.255"
        yield f"address add {address}{more} dev {device}"
    yield f"link set {device} up"


def _ip(namespace: str, *commands: str) -> None:
    _run(namespace, ["ip", "-batch", "-"], "\n".join(commands).encode())


def _run(namespace: str, command: Sequence[str], data: bytes = b"") -> None:
    enter = ["nsenter", f"--net={namespace}"]
    subprocess.run([*enter, *command], check=True, env=ENVIRONMENT, input=data)
