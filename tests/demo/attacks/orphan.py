"""Leave a daemon behind that holds standard output and ignores signals; argv has its mark."""

import os
import signal
import sys
import time

for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(f"the orphan {sys.argv[1]} is process {os.getpid()}", flush=True)
        time.sleep(120)
    os._exit(0)
os.wait()
time.sleep(0.3)
