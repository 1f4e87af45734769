"""Play the internet: hear what is sent to any address, and see every frame that comes.

argv: the device, and the port. Writes lines of JSON: {"frame": hex} for each frame that arrives,
{"heard": text} for what an application got, {"visited": id, "got": text} for each visit that
standard input asks for: {"id": …, "from": address, "to": address,
"udp": bool}. Ends with its standard input.
"""

import contextlib
import json
import os
import socket
import sys
import threading

DEVICE, PORT = sys.argv[1], int(sys.argv[2])
VISIT_S = 2
TALK_S = 60
SCTP, UDPLITE = 132, 136
ETH_P_ALL, PACKET_OUTGOING = 3, 4
IN = ("::", PORT)


def say(**what):
    # One write for a line: threads share the pipe.
    os.write(1, json.dumps(what).encode() + b"\n")


def watch(sniffer):
    while True:
        frame, address = sniffer.recvfrom(65536)
        if address[2] != PACKET_OUTGOING:
            say(frame=frame.hex())


def answer(server):
    while True:
        connection, _ = server.accept()
        threading.Thread(target=talk, args=(connection,), daemon=True).start()


def talk(connection):
    with connection, contextlib.suppress(OSError):
        connection.settimeout(TALK_S)
        say(heard=connection.recv(1000).decode(errors="replace"))
        connection.sendall(b"heard")


def hear(sock):
    while True:
        say(heard=sock.recv(65536).decode(errors="replace"))


def visit(order):
    family = socket.AF_INET6 if ":" in order["to"] else socket.AF_INET
    kind = socket.SOCK_DGRAM if order["udp"] else socket.SOCK_STREAM
    got = ""
    with socket.socket(family, kind) as sock:
        sock.settimeout(VISIT_S)
        sock.bind((order["from"], 0))
        try:
            sock.connect((order["to"], PORT))
            if order["udp"]:
                sock.send(b"visit")
            else:
                got = sock.recv(1000).decode()
        except OSError as error:
            got = type(error).__name__
    say(visited=order["id"], got=got)


def server(kind, protocol):
    sock = socket.socket(socket.AF_INET6, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(IN)
    return sock


def start(work, sock):
    threading.Thread(target=work, args=(sock,), daemon=True).start()


sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
sniffer.bind((DEVICE, ETH_P_ALL))
start(watch, sniffer)
for protocol in (socket.IPPROTO_TCP, SCTP):
    try:
        listener = server(socket.SOCK_STREAM, protocol)
    except OSError:
        if protocol == socket.IPPROTO_TCP:
            raise
        continue  # this kernel has none: nobody can send it, either
    listener.listen(64)
    start(answer, listener)
for protocol in (socket.IPPROTO_UDP, UDPLITE):
    try:
        start(hear, server(socket.SOCK_DGRAM, protocol))
    except OSError:
        if protocol == socket.IPPROTO_UDP:
            raise
say(ready=True)
for line in sys.stdin:
    threading.Thread(target=visit, args=(json.loads(line),), daemon=True).start()
