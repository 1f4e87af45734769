"""The part of the configuration that is about sinks: where the record goes, in what format, and how
the other side and we know each other.

Each entry has a `type`, and the keys of that type and no others. Secrets are named by where they
are from. TLS is never left out in silence: without it, `plain_because` says why that is well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from supervisor.api.config_values import MIB, Duration, Size
from supervisor.api.sink_config_http import (
    KafkaEntry,
    OpenSearchEntry,
    OtlpEntry,
    S3Entry,
    SplunkEntry,
    TracesEntry,
    WebhookEntry,
)
from supervisor.api.sink_entry import SecretValues, SinkEntry, SinkTls, Text, plain_or_tls
from supervisor.api.witness_config import absolute_path, split_host_port

if TYPE_CHECKING:
    from supervisor.export.event import Source
    from supervisor.export.sinks.wire import Peer

SINKS_MAX = 16
FACILITIES = {"auth": 4, "authpriv": 10, "audit": 13, "daemon": 3} | {
    f"local{number}": 16 + number for number in range(8)
}
"""By RFC 5424, table 1."""


class _Stream(SinkEntry):
    """What syslog and RELP have in common."""

    address: str
    tls: SinkTls | None = None
    plain_because: Text | None = None
    facility: str = "local0"
    bom: bool = False
    event_size: Annotated[Size, Field(ge=480, le=16 * MIB)] = 7600
    stall: Duration = 30.0

    @model_validator(mode="after")
    def _has_facility(self) -> Self:
        if self.facility not in FACILITIES:
            raise ValueError(f"facility: is one of {', '.join(FACILITIES)}")
        return self

    def common(self, source: Source) -> dict[str, Any]:
        """Give what both are made of."""
        return {
            "peer": self._peer(),
            "host": source.host,
            "facility": FACILITIES.get(self.facility, 0),
            "bom": self.bom,
            "event_bytes_max": self.event_size,
        }

    def _peer(self) -> Peer:
        from supervisor.export.sinks.wire import Peer, Tls

        host, port = split_host_port(self.address)
        plain = plain_or_tls(self.tls, self.plain_because)
        tls = None
        if self.tls is not None:
            pair = self.tls.over_http
            tls = Tls(
                ca=pair.ca,
                name=self.tls.name or host,
                certificate=pair.certificate,
                key=pair.key,
            )
        return Peer(host=host, port=port, tls=tls, plain_because=plain, stall_s=self.stall)


class SyslogEntry(_Stream):
    """RFC 5424 over TLS (RFC 5425), or over plain TCP."""

    type: Literal["syslog"]

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give a `SyslogOptions`."""
        from supervisor.export.sinks.syslog import SyslogOptions

        return SyslogOptions(**self.common(source))


class RelpEntry(_Stream):
    """RELP, as rsyslog takes it; `window` is how many events are under way."""

    type: Literal["relp"]
    window: Annotated[int, Field(ge=1, le=65_536)] = 256

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give a `RelpOptions`."""
        from supervisor.export.sinks.relp import RelpOptions

        return RelpOptions(**self.common(source), window_events=self.window)


class FileEntry(SinkEntry):
    """Lines at the end of a file; with `rotate`, it is rotated at that size, `keep` are kept."""

    type: Literal["file"]
    path: str
    rotate: Size | None = None
    keep: Annotated[int, Field(ge=1, le=1000)] | None = None

    needs_root: ClassVar[bool] = True

    @property
    def writes(self) -> tuple[str, ...]:
        """Give the file."""
        return (self.path,)

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give a `FileOptions`."""
        from supervisor.export.sinks.file import FileOptions

        if (self.rotate is None) != (self.keep is None):
            raise ValueError("rotate: and keep: belong together")
        return FileOptions(
            path=Path(absolute_path(self.path)),
            rotate_bytes=self.rotate or 0,
            keep=self.keep or 0,
        )


class StdoutEntry(SinkEntry):
    """Lines on the daemon's standard output."""

    type: Literal["stdout"]

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give a `StdoutOptions`."""
        from supervisor.export.sinks.stdout import StdoutOptions

        return StdoutOptions()


class JournaldEntry(SinkEntry):
    """journald, by its native protocol."""

    type: Literal["journald"]
    socket: str = "/run/systemd/journal/socket"

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give a `JournaldOptions`."""
        from supervisor.export.sinks.journald import JournaldOptions

        return JournaldOptions(path=Path(absolute_path(self.socket)))


AnySink = Annotated[
    SyslogEntry
    | RelpEntry
    | SplunkEntry
    | OtlpEntry
    | TracesEntry
    | OpenSearchEntry
    | WebhookEntry
    | KafkaEntry
    | S3Entry
    | FileEntry
    | StdoutEntry
    | JournaldEntry,
    Field(discriminator="type"),
]


def _mapping(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("is a mapping of names to sinks")
    return value


Sinks = Annotated[dict[str, AnySink], BeforeValidator(_mapping), Field(max_length=SINKS_MAX)]


def problems_of(sinks: Mapping[str, SinkEntry]) -> Iterator[str]:
    """Say what is wrong with sinks together: each writes a file of its own."""
    taken: dict[str, str] = {}
    for name, entry in sinks.items():
        for path in entry.writes:
            if path in taken:
                yield f"the sinks {taken[path]} and {name} write the same file"
            taken[path] = name
    streams = [name for name, entry in sinks.items() if isinstance(entry, StdoutEntry)]
    if len(streams) > 1:
        yield f"the sinks {' and '.join(streams)} write the same output"
