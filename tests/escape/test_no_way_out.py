"""Nothing leaves a sandbox: no address, family, protocol, name or socket of the host answers.

The proof is by effect: a canary answers on every address there is in the daemon's own network
namespace, on abstract unix sockets there, and on a unix socket in a folder. Whoever stands in that
namespace gets its answer; a sandbox gets none.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.escape.arena import PROGRAMS, PYTHON, confined, on_host
from tests.support.daemon import Daemon

PORT = 443
NAME = "stockade-test-canary"
ANSWER = "canary"
Target = tuple[str, str, int]

IPV4: tuple[Target, ...] = (
    ("tcp", "203.0.113.9", PORT),
    ("tcp", "169.254.169.254", PORT),  # metadata of clouds
    ("tcp", "100.100.100.200", PORT),
    ("tcp", "10.0.0.1", PORT),
    ("tcp", "172.17.0.1", PORT),
    ("tcp6", "::ffff:203.0.113.9", PORT),
    ("udp", "203.0.113.9", PORT),
    ("udp", "192.0.2.53", PORT),
    ("fastopen", "203.0.113.9", PORT),
)
IPV6: tuple[Target, ...] = (
    ("tcp6", "2001:db8::9", PORT),
    ("tcp6", "fd00:ec2::254", PORT),
    ("tcp6", "64:ff9b::203.0.113.9", PORT),
    ("udp6", "2001:db8::53", PORT),
)
LOOPBACK: tuple[Target, ...] = (("tcp", "127.0.0.1", PORT), ("tcp6", "::1", PORT))
ABSTRACT: tuple[Target, ...] = (
    ("abstract", NAME, 0),
    ("abstract datagram", f"{NAME}-datagram", 0),
)


@pytest.fixture(scope="module")
def canary(daemon: Daemon) -> Iterator[Path]:
    """Run the canary in the daemon's network namespace; give the path of its unix socket."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "canary.sock"
        Path(folder).chmod(0o755)
        process = stack.enter_context(
            subprocess.Popen(
                [*_namespace(daemon), PYTHON, PROGRAMS / "canary.py", str(PORT), NAME, path],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield path
        process.stdin.close()
        process.wait(30)


def _namespace(daemon: Daemon) -> tuple[str, ...]:
    return ("nsenter", f"--net=/proc/{daemon.pid}/ns/net")


def _reached(daemon: Daemon, targets: tuple[Target, ...]) -> list[str]:
    outside = on_host("reach.py", json.dumps(targets), inside=_namespace(daemon))
    said: list[str] = json.loads(outside.stdout)
    return said


@pytest.mark.usefixtures("canary")
@pytest.mark.parametrize(("family", "targets"), [("IPv4", IPV4), ("IPv6", IPV6)])
def test_no_address_answers(daemon: Daemon, family: str, targets: tuple[Target, ...]) -> None:
    assert _reached(daemon, targets) == [ANSWER] * len(targets)
    trial = confined(daemon, "reach.py", json.dumps(targets), profile="net")
    assert set(trial.said()) == {"EPERM"}
    told = [body for name in ("connect", "sendmsg") for body in trial.denials(name, wall="network")]
    assert sum(int(body["count"]) for body in told) == len(targets)
    for kind, host, port in targets:
        # An IPv4 address in IPv6's clothes is an IPv4 address.
        address = ipaddress.ip_address(host.removeprefix("::ffff:"))
        place = f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
        assert any(place in body["detail"] for body in told), (kind, host)


@pytest.mark.usefixtures("canary")
def test_the_loopback_is_its_own(daemon: Daemon) -> None:
    assert _reached(daemon, LOOPBACK) == [ANSWER] * len(LOOPBACK)
    trial = confined(daemon, "reach.py", json.dumps(LOOPBACK), profile="net")
    assert set(trial.said()) == {"ECONNREFUSED"}


@pytest.mark.usefixtures("canary")
def test_abstract_sockets_are_its_own(daemon: Daemon) -> None:
    assert _reached(daemon, ABSTRACT) == [ANSWER] * len(ABSTRACT)
    trial = confined(daemon, "reach.py", json.dumps(ABSTRACT))
    assert trial.said() == ["ECONNREFUSED"] * len(ABSTRACT)


def test_no_unix_socket_of_the_host_is_there(daemon: Daemon, canary: Path) -> None:
    """Not the canary's, not the daemon's own, not those of docker, systemd and D-Bus."""
    paths = [canary, daemon.socket, *map(Path, (
        "/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock",
        "/run/systemd/private", "/run/dbus/system_bus_socket", "/run/stockade/stockade.sock",
    ))]  # fmt: skip
    targets = [("path", str(path), 0) for path in paths]
    outside = json.loads(on_host("reach.py", json.dumps(targets[:1])).stdout)
    assert outside == [ANSWER]
    trial = confined(daemon, "reach.py", json.dumps(targets))
    assert set(trial.said()) == {"ENOENT"}


def test_no_name_is_asked_for(daemon: Daemon) -> None:
    """The resolver has nobody to ask: a name that is not in /etc/hosts does not exist."""
    targets = [
        ("name", name, 443) for name in ("secret.example.com", "example.com.", "a.localdomain")
    ]
    trial = confined(daemon, "reach.py", json.dumps(targets), profile="net")
    assert all(said.startswith("NO_NAME") for said in trial.said())


def test_without_the_right_to_sockets_even_trying_is_denied(daemon: Daemon) -> None:
    trial = confined(daemon, "reach.py", json.dumps(IPV4[:1]))
    assert trial.said() == ["EPERM"]
    assert trial.count("socket", 2) == 1
