"""A fake daemon on a socket of its own, and a client of it that does not wait long."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.client import Retry, Supervisor
from tests.unit.client.fake_daemon import FakeDaemon, fake_daemon

FAST = Retry(attempts_max=4, delay_s=0.001, delay_max_s=0.002)


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    # A folder of our own: pytest's are too long for the path of a socket.
    with tempfile.TemporaryDirectory() as folder, fake_daemon(Path(folder)) as fake:
        yield fake


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Supervisor]:
    with Supervisor(daemon.address, retry=FAST) as supervisor:
        yield supervisor
