"""The HTTP server of the metrics: on loopback, for whoever is on this host, in threads of its own.

Whoever connects gets a thread, so there are few at a time, and who says nothing is let go of.
"""

from __future__ import annotations

import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

CONNECTIONS_MAX = 16
QUIET_S = 5.0
"""For who connects to say something, or to take what it is sent."""


class _Handler(WSGIRequestHandler):
    """Logs no requests."""

    timeout = QUIET_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name)
        """Log nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, *given: Any, **more: Any) -> None:
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__(*given, **more)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, where there is one to be had."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # No thread was started.
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: it is nobody's news that who asked has gone."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class MetricsServer:
    """Answers from a registry until it is closed."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        """Listen; raises OSError."""
        server = _Server6 if ":" in host else _Server
        self._server = make_server(host, port, make_wsgi_app(registry), server, _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Give the port that it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
