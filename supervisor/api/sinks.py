"""The sinks of a running daemon: what the configuration says of them becomes orders to the
exporter, at the start and whenever it is read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor import __version__
from supervisor.api.config import Configuration
from supervisor.api.config_values import Secret
from supervisor.api.guarded import require_guarded
from supervisor.api.sink_entry import SinkEntry
from supervisor.errors import HostError, ProfileError
from supervisor.export.build import Order, paced
from supervisor.export.event import Source
from supervisor.export.exporter import Changes, Exporter, LogSource
from supervisor.export.health import SinkHealth, health_of
from supervisor.export.pump import PumpOptions
from supervisor.export.sinks.certificates import client_context
from supervisor.oci.spec import ID_RANGE
from supervisor.sandbox.secrets import Secrets
from supervisor.sandbox.uids import FIRST_ID, RANGES

FILE_BYTES_MAX = 1 << 20
HEALTH_S = 5.0
"""For the event loop to say how the sinks do."""

FIRST_UID = FIRST_ID + RANGES * ID_RANGE
"""Above all that sandboxes get, and below systemd's foreign range."""

SETTINGS = frozenset({"sinks"})
"""What is taken from a configuration that is read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What a configuration that was read again has changed: sinks by their names; `ignored` are
    other keys that changed, for which the daemon has to start anew."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


class Sinks:
    """All sinks of a daemon, by its configuration. Belongs to one event loop."""

    def __init__(
        self,
        config: Configuration,
        *,
        read: Callable[[], Configuration],
        source: Path | None,
        credentials: Path | None,
    ) -> None:
        """`read` reads the configuration again, from `source`; `credentials` is the folder that
        systemd gives its services."""
        self.config = config
        self._read = read
        self._source = source
        self._about: Source | None = None
        self._credentials = credentials
        self._exporter: Exporter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Give the names of all sinks that get the record."""
        return tuple(name for name, entry in self.config.sinks.items() if entry.is_record)

    @property
    def exporter(self) -> Exporter:
        """Give the exporter.

        Raises:
            RuntimeError: it was not started.
        """
        if self._exporter is None:
            raise RuntimeError("the exporter was not started")
        return self._exporter

    async def start(self, log: LogSource, origin: str) -> None:
        """Read all secrets, and start; `origin` is the log's name.

        Raises:
            HostError: `SECRET_UNAVAILABLE`.
            ProfileError: `CONFIG_INVALID`: a file cannot be read, or a secret does not fit.
        """
        self._about = Source(origin=origin, host=socket.gethostname(), version=__version__)
        orders = await self._orders(self.config.sinks)
        self._exporter = Exporter(orders, log, Path(self.config.state))
        self._exporter.start()
        self._loop = asyncio.get_running_loop()

    def health(self) -> Sequence[SinkHealth]:
        """Give how all sinks do; none before the start. For other threads than the event loop's.

        Raises:
            TimeoutError: the event loop does not answer.
        """
        if self._loop is None:
            return ()
        return asyncio.run_coroutine_threadsafe(self._health(), self._loop).result(HEALTH_S)

    async def _health(self) -> Sequence[SinkHealth]:
        found = []
        for state in self.exporter.states:
            with contextlib.suppress(KeyError):  # it was taken away meanwhile
                found.append(health_of(state, await self.exporter.lag(state.name)))
        return found

    async def close(self) -> None:
        """End all sinks, and keep how far they came."""
        self._loop = None
        if self._exporter is not None:
            await self._exporter.close()

    async def reload(self) -> Reloaded:
        """Read the configuration again and have its sinks; where anything in it is wrong, nothing
        changes.

        Raises:
            ProfileError: `CONFIG_MISSING`, `CONFIG_INVALID`, `POLICY_WRITABLE`, `TLS_KEY_EXPOSED`.
            HostError: `SECRET_UNAVAILABLE`.
        """
        async with self._turn:
            read = await asyncio.to_thread(self._read_guarded)
            orders = await self._orders(read.sinks)
            changes: Changes = await self.exporter.apply(orders)
            ignored = _others(self.config, read)
            self.config = self.config.model_copy(update={"sinks": read.sinks})
            return Reloaded(**changes._asdict(), ignored=ignored)

    def _read_guarded(self) -> Configuration:
        read = self._read()
        require_guarded(read, source=self._source, profiles=())
        return read

    async def _orders(self, sinks: Mapping[str, SinkEntry]) -> Sequence[Order]:
        if self._about is None:
            raise RuntimeError("the exporter was not started")
        return [await self._order(name, entry, self._about) for name, entry in sinks.items()]

    async def _order(self, name: str, entry: SinkEntry, about: Source) -> Order:
        secrets = await _values(name, entry.secrets, self._credentials)
        try:
            options = entry.options(name, secrets.__getitem__, about)
        except ValueError as error:
            raise ProfileError("CONFIG_INVALID", f"sinks.{name}: {error}") from error
        files = await asyncio.to_thread(_contents, name, entry)
        return Order(
            name=name,
            kind=entry.type,
            options=options,
            made_by=entry.format,
            source=about,
            uid=0 if entry.needs_root else uid_of_sink(name),
            files=files,
            pump=_pump(entry, options),
        )


def uid_of_sink(name: str) -> int:
    """Give the user that a sink's process becomes: the same each time, and most likely no other
    sink's."""
    return FIRST_UID + zlib.crc32(name.encode()) % ID_RANGE


def _pump(entry: SinkEntry, options: Any) -> PumpOptions:
    """Give how batches are made: as the entry says, else as the kind of sink wants it."""
    pace = paced(entry.type, options)
    return dataclasses.replace(
        pace,
        batch_events=entry.batch or pace.batch_events,
        batch_bytes=entry.batch_size or pace.batch_bytes,
        linger_s=entry.linger or pace.linger_s,
    )


async def _values(
    name: str, wanted: Mapping[str, Secret], credentials: Path | None
) -> Mapping[str, str]:
    """Read secrets of a sink, by the keys that they stand under.

    Raises:
        HostError: `SECRET_UNAVAILABLE`.
    """
    named = {f"sinks.{name}.{key}": (key, secret) for key, secret in wanted.items()}
    sources = {label: secret.source for label, (_, secret) in named.items()}
    secrets = Secrets(sources=sources, credentials=credentials)
    found = {}
    for label, (key, secret) in named.items():
        try:
            found[key] = await secrets.value(label)
        except HostError as error:
            hint = secret.file or secret.credential or (secret.command or [""])[0]
            raise HostError(
                error.reason, error.message, hint=error.hint or f"it is from {hint}"
            ) from error
    return found


def _contents(name: str, entry: SinkEntry) -> Mapping[str, bytes]:
    """Read the files of a sink's TLS, which its process could not."""
    found = {}
    for path in entry.tls_files:
        try:
            with Path(path).open("rb") as file:
                found[path] = file.read(FILE_BYTES_MAX)
        except OSError as error:
            raise ProfileError(
                "CONFIG_INVALID", f"sinks.{name}.tls: {path}: {error.strerror}"
            ) from error
    return found


async def check_files(config: Configuration) -> None:
    """Read every file that sinks name, as the daemon does at its start: what is not there, or who
    else can read it. Secrets from elsewhere are not asked for.

    Raises:
        HostError: `SECRET_UNAVAILABLE`.
        ProfileError: `CONFIG_INVALID`.
    """
    for name, entry in config.sinks.items():
        files = {key: secret for key, secret in entry.secrets.items() if secret.file is not None}
        await _values(name, files, None)
        await asyncio.to_thread(_contents, name, entry)


def missing(config: Configuration) -> Iterator[str]:
    """Say which files that sinks name are not there, and which certificates and keys are not what
    they should be. Whatever we may not look at is passed over, and secrets are not read."""
    for name, entry in config.sinks.items():
        for key, secret in entry.secrets.items():
            if secret.file is not None and not _exists(Path(secret.file)):
                yield f"sinks.{name}.{key}: there is no file {secret.file}"
        absent = [path for path in entry.tls_files if not _exists(Path(path))]
        yield from (f"sinks.{name}.tls: there is no file {path}" for path in absent)
        if not absent and (why := _tls_wrong(entry)):
            yield f"sinks.{name}.tls: {why}"


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _tls_wrong(entry: SinkEntry) -> str:
    """Say why OpenSSL does not take the files of TLS, "" where it does."""
    files = [Path(path) for path in entry.tls_files]
    if not files:
        return ""
    try:
        client_context(files[0], *(files[1:] or (None, None)))
    except PermissionError:
        return ""
    except OSError as error:  # ssl.SSLError is one.
        said = (getattr(error, "reason", "") or error.strerror or str(error)).replace("_", " ")
        return f"{', '.join(map(str, files))} cannot be used: {said.lower()}"
    return ""


def _others(old: Configuration, new: Configuration) -> tuple[str, ...]:
    """Name the keys that differ and are not taken."""
    before, after = old.model_dump(exclude=SETTINGS), new.model_dump(exclude=SETTINGS)  # type: ignore[arg-type]
    return tuple(key for key in before if before[key] != after[key])
