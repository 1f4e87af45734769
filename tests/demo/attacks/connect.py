"""Send something out: argv has the address and the port."""

import socket
import sys

address, port = sys.argv[1], int(sys.argv[2])
with socket.create_connection((address, port), timeout=3) as connection:
    connection.sendall(b"the secrets")
print("sent")
