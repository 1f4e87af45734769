"""Try to leave in every way there is: rows of the bypass matrix, one after the other.

argv[1] is JSON: [[way, {its arguments}], …]. Prints a line of JSON for each: what came back, as
"heard" where an answer did, "sent", "made", or the name of an error number.
"""

import contextlib
import ctypes
import errno
import fcntl
import inspect
import json
import mmap
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from uring import Ring

PORT = 443
WAIT_S = 5
DEVICE = "way0"
FAR_MAC = bytes.fromhex("020000000001")
NEAR_MAC = bytes.fromhex("020000000002")
NEAR = {4: "192.0.2.2", 6: "2001:db8::2"}

SOL_IP, SOL_IPV6, SOL_UDPLITE = 0, 41, 136
IP_OPTIONS, IP_PKTINFO, IP_TRANSPARENT, IPV6_TRANSPARENT, IPV6_RTHDR = 4, 8, 19, 75, 57
IP_ADD_SOURCE_MEMBERSHIP, MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP = 39, 42, 46
IPV6_JOIN_ANYCAST = 27
PACKET_QDISC_BYPASS, SOL_PACKET = 20, 263
TCP_REPAIR, TCP_FASTOPEN_CONNECT = 19, 30
AF_RDS, AF_SMC, SOCK_PACKET = 21, 43, 10
LSRR, NOP, SEGMENT_ROUTING = 131, 1, 4
SIOCSIFADDR, SIOCDIFADDR = 0x8916, 0x8936
DAD_S = 1.5  # duplicate address detection begins after at most a second (RFC 4862, 5.4.2)
I386_SETSOCKOPT, X32_SETSOCKOPT, LOW = 366, 0x40000000 | 541, 0x40
# push rbx; eax, ebx, ecx, edx, esi, edi from the six arguments; int 0x80; pop rbx; cdqe; ret
INT_80 = bytes.fromhex("5389f889f387d14489c64489cfcd805b4898c3")

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
libc = ctypes.CDLL(None, use_errno=True)


def own(sock):
    sock.settimeout(WAIT_S)
    return sock


def made(family, kind, protocol=0):
    return own(socket.socket(FAMILIES.get(family, family), kind, protocol))


def place(to, *, scoped=False):
    if ":" not in to:
        return to, PORT
    return to, PORT, 0, socket.if_nametoindex(DEVICE) if scoped else 0


def raw_place(to, family=None):
    """Give a sockaddr_in or sockaddr_in6 as bytes."""
    if ":" in to:
        return struct.pack("=HHI", 10, socket.htons(PORT), 0) + pton(to) + bytes(4)
    family = socket.AF_INET if family is None else family
    return struct.pack("=HH", family, socket.htons(PORT)) + pton(to) + bytes(8)


def pton(address):
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "libc")
    return result


def libc_connect(sock, address):
    checked(libc.connect(sock.fileno(), address, len(address)))


def libc_sendto(sock, data, address):
    checked(libc.sendto(sock.fileno(), data, len(data), 0, address, len(address)))


def exchange(sock, token):
    sock.sendall(token)
    return sock.recv(100).decode()


# TCP, and what looks like it.


def tcp(family, to, token, protocol=0, scoped=False):
    with made(family, socket.SOCK_STREAM, protocol) as sock:
        sock.connect(place(to, scoped=scoped))
        return exchange(sock, token)


def fast_open(family, to, token):
    with made(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(True)
        sock.sendto(token, socket.MSG_FASTOPEN, place(to))
        return own(sock).recv(100).decode()


def fast_open_connect(family, to, token):
    with made(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        sock.connect(place(to))
        return exchange(sock, token)


def repair(family, to, token):
    """A connection without a handshake: the window probe at its end is the first packet."""
    with made(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        sock.connect(place(to))
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
        return "sent"


def smc(to, token):
    """Falls back to TCP where there is no RDMA; its TCP socket is the kernel's own."""
    with socket.socket(AF_SMC, socket.SOCK_STREAM) as sock:
        libc_connect(sock, raw_place(to))
        checked(libc.send(sock.fileno(), token, len(token), 0))
        return "sent"


def datagram_protocol(family, to, token, protocol):
    """UDP-Lite, L2TP and whatever else has datagrams of its own."""
    with made(family, socket.SOCK_DGRAM, protocol) as sock:
        libc_sendto(sock, token, raw_place(to))
        return "sent"


def dccp(to, token):
    with socket.socket(socket.AF_INET, 6, 33) as sock:
        sock.setsockopt(269, 2, struct.pack("=I", socket.htonl(42)))  # DCCP_SOCKOPT_SERVICE
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            libc_connect(sock, raw_place(to))
        return "sent"


def from_below(to, token):
    """Mount the tree of cgroups, make one below one's own, and connect from there."""
    folder = tempfile.mkdtemp()
    checked(libc.mount(b"none", folder.encode(), b"cgroup2", 0, None))
    below = folder + "/below"
    os.mkdir(below)
    try:
        pathlib.Path(below, "cgroup.procs").write_text("0")
        return tcp(4, to, token)
    finally:
        pathlib.Path(folder, "cgroup.procs").write_text("0")
        os.rmdir(below)
        checked(libc.umount(folder.encode()))


# UDP.


def udp(family, to, token, scoped=False):
    with made(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(token, place(to, scoped=scoped))
        return "sent"


def udp_connected(family, to, token, scoped=False):
    with made(family, socket.SOCK_DGRAM) as sock:
        sock.connect(place(to, scoped=scoped))
        sock.send(token)
        return "sent"


def udp_elsewhere(family, to, token):
    """Connected to one's own loopback, and sent to another place."""
    with made(family, socket.SOCK_DGRAM) as sock:
        sock.connect(place("127.0.0.1" if family == 4 else "::1"))
        # Loopback's own address is its source by now, with which nobody is heard outside.
        if family == 4:
            source = (SOL_IP, IP_PKTINFO, bytes(4) + pton(NEAR[4]) + bytes(4))
        else:
            source = (SOL_IPV6, socket.IPV6_PKTINFO, pton(NEAR[6]) + bytes(4))
        sock.sendmsg([token], [source], 0, place(to))
        return "sent"


def udp_many(family, to, token):
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]

    class Message(ctypes.Structure):
        _fields_ = [
            ("name", ctypes.c_char_p), ("name_length", ctypes.c_uint32),
            ("vectors", ctypes.POINTER(Vector)), ("count", ctypes.c_size_t),
            ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
            ("flags", ctypes.c_int), ("sent", ctypes.c_uint32),
        ]  # fmt: skip

    address = raw_place(to)
    vector = Vector(token, len(token))
    message = Message(address, len(address), ctypes.pointer(vector), 1, None, 0, 0, 0)
    with made(family, socket.SOCK_DGRAM) as sock:
        checked(libc.sendmmsg(sock.fileno(), ctypes.byref(message), 1, 0))
        return "sent"


def udp_odd_family(family, to, token, named, connects=False):
    """An address whose family is not the socket's: AF_INET for IPv6's, AF_UNSPEC for IPv4's."""
    with made(family, socket.SOCK_DGRAM) as sock:
        if connects:
            libc_connect(sock, raw_place(to, named))
            sock.send(token)
        else:
            libc_sendto(sock, token, raw_place(to, named))
        return "sent"


def udp_broadcast(to, token):
    with made(4, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(token, place(to))
        return "sent"


# Loopback in name, and another way in truth: no hook on addresses can see these.


def loopback_by_device(family, to, token):
    with made(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE.encode())
        sock.sendto(token, place(to))
        return "sent"


def loopback_by_source_route(to, token):
    with made(4, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(SOL_IP, IP_OPTIONS, bytes([LSRR, 7, 4]) + pton(to) + bytes([NOP]))
        sock.sendto(token, place("127.0.0.1"))
        return "sent"


def loopback_by_segment(to, token):
    """A routing header of type 4 (RFC 8754): by way of `to`, which is where the packet goes."""
    header = struct.pack("=BBBBBBH", 0, 4, SEGMENT_ROUTING, 1, 1, 0, 0) + bytes(16) + pton(to)
    with made(6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(SOL_IPV6, IPV6_RTHDR, header)
        sock.sendto(token, place("::1"))
        return "sent"


def spoofed(family, source, to, token):
    level, option = (SOL_IP, IP_TRANSPARENT) if family == 4 else (SOL_IPV6, IPV6_TRANSPARENT)
    with made(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(level, option, 1)
        sock.bind((source, 0))
        sock.sendto(token, place(to))
        return "sent"


# Raw sockets, and those that the kernel makes packets for.


def ping(family, to, token, kind):
    protocol, request = (1, 8) if family == 4 else (58, 128)
    with made(family, kind, protocol) as sock:
        header = struct.pack("!BBHHH", request, 0, 0, 7, 1)
        header = header[:2] + checksum(header + token) + header[4:]
        sock.sendto(header + token, (to, 0))
        return "heard" if token in sock.recv(1000) else "TIMEOUT"


def header_included(family, to, token):
    with made(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        packet = ip_packet(to, token) if family == 4 else ip6_packet(to, token)
        sock.sendto(packet, (to, 0))
        return "sent"


def checksum(data):
    """RFC 1071."""
    total = sum(data[0::2]) * 256 + sum(data[1::2])
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def datagram(token):
    return struct.pack("!HHHH", PORT, PORT, 8 + len(token), 0) + token


def ip_packet(to, token):
    body = datagram(token)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0)
    head += pton(NEAR[4]) + pton(to)
    return head[:10] + checksum(head) + head[12:] + body


def ip6_packet(to, token):
    body, ends = datagram(token), pton(NEAR[6]) + pton(to)
    body = body[:6] + checksum(ends + struct.pack("!II", len(body), 17) + body) + body[8:]
    return struct.pack("!IHBB", 6 << 28, len(body), 17, 64) + ends + body


def frame(to, token):
    return FAR_MAC + NEAR_MAC + b"\x08\0" + ip_packet(to, token)


def packet_socket(to, token, bypass):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        if bypass:
            sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        sock.sendto(frame(to, token), (DEVICE, 0))
        return "sent"


def old_packet_socket(to, token):
    """SOCK_PACKET: a packet socket by the name of an internet socket."""
    with socket.socket(socket.AF_INET, SOCK_PACKET, socket.htons(3)) as sock:
        name = struct.pack("=H14sH", socket.AF_INET, DEVICE.encode(), socket.htons(0x0800))
        libc_sendto(sock, frame(to, token), name)
        return "sent"


def rds(to, token):
    """Datagrams over TCP, of which the connections are the kernel's: a worker's, not ours."""
    with socket.socket(AF_RDS, socket.SOCK_SEQPACKET) as sock:
        here = raw_place(NEAR[4])
        checked(libc.bind(sock.fileno(), here, len(here)))
        libc_sendto(sock, token, raw_place(to))
        time.sleep(1)
        return "sent"


def led_elsewhere(to, token, device=DEVICE):
    """Loopback as every hook sees it, and sent out by its device, which comes after them all."""
    redirect = f"egress protocol ip u32 match u32 0 0 action mirred egress redirect dev {device}"
    tc("qdisc add dev lo clsact")
    try:
        tc(f"filter add dev lo {redirect}")
        return udp(4, to, token)
    finally:
        tc("qdisc delete dev lo clsact")


def tc(command):
    done = subprocess.run(["/usr/sbin/tc", *command.split()], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lacks = "Operation not permitted" not in done.stderr
        raise OSError(errno.EPROTONOSUPPORT if lacks else errno.EPERM, done.stderr)


def only_made(family, kind, protocol=0):
    with socket.socket(family, kind, protocol):
        return "made"


def passed(fd, token, to=None):
    """A socket that somebody else has made: its cgroup is its maker's."""
    with own(socket.socket(fileno=os.dup(fd))) as sock:
        if to is not None:
            sock.connect(place(to))
        sock.sendall(token)
        return "sent"


def own_address(address, device=DEVICE):
    """The kernel asks all neighbours whether somebody has it already, and joins its group."""
    change = pton(address) + struct.pack("=Ii", 64, socket.if_nametoindex(device))
    with made(6, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFADDR, change)
        time.sleep(DAD_S)
        fcntl.ioctl(sock, SIOCDIFADDR, change)
        return "sent"


# Groups: the kernel tells the neighbours of each that is joined.


def join(family, group, source=None, on=None, by_index=True):
    index = socket.if_nametoindex(DEVICE)
    with made(on or family, socket.SOCK_DGRAM) as sock:
        if family == 4 and source:
            value = pton(group) + pton(NEAR[4]) + pton(source)
            sock.setsockopt(SOL_IP, IP_ADD_SOURCE_MEMBERSHIP, value)
        elif family == 4:
            value = pton(group) + (
                bytes(4) + struct.pack("=i", index) if by_index else pton(NEAR[4])
            )
            sock.setsockopt(SOL_IP, socket.IP_ADD_MEMBERSHIP, value)
        else:
            value = pton(group) + struct.pack("=I", index)
            sock.setsockopt(SOL_IPV6, socket.IPV6_JOIN_GROUP, value)
        return "sent"


def join_by_long_value(group):
    """More than the kernel hands to a program that is asked about options."""
    value = pton(group) + bytes(4) + struct.pack("=i", socket.if_nametoindex(DEVICE))
    with made(4, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(SOL_IP, socket.IP_ADD_MEMBERSHIP, value.ljust(8192, b"\0"))
        return "sent"


def join_by_foreign_call(group, x32, device=DEVICE):
    """As a 32-bit program does: no BPF program is asked (net/socket.c, do_sock_setsockopt)."""
    value = pton(group) + bytes(4) + struct.pack("=i", socket.if_nametoindex(device))
    pages = mmap.mmap(-1, 4096, LOW | mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
    pages.write(INT_80.ljust(64, b"\x90") + value)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    with made(4, socket.SOCK_DGRAM) as sock:
        arguments = (sock.fileno(), SOL_IP, socket.IP_ADD_MEMBERSHIP, start + 64, len(value))
        if x32:
            checked(libc.syscall(ctypes.c_long(X32_SETSOCKOPT), *arguments))
            return "sent"
        call = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 6)(start)
        result = call(I386_SETSOCKOPT, *arguments)
        if result < 0:
            raise OSError(-result, "int 0x80")
        return "sent"


def storage(address):
    return raw_place(address).ljust(128, b"\0")


def join_any(family, group, source=None):
    """The same by the options that know both families."""
    level, option = (SOL_IP if family == 4 else SOL_IPV6), MCAST_JOIN_GROUP
    value = struct.pack("=I4x", socket.if_nametoindex(DEVICE)) + storage(group)
    if source:
        option, value = MCAST_JOIN_SOURCE_GROUP, value + storage(source)
    with made(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(level, option, value)
        return "sent"


def join_anycast(group):
    with made(6, socket.SOCK_DGRAM) as sock:
        value = pton(group) + struct.pack("=I", socket.if_nametoindex(DEVICE))
        sock.setsockopt(SOL_IPV6, IPV6_JOIN_ANYCAST, value)
        return "sent"


# io_uring: no system call says what is done.


def uring_connect(to, token, aside=False, polled=False):
    with made(4, socket.SOCK_STREAM) as sock, Ring(polled=polled) as ring:
        sock.setblocking(True)
        ring.connect(sock.fileno(), raw_place(to), aside=aside)
        return exchange(own(sock), token)


def uring_sendmsg(to, token, fast=False):
    kind = socket.SOCK_STREAM if fast else socket.SOCK_DGRAM
    with made(4, kind) as sock, Ring() as ring:
        sock.setblocking(True)
        ring.sendmsg(sock.fileno(), raw_place(to), token, socket.MSG_FASTOPEN if fast else 0)
        return "sent"


def uring_socket(kind, protocol):
    with Ring() as ring:
        os.close(ring.socket(socket.AF_INET, kind, protocol))
        return "made"


def uring_join(group):
    value = pton(group) + bytes(4) + struct.pack("=i", socket.if_nametoindex(DEVICE))
    with made(4, socket.SOCK_DGRAM) as sock, Ring() as ring:
        ring.setsockopt(sock.fileno(), SOL_IP, socket.IP_ADD_MEMBERSHIP, value)
        return "sent"


# What comes in: a listener answers everybody who finds it.


def listen(family, token):
    """Answer until told to stop; then visit oneself, and tell who else was there before."""
    peers = []
    with made(family, socket.SOCK_STREAM) as sock, made(family, socket.SOCK_DGRAM) as other:
        everywhere, home = ("0.0.0.0", "127.0.0.1") if family == 4 else ("::", "::1")
        for one in (sock, other):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == 6:
                one.setsockopt(SOL_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((everywhere, PORT))
        sock.listen()
        sock.settimeout(None)
        other.bind((everywhere, PORT))

        def serve():
            while home not in peers:
                connection, peer = sock.accept()
                connection.sendall(token)
                connection.close()
                peers.append(peer[0])

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        print(json.dumps("listening"), flush=True)
        sys.stdin.readline()
        with made(family, socket.SOCK_STREAM) as visitor:
            visitor.connect((home, PORT))
            server.join(WAIT_S)
        with made(family, socket.SOCK_DGRAM) as visitor:
            visitor.sendto(b"", (home, PORT))
            while True:
                _, peer = other.recvfrom(100)
                peers.append(peer[0])
                if peer[0] == home:
                    return " ".join(peers)


def visit_self(family, to, token):
    """0.0.0.0 and :: are one's own loopback, to who connects to them."""
    with made(family, socket.SOCK_STREAM) as server, made(family, socket.SOCK_STREAM) as visitor:
        server.bind(("", 0))
        server.listen()
        visitor.connect((to, server.getsockname()[1]))
        visitor.sendall(token)
        connection, peer = server.accept()
        with connection:
            return f"{connection.recv(100).decode() == token.decode()} {peer[0]}"


def attempt(way, arguments):
    arguments["token"] = arguments["token"].encode()
    work = globals()[way]
    known = inspect.signature(work).parameters
    try:
        return work(**{name: value for name, value in arguments.items() if name in known})
    except TimeoutError:
        return "TIMEOUT"
    except OSError as error:
        return errno.errorcode[error.errno]


for way, arguments in json.loads(sys.argv[1]):
    print(json.dumps(attempt(way, arguments)), flush=True)
