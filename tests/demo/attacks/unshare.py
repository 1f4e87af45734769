"""Make a user and mount namespace, the usual first step of a kernel exploit."""

import ctypes
import os

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000

libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
    raise OSError(ctypes.get_errno(), "unshare: " + os.strerror(ctypes.get_errno()))
print("in a namespace of its own, with every capability there")
