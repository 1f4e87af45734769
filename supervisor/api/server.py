"""The gRPC server: listeners, identity, services, health, and a graceful end.

gRPC itself listens in a private folder only: once without TLS for what comes in over unix
sockets, and once for each TCP address with that address's certificates. A `Front` stands before
each of them (see `front`). The order of a stop: health says NOT_SERVING, the engine drains,
answers in flight are given, doors close.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined] # ExecuteBatchError has no other name
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from supervisor import __version__
from supervisor.api import callers, console, sockets, systemd
from supervisor.api.audit_service import AuditService
from supervisor.api.config import Configuration, Tls
from supervisor.api.console import Console
from supervisor.api.console_service import ConsoleService
from supervisor.api.export_service import ExportService, SinkControl
from supervisor.api.front import Front
from supervisor.api.health import Health
from supervisor.api.intercept import Context, Guard
from supervisor.api.metrics import Metrics
from supervisor.api.metrics_server import MetricsServer
from supervisor.api.peers import Peer, Peers
from supervisor.api.profile_service import ProfileService
from supervisor.api.reach import unreachable
from supervisor.api.refusal_entries import RefusalEntries
from supervisor.api.tool_service import ToolService
from supervisor.api.witness_config import split_host_port
from supervisor.audit.witnessed import Witnessed
from supervisor.engine import Engine
from supervisor.errors import HostError, ProfileError
from supervisor.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    console_pb2,
    console_pb2_grpc,
    export_pb2,
    export_pb2_grpc,
    profile_pb2,
    profile_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
)

log = logging.getLogger("stockade.api")

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (tool_pb2, "ToolService"),
        (profile_pb2, "ProfileService"),
        (audit_pb2, "AuditService"),
        (console_pb2, "ConsoleService"),
        (export_pb2, "ExportService"),
    )
)
HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

STREAMS_MIN = 256
"""Requests at a time on one connection; more wait at the client. Never less than twice the calls:
a client whose every stream follows a call could not even send a signal."""

HANDSHAKE_TIMEOUT_MS = 10_000
"""A connection that does not speak HTTP/2 by then gives its place back."""

KEEPALIVE_TIMEOUT_MS = 10_000
PING_INTERVAL_MIN_MS = 5_000
STOP_GRACE_S = 5.0
"""After the drain, for answers that are under way."""

TRANSPORT_SLACK = 2
"""gRPC cuts off at this many times limits.message_size, without an ErrorInfo; up to there the
refusal comes from `Guard` and says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An address that the server listens on, as a client writes it."""

    address: str
    path: Path | None = None
    identity: tuple[int, int] = (0, 0)


class Server:
    """Everything between the sockets and the engine.

    `start` raises what `sockets` raises, what `callers.check_grants` raises, and ProfileError
    `TLS_UNUSABLE`; nothing listens then. `source` names the configuration in the log.
    """

    def __init__(
        self,
        engine: Engine,
        config: Configuration,
        metrics: Metrics,
        *,
        sinks: SinkControl,
        notify_socket: str = "",
        source: str = "",
    ) -> None:
        self._source = source
        self._sinks = sinks
        self._engine = engine
        self._config = config
        self._metrics = metrics
        self._notify_socket = notify_socket
        self._directory = callers.Directory(config.callers)
        self._peers = Peers(config.limits.connections, self._directory.knows)
        self._health = Health(SERVICES)
        self._entries = RefusalEntries(engine.store.own)
        self._listeners: list[socket.socket] = []
        self._fronts: list[Front] = []
        self._bound: list[Bound] = []
        self._folder: Path | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._metrics_server: MetricsServer | None = None
        listen = config.console.listen if config.console is not None else ""
        self._console = Console(listen, self._known) if listen else None
        self._grpc: Any = None
        self._stopped = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Give the addresses that are listened on, with the ports that the kernel chose."""
        return tuple(bound.address for bound in self._bound)

    @property
    def console_url(self) -> str:
        """Give where the console is, "" where it is off."""
        return self._console.url if self._console is not None else ""

    @property
    def metrics_port(self) -> int | None:
        """Give the port of the metrics, None where they are off."""
        return self._metrics_server.port if self._metrics_server is not None else None

    async def start(self) -> None:
        """Listen and answer."""
        try:
            await self._start()
        except BaseException:
            await self._close(grace_s=0)
            raise

    async def stop(self) -> None:
        """Let live calls end, answer what is under way, and close. Safe to repeat."""
        if self._stopped:
            return
        self._stopped = True
        systemd.notify(self._notify_socket, "STOPPING=1")
        await self._health.enter_graceful_shutdown()
        try:
            await self._engine.drain(self._config.limits.drain_grace)
        finally:
            await self._close(grace_s=STOP_GRACE_S)

    async def _start(self) -> None:
        callers.check_grants(self._config.callers, self._engine.profiles)
        self._bind()
        self._grpc = self._build()
        targets = self._add_ports()
        await self._grpc.start()
        for listener, target in zip(self._listeners, targets, strict=True):
            front = Front(listener, target, self._peers, self._entries.connection_refused)
            front.start()
            self._fronts.append(front)
        if self._console is not None and self._folder is not None:
            self._start_console(self._console, self._folder)
        if self._config.metrics is not None:
            self._serve_metrics(self._config.metrics.listen)
        await self._health.update(self._problems())
        self._tasks.append(asyncio.create_task(self._health.follow(self._problems)))
        self._tasks.append(asyncio.create_task(self._entries.follow()))
        self._log_start()
        systemd.notify(self._notify_socket, "READY=1")

    def _log_start(self) -> None:
        log.info(
            "stockade %s serves: state %s, configuration %s, %d profiles, listening on %s",
            __version__,
            self._config.state,
            self._source or "(defaults)",
            len(self._engine.profiles.names),
            ", ".join(self.addresses),
        )
        paths = [bound.path for bound in self._bound if bound.path is not None]
        for warning in unreachable(self._config.callers, paths, self._config.socket):
            log.warning("%s", warning)

    async def _close(self, grace_s: float) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for front in self._fronts:
            await front.stop_accepting()
        if self._console is not None:
            await self._console.close()
        if self._grpc is not None:
            await self._grpc.stop(grace_s)
        for front in self._fronts:
            await front.close()
        self._entries.flush()  # nobody is left who could be refused
        for listener in self._listeners:
            listener.close()
        for bound in self._bound:
            if bound.path is not None:
                sockets.remove_own(bound.path, bound.identity)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)

    def _problems(self) -> tuple[str, ...]:
        # Whatever cannot be asked is not healthy.
        try:
            problems = tuple(self._engine.health_problems)
            if not problems and not self._engine.healthy:
                problems = ("ENGINE_UNHEALTHY",)
        except Exception as error:
            log.exception("the engine's health could not be read")
            problems = (f"HEALTH_UNREADABLE: {type(error).__name__}",)
        self._metrics.health(problems)
        return problems

    def _bind(self) -> None:
        for listener in self._config.listen:
            if listener.unix is not None:
                path = Path(listener.unix)
                self._listeners.append(sockets.unix_listener(path, self._config.socket))
                self._bound.append(
                    Bound(
                        address=f"unix://{path}",
                        path=path,
                        identity=sockets.identity_of(path),
                    )
                )
            elif listener.tcp is not None:
                bound = sockets.tcp_listener(listener.tcp)
                self._listeners.append(bound)
                self._bound.append(Bound(address=_host_port(bound)))
        if self._console is not None:
            self._console.bind()

    def _build(self) -> Any:
        limits = self._config.limits
        guard = Guard(
            self._identify,
            peer_of=self._peer_of,
            unary_deadline_s=limits.unary_deadline,
            message_bytes_max=limits.message_size,
            rejected=self._metrics.call_rejected,
            entries=self._entries,
        )
        server = grpc.aio.server(interceptors=[guard], options=self.options())
        tool = ToolService(
            self._engine,
            blob_bytes_max=limits.blob_size,
            calls_per_caller=limits.calls_per_caller,
            rejected=self._metrics.call_rejected,
        )
        tool_pb2_grpc.add_ToolServiceServicer_to_server(tool, server)  # type: ignore[no-untyped-call]
        profile_pb2_grpc.add_ProfileServiceServicer_to_server(  # type: ignore[no-untyped-call]
            ProfileService(self._engine.profiles, self._engine.walls), server
        )
        keys = [entry.verifier for entry in self._config.witness_for]
        witnessed = Witnessed(Path(self._config.state), keys, self._engine.store.own)
        audit = AuditService(self._engine, witnessed)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(audit, server)  # type: ignore[no-untyped-call]
        links = ConsoleService(self._console, self._engine.store.own)
        console_pb2_grpc.add_ConsoleServiceServicer_to_server(links, server)  # type: ignore[no-untyped-call]
        file = Path(self._source) if self._source else None
        exports = ExportService(self._engine, self._sinks, file)
        export_pb2_grpc.add_ExportServiceServicer_to_server(exports, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (*SERVICES, HEALTH_SERVICE, reflection.SERVICE_NAME), server
        )
        return server

    def options(self) -> list[tuple[str, int]]:
        """Give gRPC's own settings."""
        limits = self._config.limits
        return [
            ("grpc.max_receive_message_length", limits.message_size * TRANSPORT_SLACK),
            ("grpc.max_concurrent_streams", max(STREAMS_MIN, 2 * limits.calls)),
            ("grpc.keepalive_time_ms", round(limits.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_MS),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MIN_MS),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
            # Windows that do not grow: what nobody reads yet stays with the client (see
            # intercept.READS_MAX), but for 64 KiB of each stream.
            ("grpc.http2.bdp_probe", 0),
        ]

    def _add_ports(self) -> list[str]:
        folder = self._folder = sockets.private_folder(self._private_anchor())
        targets = []
        for number, listener in enumerate(self._config.listen):
            target = folder / str(number)
            if listener.tls is None:
                self._grpc.add_insecure_port(f"unix:{target}")
            else:
                self._grpc.add_secure_port(f"unix:{target}", _credentials(listener.tls))
            targets.append(str(target))
        if self._console is not None:
            self._grpc.add_insecure_port(f"unix:{folder / console.TARGET}")
        return targets

    def _private_anchor(self) -> Path:
        for bound in self._bound:
            if bound.path is not None:
                return bound.path
        return Path(self._config.state) / "door"

    def _identify(self, context: Context, method: str) -> callers.Identity:
        peer = self._peer_of(context)
        if self._console is not None and peer is not None and peer.transport == console.TRANSPORT:
            return self._console.identify(context, method)
        return self._directory.identify(peer, context.auth_context())

    def _known(self, peer: Peer, certificate: Mapping[str, Iterable[bytes]]) -> callers.Identity:
        return self._directory.identify(peer, certificate)

    def _peer_of(self, context: Context) -> Peer | None:
        return self._peers.find(context.peer())

    def _start_console(self, served: Console, folder: Path) -> None:
        served.start(
            folder, self._peers, self._peer_of, on_refused=self._entries.connection_refused
        )
        log.info("the console is on %s; `stockade console` gives a link", served.url)

    def _serve_metrics(self, address: str) -> None:
        host, port = split_host_port(address)
        try:
            self._metrics_server = self._metrics.serve(host, port)
        except OSError as error:
            raise HostError(
                "ADDRESS_UNUSABLE", f"cannot serve metrics on {address}: {error.strerror}"
            ) from error


async def serve(
    engine: Engine,
    config: Configuration,
    metrics: Metrics | None = None,
    *,
    sinks: SinkControl,
    stop: asyncio.Event,
    notify_socket: str = "",
    source: str = "",
) -> None:
    """Serve until `stop` is set, then drain and return.

    The engine has been started; where this raises, it is for the caller to drain it.

    `sinks` have been started. `notify_socket` is what systemd left in $NOTIFY_SOCKET, `source` is
    the configuration's file.

    Raises:
        HostError: an address cannot be listened on.
        ProfileError: the configuration asks for what is not there.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_loose_exception)
    try:
        server = Server(
            engine,
            config,
            metrics or Metrics(engine.profiles.names),
            sinks=sinks,
            notify_socket=notify_socket,
            source=source,
        )
        await server.start()
        await stop.wait()
        await server.stop()
    finally:
        loop.set_exception_handler(None)


def _on_loose_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Take exceptions of tasks that nobody waits for.

    gRPC closes each RPC in a task of its own, after our handler. Where the client's connection
    breaks just then, its batch fails, and gRPC lets that exception fall out of the task: there is
    nobody left to answer, so it is no fault. All else goes where it went before.
    """
    error = context.get("exception")
    if isinstance(error, cygrpc.ExecuteBatchError):
        log.info("a client's connection broke while it was answered: %s", error)
        return
    loop.default_exception_handler(context)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    try:
        cert, key, authority = (
            Path(name).read_bytes() for name in (tls.cert, tls.key, tls.client_ca)
        )
    except OSError as error:
        raise ProfileError(
            "TLS_UNUSABLE", f"cannot read {error.filename}: {error.strerror}"
        ) from error
    for name, content in ((tls.cert, cert), (tls.key, key), (tls.client_ca, authority)):
        if b"-----BEGIN " not in content:
            # gRPC takes an empty authority for "no client certificate needed".
            raise ProfileError("TLS_UNUSABLE", f"{name} holds nothing in PEM form")
    try:
        # gRPC blames the port where the two do not belong together.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key, _no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        raise ProfileError(
            "TLS_UNUSABLE",
            f"{tls.cert} and {tls.key} cannot be used together: {error}",
            hint="the key must be that of the certificate, and have no passphrase",
        ) from error
    return grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=authority, require_client_auth=True
    )


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _host_port(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
