"""Orders: what the daemon tells the process of a sink to be, and the sink that is made of one."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from supervisor.audit.entry import NO_LEAF
from supervisor.export.event import Format, Source
from supervisor.export.formats.fitting import Fitting
from supervisor.export.formats.make import make_format
from supervisor.export.pump import PumpOptions
from supervisor.export.sink import Sink

SINKS = {
    "file": ("supervisor.export.sinks.file", "FileSink"),
    "journald": ("supervisor.export.sinks.journald", "JournaldSink"),
    "kafka": ("supervisor.export.sinks.kafka", "KafkaSink"),
    "opensearch": ("supervisor.export.sinks.opensearch", "OpenSearchSink"),
    "otlp": ("supervisor.export.sinks.otlp", "OtlpSink"),
    "relp": ("supervisor.export.sinks.relp", "RelpSink"),
    "s3": ("supervisor.export.sinks.s3", "S3Sink"),
    "splunk": ("supervisor.export.sinks.splunk", "SplunkSink"),
    "stdout": ("supervisor.export.sinks.stdout", "StdoutSink"),
    "traces": ("supervisor.export.sinks.traces", "TracesSink"),
    "syslog": ("supervisor.export.sinks.syslog", "SyslogSink"),
    "webhook": ("supervisor.export.sinks.webhook", "WebhookSink"),
}
"""Of each kind, the module and the sink. Loaded only where it is used: some need much
that others do not."""


REQUESTS = 4
"""That a batch is, where it does not fit into one: its sink waits for so many answers."""

SPARE_S = 10.0
"""How much longer a pump waits than a sink does by itself."""

_LARGER = PumpOptions(batch_events=1_000, batch_bytes=2 << 20)
"""Where each batch waits for something that is not the next one's: a disk, an acknowledgement."""

_STORE = PumpOptions(batch_events=20_000, batch_bytes=16 << 20, linger_s=60.0)
_LAKE = replace(_STORE, linger_s=300.0)


LARGEST = {"event_bytes_max": 0, "message_bytes_max": 1024, "body_bytes_max": 1024}
"""Options of sinks that bound an event, and what goes around it there, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One sink: what it is called, its kind and options, the format of its events, and from which
    entry on. `uid` is the user that its process becomes, 0 where it needs to be root; `files` are
    the contents of those files that its options name and this user could not read."""

    name: str
    kind: str
    options: Any = field(repr=False)
    made_by: str
    source: Source
    index: int = 0
    leaf: str = NO_LEAF.hex()
    uid: int
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    pump: PumpOptions = field(default_factory=PumpOptions)

    def write(self) -> int:
        """Give it in a memfd, which is the caller's: it has secrets."""
        fd = os.memfd_create(f"order of {self.name}", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(fd), "wb") as file:
            pickle.dump(self, file)
        return fd

    @classmethod
    def read(cls, fd: int) -> Order:
        """Read what `write` gave. It is the daemon's word to a process with fewer rights."""
        data = os.pread(fd, os.fstat(fd).st_size, 0)
        order: Order = pickle.loads(data)  # noqa: S301 (see above)
        return order


def make_encoder(order: Order) -> Format:
    """Make the format of its events, which are no larger than the sink takes, where they can be.

    Raises:
        ValueError: there is no such format.
    """

    def make() -> Format:
        return make_format(order.made_by, order.source)

    for name, around in LARGEST.items():
        bytes_max = getattr(order.options, name, 0)
        if bytes_max:
            return Fitting(make, max(1, bytes_max - around))
    return make()


def make_sink(order: Order) -> Sink:
    """Make the sink; nothing is connected yet. The order's files are held open from here on."""
    module, name = SINKS[order.kind]
    options = _with_files(order.options, {Path(path): _held(path, order) for path in order.files})
    sink: Sink = getattr(importlib.import_module(module), name)(options)
    return sink


def _held(path: str, order: Order) -> Path:
    """Put a file into memory, and give where this process finds it, whoever it becomes: proc(5)
    lets a process have its own descriptors, also where it may not be dumped."""
    fd = os.memfd_create(f"{order.name}: {Path(path).name}", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(order.files[path])
    return Path(f"/proc/self/fd/{fd}")


def _with_files(value: Any, held: Mapping[Path, Path]) -> Any:
    """Give options with other paths, however deep they lie."""
    if isinstance(value, Path):
        return held.get(value, value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    found = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    changed = {name: _with_files(old, held) for name, old in found.items()}
    changed = {name: new for name, new in changed.items() if new is not found[name]}
    return dataclasses.replace(value, **changed) if changed else value


def paced(kind: str, options: Any) -> PumpOptions:
    """Give how a sink wants its batches, and how long one may take: longer than its own deadlines,
    which say better what is wrong.

    Raises:
        ValueError: there is no such kind.
    """
    match kind:
        case "file":
            return _within(options.deadline_s, _LARGER)
        case "stdout" | "journald":
            return _within(2 * options.stall_s)
        case "syslog":  # What is to be sent again goes first.
            stalls_s = 2 * REQUESTS * options.peer.stall_s
            return _within(options.peer.connect_s + options.proof_s + stalls_s, _LARGER)
        case "relp":
            return _within(options.peer.connect_s + REQUESTS * options.peer.stall_s)
        case "kafka":
            return _within(options.deadline_s)
        case "splunk":
            return _within(REQUESTS * options.endpoint.deadline_s + (options.ack_s or 0.0))
        case "otlp" | "traces" | "opensearch":
            return _within(REQUESTS * options.endpoint.deadline_s)
        case "webhook":
            few = replace(PumpOptions(), batch_events=50) if options.single else PumpOptions()
            return _within(REQUESTS * options.endpoint.deadline_s, few)
        case "s3":  # An object for each class and day.
            pace = _LAKE if hasattr(options.layout, "account") else _STORE
            return _within(4 * REQUESTS * options.endpoint.deadline_s, pace)
    raise ValueError(f"there is no kind of sink {kind!r}: one of {', '.join(SINKS)}")


def _within(seconds: float, pace: PumpOptions = PumpOptions()) -> PumpOptions:  # noqa: B008
    return replace(pace, deadline_s=seconds + SPARE_S)
