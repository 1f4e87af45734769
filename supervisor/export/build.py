"""Orders: what the daemon tells the process of a sink to be, and the sink that is made of one."""

from __future__ import annotations

import importlib
import os
import pickle
from dataclasses import dataclass, field
from typing import Any

from supervisor.audit.entry import NO_LEAF
from supervisor.export.event import Source
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
    "syslog": ("supervisor.export.sinks.syslog", "SyslogSink"),
    "webhook": ("supervisor.export.sinks.webhook", "WebhookSink"),
}
"""Of each kind, the module and the sink. Loaded only where it is used: some need much
that others do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One sink: what it is called, its kind and options, the format of its events, and from which
    entry on. `uid` is the user that its process becomes, 0 where it needs to be root."""

    name: str
    kind: str
    options: Any = field(repr=False)
    made_by: str
    source: Source
    index: int = 0
    leaf: str = NO_LEAF.hex()
    uid: int
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


def make_sink(order: Order) -> Sink:
    """Make the sink; nothing is connected yet."""
    module, name = SINKS[order.kind]
    sink: Sink = getattr(importlib.import_module(module), name)(order.options)
    return sink
