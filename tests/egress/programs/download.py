"""Download as pip does, in pieces, with a digest over all; slower where a pause is given.

download.py URL [PAUSE_S RECEIVE_BUFFER]
"""

import hashlib
import socket
import sys
import time
import urllib.parse
import urllib.request

url, *more = sys.argv[1:]
digest, size = hashlib.blake2b(), 0
if more:
    pause_s, buffer = float(more[0]), int(more[1])
    split = urllib.parse.urlsplit(url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.connect((split.hostname, split.port or 80))
    sock.sendall(f"GET {split.path}?{split.query} HTTP/1.1\r\nHost: {split.hostname}\r\n"
                 "Connection: close\r\n\r\n".encode())  # fmt: skip
    source = sock.makefile("rb", buffering=0)
    while (source.readline() or b"\r\n") != b"\r\n":
        continue
else:
    pause_s, source = 0, urllib.request.urlopen(url, timeout=60)
with source:
    while data := source.read(1 << 18):
        digest.update(data)
        size += len(data)
        time.sleep(pause_s)
print(size, digest.hexdigest())
