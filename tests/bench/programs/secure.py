"""A client that downloads over TLS: `secure.py HOST PORT BYTES` prints megabytes a second."""

import socket
import ssl
import sys
import time

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
context = ssl.create_default_context()
# Whom the name leads to is not what is measured.
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
buffer = bytearray(1 << 20)
with context.wrap_socket(socket.create_connection((host, port)), server_hostname=host) as server:
    began = time.perf_counter()
    server.sendall(b"%d\n" % count)
    left = count
    while left > 0 and (got := server.recv_into(buffer)):
        left -= got
    if left:
        sys.exit(f"{left} bytes are missing")
    sys.stdout.write(f"{count / 1e6 / (time.perf_counter() - began):.2f}\n")
