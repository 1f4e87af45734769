"""The DNS of the world: authority for everything, on its own address, and a foreign resolver.

The zone is a file of JSON that is read for every query, so that a test changes it while the server
runs. A name is a mapping of types to data, `"*.suffix"` stands for all names below; beside types:

    ttl    seconds, 60 where it is missing
    turns  a list of mappings, one for each query of a type in turn, the last for all that follow
    serial whatever, with a new one the turns begin anew
    mode   "silent", "slow", "garbage", "failing", "other-id", "other-name": how it is broken
"""

from __future__ import annotations

import collections
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.egress.servers.log import Log

TTL_S = 60
SLOW_S = 4.0
QUERY_MAX = 65535
CHAIN_MAX = 8


class Zone:
    """What is answered."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._asked: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self._lock = threading.Lock()

    def answer(self, wire: bytes, *, server: str, over: str) -> bytes | None:
        """Log a query and answer it; None where there is to be silence."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException as error:
            self._log("query", server=server, over=over, name="", type=repr(error), wire=wire.hex())
            return None
        if not query.question:
            self._log("query", server=server, over=over, name="", type="none", wire=wire.hex())
            return None
        question = query.question[0]
        name, kind = _text(question.name), dns.rdatatype.to_text(question.rdtype)
        self._log("query", server=server, over=over, name=name, type=kind)
        data = self._find(name, kind)
        match (data or {}).get("mode"):
            case "silent":
                return None
            case "slow":
                time.sleep(SLOW_S)
            case "garbage":
                return wire[:2] + b"\xff" * 40
        return self._respond(query, name, kind, data)

    def _respond(
        self, query: dns.message.Message, name: str, kind: str, data: dict[str, Any] | None
    ) -> bytes:
        response = dns.message.make_response(query, recursion_available=True)
        mode = (data or {}).get("mode")
        if mode == "failing":
            response.set_rcode(dns.rcode.SERVFAIL)
        elif data is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        for _ in range(CHAIN_MAX):
            if data is None or mode == "failing":
                break
            ttl = int(data.get("ttl", TTL_S))
            if "CNAME" in data and kind != "CNAME":
                target = str(data["CNAME"])
                response.answer.append(dns.rrset.from_text(name + ".", ttl, "IN", "CNAME", target))
                name = target.rstrip(".")
                data = self._find(name, kind)
                continue
            if texts := data.get(kind, []):
                response.answer.append(dns.rrset.from_text(name + ".", ttl, "IN", kind, *texts))
            break
        if mode == "other-id":
            response.id ^= 1
        if mode == "other-name":
            response.question[0].name = dns.name.from_text("other.example.com")
        return response.to_wire(max_size=QUERY_MAX)

    def _find(self, name: str, kind: str) -> dict[str, Any] | None:
        zone: dict[str, dict[str, Any]] = json.loads(self._path.read_text())
        labels = name.split(".")
        keys = [name, *("*." + ".".join(labels[n:]) for n in range(1, len(labels)))]
        data = next((zone[key] for key in keys if key in zone), None)
        if data is None or "turns" not in data:
            return data
        serial = data.get("serial", "")
        with self._lock:
            turn = self._asked[name, kind, serial]
            self._asked[name, kind, serial] += 1
        turns = data["turns"]
        return {**data, **turns[min(turn, len(turns) - 1)]}


def _text(name: dns.name.Name) -> str:
    """Give a name in lower case, bytes as they are where they are printable."""
    return name.to_text(omit_final_dot=True).lower()


def serve_datagrams(zone: Zone, address: str) -> None:
    """Answer on UDP 53 of an address, each query in a thread of its own."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((address, 53))

    def one(wire: bytes, peer: Any) -> None:
        response = zone.answer(wire, server=address, over="udp")
        if response is not None:
            sock.sendto(response, peer)

    def loop() -> None:
        while True:
            wire, peer = sock.recvfrom(QUERY_MAX)
            threading.Thread(target=one, args=(wire, peer), daemon=True).start()

    threading.Thread(target=loop, daemon=True).start()


def serve_stream(zone: Zone, read: Callable[[int], bytes], write: Callable[[bytes], object],
                 *, server: str, over: str) -> None:  # fmt: skip
    """Answer queries with their length in front, as over TCP and TLS, until the end."""
    while length := _exactly(read, 2):
        wire = _exactly(read, int.from_bytes(length, "big"))
        response = zone.answer(wire, server=server, over=over)
        if response is not None:
            write(len(response).to_bytes(2, "big") + response)


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    """Read so many bytes; fewer only at the end."""
    found = b""
    while len(found) < count and (part := read(count - len(found))):
        found += part
    return found
