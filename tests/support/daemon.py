"""Start a real `stockade serve`, and see that it leaves nothing behind.

    with running_daemon(config={"limits": {"calls": 2}}) as daemon:
        call = daemon.client.run(["true"], profile="base")

Each daemon has a folder of its own (state, runtime files, socket, configuration, log) and, unless
told otherwise, a network namespace with nothing but loopback: a hole in a wall then leads nowhere.
`network` is the path of another namespace, made by the test: that of tests/support/world.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from supervisor.client import Supervisor
from supervisor.linux import cgroup, mounts
from supervisor.sandbox import SandboxOptions
from supervisor.sandbox.host import PARENT_CGROUP, instance_of
from tests.support.leftovers import Footprint, namespaces
from tests.support.validated import wrong_events

STOCKADE = Path(sys.executable).with_name("stockade")
START_S = 30.0
STOP_S = 60.0
EXIT_S = 10.0
POLL_S = 0.05

# What the shell of a fresh network namespace does before it becomes the daemon: same pid.
ONLY_LOOPBACK = 'ip link set lo up && exec "$0" "$@"'


class DaemonError(AssertionError):
    """The daemon did not do what a daemon does; the text holds the end of its log."""


class Daemon:
    """A daemon of its own: start, stop, kill and start again over the same folder."""

    def __init__(
        self,
        folder: Path,
        *,
        config: Mapping[str, Any] | None = None,
        isolated: bool = True,
        network: str = "",
        program: Sequence[str] = (str(STOCKADE),),
    ) -> None:
        self.folder = folder
        self._program = program
        self.state = folder / "state"
        # Not below `folder`: a sandbox's root must be able to pass through every folder above the
        # bundles, and pytest's tmp_path lets nobody through. Its path is short, too, for a socket.
        self.runtime = Path(tempfile.mkdtemp(prefix="stockade-run-"))
        self.runtime.chmod(0o711)
        self.socket = self.runtime / "stockade.sock"
        self.config = folder / "config.yaml"
        self.log = folder / "daemon.log"
        self.address = f"unix://{self.socket}"
        self.isolated = isolated
        self.network = network
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Supervisor | None = None
        self._held = contextlib.ExitStack()
        self._footprint = Footprint(
            folders=(folder, self.runtime), cgroup=f"{PARENT_CGROUP}/{instance_of(self.state)}"
        )
        self.configure(config or {})

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write what the next start reads."""
        self.config.write_text(json.dumps(dict(config), indent=2) + "\n")  # JSON is YAML.

    @property
    def pid(self) -> int:
        """Give the process id of the running daemon."""
        assert self._process is not None, "the daemon was not started"
        return self._process.pid

    @property
    def client(self) -> Supervisor:
        """Give a client of this daemon, connected as the user that runs the tests."""
        if self._client is None:
            self._client = Supervisor(self.address)
        return self._client

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it serves.

        Raises:
            DaemonError: it ended, or did not serve within START_S.
        """
        command = [
            *self._program, "serve",
            "--config", str(self.config),
            "--state", str(self.state),
            "--runtime-dir", str(self.runtime),
            "--listen", self.address,
        ]  # fmt: skip
        if self.network:
            command = ["nsenter", f"--net={self.network}", *command]
        elif self.isolated:
            command = ["unshare", "--net", "sh", "-c", ONLY_LOOPBACK, *command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        if wait:
            self.wait_until_serving()

    def wait_until_serving(self, timeout_s: float = START_S) -> None:
        """Wait until health says SERVING.

        Raises:
            DaemonError: it ended, or did not serve in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.serving():
            if self._process is not None and self._process.poll() is not None:
                raise DaemonError(
                    f"the daemon ended with {self._process.returncode}\n{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise DaemonError(f"not serving after {timeout_s} s\n{self.tail()}")
            time.sleep(POLL_S)
        self._hold_namespaces()

    def _hold_namespaces(self) -> None:
        """Remember the daemon's namespaces, open: a number that is let go is soon another's."""
        # A network that was given is others' as well, and stays.
        given = {f"net:[{Path(self.network).stat().st_ino}]"} if self.network else set()
        found = namespaces(self.pid) - given
        self._footprint = self._footprint.with_namespaces(found)
        for name in found:
            path = f"/proc/{self.pid}/ns/{name.partition(':')[0]}"
            self._held.callback(os.close, os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def serving(self) -> bool:
        """Say whether it takes calls, by grpc.health.v1."""
        return bool(self.health() == health_pb2.HealthCheckResponse.SERVING)

    def answers(self) -> bool:
        """Say whether anybody answers at its address, whatever the answer."""
        return self.health() is not None

    def health(self) -> int | None:
        """Ask grpc.health.v1; None where nobody answers."""
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=2
                )
            except grpc.RpcError:
                return None
        return int(answer.status)

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Ask it to end, as systemd would, and give its exit code.

        Raises:
            DaemonError: it did not end in time; it is killed then.
        """
        self._disconnect()
        self.request_stop()
        return self.wait(timeout_s)

    def request_stop(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end, and do not wait."""
        assert self._process is not None, "the daemon was not started"
        self._process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for its end after `request_stop`, and give its exit code.

        Raises:
            DaemonError: it did not end in time; it is killed then.
        """
        code = self._wait(timeout_s)
        if code == -signal.SIGKILL:
            raise DaemonError(f"still there after {timeout_s} s\n{self.tail()}")
        return code

    def wait_ended(self, timeout_s: float = STOP_S) -> int:
        """Wait for its end, however it ends, and give its exit code or minus the signal."""
        self._disconnect()
        return self._wait(timeout_s)

    def _terminate(self, timeout_s: float) -> int:
        """Ask it to end, and end it where it does not; give the exit code or minus the signal."""
        self.request_stop()
        return self._wait(timeout_s)

    def _wait(self, timeout_s: float) -> int:
        assert self._process is not None, "the daemon was not started"
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """End it with SIGKILL: no clean-up of its own."""
        assert self._process is not None, "the daemon was not started"
        self._process.kill()
        self._process.wait()

    @property
    def alive(self) -> bool:
        """Say whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run `stockade ARGUMENTS` against this daemon; output is captured, no exit code fails."""
        return subprocess.run(
            [STOCKADE, *arguments],
            check=False, capture_output=True, timeout=options.pop("timeout", 120),
            env={**os.environ, "STOCKADE_ADDR": self.address}, **options,
        )  # fmt: skip

    def tail(self, lines: int = 40) -> str:
        """Give the end of the daemon's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def sandbox_processes(self) -> list[int]:
        """List the processes in any sandbox of this daemon."""
        hierarchies = cgroup.detect()
        return cgroup.Cgroup(hierarchies, self._footprint.cgroup).processes()

    def leftovers_of_calls(self) -> list[str]:
        """Name each process, cgroup and mount beside those of the running daemon itself."""
        return self._footprint.leftovers(beside=self.pid)

    def leftovers(self) -> list[str]:
        """Name each process, cgroup, mount and namespace of this daemon that is still there."""
        return self._footprint.leftovers()

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _clear(self) -> None:
        """Take away what a daemon that was killed has left. Nothing where it ended by itself: what
        such a daemon leaves is a test's to find, before this."""
        cgroup.Cgroup(cgroup.detect(), self._footprint.cgroup).destroy()
        pins = SandboxOptions(state=self.state, runtime=self.runtime).pins
        if pins.is_mount():
            mounts.unmount(pins)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._disconnect()
        if self.alive:
            # A test has failed: let the daemon clean up, so that the next test begins well.
            self._terminate(EXIT_S)
        self._clear()
        self._held.close()
        shutil.rmtree(self.runtime)
        if error is None:
            wrong = wrong_events(self.state)
            assert not wrong, "\n".join(wrong)


@contextlib.contextmanager
def running_daemon(
    *,
    config: Mapping[str, Any] | None = None,
    isolated: bool = True,
    network: str = "",
    folder: Path | None = None,
    program: Sequence[str] = (str(STOCKADE),),
) -> Iterator[Daemon]:
    """Run a daemon for the body of a `with`, and fail where it leaves anything behind.

    `config` is the daemon's configuration; without `callers` the user that runs the tests may do
    everything. A `folder` that is given is kept, another is made and removed. `program` is what
    takes the place of `stockade`.
    """
    own = Path(tempfile.mkdtemp(prefix="stockade-test-")) if folder is None else folder
    try:
        with Daemon(
            own, config=config, isolated=isolated, network=network, program=program
        ) as daemon:
            daemon.start()
            yield daemon
            if daemon.alive:
                code = daemon.stop()
                assert code == 0, f"the daemon ended with {code}\n{daemon.tail()}"
            left = daemon.leftovers()
            assert not left, "\n".join(left)
    finally:
        if folder is None:
            shutil.rmtree(own)
