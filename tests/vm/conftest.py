"""The machines of a session, and what the files that run inside one share.

That is a daemon which is a service of systemd's, one for all of them: where there is no KVM a start
takes half a minute. `guest.py` ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.client import Supervisor
from tests.vm.boots import AT_ONCE, Booted
from tests.vm.service import ADDRESS, service

HERE = Path(__file__).parent

# Python alone takes seconds of processor time where a machine is emulated beside other work.
LONG = "wall: 300s, cpu: 120s"
TIGHT = f"limits: {{{LONG}, memory: 64MiB, pids: 16}}\n"
PYTHON = "extends: python\nwhy: For one test.\n"
LIMITS = f"limits: {{{LONG}}}\n"
WATCH = "syscalls: {watch: [getpriority, execve]}\n"
PROFILES = {
    "runc": f"runtime: runc\n{TIGHT}",
    "crun": f"runtime: crun\n{TIGHT}",
    "terminal-in-crun": "runtime: crun\nterminal: allow\n",
    "brief": "limits: {wall: 300s, cpu: 1s}\n",
    "pure": "require: [cgroup-v2]\n",
    "watching": f"profile: watching\n{PYTHON}{WATCH}{LIMITS}",
    "watching-in-crun": f"profile: watching-in-crun\n{PYTHON}runtime: crun\n{WATCH}{LIMITS}",
    "observing": f"profile: observing\n{PYTHON}{LIMITS}mode: observe\n",
}


BOOTED = pytest.StashKey[Booted]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Boot what the selected tests ask for, beside the others."""
    if session.config.option.collectonly:
        return
    boots = {
        item.callspec.params["boot"]: None
        for item in session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_in_the_guest"
    }
    alone = all(item.path.parent == HERE for item in session.items)
    session.stash[BOOTED] = Booted(boots, AT_ONCE if alone else 1)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the machines that nobody waited for."""
    if (booted := session.stash.get(BOOTED, None)) is not None:
        booted.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the daemon."""
    with service(tmp_path_factory.mktemp("etc"), **PROFILES):
        yield


@pytest.fixture
def client(served: None) -> Iterator[Supervisor]:
    """Connect to it."""
    with Supervisor(ADDRESS) as supervisor:
        yield supervisor
