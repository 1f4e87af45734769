"""Change memory through /proc/PID/mem, one's own and a child's; print "changed" or the error."""

from __future__ import annotations

import ctypes
import errno
import os
import time

WORDS = ctypes.create_string_buffer(b"before")


def change(pid: int) -> str:
    """Write over WORDS in a process, and read it back."""
    try:
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(ctypes.addressof(WORDS))
            memory.write(b"after!")
            memory.seek(ctypes.addressof(WORDS))
            return "changed" if memory.read(6) == b"after!" else "unchanged"
    except OSError as error:
        return errno.errorcode[error.errno or 0]


print(change(os.getpid()))
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
try:
    print(change(child))
finally:
    os.kill(child, 9)
    os.waitpid(child, 0)
