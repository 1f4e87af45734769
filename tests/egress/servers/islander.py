"""What the daemon's host has on its own loopback: a service that no sandbox may reach by a name.

python -m tests.egress.servers.islander FOLDER TOKEN
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.egress.servers import places
from tests.egress.servers.log import Log
from tests.egress.servers.web import Site, Visit, listen


def main() -> None:
    """Serve until standard input ends."""
    folder, token = Path(sys.argv[1]), sys.argv[2]
    log = Log(folder / "log.jsonl")
    site = Site(token=token, log=log, git="", only="island")
    for address in places.LOOPBACK:
        listen(address, 80, lambda conn, to=address: Visit(conn, site, to, 80, "").serve(), log)  # type: ignore[misc]
    print("ready", flush=True)  # noqa: T201
    sys.stdin.read()


main()
