"""Hold many connections at once, and use each of them.

many.py HOST PORT COUNT
"""

import asyncio
import sys


async def main():
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    opened = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(count)))
    # All of them are open now; each says something of its own.

    async def talk(number, reader, writer):
        for turn in range(3):
            text = f"{number}-{turn}\n".encode()
            writer.write(text)
            await writer.drain()
            if await reader.readexactly(len(text)) != text:
                return 0
        return 1

    good = await asyncio.gather(*(talk(n, *pair) for n, pair in enumerate(opened)))
    for _, writer in opened:
        writer.close()
    print(sum(good))


asyncio.run(main())
