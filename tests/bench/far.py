"""What lies in the world while `make bench` measures egress: a resolver, and servers that are fast.

    python -m tests.bench.far FOLDER DEVICE TOKEN

Takes what `tests.egress.servers` takes, since `tests.support.world` starts it in its place, and
looks at no frame: that would slow down what is measured. `STREAM` is the program to serve with.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from socket import create_server, socket

from tests.egress.servers import names, places
from tests.egress.servers.authority import Authority
from tests.egress.servers.log import Log

HOST = "four.example.com"
"""A name with one address, so that both ways lead over the same wire."""

TLS_PORT = 443
BLOCK = bytes(1 << 20)


def main() -> None:
    """Start everything, and wait for the end of standard input."""
    folder = Path(sys.argv[1])
    log = Log(folder / "log.jsonl")
    names.serve_datagrams(names.Zone(folder / "zone.json", log), places.RESOLVERS[0])
    context = Authority(folder).context(HOST)
    threading.Thread(target=_serve_tls, args=(context,), daemon=True).start()
    with subprocess.Popen(
        [os.environ["STREAM"], "serve", places.SHARED[0]],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as streams:  # fmt: skip
        assert streams.stdin is not None
        assert streams.stdout is not None
        assert streams.stdout.readline() == b"ready\n"
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()
        streams.stdin.close()


def _serve_tls(context: ssl.SSLContext) -> None:
    with create_server((places.SHARED[0], TLS_PORT), backlog=64) as listener:
        while True:
            raw, _ = listener.accept()
            threading.Thread(target=_give, args=(context, raw), daemon=True).start()


def _give(context: ssl.SSLContext, raw: socket) -> None:
    """Send as many bytes as the first line asks for."""
    with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as connection:
        left = int(connection.recv(64))
        while left > 0:
            left -= connection.send(BLOCK[:left])


if __name__ == "__main__":
    main()
