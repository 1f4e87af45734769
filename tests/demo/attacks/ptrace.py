"""Take over another process."""

import ctypes
import os
import signal
import time

PTRACE_ATTACH = 16

victim = os.fork()
if victim == 0:
    time.sleep(60)
try:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(PTRACE_ATTACH, victim, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace: " + os.strerror(ctypes.get_errno()))
    print("attached")
finally:
    os.kill(victim, signal.SIGKILL)
