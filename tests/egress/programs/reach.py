"""Try to get at somebody: argv[1] is JSON, a list of attempts. Prints what came back.

    {"do": "tcp", "to", "port", "send"}    with "tls": {"sni", "alpn"}, "ech": an inner name, "idna"
    {"do": "udp", "to", "port", "send"}    with "connect", "lite", "wait_s"
    {"do": "dns", "server", "over", "labels", "kind"}   "" is the server of resolv.conf
    {"do": "ping", "to"}                   with "raw"
    {"do": "name", "name"}
    {"do": "run", "argv"}

"until" is a text after which nothing more is waited for. Names in "to" are resolved.
"""

import errno
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import time

WAIT_S = 10
BYTES_MAX = 1 << 20


def places(to, port, kind=socket.SOCK_STREAM):
    return [(found[0], found[4]) for found in socket.getaddrinfo(to, port, type=kind)]


def dial(to, port, wait_s=WAIT_S):
    last = None
    for family, address in places(to, port):
        sock = socket.socket(family)
        sock.settimeout(wait_s)
        try:
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            last = error
    raise last


def secure(sock, sni=None, alpn=()):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    return context.wrap_socket(sock, server_hostname=sni)


def hello_with_ech(outer, inner):
    """Make a ClientHello with the extension 0xfe0d, whose content we do not even encrypt."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=outer).do_handshake()
    except ssl.SSLWantReadError:
        message = bytearray(outgoing.read()[5:])
    at = 4 + 2 + 32
    at += 1 + message[at]
    at += 2 + int.from_bytes(message[at : at + 2], "big")
    at += 1 + message[at]
    content = b"toy-ech:" + inner.encode()
    extension = struct.pack(">HH", 0xFE0D, len(content)) + content
    length = int.from_bytes(message[at : at + 2], "big") + len(extension)
    body = bytes(message[4:at]) + struct.pack(">H", length) + bytes(message[at + 2 :]) + extension
    handshake = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + struct.pack(">H", len(handshake)) + handshake


def listen(sock, until):
    got = b""
    while len(got) < BYTES_MAX and (not until or until.encode() not in got):
        try:
            data = sock.recv(65536)
        except (TimeoutError, ConnectionResetError) as error:
            return got + f" <{type(error).__name__}>".encode()
        if not data:
            break
        got += data
    return got


def tcp(to, port, send="", tls=None, ech="", until="", then=(), pause_s=0, idna=False,
        wait_s=WAIT_S):  # fmt: skip
    to = to.encode("idna").decode() if idna else to
    with dial(to, port, wait_s) as sock:
        if ech:
            sock.sendall(hello_with_ech(tls["sni"], ech))
            return sock.recv(65536)
        if tls is not None:
            sock = secure(sock, **tls)
        sock.sendall(send.encode("latin-1"))
        for more in then:
            time.sleep(pause_s)
            sock.sendall(more.encode("latin-1"))
        return listen(sock, until)


def udp(to, port, send="hello", connect=False, lite=False, wait_s=WAIT_S, until=""):
    family, address = places(to, port, socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM, 136 if lite else 0) as sock:
        sock.settimeout(wait_s)
        if connect:
            sock.connect(address)
            sock.send(send.encode())
        else:
            sock.sendto(send.encode(), address)
        return sock.recv(65536)


def query(labels, kind):
    name = b"".join(bytes((len(part),)) + part.encode("latin-1") for part in labels) + b"\0"
    return os.urandom(2) + b"\x01\x00\x00\x01" + bytes(6) + name + struct.pack(">HH", kind, 1)


def dns(labels, server="", over="udp", kind=16, until=""):
    if not server:
        with open("/etc/resolv.conf") as file:
            server = re.search(r"nameserver (\S+)", file.read())[1]
    wire = query(labels, kind)
    if over == "udp":
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(WAIT_S)
            sock.sendto(wire, (server, 53))
            return sock.recv(65536)
    with dial(server, {"tcp": 53, "tls": 853, "https": 443}[over]) as sock:
        if over == "tcp":
            sock.sendall(struct.pack(">H", len(wire)) + wire)
            return sock.recv(65536)
        sock = secure(sock)
        if over == "tls":
            sock.sendall(struct.pack(">H", len(wire)) + wire)
        else:
            head = "POST /dns-query HTTP/1.1\r\nHost: dns.example.com\r\n"
            media = "Content-Type: application/dns-message\r\n"
            length = f"Content-Length: {len(wire)}\r\n\r\n"
            sock.sendall((head + media + length).encode() + wire)
        return listen(sock, until)


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def ping(to, raw=False, until=""):
    v6 = ":" in to
    family = socket.AF_INET6 if v6 else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    data = struct.pack(">BBHHH", 128 if v6 else 8, 0, 0, 7, 1) + b"exfiltrated!"
    data = data[:2] + struct.pack(">H", checksum(data)) + data[4:]
    with socket.socket(family, socket.SOCK_RAW if raw else socket.SOCK_DGRAM, protocol) as sock:
        sock.settimeout(WAIT_S)
        sock.sendto(data, (to, 0))
        return sock.recv(65536)


def name(name, until=""):
    return repr(sorted({address[0] for _, address in places(name, 80)})).encode()


def run(argv, until=""):
    done = subprocess.run(argv, capture_output=True, timeout=30)
    return done.stdout + done.stderr


def attempt(do, **what):
    try:
        return globals()[do](**what).decode("latin-1")
    except socket.gaierror as error:
        return f"<gaierror {error.errno}>"
    except TimeoutError:
        return "<TimeoutError>"
    except ssl.SSLError as error:
        return f"<SSLError {error.reason}>"
    except OSError as error:
        return f"<{errno.errorcode.get(error.errno, error.errno)}>"


def main():
    print(json.dumps([attempt(**one) for one in json.loads(sys.argv[1])]))


main()
