"""A real PostgreSQL of a test's own, as an unprivileged user, in a network namespace that is given.

    with postgres(there.far, "10.2.0.5") as server: ...

Debian's package makes a cluster of its own where it is not told otherwise (.ci/setup does); this
one is made anew, in a temporary folder, and removed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.users import become

USER = "nobody"
DATABASE, PORT = "postgres", 5432
START_S = 30.0
POLL_S = 0.05
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
HBA = "host all all all trust\n"
QUICK = {"fsync": "off", "full_page_writes": "off", "unix_socket_directories": "", "port": PORT}


def programs() -> Path:
    """Find where the newest PostgreSQL of this host keeps its programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    assert found, "no PostgreSQL: .ci/setup installs it"
    return found[-1].parent


@contextlib.contextmanager
def postgres(network: str, address: str) -> Iterator[None]:
    """Run a server that listens on one address of a network namespace."""
    user = pwd.getpwnam(USER)
    drop = become(user.pw_uid, user.pw_gid)
    with tempfile.TemporaryDirectory(prefix="stockade-postgres-") as name:
        folder, log = Path(name) / "data", Path(name) / "log"
        Path(name).chmod(0o755)
        folder.mkdir(mode=0o700)
        os.chown(folder, user.pw_uid, user.pw_gid)
        subprocess.run(
            [*drop, programs() / "initdb", "--no-sync", "--auth=trust", f"--username={USER}",
             folder],
            check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT, cwd="/",
        )  # fmt: skip
        (folder / "pg_hba.conf").write_text(HBA)
        settings = [f"-c{key}={value}" for key, value in QUICK.items()]
        with log.open("wb") as errors, subprocess.Popen(
            ["nsenter", f"--net={network}", *drop, str(programs() / "postgres"),
             "-D", str(folder), f"-clisten_addresses={address}", *settings],
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=ENVIRONMENT, cwd="/",
        ) as process:  # fmt: skip
            try:
                _wait_until_ready(network, address, log)
                yield
            finally:
                process.send_signal(signal.SIGINT)  # fast shutdown


def _wait_until_ready(network: str, address: str, log: Path) -> None:
    asks = ["nsenter", f"--net={network}", str(programs() / "pg_isready"), "-q", "-h", address]
    deadline = time.monotonic() + START_S
    while subprocess.run(asks, check=False, env=ENVIRONMENT).returncode:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(POLL_S)
