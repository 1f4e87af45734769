"""The HTTP server of the metrics."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from supervisor.api import metrics_server as module
from supervisor.api.metrics_server import CONNECTIONS_MAX, MetricsServer


@contextlib.contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[MetricsServer]:
    registry = CollectorRegistry()
    Gauge("stockade_x", "One.", registry=registry).set(7)
    server = MetricsServer(host, 0, registry)
    try:
        yield server
    finally:
        server.close()


def asked(host: str, port: int) -> bytes:
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=20) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_it_answers(host: str, shown: str) -> None:
    with serving(host) as server:
        assert b"stockade_x 7.0" in asked(shown, server.port)
    with pytest.raises(OSError, match="refused"):
        asked(shown, server.port)


def test_who_says_nothing_takes_few_threads_and_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    monkeypatch.setattr(module._Handler, "timeout", 2.0)
    with serving() as server, contextlib.ExitStack() as held:
        where = "127.0.0.1", server.port
        quiet = [
            held.enter_context(socket.create_connection(where, timeout=20))
            for _ in range(3 * CONNECTIONS_MAX)
        ]
        assert all(one.recv(1) == b"" for one in quiet[CONNECTIONS_MAX:])
        assert threading.active_count() <= before + 1 + CONNECTIONS_MAX
        assert all(one.recv(1) == b"" for one in quiet)
        assert b"stockade_x 7.0" in asked(*where)
