"""Talk to an echo over WebSockets; prints the sizes of what came back."""

import asyncio
import sys

import websockets


async def main():
    for url in sys.argv[1:]:
        async with websockets.connect(url, max_size=1 << 22, open_timeout=20) as connection:
            for size in (1, 125, 126, 70_000, 1 << 20):
                await connection.send(bytes(size))
                print(len(await connection.recv()))


asyncio.run(main())
