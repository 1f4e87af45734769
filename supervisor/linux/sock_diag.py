"""Whose socket is at the other end of a TCP connection over loopback (sock_diag(7)).

A netlink socket asks about the network namespace that it was made in, whatever namespace its
process is in later.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
TCP_ESTABLISHED = 1
_HEADER = struct.Struct("=IHHII")
_ID = struct.Struct("!HH16s16s")  # in the order of the network
_COOKIE = struct.Struct("=III")  # of any interface, INET_DIAG_NOCOOKIE
_REQUEST = struct.Struct("=BBBBI")
_STATE_AT, _UID_AT = 1, 64
"""Within `struct inet_diag_msg` (linux/inet_diag.h)."""
_ANSWER_BYTES = 72
RECEIVE_BYTES = 4096


def open_diag() -> socket.socket:
    """Give a socket to ask by."""
    end = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    end.connect((0, 0))  # from the kernel alone
    return end


def uid_of(diag: socket.socket, own: tuple[str, int], peer: tuple[str, int]) -> int:
    """Give the user who made the socket at `peer`, (address, port), connected to ours at `own`.

    Raises:
        OSError: there is no such socket on this host, or it is closing: of one that is, the kernel
            does not know the user.
    """
    ip = ipaddress.ip_address(own[0])
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    request = (
        _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << TCP_ESTABLISHED)
        + _ID.pack(peer[1], own[1], _packed(peer[0]), _packed(own[0]))
        + _COOKIE.pack(0, 0xFFFFFFFF, 0xFFFFFFFF)
    )
    length = _HEADER.size + len(request)
    diag.send(_HEADER.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0) + request)
    answer = diag.recv(RECEIVE_BYTES)
    _, kind, *_ = _HEADER.unpack_from(answer)
    body = answer[_HEADER.size :]
    if kind == NLMSG_ERROR:
        (number,) = struct.unpack_from("=i", body)
        raise OSError(-number, f"sock_diag: {os.strerror(-number)}")
    if kind != SOCK_DIAG_BY_FAMILY or len(body) < _ANSWER_BYTES:
        raise OSError(errno.EPROTO, "sock_diag: the kernel gave no socket")
    if body[_STATE_AT] != TCP_ESTABLISHED:
        raise OSError(errno.ENOTCONN, "sock_diag: the socket is closing")
    (uid,) = struct.unpack_from("=I", body, _UID_AT)
    return int(uid)


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed.ljust(16, b"\0")
