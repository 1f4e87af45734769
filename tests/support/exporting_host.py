"""A daemon that does nothing but export: `python -m tests.support.exporting_host STATE ORDERS`.

ORDERS is a pickled list of orders. It writes how its sinks do into a file of the state folder.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

from supervisor.audit.store import Store
from supervisor.export import exporter as module
from supervisor.export.build import Order
from supervisor.export.exporter import Exporter

SAY_S = 0.02


async def main(state: Path, orders: Sequence[Order]) -> None:
    module.AGAIN_MIN_S = 0.05
    module.AGAIN_MAX_S = 1.0
    store = Store.open(state)
    exporter = Exporter(orders, store.outlet, state)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    exporter.start()
    status, last = state / "export.status", b""
    while not ended.is_set():
        said = orjson.dumps([asdict(one) for one in exporter.states])
        if said != last:
            new = status.with_suffix(".new")
            new.write_bytes(said)
            new.replace(status)
            last = said
        try:
            async with asyncio.timeout(SAY_S):
                await ended.wait()
        except TimeoutError:
            continue
    await exporter.close()
    await store.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    ordered = pickle.loads(Path(sys.argv[2]).read_bytes())  # noqa: S301 (a test's own)
    asyncio.run(main(Path(sys.argv[1]), ordered))
