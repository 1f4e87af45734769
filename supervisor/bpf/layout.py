"""The structures that are shared with the probes, as in probes/include/abi.h.

A test compares names, offsets and sizes with the BTF of the built objects, so a change on one side
alone is found there. Nothing here does I/O.
"""

from __future__ import annotations

import ctypes

ABI_VERSION = 4

ADDRESS_BYTES = 16
COMM_BYTES = 16
CALLS_MAX = 4096
TRIAL_RING = 4096
KINDS_MAX = 256
RING_BYTES = 256 * 1024
HOOKS = 16
EVENT_KINDS = 8
MOUNTS_MAX = 32
PORT_RANGES_MAX = 16
PLACE_ROWS_MAX = 1024 * 1024
ORIGIN_ROWS_MAX = 256 * 1024
FLOWS_ENDED_MAX = 512
FLOWS_ENDED_ROWS_MAX = 128 * 1024
SYSCALLS_MAX = 512
SYSCALL_WORDS = 8
PLACES_MAX = 516
PLACE_UNIX, PLACE_INET, PLACE_INET6, PLACE_NETLINK = 512, 513, 514, 515
ARGUMENTS_MAX = 6
ARGV_BYTES = 2048

HOOK_CONNECT, HOOK_SENDMSG, HOOK_BIND, HOOK_SOCKET = 0, 1, 2, 3
HOOK_MULTICAST, HOOK_EGRESS, HOOK_INGRESS, HOOK_FLOWS = 4, 5, 6, 7
HOOK_EXEC, HOOK_MMAP, HOOK_MPROTECT, HOOK_MOUNT = 8, 9, 10, 11
HOOK_PTRACE, HOOK_BPF, HOOK_USERNS = 12, 13, 14
EVENT_DENIED, EVENT_EXEC, EVENT_ARGV, EVENT_EXIT, EVENT_WATCHED, EVENT_REFUSED = 0, 1, 2, 3, 4, 5
WATCHING_NOT, WATCHING_FROM_EXEC, WATCHING = 0, 1, 2
BECAUSE_WRITABLE, BECAUSE_MEMORY, BECAUSE_NOEXEC = 1, 2, 3
MOUNTING_MOUNT, MOUNTING_MOVE, MOUNTING_REMOUNT = 0, 1, 2
MOUNTING_UNMOUNT, MOUNTING_PIVOT, MOUNTING_MAKE = 3, 4, 5
SORT_MAP, SORT_PROGRAM, SORT_LINK, SORT_PID_NAMESPACE = 1, 2, 3, 4
CUT_PATH, CUT_DIRECTORY, CUT_ARGV = 1, 2, 4

_u8, _u16, _u32, _u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64


class CallRow(ctypes.LittleEndianStructure):
    """struct call: the row of a live call in `calls`."""

    _fields_ = [
        ("ring", _u32),
        ("padding", _u32),
        ("sequence", _u64),
        ("lost", _u64 * EVENT_KINDS),
        ("rest", _u64 * HOOKS),
        ("kinds", _u64),
        ("guard_kinds", _u64),
    ]


class DoorRow(ctypes.LittleEndianStructure):
    """struct door: a call that may connect to its places, and the port that it is led to."""

    _fields_ = [("port", _u32), ("flows_max", _u32), ("flows", _u64), ("ended", _u64)]


class PlaceKey(ctypes.LittleEndianStructure):
    """struct place_key: a network of a call, the key of `places`."""

    _fields_ = [("bits", _u32), ("call", _u8 * 8), ("address", _u8 * ADDRESS_BYTES)]


class PortRange(ctypes.LittleEndianStructure):
    """struct port_range: from `low` to `high`, both included."""

    _fields_ = [("low", _u16), ("high", _u16)]


class PlaceRow(ctypes.LittleEndianStructure):
    """struct place: the ports of a place."""

    _fields_ = [("count", _u32), ("ports", PortRange * PORT_RANGES_MAX)]


class OriginKey(ctypes.LittleEndianStructure):
    """struct origin_key: a connection through a door, by the client's own address."""

    _fields_ = [
        ("call", _u64),
        ("address", _u8 * ADDRESS_BYTES),
        ("port", _u16),
        ("family", _u16),
        ("padding", _u32),
    ]


class Origin(ctypes.LittleEndianStructure):
    """struct origin: what was asked for, by whom, and when."""

    _fields_ = [
        ("address", _u8 * ADDRESS_BYTES),
        ("time_ns", _u64),
        ("tgid", _u32),
        ("tid", _u32),
        ("port", _u16),
        ("family", _u16),
        ("over", _u32),
        ("comm", _u8 * COMM_BYTES),
    ]


class EndedKey(ctypes.LittleEndianStructure):
    """struct ended_key: a place for the key of a connection that is over."""

    _fields_ = [("call", _u64), ("place", _u64)]


class Writable(ctypes.LittleEndianStructure):
    """struct writable: a writable mount of a call, by its device; `exec` says whether programs run
    from it."""

    _fields_ = [("device", _u32), ("exec", _u32)]


class GuardRow(ctypes.LittleEndianStructure):
    """struct guard: the row of a guarded call in `guards`."""

    _fields_ = [("armed", _u32), ("count", _u32), ("mounts", Writable * MOUNTS_MAX)]


class Ours(ctypes.LittleEndianStructure):
    """struct ours: an object of ours, the key of `ours`."""

    _fields_ = [("sort", _u32), ("id", _u32)]


class Kind(ctypes.LittleEndianStructure):
    """struct kind: one kind of denial, the key of `folded`."""

    _fields_ = [
        ("call", _u64),
        ("address", _u8 * ADDRESS_BYTES),
        ("hook", _u32),
        ("port", _u16),
        ("family", _u16),
        ("type", _u32),
        ("protocol", _u32),
    ]


class Folded(ctypes.LittleEndianStructure):
    """struct folded: how often a kind was denied, and who tried last."""

    _fields_ = [
        ("count", _u64),
        ("time_ns", _u64),
        ("tgid", _u32),
        ("tid", _u32),
        ("comm", _u8 * COMM_BYTES),
    ]


class Header(ctypes.LittleEndianStructure):
    """struct header: what every event begins with."""

    _fields_ = [
        ("call", _u64),
        ("sequence", _u64),
        ("time_ns", _u64),
        ("kind", _u32),
        ("tgid", _u32),
        ("tid", _u32),
        ("uid", _u32),
        ("comm", _u8 * COMM_BYTES),
    ]


class DeniedEvent(ctypes.LittleEndianStructure):
    """struct denied_event."""

    _fields_ = [("header", Header), ("kind", Kind)]


class RefusedEvent(ctypes.LittleEndianStructure):
    """struct refused_event: a path follows."""

    _fields_ = [("header", Header), ("kind", Kind), ("path_bytes", _u32), ("cut", _u32)]


class ExecEvent(ctypes.LittleEndianStructure):
    """struct exec_event: path, directory and the beginning of argv follow."""

    _fields_ = [
        ("header", Header),
        ("started_ns", _u64),
        ("parent_tgid", _u32),
        ("gid", _u32),
        ("path_bytes", _u32),
        ("directory_bytes", _u32),
        ("argv_bytes", _u32),
        ("argv_size", _u32),
        ("cut", _u32),
        ("padding", _u32),
    ]


class ArgvEvent(ctypes.LittleEndianStructure):
    """struct argv_event: `bytes` of argv follow."""

    _fields_ = [("header", Header), ("offset", _u32), ("bytes", _u32)]


class ExitEvent(ctypes.LittleEndianStructure):
    """struct exit_event."""

    _fields_ = [
        ("header", Header),
        ("started_ns", _u64),
        ("user_ns", _u64),
        ("system_ns", _u64),
        ("memory_peak_bytes", _u64),
        ("status", _u32),
        ("parent_tgid", _u32),
    ]


class WatchedRow(ctypes.LittleEndianStructure):
    """struct watched: which system calls of a live call are watched, and how often each was."""

    _fields_ = [
        ("watch", _u64 * SYSCALL_WORDS),
        ("kill", _u64 * SYSCALL_WORDS),
        ("count", _u64 * PLACES_MAX),
        ("state", _u32),
        ("padding", _u32),
    ]


class WatchedEvent(ctypes.LittleEndianStructure):
    """struct watched_event."""

    _fields_ = [
        ("header", Header),
        ("number", _u32),
        ("place", _u32),
        ("killed", _u32),
        ("padding", _u32),
        ("arguments", _u64 * ARGUMENTS_MAX),
    ]


STRUCTURES: dict[str, type[ctypes.LittleEndianStructure]] = {
    "call": CallRow,
    "door": DoorRow,
    "place_key": PlaceKey,
    "port_range": PortRange,
    "place": PlaceRow,
    "origin_key": OriginKey,
    "origin": Origin,
    "ended_key": EndedKey,
    "writable": Writable,
    "guard": GuardRow,
    "ours": Ours,
    "kind": Kind,
    "folded": Folded,
    "header": Header,
    "denied_event": DeniedEvent,
    "refused_event": RefusedEvent,
    "exec_event": ExecEvent,
    "argv_event": ArgvEvent,
    "exit_event": ExitEvent,
    "watched": WatchedRow,
    "watched_event": WatchedEvent,
}
"""C name → structure."""
