"""Make a system call that is denied, again and again; argv: the way, how often.

On the host the call is one that fails by itself, ESRCH or EIO: no EPERM is counted.
"""

import ctypes
import errno
import json
import sys
import threading

libc = ctypes.CDLL(None, use_errno=True)
way, attempts = sys.argv[1], int(sys.argv[2])
THREADS = 4
denied = [0] * THREADS
PTRACE_SETOPTIONS = 0x4200


def attempt(slot, kind):
    if libc.ptrace(kind, 99999, None, None) < 0 and ctypes.get_errno() == errno.EPERM:
        denied[slot] += 1


def same(slot, count):
    for _ in range(count):
        attempt(slot, PTRACE_SETOPTIONS)


match way:
    case "same":
        same(0, attempts)
    case "different":
        for number in range(attempts):
            attempt(0, 10_000 + number)
    case "threads":
        workers = [
            threading.Thread(target=same, args=(n, attempts // THREADS)) for n in range(THREADS)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
print(json.dumps({"denied": sum(denied), "attempts": attempts}))
