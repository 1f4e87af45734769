"""Leave processes behind that hold standard output; argv: a mark, the way, seconds to live."""

import os
import signal
import sys
import time

mark, way, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])


def live():
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    print(f"orphan {mark} is process {os.getpid()}", flush=True)
    time.sleep(seconds)
    os._exit(0)


def double_fork():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            live()
        os._exit(0)


match way:
    case "double fork":
        double_fork()
    case "new session":
        if os.fork() == 0:
            os.setsid()
            live()
    case "many":
        for _ in range(10):
            double_fork()
    case "stopped":
        if os.fork() == 0:
            print(f"orphan {mark} stops", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
            live()
time.sleep(0.3)
