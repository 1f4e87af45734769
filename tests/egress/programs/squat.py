"""Take the place of whoever listens here: on its ports, or on one that is given. Prints JSON.

    squat.py [PORT]

Tells for each address and port how binding it went, and what a neighbour that connects to the port
is told. Without PORT, the ports are those that somebody listens on already.
"""

import errno
import json
import re
import socket
import sys
import threading

WAIT_S = 2
LISTEN = "0A"
ANSWER = b"squatted"


def listening():
    """Give the TCP ports in state LISTEN."""
    found = set()
    for name in ("tcp", "tcp6"):
        with open(f"/proc/self/net/{name}") as file:
            for line in list(file)[1:]:
                _, local, _, state = line.split()[:4]
                if state == LISTEN:
                    found.add(int(local.rpartition(":")[2], 16))
    return sorted(found)


def squat(address, port, kind):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
            threading.Thread(target=answer, args=(sock,), daemon=True).start()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "bound"


def answer(sock):
    while True:
        conn, _ = sock.accept()
        with conn:
            conn.sendall(ANSWER)


def neighbour(address, port):
    try:
        with socket.create_connection((address, port), WAIT_S) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: api.github.com\r\n\r\n")
            return sock.recv(100).decode("latin-1")
    except OSError as error:
        return type(error).__name__


ports = [int(sys.argv[1])] if len(sys.argv) > 1 else listening()
bound = {
    f"{kind.name} {address} {port}": squat(address, port, kind)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    for port in ports
    for address in ("127.0.0.1", "::1", "0.0.0.0", "::")
}
said = {f"{address} {port}": neighbour(address, port)
        for port in ports for address in ("127.0.0.1", "::1")}  # fmt: skip
with open("/etc/resolv.conf") as file:
    resolver = re.search(r"nameserver (\S+)", file.read())[1]
print(json.dumps({"ports": ports, "bound": bound, "said": said, "resolver": resolver}))
