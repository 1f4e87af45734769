"""Send something and end at once, without waiting for anybody.

send_and_go.py HOST PORT BYTES
"""

import os
import socket
import sys

sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
sock.sendall(bytes(int(sys.argv[3])))
os._exit(0)
