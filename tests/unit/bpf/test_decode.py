"""Bytes of a ring in values."""

from __future__ import annotations

import ctypes
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.bpf import layout
from supervisor.bpf.decode import (
    HOOK_NAMES,
    ArgvRecord,
    DeniedRecord,
    ExecRecord,
    ExitRecord,
    WatchedRecord,
    decode,
    refused,
    tried,
)
from supervisor.errors import InvariantError

INET, INET6, STREAM, TCP, UDP = 2, 10, 1, 6, 17


def header(kind: int) -> layout.Header:
    comm = (ctypes.c_uint8 * 16)(*b"python3\0rest")
    return layout.Header(
        call=5, sequence=9, time_ns=77, kind=kind, tgid=70, tid=71, uid=1000, comm=comm
    )


def kind_of(hook: int, address: str = "::", **values: int) -> layout.Kind:
    packed = (ctypes.c_uint8 * 16)(*ipaddress.IPv6Address(address).packed)
    return layout.Kind(call=5, hook=hook, address=packed, **values)


def test_a_denial() -> None:
    kind = kind_of(layout.HOOK_CONNECT, "::ffff:203.0.113.9", port=443, family=INET, protocol=TCP)
    event = layout.DeniedEvent(header=header(layout.EVENT_DENIED), kind=kind)
    record = decode(bytes(event))
    assert isinstance(record, DeniedRecord)
    assert (record.sequence, record.call, record.pid) == (9, 5, 70)
    assert record.program == b"python3"
    assert record.key == bytes(kind)
    assert (record.refused.name, record.refused.detail) == ("connect", "203.0.113.9:443 tcp")


def guard_kind(hook: int, **values: int) -> layout.Kind:
    address = struct.pack("<QI4x", 12, 45)
    return layout.Kind(call=5, hook=hook, address=(ctypes.c_uint8 * 16)(*address), **values)


@pytest.mark.parametrize(
    ("because", "names", "cut", "detail"),
    [
        (layout.BECAUSE_WRITABLE, b"copied\0work\0", 0, "/work/copied"),
        (layout.BECAUSE_NOEXEC, b"a\xff\0tmp\0", 0, "/tmp/a\\udcff: a noexec mount"),
        (layout.BECAUSE_MEMORY, b"memfd:x\0", 0, "memfd:x: a file in memory"),
        (layout.BECAUSE_WRITABLE, b"deep\0down\0", layout.CUT_PATH, "…/down/deep"),
        (layout.BECAUSE_WRITABLE, b"", layout.CUT_PATH, "file 12 of 0:45"),
    ],
)
def test_a_program_that_the_guard_refused(
    because: int, names: bytes, cut: int, detail: str
) -> None:
    kind = guard_kind(layout.HOOK_EXEC, family=because)
    event = layout.RefusedEvent(
        header=header(layout.EVENT_REFUSED), kind=kind, path_bytes=len(names), cut=cut
    )
    record = decode(bytes(event) + names)
    assert isinstance(record, DeniedRecord)
    assert (record.refused.name, record.refused.detail) == ("exec", detail)
    assert (record.pid, record.program, record.key) == (70, b"python3", bytes(kind))


def test_a_refused_event_that_is_too_short() -> None:
    event = layout.RefusedEvent(header=header(layout.EVENT_REFUSED), path_bytes=9)
    with pytest.raises(InvariantError) as caught:
        decode(bytes(event) + b"short")
    assert caught.value.reason == "EVENT_MALFORMED"


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        (guard_kind(layout.HOOK_MMAP, family=layout.BECAUSE_WRITABLE), "file 12 of 0:45"),
        (guard_kind(layout.HOOK_MOUNT, type=layout.MOUNTING_PIVOT), "pivot file 12 of 0:45"),
        (kind_of(layout.HOOK_MOUNT, type=layout.MOUNTING_MAKE), "a new file system"),
        (kind_of(layout.HOOK_PTRACE, type=77), "process 77"),
        (kind_of(layout.HOOK_BPF, type=12), "command 12"),
        (kind_of(layout.HOOK_USERNS), "a new one"),
    ],
)
def test_what_the_guard_denied_without_its_event(kind: layout.Kind, detail: str) -> None:
    assert refused(kind).detail == detail


def test_a_watched_system_call() -> None:
    event = layout.WatchedEvent(
        header=header(layout.EVENT_WATCHED), number=41, place=layout.PLACE_INET, killed=1,
        arguments=(ctypes.c_uint64 * 6)(2, 1, 0, 4, 5, 6),
    )  # fmt: skip
    record = decode(bytes(event))
    assert isinstance(record, WatchedRecord)
    assert (record.sequence, record.call, record.pid, record.program) == (9, 5, 70, b"python3")
    assert (record.number, record.place) == (41, layout.PLACE_INET)
    assert record.arguments == (2, 1, 0, 4, 5, 6)
    assert record.killed


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        (kind_of(layout.HOOK_CONNECT, "2001:db8::1", port=80, family=INET6, protocol=TCP),
         "[2001:db8::1]:80 tcp"),
        (kind_of(layout.HOOK_SENDMSG, "::ffff:192.0.2.1", port=53, family=INET, protocol=UDP),
         "192.0.2.1:53 udp"),
        (kind_of(layout.HOOK_BIND, "::ffff:192.0.2.1", family=INET, protocol=UDP),
         "192.0.2.1 udp"),
        (kind_of(layout.HOOK_SOCKET, family=INET, type=3, protocol=1), "inet raw icmp"),
        (kind_of(layout.HOOK_SOCKET, family=INET6, type=STREAM, protocol=262), "inet6 stream 262"),
        (kind_of(layout.HOOK_SOCKET, family=9, type=9, protocol=0), "family 9 type 9"),
        (kind_of(layout.HOOK_MULTICAST, family=INET, protocol=35), "inet option 35: join a group"),
        (kind_of(layout.HOOK_EGRESS, "::ffff:203.0.113.9", family=INET), "203.0.113.9"),
        (kind_of(layout.HOOK_EGRESS, "::ffff:203.0.113.9", port=53, family=INET, protocol=UDP),
         "203.0.113.9:53 udp"),
        (kind_of(layout.HOOK_INGRESS, "2001:db8::9", family=INET6), "2001:db8::9"),
        (kind_of(layout.HOOK_FLOWS, "2001:db8::9", port=443, family=INET6, protocol=6),
         "[2001:db8::9]:443 tcp: too many connections at once"),
    ],
)  # fmt: skip
def test_what_was_refused(kind: layout.Kind, detail: str) -> None:
    assert refused(kind).name == HOOK_NAMES[kind.hook]
    assert refused(kind).detail == detail


def test_how_often() -> None:
    comm = (ctypes.c_uint8 * 16)(*b"sh")
    row = tried(layout.Folded(count=3, tgid=8, comm=comm))
    assert (row.count, row.pid, row.program) == (3, 8, b"sh")


def test_a_program() -> None:
    path, directory, argv = b"python3.11\0bin\0usr\0", b"work\0", b"python3\0-c\0\xff\0"
    event = layout.ExecEvent(
        header=header(layout.EVENT_EXEC), parent_tgid=60, gid=1001, argv_size=99,
        path_bytes=len(path), directory_bytes=len(directory), argv_bytes=len(argv), cut=4,
    )  # fmt: skip
    record = decode(bytes(event) + path + directory + argv)
    assert isinstance(record, ExecRecord)
    assert (record.path, record.directory, record.argv) == (b"/usr/bin/python3.11", b"/work", argv)
    assert (record.pid, record.parent_pid, record.uid, record.gid) == (70, 60, 1000, 1001)
    assert (record.argv_bytes, record.cut) == (99, 4)


def test_the_root_is_a_path() -> None:
    event = layout.ExecEvent(header=header(layout.EVENT_EXEC))
    record = decode(bytes(event))
    assert isinstance(record, ExecRecord)
    assert (record.path, record.directory, record.argv) == (b"/", b"/", b"")


def test_more_argv_and_an_end() -> None:
    more = layout.ArgvEvent(header=header(layout.EVENT_ARGV), offset=2048, bytes=3)
    record = decode(bytes(more) + b"a\0b")
    assert isinstance(record, ArgvRecord)
    assert (record.offset, record.data) == (2048, b"a\0b")
    end = layout.ExitEvent(
        header=header(layout.EVENT_EXIT), status=0x300, user_ns=1, system_ns=2,
        memory_peak_bytes=3, parent_tgid=60,
    )  # fmt: skip
    ended = decode(bytes(end))
    assert isinstance(ended, ExitRecord)
    assert (ended.status, ended.user_ns, ended.system_ns) == (0x300, 1, 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(header(99)),
        bytes(layout.ExecEvent(header=header(layout.EVENT_EXEC), argv_bytes=1)),
        bytes(layout.ArgvEvent(header=header(layout.EVENT_ARGV), bytes=1)),
        bytes(header(layout.EVENT_EXIT)),
    ],
)
def test_what_is_too_short_is_a_bug(data: bytes) -> None:
    with pytest.raises(InvariantError):
        decode(data)


@given(st.binary(max_size=400))
def test_nothing_else_is_raised(data: bytes) -> None:
    try:
        decode(data)
    except InvariantError as error:
        assert error.reason == "EVENT_MALFORMED"
