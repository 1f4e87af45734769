"""Play the internet: answer on every address of this network namespace, and on unix sockets.

argv: port, abstract name, path. Writes a line for each visit; ends with its standard input.
"""

import os
import selectors
import socket
import subprocess
import sys

port, name, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
ROUTES = (["ip", "route"], ["ip", "-6", "route"])
NETS = ("0.0.0.0/0", "::/0")
for command, net in zip(ROUTES, NETS, strict=True):
    subprocess.run([*command, "add", "local", net, "dev", "lo"], check=True)
tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(("::", port))
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\0" + name)
abstract.listen()
datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
datagrams.bind("\0" + name + "-datagram")
named = socket.socket(socket.AF_UNIX)
named.bind(path)
named.listen()
os.chmod(path, 0o777)
selector = selectors.DefaultSelector()
for one in (tcp, udp, abstract, datagrams, named, sys.stdin):
    selector.register(one, selectors.EVENT_READ)
print("ready", flush=True)
try:
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                sys.exit()
            if key.fileobj in (udp, datagrams):
                data, peer = key.fileobj.recvfrom(1024)
                if peer:
                    key.fileobj.sendto(b"canary", peer)
            else:
                connection, _ = key.fileobj.accept()
                connection.sendall(b"canary")
                connection.close()
            print("visit", flush=True)
finally:
    for command, net in zip(ROUTES, NETS, strict=True):
        subprocess.run([*command, "del", "local", net, "dev", "lo"], check=True)
