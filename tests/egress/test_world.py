"""The world is what the other tests take it for: without walls, everything in it can be reached."""

from __future__ import annotations

import pytest

from tests.egress.servers import places
from tests.support.world import World

EXCHANGE = """
import socket, sys
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, getattr(socket, kind)) as sock:
    sock.settimeout(10)
    sock.connect((address, port))
    sock.send(b"hello")
    print(sock.recv(100))
"""


def fetch(there: World, *arguments: str) -> bytes:
    done = there.unconfined(["curl", "-sS", "--cacert", there.ca, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


def canary(there: World, name: str) -> bytes:
    return f"canary {there.token} of {name}\n".encode()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_good_and_evil_share_an_address(there: World, scheme: str, family: str) -> None:
    mark = there.mark()
    for name in ("api.github.com", "evil.example.com"):
        assert fetch(there, family, f"{scheme}://{name}/") == canary(there, name)
    requests = there.settled(mark, "request")
    assert len({line["to"] for line in requests}) == 1
    assert [line["host"] for line in requests] == ["api.github.com", "evil.example.com"]
    hellos = [line["sni"] for line in there.since(mark, "hello")]
    assert hellos == (["api.github.com", "evil.example.com"] if scheme == "https" else [])


@pytest.mark.parametrize(
    ("address", "name"),
    [
        *((address, "metadata") for address in places.METADATA),
        *((address, "private") for address in places.PRIVATE),
    ],
)
def test_what_nobody_is_to_reach_answers(there: World, address: str, name: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert fetch(there, f"http://{host}/") == canary(there, name)


def test_each_query_is_logged(there: World) -> None:
    mark = there.mark()
    asked = [f"n{n}.tunnel.example.com" for n in range(5)]
    for name in asked:
        there.unconfined(["getent", "ahostsv4", name])
    assert {line["name"] for line in there.settled(mark, "query")} == set(asked)


def test_the_zone_changes_while_it_runs(there: World) -> None:
    assert there.unconfined(["getent", "ahostsv4", "fresh.example.com"]).returncode
    there.set_names({"fresh.example.com": {"A": ["203.0.113.99"]}})
    shown = there.unconfined(["getent", "ahostsv4", "fresh.example.com"]).stdout
    assert b"203.0.113.99" in shown
    there.set_names({"fresh.example.com": None})
    assert there.unconfined(["getent", "ahostsv4", "fresh.example.com"]).returncode


@pytest.mark.parametrize("address", [*places.SHARED, "203.0.113.250", "2001:db8:1::fa"])
def test_whatever_comes_is_seen_though_nobody_listens(there: World, address: str) -> None:
    mark = there.mark()
    for kind, port in (("SOCK_STREAM", 4000), ("SOCK_DGRAM", 4001)):
        command = ["/usr/bin/python3", "-c", EXCHANGE, kind, address, str(port)]
        assert b"ConnectionRefused" in there.unconfined(command).stderr
    frames = there.settled(mark, "frame")
    assert [(line["protocol"], line["to"], line["port"]) for line in frames] == [
        ("tcp", address, 4000), ("udp", address, 4001),
    ]  # fmt: skip
    assert frames[1]["data"] == "hello"


@pytest.mark.parametrize("address", places.SHARED)
def test_streams_and_datagrams_answer(there: World, address: str) -> None:
    mark = there.mark()
    for kind, port, answer in (
        ("SOCK_STREAM", places.ECHO, b"hello"),
        ("SOCK_STREAM", places.CHARGEN, b""),
        ("SOCK_DGRAM", 443, canary(there, "udp")),
    ):
        command = ["/usr/bin/python3", "-c", EXCHANGE, kind, address, str(port)]
        done = there.unconfined(command)
        assert not done.returncode, done.stderr
        assert repr(answer)[2:-1].encode() in done.stdout
    assert [line["count"] for line in there.settled(mark, "bytes")] == [5, 0]
    assert [line["data"] for line in there.since(mark, "datagram")] == ["hello"]


def test_the_island_has_one_way_out(there: World) -> None:
    links = there.unconfined(["ip", "-brief", "link"]).stdout.splitlines()
    assert sorted(line.split()[0].partition(b"@")[0] for line in links) == [b"isl0", b"lo"]
