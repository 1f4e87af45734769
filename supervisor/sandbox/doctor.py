"""Try every wall on this host: attack it from a real sandbox, and see the denial.

Being listed somewhere proves nothing. Each row is one attempt whose failure, and whose trace on
our side, was seen just now. What a supported host may lack is `absent` there, which is no failure
unless a profile requires it.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from supervisor.audit.store import Store
from supervisor.audit.verify import verify
from supervisor.call.events import Denied, Flow, Processes, ProgramStarted, Watched
from supervisor.call.types import CallRequest, InputFile
from supervisor.errors import StockadeError
from supervisor.linux import bcc
from supervisor.linux.fds import PIPE_BYTES
from supervisor.linux.process import ENVIRONMENT
from supervisor.oci.crun import Crun
from supervisor.profile.model import (
    Capture,
    EffectiveProfile,
    Image,
    ImageKind,
    Limits,
    RecordPolicy,
    SyscallPolicy,
    WritableMount,
)
from supervisor.profile.syscalls import expand_sets, members
from supervisor.profile.walls import HOST_WALLS
from supervisor.sandbox import doctor_egress
from supervisor.sandbox.fenced import Event
from supervisor.sandbox.host import SandboxHost, SandboxOptions
from supervisor.sandbox.places import find_cell
from supervisor.sandbox.sandbox import ProgramEnd, Sandbox

HOLDS, FAILS, ABSENT, NOT_TRIED = "holds", "fails", "absent", "not tried"
EGRESS = "egress by name"
WALLS = (
    "host", "new container per call", "syscalls", "socket families", "no way out", "fence", EGRESS,
    "identity", "files", "programs", "watched calls", "memory", "swap", "pids", Crun.NAME,
    *HOST_WALLS,
)  # fmt: skip
"""What is tried in sandboxes, in this order."""

PYTHON = "/usr/bin/python3"
ATTEMPT_TIMEOUT_S = 60.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One wall: whether it holds, what was seen, and what to do where it does not."""

    wall: str
    verdict: str
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of running a program in a sandbox."""

    output: str
    errors: str
    end: ProgramEnd
    denied: tuple[Denied, ...]
    flows: tuple[Flow, ...]
    watched: frozenset[str]
    programs: int
    oom_kills: int
    forks_refused: int
    limits: Mapping[str, int]


ATTACKS = r"""
import ctypes, json, os, shutil, socket
libc, seen = ctypes.CDLL(None, use_errno=True), {}
def attempt(name, what):
    try:
        seen[name] = ["done", str(what())]
    except OSError as error:
        seen[name] = ["refused", os.strerror(error.errno)]
def call(number, *arguments):
    if libc.syscall(number, *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")
attempt("unshare", lambda: call(272, 0x10000000))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("connect4", lambda: socket.create_connection(("203.0.113.9", 443), 2))
attempt("connect6", lambda: socket.create_connection(("2001:db8::9", 443), 2))
attempt("shadow", lambda: open("/etc/shadow").read())
attempt("write_usr", lambda: open("/usr/stockade-doctor", "w"))
attempt("write_root", lambda: open("/stockade-doctor", "w"))
shutil.copy("/usr/bin/true", "/work/copy"); os.chmod("/work/copy", 0o755)
attempt("exec_work", lambda: os.execv("/work/copy", ["copy"]))
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
seen["identity"] = [os.getuid(), int(lines["CapEff"], 16) | int(lines["CapBnd"], 16),
                    lines["NoNewPrivs"].strip()]
print(json.dumps(seen))
"""
ASKED = "getppid"
ASKS = "import os; os.getppid()"
FORKS = "import os,time\nfor _ in range(64):\n  os.fork() or time.sleep(9)\n"
MEMORY = "x = bytearray(1 << 30)"


def doctor(
    runtime: Path,
    cell: Path | None = None,
    *,
    required: Mapping[str, Sequence[str]] | None = None,
    path: str = ENVIRONMENT["PATH"],
) -> list[Row]:
    """Try every wall on this host; needs root and no daemon.

    Leaves nothing behind. What cannot be tried has a row that says so. `required` gives the
    profiles that require a wall of `HOST_WALLS`; BCC's tools are looked for in `path`.
    """
    guests = _bcc(path)
    with tempfile.TemporaryDirectory(prefix="stockade-doctor-") as folder:
        state = Path(folder)
        rows = [_record(state / "record")]
        try:
            host = SandboxHost(
                SandboxOptions(state=state, runtime=runtime, cell=cell or find_cell())
            )
        except StockadeError as error:
            failed = Row(wall="host", verdict=FAILS, detail=error.message, advice=error.hint)
            return [*_with_the_rest([failed]), *rows, guests]
        tried = asyncio.run(_try_walls(host, required or {}))
        return [*_with_the_rest(tried), *rows, guests]


def _with_the_rest(rows: Sequence[Row]) -> Iterator[Row]:
    """Give rows, and one for each wall that has none: something before it failed."""
    yield from rows
    failed = ", ".join(row.wall for row in rows if row.verdict == FAILS)
    for name in WALLS:
        if all(row.wall != name for row in rows):
            yield Row(
                wall=name, verdict=NOT_TRIED, detail=f"could not be, since this fails: {failed}"
            )


def _bcc(path: str) -> Row:
    """Look for what `stockade trace` needs; no wall rests on it."""
    known = [name for name, tool in bcc.tools(path).items() if bcc.mentions_option(tool)]
    lacks = list(bcc.kernel_lacks())
    if known and not lacks:
        return Row(wall="BCC tools", verdict=HOLDS, detail=f"stockade trace: {', '.join(known)}")
    missing = [] if known else ["none is installed: apt-get install bpfcc-tools"]
    return Row(
        wall="BCC tools", verdict=ABSENT,
        detail="stockade trace is of no use here; no wall needs it",
        advice="; ".join([*missing, *lacks]),
    )  # fmt: skip


def _host_walls(host: SandboxHost, required: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    """Say which walls are here that a host may lack. The guard tried itself when it was put in
    place; where the memory controller is decides about the other."""
    for name, state in host.walls().items():
        adds = HOST_WALLS[name].adds
        profiles = ", ".join(required.get(name, ()))
        if state.standing:
            yield Row(wall=name, verdict=HOLDS, detail=adds)
        elif profiles:
            yield Row(
                wall=name, verdict=FAILS, advice=state.hint,
                detail=f"{state.why}; calls are refused that profiles require it for: {profiles}",
            )  # fmt: skip
        else:
            yield Row(
                wall=name, verdict=ABSENT, detail=f"{state.why}; where it stands, {adds}",
                advice=state.hint,
            )  # fmt: skip


def _record(folder: Path) -> Row:
    async def write() -> None:
        store = Store.open(folder)
        try:
            store.check_admission(0)
            await store.note("doctor", {"pid": os.getpid()})
        finally:
            await store.close()

    try:
        asyncio.run(write())
        report = verify(folder)
    except StockadeError as error:
        return Row(wall="record", verdict=FAILS, detail=error.message, advice=error.hint)
    entries = "1 entry" if report.entries == 1 else f"{report.entries} entries"
    detail = f"{entries} written, synced and verified"
    return Row(wall="record", verdict=HOLDS if report.ok else FAILS, detail=detail)


async def _try_walls(host: SandboxHost, required: Mapping[str, Sequence[str]]) -> list[Row]:
    rows = [
        Row(wall="host", verdict=HOLDS, detail=f"{host.facts['kernel']}, {host.facts['runtime']}")
    ]
    try:
        host.open()
        try:
            attacks = await _attempt(host, ATTACKS, _profile())
            rows += _judge(attacks)
            rows.append(await _try_egress(host))
            asks = await _attempt(host, ASKS, _profile(watch={ASKED}))
            told = ASKED in asks.watched and not attacks.watched and not host.fence.watches_syscalls
            rows.append(_holds("watched calls", told, f"{ASKED} told where asked for, only there"))
            memory = await _attempt(host, MEMORY, _profile())
            rows.append(_holds("memory", memory.oom_kills > 0, "1 GiB asked of 64 MiB: OOM kill"))
            both = memory.limits["memory_and_swap"]
            rows.append(_holds("swap", both <= 64 * MIB, f"memory and swap: {both >> 20} MiB"))
            forks = await _attempt(host, FORKS, _profile())
            rows.append(_holds("pids", forks.forks_refused > 0, "the 17th process was refused"))
            rows.append(await _try_crun(host, required.get(Crun.NAME, ())))
            rows += _host_walls(host, required)
        finally:
            await host.end_brokers()
            host.close()
    except (StockadeError, OSError, TimeoutError, ValueError) as error:
        hint = error.hint if isinstance(error, StockadeError) else ""
        rows.append(
            Row(wall="new container per call", verdict=FAILS, detail=str(error), advice=hint)
        )
    return rows


async def _try_egress(host: SandboxHost) -> Row:
    base = _profile()
    profile = replace(
        base,
        egress=doctor_egress.RULES,
        limits=replace(base.limits, egress_bytes=doctor_egress.EGRESS_BYTES),
        syscalls=_policy(doctor_egress.SETS),
        digest="doctor egress",
    )
    tried = await _attempt(host, doctor_egress.PROGRAM, profile)
    _require_done(tried)
    faults = doctor_egress.faults(json.loads(tried.output), tried.denied, tried.flows)
    detail = "names of the profile alone are answered, connected to, and held to what was asked for"
    return _holds(EGRESS, not faults, "; ".join(faults) or detail)


async def _try_crun(host: SandboxHost, profiles: Sequence[str]) -> Row:
    """Run the attacks in crun, where it is here, which nobody has to have who names it nowhere."""
    state = host.runtimes()[Crun.NAME]
    if state.standing:
        attacks = await _attempt(host, ATTACKS, replace(_profile(), runtime=Crun.NAME))
        open_walls = [row.wall for row in _judge(attacks) if row.verdict != HOLDS]
        if not open_walls:
            return Row(wall=Crun.NAME, verdict=HOLDS, detail=f"{state.why}: the same attacks")
        said = f"open in {state.why}: {', '.join(open_walls)}"
        return Row(wall=Crun.NAME, verdict=FAILS, detail=said, advice="runtime: runc")
    refused = f"; calls are refused of the profiles that name it: {', '.join(profiles)}"
    return Row(
        wall=Crun.NAME,
        verdict=FAILS if profiles else ABSENT,
        detail=state.why + (refused if profiles else "; no wall needs it"),
        advice=state.hint,
    )


def _judge(attempt: Attempt) -> Iterator[Row]:
    _require_done(attempt)
    seen = json.loads(attempt.output)
    told = {denied.name for denied in attempt.denied}
    yield _holds(
        "new container per call", True, "created, read back, started, destroyed: namespaces, cgroup"
    )
    refused = seen["unshare"][0] == "refused" and "unshare" in told
    yield _holds("syscalls", refused, f"unshare: {seen['unshare'][1]}, and seen by us")
    family = seen["packet"][0] == "refused" and "socket" in told
    yield _holds("socket families", family, f"AF_PACKET: {seen['packet'][1]}, and seen by us")
    way_out = seen["connect4"][0] == seen["connect6"][0] == "refused" and "connect" in told
    yield _holds("no way out", way_out, f"connect: {seen['connect4'][1]}, and seen by us")
    # Before the program ran, a canary in its cgroup had to be denied and told: see `try_fence`.
    yield _holds(
        "fence", attempt.programs > 1, "probes attached and pinned; a canary denied; programs seen"
    )
    uid, capabilities, no_new_privs = seen["identity"]
    identity = uid != 0 and capabilities == 0 and no_new_privs == "1"
    yield _holds("identity", identity, f"uid {uid}, capabilities {capabilities:#x}")
    files = [seen[name][0] for name in ("shadow", "write_usr", "write_root")]
    yield _holds("files", set(files) == {"refused"}, "no /etc/shadow, nothing of /usr to write")
    yield _holds(
        "programs", seen["exec_work"][0] == "refused", f"exec from /work: {seen['exec_work'][1]}"
    )


def _require_done(attempt: Attempt) -> None:
    if attempt.end != ProgramEnd(what="exit", value=0):
        said = attempt.errors.strip().splitlines()[-1:]
        raise StockadeError(
            "DOCTOR_FAILED", f"the attacks could not be tried: {attempt.end} {said}"
        )


def _holds(wall: str, holds: bool, detail: str) -> Row:
    if holds:
        return Row(wall=wall, verdict=HOLDS, detail=detail)
    return Row(
        wall=wall,
        verdict=FAILS,
        detail=f"expected: {detail}",
        advice="do not run untrusted calls here; report it with the output of --json",
    )


async def _attempt(host: SandboxHost, code: str, profile: EffectiveProfile) -> Attempt:
    denied: list[Denied] = []
    processes: list[Processes] = []
    flows: list[Flow] = []
    watched: set[str] = set()

    def note(events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Denied):
                denied.append(event)
            elif isinstance(event, Processes):
                processes.append(event)
            elif isinstance(event, Watched):
                watched.add(event.name)
            elif isinstance(event, Flow):
                flows.append(event)

    request = CallRequest(
        request_id="doctor", profile=profile.name, argv=(PYTHON.encode(), b"-c", code.encode())
    )
    call_id = f"doctor-{os.urandom(4).hex()}"
    sandbox = Sandbox(host, call_id, profile, request, note, _lose)
    try:
        await sandbox.prepare(_no_files)
        sandbox.arm()
        await sandbox.try_fence()
        await sandbox.start()
        sandbox.close_stdin()
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                end = await _until_end_or_limit(sandbox)
        except TimeoutError:
            raise StockadeError(
                "DOCTOR_FAILED", f"what was tried did not end in {ATTEMPT_TIMEOUT_S:.0f} s"
            ) from None
        await sandbox.quiesce()
        denied += sandbox.socket_denials()
        return Attempt(
            output=_read(sandbox.stdout_fd),
            errors=_read(sandbox.stderr_fd),
            end=end,
            denied=tuple(denied),
            flows=tuple(flows),
            watched=frozenset(watched),
            programs=sum(
                isinstance(one, ProgramStarted) for event in processes for one in event.events
            ),
            oom_kills=sandbox.cgroup.oom_kills(),
            forks_refused=sandbox.cgroup.pids_refused(),
            limits=sandbox.cgroup.limits(),
        )
    finally:
        sandbox.destroy()


async def _until_end_or_limit(sandbox: Sandbox) -> ProgramEnd:
    ended = asyncio.ensure_future(sandbox.ended())
    while not ended.done():
        await asyncio.wait([ended], timeout=0.05)
        if sandbox.cgroup.pids_refused() or sandbox.cgroup.oom_kills():
            sandbox.kill()
    return await ended


def _read(fd: int) -> str:
    """Read what is in a pipe that nobody writes to any more."""
    return os.read(fd, PIPE_BYTES).decode(errors="replace")


def _lose(count: int) -> None:
    raise StockadeError("DOCTOR_FAILED", f"{count} denials could not be read")


def _no_files(file: InputFile) -> Iterator[bytes]:
    raise ValueError(f"the doctor hands in no files: {file.path!r}")


def _profile(watch: Collection[str] = ()) -> EffectiveProfile:
    capture = Capture(mode="full")
    return EffectiveProfile(
        name="doctor",
        lineage=("doctor",),
        why="Try the walls of this host.",
        require=(),
        runtime="runc",
        image=Image(kind=ImageKind.HOST),
        read=(),
        write=(WritableMount(path="/work", size_bytes=8 * MIB),),
        syscalls=replace(_policy(["@default"]), watch=frozenset(watch)),
        env={"PATH": "/usr/bin:/bin"},
        limits=Limits(
            wall_s=10, cpu_s=10, memory_bytes=64 * MIB, pids=16, files=64, output_bytes=MIB
        ),
        record=RecordPolicy(stdin=capture, stdout=capture, stderr=capture),
        mode="enforce",
        canonical=b"{}",
        digest="doctor",
        lines=(),
    )


def _policy(sets: Sequence[str]) -> SyscallPolicy:
    allow = frozenset[str]().union(*map(members, sets))
    return SyscallPolicy(allow=allow, kill=frozenset(), sets=frozenset(expand_sets(sets)))
