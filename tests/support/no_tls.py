"""A call that reaches for one place in what is no TLS: denied, and nothing is dialled."""

from __future__ import annotations

RULE = """\
egress:
  - {host: api.github.com, port: 443, why: "what is no TLS is denied, and nothing dialled"}
syscalls: {allow: ["@network-io"]}
"""
PROGRAM = """
import socket
with socket.create_connection(("api.github.com", 443)) as sock:
    sock.sendall(b"no TLS" * 9)
    try:
        sock.recv(1)
    except ConnectionResetError:
        pass
"""
