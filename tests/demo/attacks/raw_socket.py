"""Open a raw socket: read and forge packets."""

import socket

socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
print("may now read and forge packets")
