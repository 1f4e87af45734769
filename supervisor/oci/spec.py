"""From an effective profile and one sandbox's places to an OCI spec (config.json). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supervisor.call.events import CELL_PATH
from supervisor.call.types import ARG_BYTES_MAX, Json
from supervisor.errors import InvalidRequest
from supervisor.oci.seccomp import compile_seccomp
from supervisor.profile.model import EffectiveProfile, ImageKind, WritableMount

OCI_VERSION = "1.0.2"
UID = 1000
GID = 1000
ID_RANGE = 65536
CELL_PREFIX = "CELL_"
AUTHORITIES_PATH = "/etc/ssl/certs/ca-certificates.crt"
"""Where programs on Debian look for the authorities that they trust."""

AUTHORITIES_ENV = (
    "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
"""Where other programs do: OpenSSL and so Python's ssl, curl's library, requests, git, Node."""

STATUS_FD = 3
"""The first descriptor that the runtime's --preserve-fds passes on."""

TERMINAL_PATH = "/dev/pts/0"
"""The program's terminal, where it has one: the first of the sandbox's own devpts."""

GATE_FD = 4
"""The second, where the runtime has its init wait there: see `SandboxPlaces`."""

CPU_SHARES = 256
"""A quarter of the default weight: a busy sandbox never starves the daemon that watches it."""

OOM_SCORE = 800
"""Raising is always allowed; the sandbox goes before anything of the host does."""

CELL_ARGV_BYTES_MAX = 2_000_000
"""Just below a quarter of the usual stack limit of 8 MiB, which bounds argv (execve(2))."""

POINTER_AND_NUL_BYTES = 9

SHM_PATH = "/dev/shm"  # noqa: S108 (the sandbox's own)
SHM_BYTES = 16 << 20
PTS_OPTIONS = (
    "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", f"uid={UID}", f"gid={GID}",
)  # fmt: skip
"""Whoever makes a terminal there, the daemon too, makes it for the sandbox's user."""

HIDING = ("bind", "ro", "nosuid", "noexec", "rprivate")
PTYS_MAX = 64
"""Pseudo-terminals are counted for the whole host (kernel.pty.max)."""

PAGE_BYTES = 4096
INODES_MIN = 1024

MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/buddyinfo", "/proc/cmdline", "/proc/config.gz",
    "/proc/diskstats", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/key-users",
    "/proc/keys", "/proc/latency_stats", "/proc/locks", "/proc/modules", "/proc/partitions",
    "/proc/sched_debug", "/proc/scsi", "/proc/slabinfo", "/proc/timer_list",
    "/proc/timer_stats", "/proc/vmallocinfo",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
NAMESPACES = ("pid", "ipc", "uts", "mount", "network", "cgroup", "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxPlaces:
    """Where one sandbox lives: what differs between two calls under the same profile.

    `uid_base` is the first of 65536 host ids that are this sandbox's own. With `gate`, cell waits
    for a word on GATE_FD before it starts the program. `plain` are those of the profile's host
    paths that are no folders, `covered` those of MASKED that the runtime would hide behind the
    host's own /dev/null. `authorities` is a file of those that this
    sandbox trusts, "" where they are its image's. With `terminal`, cell gives the program
    TERMINAL_PATH.
    """

    call_id: str
    root: str
    devices: str
    cgroup: str
    cell: str
    listener: str
    uid_base: int
    gate: bool = False
    plain: frozenset[str] = frozenset()
    covered: tuple[str, ...] = ()
    authorities: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What the sandbox runs; any bytes but NUL."""

    argv: Sequence[bytes]
    env: Mapping[str, bytes]
    working_directory: bytes

    def for_cell(self) -> tuple[list[Json], list[Json]]:
        """Give the arguments and the environment of `cell`, from which it makes the program's.

        Both may hold %XX for a byte (cell/cell.c). The environment does not go into arguments:
        those of any process can be read by every user of the host.

        Raises:
            InvalidRequest: `ARGV_TOO_LONG`, where they are longer in this form than Linux takes.
        """
        arguments: list[str] = [
            escape(self.working_directory),
            *(escape(argument) for argument in self.argv),
        ]
        variables: list[str] = [
            f"{CELL_PREFIX}{name}={escape(value)}" for name, value in self.env.items()
        ]
        lengths = [len(text.encode()) for text in (*arguments, *variables)]
        total = sum(lengths) + len(lengths) * POINTER_AND_NUL_BYTES
        if max(lengths) > ARG_BYTES_MAX or total > CELL_ARGV_BYTES_MAX:
            raise InvalidRequest(
                "ARGV_TOO_LONG",
                "argv and env are too long: '%' and bytes that are not UTF-8 count three times",
                hint="hand large input over in stdin or in files",
            )
        return list(arguments), list(variables)


def escape(data: bytes) -> str:
    """Give bytes as text that JSON can carry: '%' and what is not UTF-8 become %XX."""
    characters = data.replace(b"%", b"%25").decode(errors="surrogateescape")
    if characters.isascii():
        return characters
    return "".join(
        f"%{ord(one) - 0xDC00:02X}" if 0xDC80 <= ord(one) <= 0xDCFF else one for one in characters
    )


def build_spec(
    profile: EffectiveProfile, places: SandboxPlaces, program: Program
) -> dict[str, Json]:
    """Give the OCI spec of one sandbox."""
    return {
        "ociVersion": OCI_VERSION,
        "hostname": "sandbox",
        "root": {"path": places.root, "readonly": True},
        "process": _process(profile, program, places),
        "mounts": _mounts(profile, places),
        "linux": {
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "uidMappings": [_mapping(places.uid_base)],
            "gidMappings": [_mapping(places.uid_base)],
            "cgroupsPath": places.cgroup,
            "resources": _resources(profile),
            "seccomp": compile_seccomp(profile.syscalls, places.listener, places.call_id),
            "maskedPaths": [path for path in MASKED if path not in places.covered],
            "readonlyPaths": list(READ_ONLY),
            "rootfsPropagation": "private",
        },
    }


def _mapping(uid_base: int) -> Json:
    return {"containerID": 0, "hostID": uid_base, "size": ID_RANGE}


def _process(profile: EffectiveProfile, program: Program, places: SandboxPlaces) -> Json:
    limits = {"RLIMIT_NOFILE": profile.limits.files, "RLIMIT_CORE": 1}
    arguments, environment = program.for_cell()
    ours = f"{STATUS_FD},{GATE_FD}" if places.gate else str(STATUS_FD)
    ours += f":{TERMINAL_PATH}" if places.terminal else ""
    return {
        "terminal": False,
        "user": {"uid": UID, "gid": GID, "umask": 0o022},
        "args": [CELL_PATH, ours, *arguments],
        "env": environment,
        "cwd": "/",
        "capabilities": {name: [] for name in CAPABILITY_SETS},
        "noNewPrivileges": True,
        "oomScoreAdj": OOM_SCORE,
        # A core limit of 1 is the value that also keeps a piped core_pattern from running on the
        # host (fs/coredump.c).
        "rlimits": [{"type": kind, "hard": value, "soft": value} for kind, value in limits.items()],
    }


def _resources(profile: EffectiveProfile) -> Json:
    return {
        "memory": {"limit": profile.limits.memory_bytes, "swap": profile.limits.memory_bytes},
        "pids": {"limit": profile.limits.pids},
        "cpu": {"shares": CPU_SHARES},
        "devices": [{"allow": False, "access": "rwm"}],
    }


def _mounts(profile: EffectiveProfile, places: SandboxPlaces) -> list[Json]:
    mounts: list[Json] = [
        # Read-only: through /proc/PID/mem a process could change what another's argv is seen to be.
        _mount("/proc", "proc", ["nosuid", "noexec", "nodev", "ro"]),
        # A /dev that is bound is left as it is by the runtime, which would else bind the host's
        # nodes into it, writable (libcontainer, needsSetupDev).
        _mount("/dev", "bind", ["bind", "ro", "nosuid", "noexec", "rprivate"], places.devices),
        _mount("/dev/pts", "devpts", [*PTS_OPTIONS, f"max={PTYS_MAX}"]),
        _tmpfs(WritableMount(path=SHM_PATH, size_bytes=SHM_BYTES)),
        _bind_file(places.cell, CELL_PATH),
        *(_mount(path, "bind", HIDING, f"{places.devices}/null") for path in places.covered),
    ]
    if profile.image.kind is ImageKind.HOST:
        mounts.append(_bind("/usr", "/usr"))
    if places.authorities:
        mounts.append(_bind_file(places.authorities, AUTHORITIES_PATH))
    for entry in profile.read:
        bind = _bind_file if entry.path in places.plain else _bind
        mounts.append(bind(entry.path, entry.path))
    # Parents before children, so that a mount never hides one below it.
    mounts += [_tmpfs(mount) for mount in sorted(profile.write, key=lambda mount: mount.path)]
    return mounts


def _mount(destination: str, kind: str, options: Sequence[str], source: str = "") -> Json:
    return {
        "destination": destination,
        "type": kind,
        "source": source or kind,
        "options": list(options),
    }


def _bind(source: str, destination: str) -> Json:
    # "rro" reaches the mounts below as well, which "ro" alone does not (mount_setattr(2)).
    options = ["rbind", "ro", "rro", "nosuid", "nodev", "rprivate"]
    return {"destination": destination, "type": "bind", "source": source, "options": list(options)}


def _bind_file(source: str, destination: str) -> Json:
    # Nothing can be mounted below a file, and crun makes only folders recursively read-only.
    options = ["bind", "ro", "nosuid", "nodev", "rprivate"]
    return {"destination": destination, "type": "bind", "source": source, "options": list(options)}


def _tmpfs(mount: WritableMount) -> Json:
    inodes = max(INODES_MIN, mount.size_bytes // PAGE_BYTES)
    owner = [f"uid={UID}", f"gid={GID}", "mode=1777"]
    options = ["nosuid", "nodev", f"size={mount.size_bytes}", f"nr_inodes={inodes}", *owner]
    if not mount.exec:
        options.append("noexec")
    return _mount(mount.path, "tmpfs", options)
