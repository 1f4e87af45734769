"""Try to reach somebody; argv[1] is JSON: [[kind, address, port], …]. Prints what came back."""

import errno
import json
import socket
import sys

WAIT_S = 2


def stream(family, address):
    with socket.socket(family) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(address)
        return sock.recv(100).decode()


def datagram(family, address, own=None):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_S)
        if own is not None:
            sock.bind(own)
        if family == socket.AF_INET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(b"hello", address)
        return sock.recv(100).decode()


def fast_open(address):
    with socket.socket() as sock:
        sock.sendto(b"hello", socket.MSG_FASTOPEN, address)
        sock.settimeout(WAIT_S)
        return sock.recv(100).decode()


def attempt(kind, address, port):
    match kind:
        case "tcp":
            return stream(socket.AF_INET, (address, port))
        case "tcp6":
            return stream(socket.AF_INET6, (address, port))
        case "udp":
            return datagram(socket.AF_INET, (address, port))
        case "udp6":
            return datagram(socket.AF_INET6, (address, port))
        case "fastopen":
            return fast_open((address, port))
        case "name":
            return repr(socket.getaddrinfo(address, port))
        case "abstract":
            return stream(socket.AF_UNIX, "\0" + address)
        case "abstract datagram":
            return datagram(socket.AF_UNIX, "\0" + address, own="")
        case "path":
            return stream(socket.AF_UNIX, address)


found = []
for target in json.loads(sys.argv[1]):
    try:
        found.append(attempt(*target))
    except socket.gaierror as error:
        found.append(f"NO_NAME {error.errno}")
    except TimeoutError:
        found.append("TIMEOUT")
    except OSError as error:
        found.append(errno.errorcode[error.errno])
print(json.dumps(found))
