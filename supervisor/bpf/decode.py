"""From the bytes of a ring to values: pure.

A record that does not have the length which it claims is a bug of ours, not the sandbox's: the
sandbox has no way to write into a ring.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
from dataclasses import dataclass

from supervisor.bpf import layout
from supervisor.errors import InvariantError

HOOK_NAMES = {
    layout.HOOK_CONNECT: "connect",
    layout.HOOK_SENDMSG: "sendmsg",
    layout.HOOK_BIND: "bind",
    layout.HOOK_SOCKET: "socket",
    layout.HOOK_MULTICAST: "setsockopt",
    layout.HOOK_EGRESS: "egress",
    layout.HOOK_INGRESS: "ingress",
    layout.HOOK_FLOWS: "connect",
    layout.HOOK_EXEC: "exec",
    layout.HOOK_MMAP: "mmap",
    layout.HOOK_MPROTECT: "mprotect",
    layout.HOOK_MOUNT: "mount",
    layout.HOOK_PTRACE: "ptrace",
    layout.HOOK_BPF: "bpf",
    layout.HOOK_USERNS: "userns",
}
"""What was denied: the system call, or "egress" and "ingress" where it was a packet, or "userns"
where it was a user namespace."""

TOO_MANY_FLOWS = ": too many connections at once"
"""How the detail of a connection ends that a profile allows, but not so many at a time."""

FILE_HOOKS = frozenset({layout.HOOK_EXEC, layout.HOOK_MMAP, layout.HOOK_MPROTECT})
"""The guard's hooks that are about a file that is to be run."""

BECAUSE = {
    layout.BECAUSE_WRITABLE: "",
    layout.BECAUSE_MEMORY: "a file in memory",
    layout.BECAUSE_NOEXEC: "a noexec mount",
}
MOUNTINGS = {
    layout.MOUNTING_MOUNT: "mount",
    layout.MOUNTING_MOVE: "move",
    layout.MOUNTING_REMOUNT: "remount",
    layout.MOUNTING_UNMOUNT: "unmount",
    layout.MOUNTING_PIVOT: "pivot",
    layout.MOUNTING_MAKE: "a new file system",
}

MINOR_BITS = 20
"""Of a device's number inside the kernel (include/linux/kdev_t.h)."""

FAMILIES = {int(socket.AF_INET): "inet", int(socket.AF_INET6): "inet6"}
TYPES = {1: "stream", 2: "dgram", 3: "raw", 5: "seqpacket"}
PROTOCOLS = {0: "", 1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp", 136: "udplite"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A kind of denial: `hook` is a key of HOOK_NAMES, `detail` says what it was for."""

    hook: int
    name: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """Who was denied last, and how often that kind was, so far; pid 0 where it was a packet."""

    count: int
    pid: int
    program: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeniedRecord:
    """The first denial of a kind."""

    sequence: int
    call: int
    pid: int
    program: bytes
    key: bytes
    refused: Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRecord:
    """A program was started. `argv` is its beginning, `argv_bytes` the length of all of it."""

    sequence: int
    call: int
    time_ns: int
    pid: int
    parent_pid: int
    uid: int
    gid: int
    path: bytes
    directory: bytes
    argv: bytes
    argv_bytes: int
    cut: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgvRecord:
    """More of the argv of the program that the process started last."""

    sequence: int
    call: int
    time_ns: int
    pid: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRecord:
    """A process ended; `status` is as wait(2) gives it."""

    sequence: int
    call: int
    time_ns: int
    pid: int
    parent_pid: int
    status: int
    user_ns: int
    system_ns: int
    memory_peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedRecord:
    """The first system call of a place: see `place_of` in probes/syscalls.bpf.c."""

    sequence: int
    call: int
    pid: int
    program: bytes
    place: int
    number: int
    arguments: tuple[int, ...]
    killed: bool


Record = DeniedRecord | ExecRecord | ArgvRecord | ExitRecord | WatchedRecord


def decode(data: bytes) -> Record:
    """Read one record of a ring.

    Raises:
        InvariantError: `EVENT_MALFORMED`.
    """
    try:
        header = layout.Header.from_buffer_copy(data)
        match header.kind:
            case layout.EVENT_DENIED:
                return _denied(header, data)
            case layout.EVENT_REFUSED:
                return _refused(header, data)
            case layout.EVENT_EXEC:
                return _exec(header, data)
            case layout.EVENT_ARGV:
                return _argv(header, data)
            case layout.EVENT_EXIT:
                return _exit(header, data)
            case layout.EVENT_WATCHED:
                return _watched(header, data)
    except ValueError as error:
        raise InvariantError("EVENT_MALFORMED", str(error)) from error
    raise InvariantError("EVENT_MALFORMED", f"an event of kind {header.kind}")


def refused(kind: layout.Kind) -> Refused:
    """Say in words what a kind of denial is for."""
    if kind.hook >= layout.HOOK_EXEC:
        return _guarded(kind, b"")
    name = HOOK_NAMES.get(kind.hook, f"hook {kind.hook}")
    family = FAMILIES.get(kind.family, f"family {kind.family}")
    protocol = PROTOCOLS.get(kind.protocol, str(kind.protocol))
    if kind.hook == layout.HOOK_SOCKET:
        sort = TYPES.get(kind.type, f"type {kind.type}")
        detail = f"{family} {sort} {protocol}".strip()
    elif kind.hook == layout.HOOK_MULTICAST:
        detail = f"{family} option {kind.protocol}: join a group"
    else:
        detail = f"{_endpoint(bytes(kind.address), kind.port)} {protocol}".strip()
    if kind.hook == layout.HOOK_FLOWS:
        detail += TOO_MANY_FLOWS
    return Refused(hook=kind.hook, name=name, detail=detail)


def _guarded(kind: layout.Kind, path: bytes) -> Refused:
    """Say what the guard denied; where the path is not known, by the file's numbers."""
    name = HOOK_NAMES.get(kind.hook, f"hook {kind.hook}")
    number, device = struct.unpack_from("<QI", bytes(kind.address))
    file = f"file {number} of {device >> MINOR_BITS}:{device & (1 << MINOR_BITS) - 1}"
    where = os.fsdecode(path).encode(errors="backslashreplace").decode() or (number and file)
    if kind.hook in FILE_HOOKS:
        why = BECAUSE.get(kind.family, f"reason {kind.family}")
        if kind.family == layout.BECAUSE_MEMORY:
            where = str(where).removeprefix("/")
        detail = f"{where}: {why}" if why else str(where)
    elif kind.hook == layout.HOOK_MOUNT:
        what = MOUNTINGS.get(kind.type, f"operation {kind.type}")
        detail = f"{what} {where}" if where else what
    elif kind.hook == layout.HOOK_PTRACE:
        detail = f"process {kind.type}"
    elif kind.hook == layout.HOOK_BPF:
        detail = f"command {kind.type}"
    else:
        detail = "a new one"
    return Refused(hook=kind.hook, name=name, detail=detail)


def tried(folded: layout.Folded) -> Tried:
    """Read a row of `folded`."""
    return Tried(count=folded.count, pid=folded.tgid, program=_comm(bytes(folded.comm)))


def _endpoint(address: bytes, port: int) -> str:
    six = ipaddress.IPv6Address(address)
    where = str(six.ipv4_mapped or six)
    if not port:
        return where
    return f"{where}:{port}" if six.ipv4_mapped else f"[{where}]:{port}"


def _comm(raw: bytes) -> bytes:
    return raw.split(b"\0", 1)[0]


def _denied(header: layout.Header, data: bytes) -> DeniedRecord:
    event = layout.DeniedEvent.from_buffer_copy(data)
    return DeniedRecord(
        sequence=header.sequence,
        call=header.call,
        pid=header.tgid,
        program=_comm(bytes(header.comm)),
        key=bytes(event.kind),
        refused=refused(event.kind),
    )


def _refused(header: layout.Header, data: bytes) -> DeniedRecord:
    event = layout.RefusedEvent.from_buffer_copy(data)
    start = ctypes.sizeof(layout.RefusedEvent)
    names = data[start : start + event.path_bytes]
    if len(names) != event.path_bytes:
        raise ValueError(f"a refused event of {len(data)} bytes")
    path = _reversed(names) if names else b""
    if event.cut & layout.CUT_PATH and path:
        path = "…".encode() + path
    return DeniedRecord(
        sequence=header.sequence,
        call=header.call,
        pid=header.tgid,
        program=_comm(bytes(header.comm)),
        key=bytes(event.kind),
        refused=_guarded(event.kind, path),
    )


def _exec(header: layout.Header, data: bytes) -> ExecRecord:
    event = layout.ExecEvent.from_buffer_copy(data)
    rest = data[ctypes.sizeof(layout.ExecEvent) :]
    if len(rest) < event.path_bytes + event.directory_bytes + event.argv_bytes:
        raise ValueError(f"an exec event of {len(data)} bytes")
    path, rest = rest[: event.path_bytes], rest[event.path_bytes :]
    directory, rest = rest[: event.directory_bytes], rest[event.directory_bytes :]
    return ExecRecord(
        sequence=header.sequence,
        call=header.call,
        time_ns=header.time_ns,
        pid=header.tgid,
        parent_pid=event.parent_tgid,
        uid=header.uid,
        gid=event.gid,
        path=_reversed(path),
        directory=_reversed(directory),
        argv=rest[: event.argv_bytes],
        argv_bytes=event.argv_size,
        cut=event.cut,
    )


def _argv(header: layout.Header, data: bytes) -> ArgvRecord:
    event = layout.ArgvEvent.from_buffer_copy(data)
    start = ctypes.sizeof(layout.ArgvEvent)
    piece = data[start : start + event.bytes]
    if len(piece) != event.bytes:
        raise ValueError(f"an argv event of {len(data)} bytes")
    return ArgvRecord(
        sequence=header.sequence,
        call=header.call,
        time_ns=header.time_ns,
        pid=header.tgid,
        offset=event.offset,
        data=piece,
    )


def _exit(header: layout.Header, data: bytes) -> ExitRecord:
    event = layout.ExitEvent.from_buffer_copy(data)
    return ExitRecord(
        sequence=header.sequence,
        call=header.call,
        time_ns=header.time_ns,
        pid=header.tgid,
        parent_pid=event.parent_tgid,
        status=event.status,
        user_ns=event.user_ns,
        system_ns=event.system_ns,
        memory_peak_bytes=event.memory_peak_bytes,
    )


def _watched(header: layout.Header, data: bytes) -> WatchedRecord:
    event = layout.WatchedEvent.from_buffer_copy(data)
    return WatchedRecord(
        sequence=header.sequence,
        call=header.call,
        pid=header.tgid,
        program=_comm(bytes(header.comm)),
        place=event.place,
        number=event.number,
        arguments=tuple(event.arguments),
        killed=bool(event.killed),
    )


def _reversed(names: bytes) -> bytes:
    """Turn names from the leaf to the root, each with a NUL, into a path."""
    parts = names.split(b"\0")[:-1]
    return os.fsencode("/") + b"/".join(reversed(parts))
