"""One call's sandbox: every resource of it is an entry on one stack.

prepare   ids · root folder · bundle · pipes · runtime create · notify descriptor · files
arm       the walls are read back
start     the program is let go
kill      the whole cgroup, whenever
destroy   the stack unwinds in reverse, however far it got
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from supervisor.call.about import of_call
from supervisor.call.events import Denied, Wall
from supervisor.call.types import CallRequest, Digest, InputFile
from supervisor.errors import HostError, InvariantError, RuntimeFailed
from supervisor.linux import process
from supervisor.linux.cgroup import KILL_ROUNDS_MAX
from supervisor.linux.fds import PIPE_BYTES, make_pipe, wait_readable
from supervisor.linux.host import filter_knows
from supervisor.linux.netns import NetlinkBuffers
from supervisor.linux.terminal import open_terminal, set_size
from supervisor.oci.runtime import StandardFds
from supervisor.oci.spec import MASKED, SHM_PATH, Program, SandboxPlaces, build_spec
from supervisor.profile.model import EffectiveProfile
from supervisor.sandbox.arm import read_back, socket_bytes
from supervisor.sandbox.denials import DenialWatcher
from supervisor.sandbox.door import CallDoor
from supervisor.sandbox.fenced import CallFence, Event, asked_of
from supervisor.sandbox.files import Collected, collect_outputs, place_inputs
from supervisor.sandbox.host import SandboxHost

STATUS_BYTES_MAX = 128
READY = "ready\n"
WORK = "/work"
KILL_POLL_S = 0.002
KILL_POLLS_MAX = 5000
KILL_AGAIN_ROUNDS = 20
COLLECT_S = 20.0
NETLINK_SET = "@network-io"
MASKED_FILES = tuple(path for path in MASKED if Path(path).is_file())

log = logging.getLogger("stockade.sandbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramEnd:
    """How the program ended by `cell`'s word: "exit", "signal", "chdir", "exec", "terminal";
    without one "killed" where the init was ended, "init" where it ended by itself before the
    program ran. `value` is a code, a signal or an errno."""

    what: str
    value: int
    core_dumped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """A writable mount: what is used of it and what is allowed, in bytes and in files; `full` and
    `files_full` say whether there is no more of one."""

    path: str
    used: int
    allowed: int
    full: bool
    files: int = 0
    files_allowed: int = 0
    files_full: bool = False


class Sandbox:
    """A sandbox for one call. Never reused."""

    def __init__(
        self,
        host: SandboxHost,
        call_id: str,
        profile: EffectiveProfile,
        request: CallRequest,
        tell: Callable[[Sequence[Event]], None],
        lose: Callable[[int], None],
    ) -> None:
        self._host = host
        self._runtime = host.runtime(profile.runtime)
        self._call_id = call_id
        self._profile = profile
        self._request = request
        self._tell = tell
        self._lose = lose
        self._stack = contextlib.ExitStack()
        self._stopped = threading.Event()
        self._hurried = threading.Event()
        self._stays = False
        self._failure: Exception | None = None
        self._pid = 0
        self._pidfd = -1
        self._status_fd = -1
        self._master_fd = -1
        self._ready: asyncio.Task[None] | None = None
        self._uid_base = 0
        self._work_fd = -1
        self._mounts: dict[str, int] = {}
        self._writable: list[tuple[int, bool]] = []
        self._fenced: CallFence | None = None
        self._door: CallDoor | None = None
        self._secrets = host.secrets()
        self._netlink: NetlinkBuffers | None = None
        self._watcher: DenialWatcher | None = None
        self.cgroup = host.cgroup(call_id)
        self.stdin_fd = -1
        self.stdout_fd = -1
        self.stderr_fd = -1

    async def read_secrets(self) -> dict[str, bytes]:
        """Read the secrets of the profile; give the values by name, of those that can be had.

        Whatever is wrong keeps the call from starting: `prepare` says so.
        """
        return await self._secrets.known({use.name for use in self._profile.secrets})

    async def prepare(self, content: Callable[[InputFile], Iterator[bytes]]) -> None:
        """Build everything; the program waits before its first instruction afterwards.

        Raises:
            StockadeError: something cannot be had; call `destroy` then as well.
        """
        self._require_known_kills()
        self._uid_base = self._stack.enter_context(self._host.uids.lease())
        if self._profile.egress:
            self._door = self._host.door(
                self._call_id, self._profile, self._uid_base, self._secrets
            )
            await self._door.prepare()
        bundle = self._make_bundle()
        await self._let_in()
        self._host.listener.expect(self._call_id)
        self._stack.callback(self._host.listener.forget, self._call_id)
        await self._create(bundle)
        self._open_terminal()
        notify_fd = await self._host.listener.take(self._call_id, self._pidfd)
        try:
            self._watcher = DenialWatcher(
                notify_fd, self._pid, self._profile.syscalls, self._tell, self._lose, self._fail
            )
        except BaseException:
            os.close(notify_fd)
            raise
        self._stack.callback(self._watcher.close)
        try:
            with contextlib.suppress(FileNotFoundError):  # Not its cgroup: arming says so.
                self.cgroup.bound_sockets(socket_bytes(self._profile))
            self._hold_mounts()
            if NETLINK_SET in self._profile.syscalls.sets:
                self._netlink = NetlinkBuffers(self._pid)
                self._stack.callback(self._netlink.close)
            if self._door is not None:
                self._stack.callback(self._door.close)
                await self._door.open(self._pid, self._tell, self._fail)
        except OSError as error:
            # A call may be killed at any moment, also while its sandbox is being built.
            raise RuntimeFailed(
                "SANDBOX_GONE", f"the sandbox ended while it was being prepared: {error}"
            ) from error
        if self._request.files:
            await asyncio.get_running_loop().run_in_executor(
                self._host.files, self._place_inputs, content
            )
            if self._stopped.is_set():
                raise RuntimeFailed("STOPPED", "the call was stopped while it was being prepared")
        # What was handed in can be large, and the call may live for long.
        self._request = replace(self._request, files=(), stdin=b"")

    async def _let_in(self) -> None:
        """Make the call's cgroup and let it through the fence, before anything lives in it."""
        identity = self.cgroup.make()
        self._stack.callback(self._remove_cgroup)
        watch = await self._host.fence.watch(identity, asked_of(self._profile.syscalls))
        self._fenced = CallFence(
            self._host.fence,
            self.cgroup.unified,
            watch,
            self._uid_base,
            self._profile.mode,
            gated=self._runtime.GATED,
            named=self._door.named if self._door is not None else None,
        )
        self._stack.callback(self._fenced.close)
        if self._door is not None:
            self._door.let(identity)

    def _place_inputs(self, content: Callable[[InputFile], Iterator[bytes]]) -> None:
        files = itertools.takewhile(lambda _: not self._stopped.is_set(), self._request.files)
        place_inputs(self._work_fd, files, self._uid_base, content)

    def _require_known_kills(self) -> None:
        unknown = sorted(name for name in self._profile.syscalls.kill if not filter_knows(name))
        if unknown:
            raise HostError(
                "SYSCALL_UNKNOWN_HERE",
                f"syscalls.kill: this host's libseccomp does not know {', '.join(unknown)}",
                hint="they are denied without being listed; take them out of syscalls.kill",
            )

    def _make_bundle(self) -> Path:
        root = self._host.roots.path(self._profile)
        bundle = self._host.folder / "bundles" / self._call_id
        bundle.mkdir(mode=0o700, parents=True)
        self._stack.callback(shutil.rmtree, bundle)
        places = SandboxPlaces(
            call_id=self._call_id,
            root=os.fspath(root),
            devices=os.fspath(self._host.devices),
            cgroup=f"/{self.cgroup.path}",
            cell=os.fspath(self._host.cell),
            listener=os.fspath(self._host.listener.path),
            uid_base=self._uid_base,
            gate=self._runtime.GATED,
            plain=frozenset(
                entry.path for entry in self._profile.read if not Path(entry.path).is_dir()
            ),
            covered=MASKED_FILES if self._runtime.BINDS_NULL else (),
            authorities=self._door.write_authorities(bundle) if self._door is not None else "",
            terminal=self._request.terminal is not None,
        )
        terminal = self._request.terminal
        kind = {} if terminal is None else {"TERM": terminal.term.encode()}
        environment = {name: value.encode() for name, value in self._profile.env.items()}
        ours = self._door.environment() if self._door is not None else {}
        program = Program(
            argv=self._request.argv,
            env={**kind, **environment, **self._request.env, **ours},
            working_directory=self._request.working_directory,
        )
        spec = build_spec(self._profile, places, program)
        (bundle / "config.json").write_text(json.dumps(spec))
        return bundle

    async def _create(self, bundle: Path) -> None:
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            pipes = [make_pipe(), make_pipe(PIPE_BYTES), make_pipe(PIPE_BYTES), make_pipe()]
            stdin, stdout, stderr, status = pipes
            for fd in (stdin.write, stdout.read, stderr.read, status.read):
                ours.callback(os.close, fd)
                os.set_blocking(fd, False)
            for fd in (stdin.read, stdout.write, stderr.write, status.write):
                theirs.callback(os.close, fd)
            self._stack.callback(self._runtime.remove, self._call_id)
            self._stack.callback(self._forget_init)
            self._stack.callback(self._remove_cgroup)
            fds = StandardFds(
                stdin=stdin.read, stdout=stdout.write, stderr=stderr.write, status=status.write
            )
            self._pid = await self._runtime.create(self._call_id, bundle, fds)
            ours.pop_all()
        self.stdin_fd, self.stdout_fd, self.stderr_fd = stdin.write, stdout.read, stderr.read
        self._status_fd = status.read
        for fd in (self.stdout_fd, self.stderr_fd, self._status_fd):
            self._stack.callback(os.close, fd)
        self._stack.callback(self.close_stdin)
        try:
            self._pidfd = process.adopt(self._pid)
        except ProcessLookupError as error:
            raise RuntimeFailed("SANDBOX_GONE", "the sandbox ended as it was created") from error
        self._stack.callback(os.close, self._pidfd)

    def _open_terminal(self) -> None:
        """Let the program's streams be a terminal, where one was asked for.

        The pipes stay: the container's init had to have some, and its last words come through the
        one for errors. The program does not get them.

        Raises:
            RuntimeFailed: `TERMINAL_NOT_PRIVATE`, `SANDBOX_GONE`.
        """
        asked = self._request.terminal
        if asked is None:
            return
        folder = Path(f"/proc/{self._pid}/root/dev/pts")
        try:
            pair = open_terminal(folder, rows=asked.rows, columns=asked.columns)
        except OSError as error:
            raise RuntimeFailed("SANDBOX_GONE", f"no terminal can be made: {error}") from error
        for fd in (pair.master, pair.peer):
            self._stack.callback(os.close, fd)
        self.close_stdin()
        self.stdin_fd = os.dup(pair.master)
        self.stdout_fd = self._master_fd = pair.master

    def resize_terminal(self, rows: int, columns: int) -> None:
        """Give the program's terminal another size; there has to be one."""
        set_size(self._master_fd, rows=rows, columns=columns)

    def _hold_mounts(self) -> None:
        """Keep the writable mounts within reach after the sandbox's last process is gone."""
        for mount in self._profile.write:
            path = f"/proc/{self._pid}/root{mount.path}"
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._stack.callback(os.close, fd)
            self._mounts[mount.path] = fd
            self._writable.append((os.fstat(fd).st_dev, mount.exec))
        self._writable.append((Path(f"/proc/{self._pid}/root{SHM_PATH}").stat().st_dev, False))
        self._work_fd = self._mounts[WORK]

    def arm(self) -> None:
        """Read the walls back.

        Raises:
            HostError: `WALL_NOT_STANDING`.
        """
        if self._watcher is None:
            raise InvariantError("ARM_BEFORE_PREPARE", "there is nothing to read back")
        read_back(self._pid, self._profile, self.cgroup, self._uid_base)
        if self._door is not None:
            self._door.require()

    async def try_fence(self) -> None:
        """See that the fence stands around the call's cgroup, and the guard where there is one;
        from then on its events are told.

        Raises:
            HostError: `WALL_NOT_STANDING`.
        """
        if self._fenced is None:
            raise InvariantError("ARM_BEFORE_PREPARE", "there is nothing to read back")
        self._fenced.guard(self._writable)
        await self._fenced.try_canary(self._host.canary)
        self._fenced.tell(self._tell, self._fail)

    async def start(self) -> None:
        """Let the program go.

        Raises:
            RuntimeFailed: `OCI_START_FAILED`.
        """
        await self._runtime.start(self._call_id, self._pidfd)

    async def ready(self) -> None:
        """Wait until the init passes signals on to the program, or is gone: see cell.c."""
        if self._ready is None:
            # One for all who wait: the loop keeps one reader for each descriptor.
            self._ready = asyncio.ensure_future(wait_readable(self._status_fd))
        await asyncio.shield(self._ready)

    async def ended(self) -> ProgramEnd:
        """Wait until the sandbox's init is gone; give how the program ended."""
        status = await process.wait(self._pidfd)
        try:
            line = os.read(self._status_fd, STATUS_BYTES_MAX).decode("ascii", "replace")
        except BlockingIOError:
            line = ""
        return _parse_end(line, status)

    def signal(self, number: int) -> bool:
        """Send a signal to the program; say whether the sandbox was still there."""
        if number == 9:
            self.kill()
            return True
        return process.send_signal(self._pidfd, number)

    def _fail(self, error: Exception) -> None:
        """End a call whose walls cannot tell everything any more; `quiesce` raises why."""
        log.error(
            "call %s: what was denied cannot be told",
            self._call_id, exc_info=error, extra=of_call(self._call_id),
        )  # fmt: skip
        self._failure = self._failure or error
        self.stop()

    def stop(self) -> None:
        """Kill every process of the call, and give up what is still being prepared."""
        self._stopped.set()
        self.kill()

    def kill(self) -> None:
        """Kill every process of the call at once."""
        self.cgroup.kill()

    def close_stdin(self) -> None:
        """Close standard input; more than once does no harm."""
        if self.stdin_fd >= 0:
            os.close(self.stdin_fd)
            self.stdin_fd = -1

    def disk_use(self) -> list[DiskUse]:
        """Tell how full the writable mounts are."""
        found = []
        for mount in self._profile.write:
            status = os.fstatvfs(self._mounts[mount.path])
            used = (status.f_blocks - status.f_bfree) * status.f_frsize
            found.append(
                DiskUse(
                    path=mount.path,
                    used=used,
                    allowed=mount.size_bytes,
                    full=status.f_bavail == 0,
                    files=status.f_files - status.f_ffree,
                    files_allowed=status.f_files,
                    files_full=status.f_files > 0 and status.f_favail == 0,
                )
            )
        return found

    def netlink_use(self) -> tuple[int, int]:
        """Give how many netlink sockets there are, and what they hold in bytes."""
        return self._netlink.held() if self._netlink is not None else (0, 0)

    def socket_denials(self) -> Iterator[Denied]:
        """Tell that sockets filled their buffers."""
        used, allowed = self.cgroup.sockets_peak(), socket_bytes(self._profile)
        if used >= allowed:
            yield Denied(
                wall=Wall.LIMIT,
                name="memory",
                detail="socket buffers",
                used=used,
                allowed=allowed,
                rule="limits.memory",
            )

    def collect(
        self, patterns: Iterable[str], store: Callable[[Iterator[bytes]], Digest]
    ) -> Collected:
        """Store the output files; every process of the call must be dead. Blocks, not for longer
        than COLLECT_S by the names that it looks at, and not after `hurry`."""
        if self._work_fd < 0:
            return Collected([], [])
        size_bytes_max = sum(mount.size_bytes for mount in self._profile.write)
        end_s = time.monotonic() + COLLECT_S

        def go_on() -> bool:
            return not self._hurried.is_set() and time.monotonic() < end_s

        return collect_outputs(self._work_fd, patterns, size_bytes_max, store, go_on)

    def hurry(self) -> None:
        """Let `collect` come to its end."""
        self._hurried.set()

    @property
    def denials(self) -> int:
        """Count denied system calls."""
        return self._watcher.count if self._watcher is not None else 0

    async def quiesce(self) -> None:
        """Kill what is left and wait until the cgroup is empty; then tell the last denials.

        Raises:
            RuntimeFailed: `SANDBOX_STAYS`: a process cannot be ended.
            Exception: what ended the call, where a wall could not tell everything.
        """
        for _ in range(KILL_POLLS_MAX):
            self.kill()
            if not self.cgroup.populated():
                break
            await asyncio.sleep(KILL_POLL_S)
        else:
            self._stays = True
            raise RuntimeFailed("SANDBOX_STAYS", f"processes of {self._call_id} cannot be ended")
        if self._watcher is not None:
            self._watcher.close()
        if self._door is not None:
            # Who stops a call stops what it sends.
            await self._door.finish(drain=not self._stopped.is_set())
        if self._fenced is not None:
            self._fenced.finish()
        if self._failure is not None:
            raise self._failure

    def destroy(self) -> None:
        """Take everything down, in reverse order. Safe at any stage, and more than once."""
        self._stack.close()

    def _remove_cgroup(self) -> None:
        # This is the event loop's thread: what was waited for once is hardly waited for again.
        self.cgroup.destroy(KILL_AGAIN_ROUNDS if self._stays else KILL_ROUNDS_MAX)

    def _forget_init(self) -> None:
        process.disown(self._pid)
        process.reap_strangers()


def _parse_end(line: str, status: int) -> ProgramEnd:
    """Read cell's word; where there is none, the init was killed, or the runtime's init failed."""
    words = line.removeprefix(READY).split()
    known = {"exit": 2, "signal": 3, "chdir": 2, "exec": 2, "terminal": 2}
    if words and known.get(words[0]) == len(words) and all(w.isdecimal() for w in words[1:]):
        core = len(words) == 3 and words[2] == "1"
        return ProgramEnd(what=words[0], value=int(words[1]), core_dumped=core)
    if status >= 0:
        return ProgramEnd(what="init", value=status)
    return ProgramEnd(what="killed", value=-status)
