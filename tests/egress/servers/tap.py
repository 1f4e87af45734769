"""What comes over the wire, whether anybody listens or not: each connection begun, each datagram.

Sees frames as the device hands them on, so also what no socket over here would be given.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
import threading

from tests.egress.servers.log import Log

ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
FRAME_MAX = 65535
SHOWN_BYTES = 48
ICMP6_NEIGHBOURS = range(130, 138)
ICMP6_LISTENERS = 143
"""What a kernel says by itself: listeners, routers, neighbours."""

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}

# Keep of TCP only what opens a connection (SYN without ACK); of all else, everything.
FILTER = [
    (0x30, 0, 0, 0),  # 0: ldb [0]
    (0x54, 0, 0, 0xF0),  # 1: and #0xf0
    (0x15, 0, 4, 0x40),  # 2: jeq #0x40 (version 4), else 7
    (0x30, 0, 0, 9),  # 3: ldb [9], the protocol
    (0x15, 0, 10, 6),  # 4: jeq #6 (TCP), else accept at 15
    (0xB1, 0, 0, 0),  # 5: ldx 4*([0]&0xf)
    (0x05, 0, 0, 5),  # 6: ja 12
    (0x15, 0, 8, 0x60),  # 7: jeq #0x60 (version 6), else 16
    (0x30, 0, 0, 6),  # 8: ldb [6], the next header
    (0x15, 0, 5, 6),  # 9: jeq #6, else accept at 15
    (0x01, 0, 0, 40),  # 10: ldx #40
    (0x05, 0, 0, 0),  # 11: ja 12
    (0x50, 0, 0, 13),  # 12: ldb [x + 13], the flags
    (0x54, 0, 0, 0x12),  # 13: and #(SYN|ACK)
    (0x15, 0, 1, 0x02),  # 14: jeq #SYN, else 16
    (0x06, 0, 0, FRAME_MAX),  # 15: accept
    (0x06, 0, 0, 0),  # 16: drop
]


def tap(device: str, log: Log) -> None:
    """Log what comes in over a device."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    code = b"".join(struct.pack("HBBI", *line) for line in FILTER)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(FILTER), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    sock.bind((device, ETH_P_ALL))

    def loop() -> None:
        while True:
            packet, (_, _, direction, *_) = sock.recvfrom(FRAME_MAX)
            if direction != socket.PACKET_OUTGOING:
                _note(packet, log)

    threading.Thread(target=loop, daemon=True).start()


def _note(packet: bytes, log: Log) -> None:
    if packet[0] >> 4 == 4:
        number, body = packet[9], packet[4 * (packet[0] & 15) :]
        to = ipaddress.ip_address(packet[16:20])
    elif packet[0] >> 4 == 6:
        number, body = packet[6], packet[40:]
        to = ipaddress.ip_address(packet[24:40])
        if number == 58 and (body[0] in ICMP6_NEIGHBOURS or body[0] == ICMP6_LISTENERS):
            return
        if number == 0:  # hop-by-hop options: the kernel's reports of multicast listeners
            return
    else:
        log("frame", protocol="no ip", to="", port=0, data=packet[:SHOWN_BYTES].hex())
        return
    protocol = PROTOCOLS.get(number, str(number))
    port = int.from_bytes(body[2:4], "big") if protocol in ("tcp", "udp") else 0
    data = body[8 : 8 + SHOWN_BYTES].decode("latin-1") if protocol == "udp" else ""
    log("frame", protocol=protocol, to=str(to), port=port, data=data)
