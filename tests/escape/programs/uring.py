"""A ring of io_uring(7), as small as it can be: one request at a time."""

import ctypes
import mmap
import os
import struct
import time

SETUP, ENTER = 425, 426
SQPOLL, GETEVENTS, WAKEUP, ASYNC = 1 << 1, 1 << 0, 1 << 1, 1 << 4
SENDMSG, CONNECT, SOCKET, URING_CMD = 9, 16, 45, 46
SETSOCKOPT = 3  # enum io_uring_socket_op
RINGS, ENTRIES = 0, 0x10000000
ENTRY_BYTES = 64
WAIT_S = 5
libc = ctypes.CDLL(None, use_errno=True)


def system_call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "io_uring")
    return result


def address_of(buffer):
    return ctypes.addressof(buffer)


class Ring:
    def __init__(self, *, polled=False):
        parameters = (ctypes.c_uint32 * 30)()
        parameters[2] = SQPOLL if polled else 0
        parameters[4] = 10_000  # of idleness, in ms, after which the polling thread sleeps
        self.polled = polled
        self.fd = system_call(SETUP, ctypes.c_uint(4), parameters)
        sq, cq = parameters[10:20], parameters[20:30]
        self.sq_head, self.sq_tail, self.mask, _, _, _, self.array = sq[:7]
        self.cq_head, self.cq_tail, self.cq_mask, _, _, self.cqes = cq[:6]
        entries, completions = parameters[0], parameters[1]
        size = max(self.array + 4 * entries, self.cqes + 16 * completions)
        self.rings = mmap.mmap(self.fd, size, offset=RINGS)
        self.entries = mmap.mmap(self.fd, ENTRY_BYTES * entries, offset=ENTRIES)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def word(self, offset):
        return struct.unpack_from("=I", self.rings, offset)[0]

    def put(self, offset, value):
        struct.pack_into("=I", self.rings, offset, value)

    def submit(self, operation, fd, **fields):
        """Hand one request over and wait for it; give its result.

        Raises:
            OSError: what the request failed with.
        """
        tail = self.word(self.sq_tail)
        index = tail & self.word(self.mask)
        entry = struct.pack(
            "=BBHiQQIIQHHiQQ", operation, fields.get("flags", 0), 0, fd, fields.get("offset", 0),
            fields.get("address", 0), fields.get("length", 0), fields.get("more", 0), 1, 0, 0,
            fields.get("splice", 0), fields.get("third", 0), 0,
        )  # fmt: skip
        self.entries[index * ENTRY_BYTES : (index + 1) * ENTRY_BYTES] = entry
        self.put(self.array + 4 * index, index)
        self.put(self.sq_tail, tail + 1)
        if not self.polled:
            system_call(ENTER, self.fd, 1, 1, GETEVENTS, None, 0)
        deadline = time.monotonic() + WAIT_S
        head = self.word(self.cq_head)
        while self.word(self.cq_tail) == head:
            if time.monotonic() > deadline:
                raise TimeoutError
            # The polling thread may sleep, and what it began may wait for us.
            system_call(ENTER, self.fd, 0, 0, GETEVENTS | WAKEUP * self.polled, None, 0)
            time.sleep(0.001)
        place = self.cqes + 16 * (head & self.word(self.cq_mask))
        result = struct.unpack_from("=Qi", self.rings, place)[1]
        self.put(self.cq_head, head + 1)
        if result < 0:
            raise OSError(-result, "io_uring")
        return result

    def connect(self, fd, address, *, aside):
        buffer = ctypes.create_string_buffer(address, len(address))
        flags = ASYNC if aside else 0
        self.submit(CONNECT, fd, address=address_of(buffer), offset=len(address), flags=flags)

    def sendmsg(self, fd, address, data, flags):
        name = ctypes.create_string_buffer(address, len(address))
        body = ctypes.create_string_buffer(data, len(data))
        vector = ctypes.create_string_buffer(struct.pack("=QQ", address_of(body), len(data)), 16)
        message = struct.pack(
            "=QI4xQQQQI4x", address_of(name), len(address), address_of(vector), 1, 0, 0, 0
        )
        header = ctypes.create_string_buffer(message, len(message))
        self.submit(SENDMSG, fd, address=address_of(header), length=1, more=flags)

    def socket(self, family, kind, protocol):
        return self.submit(SOCKET, family, offset=kind, length=protocol)

    def setsockopt(self, fd, level, option, value):
        """cmd_op shares `offset`, level and option `address`; optlen and optval lie at the end."""
        buffer = ctypes.create_string_buffer(value, len(value))
        both = level | option << 32
        self.submit(
            URING_CMD, fd, offset=SETSOCKOPT, address=both, splice=len(value),
            third=address_of(buffer),
        )  # fmt: skip
