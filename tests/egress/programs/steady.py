"""Send a little, again and again, over a connection that is made anew where it breaks.

    steady.py HOST PORT [SECONDS]

Prints each end of a connection: how many bytes had been written, and why it ended.
"""

import socket
import sys
import time

PAUSE_S = 0.01
BLOCK = bytes(100)

host, port = sys.argv[1], int(sys.argv[2])
until = time.monotonic() + float(sys.argv[3] if len(sys.argv) > 3 else 60)
while time.monotonic() < until:
    sent = 0
    try:
        with socket.create_connection((host, port), 5) as sock:
            while time.monotonic() < until:
                sock.sendall(BLOCK)
                sent += len(BLOCK)
                time.sleep(PAUSE_S)
    except OSError as error:
        print(sent, type(error).__name__, error.errno, flush=True)
        time.sleep(PAUSE_S)
