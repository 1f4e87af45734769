"""The island and the world: a network namespace that knows one way out, and what lies there.

    with world() as there:
        with running_daemon(network=there.island, config=there.config()) as daemon: ...

The island is the daemon's, and that of programs that are tried unconfined. Its only routes lead
over one wire into the world, a namespace that plays the internet: its addresses are those for
documentation, besides private and metadata addresses that lead nowhere else. Servers and addresses
are in tests/egress/servers; a hole in a wall leads there.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.egress.servers import places
from tests.style.tree import ROOT

PYTHON = places.PYTHON
NEAR, FAR = "isl0", "wld0"
NEAR_MAC, FAR_MAC = "02:00:00:00:01:02", "02:00:00:00:01:01"
FAR_SETTINGS = (
    "ipv6.ip_nonlocal_bind=1", "ipv4.tcp_max_syn_backlog=4096",
    "ipv4.icmp_ratelimit=0", "ipv6.icmp.ratelimit=0",  # each port that is closed says so
)  # fmt: skip
SENTINEL_PORT = 4242
COME_S = 20.0
POLL_S = 0.02
PROGRAM_S = 120
SERVERS, ISLANDER = "tests.egress.servers", "tests.egress.servers.islander"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
CANARY_BYTES = 8

HOLD = 'ip link set lo up && mount --bind "$0" /etc/resolv.conf && echo ready && exec cat'

# Sent from every processor, so that no frame which was sent before can come after all of them.
SENTINELS = """
import os, socket, sys
processors = sorted(os.sched_getaffinity(0))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for line in sys.stdin:
    for cpu in processors:
        os.sched_setaffinity(0, {cpu})
        sock.sendto(f"{line.strip()}-{cpu}.".encode(), (sys.argv[1], int(sys.argv[2])))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a test has of it. `token` stands in every canary document of this world."""

    folder: Path
    token: str
    island: str
    far: str
    holder: int
    sentinels: subprocess.Popen[bytes]

    @property
    def ca(self) -> Path:
        """Give the file with the certificate of the world's authority."""
        return self.folder / "ca.pem"

    def config(self, **more: Any) -> dict[str, Any]:
        """Give a daemon's configuration on the island."""
        egress = {"resolver": [places.RESOLVERS[0]], "ca": str(self.ca)}
        return {"egress": egress, **more}

    # ---- names

    def zone(self, **names: dict[str, Any] | None) -> None:
        """Set names of the zone, `.` written as `__`; None takes one away."""
        self.set_names({name.replace("__", "."): data for name, data in names.items()})

    def set_names(self, names: dict[str, dict[str, Any] | None]) -> None:
        """Set names of the zone; None takes one away."""
        path = self.folder / "zone.json"
        zone = {**json.loads(path.read_text()), **names}
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({name: data for name, data in zone.items() if data}))
        fresh.rename(path)

    def rewind(self, name: str) -> None:
        """Let the turns of a name begin anew."""
        zone = json.loads((self.folder / "zone.json").read_text())
        self.set_names({name: {**zone[name], "serial": secrets.token_hex(4)}})

    # ---- what was seen over there

    def mark(self) -> int:
        """Give where the log ends, once every frame that was under way is in it: what was tried
        before is not seen after it."""
        self._settle(self._end())
        return self._end()

    def _end(self) -> int:
        return (self.folder / "log.jsonl").stat().st_size

    def since(self, mark: int, *kinds: str) -> list[dict[str, Any]]:
        """Give the lines of the log after a mark, of these kinds or of all but sentinels."""
        data = self._read(mark)
        lines = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
        wanted = [line for line in lines if line.get("port") != SENTINEL_PORT]
        return [line for line in wanted if not kinds or line["kind"] in kinds]

    def _read(self, mark: int) -> bytes:
        with (self.folder / "log.jsonl").open("rb") as file:
            file.seek(mark)
            return file.read()

    def settled(self, mark: int, *kinds: str) -> list[dict[str, Any]]:
        """Give the same once every frame that was under way is over there."""
        self._settle(mark)
        return self.since(mark, *kinds)

    def _settle(self, mark: int) -> None:
        nonce = secrets.token_hex(8)
        assert self.sentinels.stdin is not None
        self.sentinels.stdin.write(f"{nonce}\n".encode())
        self.sentinels.stdin.flush()
        for cpu in os.sched_getaffinity(0):
            self._wait_for_text(mark, f"{nonce}-{cpu}.".encode())

    def _wait_for_text(self, mark: int, text: bytes) -> None:
        wait_until(lambda: text in self._read(mark), f"sentinel {text!r}")

    def wait_for(self, mark: int, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until a line after the mark is `wanted`."""
        wait_until(lambda: any(map(wanted, self.since(mark))), "a line of the world's log")

    # ---- programs without walls

    @property
    def inside(self) -> tuple[str, ...]:
        """Give the command that runs another on the island, where names are asked of the world."""
        return ("nsenter", f"--target={self.holder}", "--net", "--mount", "--wd=/")

    def unconfined(
        self, argv: Sequence[str | Path], *, env: dict[str, str] | None = None,
        cwd: Path = Path("/"), data: bytes = b"", timeout_s: float = PROGRAM_S,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        """Run a program on the island, to its end."""
        return subprocess.run(
            ["nsenter", f"--target={self.holder}", "--net", "--mount", f"--wd={cwd}", *argv],
            check=False, input=data, capture_output=True, timeout=timeout_s,
            env={**ENVIRONMENT, **(env or {})},
        )  # fmt: skip


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = COME_S) -> None:
    """Wait until something is so.

    Raises:
        AssertionError: it was not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        time.sleep(POLL_S)


@contextlib.contextmanager
def world(servers: str = SERVERS, env: Mapping[str, str] | None = None) -> Iterator[World]:
    """Make the island and the world, and start what lives there: a module, and what it finds in
    its environment."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stockade-world-")))
        folder.chmod(0o755)
        resolv = folder / "resolv.conf"
        resolv.write_text(f"nameserver {places.RESOLVERS[0]}\noptions timeout:1 attempts:1\n")
        (folder / "zone.json").write_text(json.dumps(places.ZONE))
        _make_repository(folder / "git" / "tools.git")
        island = stack.enter_context(_holder(resolv))
        far = stack.enter_context(_holder(resolv))
        _lay_wire(island, far)
        token = secrets.token_hex(CANARY_BYTES)
        command = [servers, str(folder), FAR, token]
        stack.enter_context(_server(folder, far, command, env))
        stack.enter_context(_server(folder, island, [ISLANDER, str(folder), token]))
        yield World(
            folder=folder, token=token, island=f"/proc/{island}/ns/net",
            far=f"/proc/{far}/ns/net", holder=island,
            sentinels=stack.enter_context(_sentinels(island)),
        )  # fmt: skip


@contextlib.contextmanager
def _sentinels(island: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run what sends a sentinel for each line that it is given."""
    command = [PYTHON, "-c", SENTINELS, places.WORLD4, str(SENTINEL_PORT)]
    with subprocess.Popen(
        ["nsenter", f"--target={island}", "--net", *command],
        stdin=subprocess.PIPE, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        try:
            yield process
        finally:
            process.stdin.close()


@contextlib.contextmanager
def _holder(resolv: Path) -> Iterator[int]:
    """Hold a network namespace and a mount namespace; give the process that does."""
    command = ["unshare", "--net", "--mount", "sh", "-c", HOLD, str(resolv)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.stdin.close()


def _lay_wire(island: int, far: int) -> None:
    """Lay the wire, and the routes over it. Both ends are gone with their namespaces."""
    _ip(island, f"link add {NEAR} address {NEAR_MAC} type veth peer name {FAR} address {FAR_MAC}",
        f"link set {FAR} netns {far}")  # fmt: skip
    settings = [f"net.{name}" for name in FAR_SETTINGS]
    _run(far, ["sysctl", "-q", "-w", *settings])
    _run(island, ["sysctl", "-q", "-w", "net.ipv4.ping_group_range=0 2147483647"])
    for where, device, v4, v6 in (
        (island, NEAR, places.ISLAND4, places.ISLAND6), (far, FAR, places.WORLD4, places.WORLD6)
    ):  # fmt: skip
        _ip(where, f"address add {v4}/30 dev {device}",
            f"address add {v6}/64 dev {device} nodad", f"link set {device} up")  # fmt: skip
    _ip(island, f"neighbour add {places.WORLD6} lladdr {FAR_MAC} dev {NEAR}",
        f"route add default via {places.WORLD4}",
        f"route add default via {places.WORLD6}")  # fmt: skip
    _ip(far, f"neighbour add {places.ISLAND6} lladdr {NEAR_MAC} dev {FAR}",
        *(f"route add local {network} dev lo" for network in places.HOME))  # fmt: skip


@contextlib.contextmanager
def _server(
    folder: Path, where: int, command: Sequence[str], env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a module of servers in a holder's namespaces."""
    enter = ["nsenter", f"--target={where}", "--net", "--mount", f"--wd={ROOT}"]
    with (folder / "servers.log").open("ab") as errors, subprocess.Popen(
        [*enter, sys.executable, "-m", *command], stderr=errors,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**ENVIRONMENT, **(env or {})},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line == b"ready\n", (folder / "servers.log").read_text()
            yield
        finally:
            process.stdin.close()


def _make_repository(path: Path) -> None:
    """Make a repository with one commit, to be cloned."""
    environment = {
        **ENVIRONMENT, "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "tests@example.com" for who in ("AUTHOR", "COMMITTER")
           for what in ("NAME", "EMAIL")},
    }  # fmt: skip

    def git(*arguments: str, data: bytes = b"") -> str:
        command = ["git", "-C", str(path), *arguments]
        done = subprocess.run(
            command, check=True, input=data, stdout=subprocess.PIPE, env=environment
        )
        return done.stdout.decode().strip()

    path.mkdir(parents=True)
    git("init", "-q", "--bare", "-b", "main")
    blob = git("hash-object", "-w", "--stdin", data=b"a tool\n")
    tree = git("mktree", data=f"100644 blob {blob}\ttool.txt\n".encode())
    git("update-ref", "refs/heads/main", git("commit-tree", tree, "-m", "Add a tool"))


def _ip(where: int, *commands: str) -> None:
    _run(where, ["ip", "-batch", "-"], "\n".join(commands).encode())


def _run(where: int, command: Sequence[str], data: bytes = b"") -> None:
    enter = ["nsenter", f"--target={where}", "--net"]
    subprocess.run([*enter, *command], check=True, env=ENVIRONMENT, input=data)
