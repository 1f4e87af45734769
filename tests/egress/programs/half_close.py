"""Say something, end our direction, and read to the end; prints what came and who it came from.

half_close.py HOST PORT BYTES
"""

import ipaddress
import socket
import sys
import threading

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with socket.create_connection((host, port), 20) as sock:
    asked = {found[4][0] for found in socket.getaddrinfo(host, port)}
    peer = sock.getpeername()[0]

    def send():
        sock.sendall(bytes(count))
        sock.shutdown(socket.SHUT_WR)

    threading.Thread(target=send).start()
    got = 0
    while data := sock.recv(1 << 16):
        got += len(data)
print(got, peer in asked, ipaddress.ip_address(peer).version, peer)
