"""Whether this kernel still takes seccomp filters."""

from __future__ import annotations

import functools
import subprocess

PROBE = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
program = ctypes.create_string_buffer(struct.pack("@HP", 1, ctypes.addressof(allow)))
libc.prctl(38, 1, 0, 0, 0)
raise SystemExit(libc.prctl(22, 2, program, 0, 0) != 0)
"""
PROBE_S = 20.0
STUCK = "the kernel of this machine takes no seccomp filter any more:"


@functools.cache
def filters_are_stuck() -> bool:
    """Say whether loading a filter hangs.

    Seen on Linux 6.18 after a program attached thousands of filters to sockets and ended: every
    worker of a queue waits for a lock whose holder waits for a place on the same queue
    (bpf_prog_pack_free, vfree). Only a reboot helps. A process that is caught in it cannot be
    killed, so the probe is not waited for.
    """
    probe = subprocess.Popen(["/usr/bin/python3", "-c", PROBE], stdin=subprocess.DEVNULL)
    try:
        if probe.wait(PROBE_S) != 0:
            raise RuntimeError("a seccomp filter was refused; the probe is wrong")
    except subprocess.TimeoutExpired:
        return True
    return False
