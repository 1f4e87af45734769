"""The WebSockets of the world: an echo, plain and over TLS, until standard input ends.

/usr/bin/python3 sockets.py CHAIN ADDRESS…
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any

import websockets

MESSAGE_MAX = 16 << 20


async def echo(connection: Any, path: str = "/") -> None:
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    chain, *addresses = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    for port, secure in ((80, None), (443, context)):
        await websockets.serve(echo, addresses, port, ssl=secure, max_size=MESSAGE_MAX)  # type: ignore[attr-defined]
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
