import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SinkStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SINK_STATUS_UNSPECIFIED: _ClassVar[SinkStatus]
    SINK_STATUS_RUNNING: _ClassVar[SinkStatus]
    SINK_STATUS_FAILING: _ClassVar[SinkStatus]
    SINK_STATUS_STOPPED: _ClassVar[SinkStatus]
SINK_STATUS_UNSPECIFIED: SinkStatus
SINK_STATUS_RUNNING: SinkStatus
SINK_STATUS_FAILING: SinkStatus
SINK_STATUS_STOPPED: SinkStatus

class Sink(_message.Message):
    __slots__ = ("name", "kind", "format", "status", "why", "failing_since", "acknowledged", "acknowledged_at", "lag_entries", "lag_bytes", "lag", "events", "retries", "dead_letters", "replaying_from")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    FAILING_SINCE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_AT_FIELD_NUMBER: _ClassVar[int]
    LAG_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    LAG_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    REPLAYING_FROM_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    format: str
    status: SinkStatus
    why: str
    failing_since: _timestamp_pb2.Timestamp
    acknowledged: int
    acknowledged_at: _timestamp_pb2.Timestamp
    lag_entries: int
    lag_bytes: int
    lag: _duration_pb2.Duration
    events: int
    retries: int
    dead_letters: int
    replaying_from: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., format: _Optional[str] = ..., status: _Optional[_Union[SinkStatus, str]] = ..., why: _Optional[str] = ..., failing_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., acknowledged: _Optional[int] = ..., acknowledged_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lag_entries: _Optional[int] = ..., lag_bytes: _Optional[int] = ..., lag: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., events: _Optional[int] = ..., retries: _Optional[int] = ..., dead_letters: _Optional[int] = ..., replaying_from: _Optional[int] = ...) -> None: ...

class ListSinksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSinksResponse(_message.Message):
    __slots__ = ("sinks", "durable")
    SINKS_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    sinks: _containers.RepeatedCompositeFieldContainer[Sink]
    durable: int
    def __init__(self, sinks: _Optional[_Iterable[_Union[Sink, _Mapping]]] = ..., durable: _Optional[int] = ...) -> None: ...

class TestSinkRequest(_message.Message):
    __slots__ = ("sink", "wait")
    SINK_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    sink: str
    wait: _duration_pb2.Duration
    def __init__(self, sink: _Optional[str] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class TestSinkResponse(_message.Message):
    __slots__ = ("index", "acknowledged", "refused", "waited", "sink")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    WAITED_FIELD_NUMBER: _ClassVar[int]
    SINK_FIELD_NUMBER: _ClassVar[int]
    index: int
    acknowledged: bool
    refused: str
    waited: _duration_pb2.Duration
    sink: Sink
    def __init__(self, index: _Optional[int] = ..., acknowledged: _Optional[bool] = ..., refused: _Optional[str] = ..., waited: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., sink: _Optional[_Union[Sink, _Mapping]] = ...) -> None: ...

class ReplaySinkRequest(_message.Message):
    __slots__ = ("sink", "index", "time", "dry_run")
    SINK_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    sink: str
    index: int
    time: _timestamp_pb2.Timestamp
    dry_run: bool
    def __init__(self, sink: _Optional[str] = ..., index: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class ReplaySinkResponse(_message.Message):
    __slots__ = ("index", "entries")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    index: int
    entries: int
    def __init__(self, index: _Optional[int] = ..., entries: _Optional[int] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("sink", "page_size", "page_token", "entries", "uids")
    SINK_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    UIDS_FIELD_NUMBER: _ClassVar[int]
    sink: str
    page_size: int
    page_token: str
    entries: bool
    uids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sink: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., entries: _Optional[bool] = ..., uids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("index", "uid", "why", "time", "kind", "call_id")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    index: int
    uid: str
    why: str
    time: _timestamp_pb2.Timestamp
    kind: str
    call_id: str
    def __init__(self, index: _Optional[int] = ..., uid: _Optional[str] = ..., why: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[str] = ..., call_id: _Optional[str] = ...) -> None: ...

class ListDeadLettersResponse(_message.Message):
    __slots__ = ("letters", "next_page_token")
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    letters: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    next_page_token: str
    def __init__(self, letters: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RedeliverDeadLettersRequest(_message.Message):
    __slots__ = ("sink", "uids", "all")
    SINK_FIELD_NUMBER: _ClassVar[int]
    UIDS_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    sink: str
    uids: _containers.RepeatedScalarFieldContainer[str]
    all: bool
    def __init__(self, sink: _Optional[str] = ..., uids: _Optional[_Iterable[str]] = ..., all: _Optional[bool] = ...) -> None: ...

class RedeliverDeadLettersResponse(_message.Message):
    __slots__ = ("letters", "delivered", "refused")
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    letters: int
    delivered: _containers.RepeatedScalarFieldContainer[str]
    refused: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    def __init__(self, letters: _Optional[int] = ..., delivered: _Optional[_Iterable[str]] = ..., refused: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ...) -> None: ...

class DiscardDeadLettersRequest(_message.Message):
    __slots__ = ("sink", "uids", "all")
    SINK_FIELD_NUMBER: _ClassVar[int]
    UIDS_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    sink: str
    uids: _containers.RepeatedScalarFieldContainer[str]
    all: bool
    def __init__(self, sink: _Optional[str] = ..., uids: _Optional[_Iterable[str]] = ..., all: _Optional[bool] = ...) -> None: ...

class DiscardDeadLettersResponse(_message.Message):
    __slots__ = ("discarded",)
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    discarded: int
    def __init__(self, discarded: _Optional[int] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ("added", "removed", "changed", "unchanged", "ignored")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    IGNORED_FIELD_NUMBER: _ClassVar[int]
    added: _containers.RepeatedScalarFieldContainer[str]
    removed: _containers.RepeatedScalarFieldContainer[str]
    changed: _containers.RepeatedScalarFieldContainer[str]
    unchanged: _containers.RepeatedScalarFieldContainer[str]
    ignored: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, added: _Optional[_Iterable[str]] = ..., removed: _Optional[_Iterable[str]] = ..., changed: _Optional[_Iterable[str]] = ..., unchanged: _Optional[_Iterable[str]] = ..., ignored: _Optional[_Iterable[str]] = ...) -> None: ...
