"""Run a program where ADDRESS:PORT answers: with_peer.py ADDRESS PORT PROGRAM...

Started in a network namespace of its own (`unshare --net`), so that the address is nobody else's.
"""

import socket
import subprocess
import sys

address, port, *program = sys.argv[1:]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
with socket.create_server((address, int(port))):
    sys.exit(subprocess.run(program, check=False).returncode)
