"""Fill the receive buffers of argv[1] netlink sockets, which nobody reads; print the bytes."""

import socket
import struct
import sys

RTM_GETLINK, NLM_F_REQUEST, NLM_F_ACK = 18, 1, 4
HEADER = struct.pack("=IHHII", 32, RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
REQUEST = HEADER + struct.pack("=BBHiII", 0, 0, 0, 1, 0, 0)
ROUNDS = 1000

sockets = []
for _ in range(int(sys.argv[1])):
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    sockets.append(one)
    for _ in range(ROUNDS):
        one.send(REQUEST * 8)

held = 0
with open("/proc/net/netlink") as table:
    for line in table.readlines()[1:]:
        held += int(line.split()[4])
print(held)
