import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StdStream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STD_STREAM_UNSPECIFIED: _ClassVar[StdStream]
    STD_STREAM_STDIN: _ClassVar[StdStream]
    STD_STREAM_STDOUT: _ClassVar[StdStream]
    STD_STREAM_STDERR: _ClassVar[StdStream]

class CallState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CALL_STATE_UNSPECIFIED: _ClassVar[CallState]
    CALL_STATE_PENDING: _ClassVar[CallState]
    CALL_STATE_PREPARING: _ClassVar[CallState]
    CALL_STATE_ARMED: _ClassVar[CallState]
    CALL_STATE_RUNNING: _ClassVar[CallState]
    CALL_STATE_DRAINING: _ClassVar[CallState]
    CALL_STATE_CLOSED: _ClassVar[CallState]

class LimitKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIMIT_KIND_UNSPECIFIED: _ClassVar[LimitKind]
    LIMIT_KIND_WALL: _ClassVar[LimitKind]
    LIMIT_KIND_CPU: _ClassVar[LimitKind]
    LIMIT_KIND_MEMORY: _ClassVar[LimitKind]
    LIMIT_KIND_PIDS: _ClassVar[LimitKind]
    LIMIT_KIND_OUTPUT: _ClassVar[LimitKind]
    LIMIT_KIND_DISK: _ClassVar[LimitKind]
    LIMIT_KIND_INODES: _ClassVar[LimitKind]
    LIMIT_KIND_EGRESS: _ClassVar[LimitKind]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_CLOSED: _ClassVar[Verdict]
    VERDICT_RESET: _ClassVar[Verdict]
    VERDICT_FAILED: _ClassVar[Verdict]
    VERDICT_DENIED: _ClassVar[Verdict]
    VERDICT_BUDGET: _ClassVar[Verdict]
    VERDICT_STOPPED: _ClassVar[Verdict]
STD_STREAM_UNSPECIFIED: StdStream
STD_STREAM_STDIN: StdStream
STD_STREAM_STDOUT: StdStream
STD_STREAM_STDERR: StdStream
CALL_STATE_UNSPECIFIED: CallState
CALL_STATE_PENDING: CallState
CALL_STATE_PREPARING: CallState
CALL_STATE_ARMED: CallState
CALL_STATE_RUNNING: CallState
CALL_STATE_DRAINING: CallState
CALL_STATE_CLOSED: CallState
LIMIT_KIND_UNSPECIFIED: LimitKind
LIMIT_KIND_WALL: LimitKind
LIMIT_KIND_CPU: LimitKind
LIMIT_KIND_MEMORY: LimitKind
LIMIT_KIND_PIDS: LimitKind
LIMIT_KIND_OUTPUT: LimitKind
LIMIT_KIND_DISK: LimitKind
LIMIT_KIND_INODES: LimitKind
LIMIT_KIND_EGRESS: LimitKind
VERDICT_UNSPECIFIED: Verdict
VERDICT_CLOSED: Verdict
VERDICT_RESET: Verdict
VERDICT_FAILED: Verdict
VERDICT_DENIED: Verdict
VERDICT_BUDGET: Verdict
VERDICT_STOPPED: Verdict

class Digest(_message.Message):
    __slots__ = ("sha256", "size_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Caller(_message.Message):
    __slots__ = ("name", "transport", "uid", "gid", "pid", "certificate_name")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    transport: str
    uid: int
    gid: int
    pid: int
    certificate_name: str
    def __init__(self, name: _Optional[str] = ..., transport: _Optional[str] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., pid: _Optional[int] = ..., certificate_name: _Optional[str] = ...) -> None: ...

class Correlation(_message.Message):
    __slots__ = ("agent", "session", "workflow", "traceparent")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    agent: str
    session: str
    workflow: str
    traceparent: str
    def __init__(self, agent: _Optional[str] = ..., session: _Optional[str] = ..., workflow: _Optional[str] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Exited(_message.Message):
    __slots__ = ("code",)
    CODE_FIELD_NUMBER: _ClassVar[int]
    code: int
    def __init__(self, code: _Optional[int] = ...) -> None: ...

class Signaled(_message.Message):
    __slots__ = ("signal", "core_dumped")
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    CORE_DUMPED_FIELD_NUMBER: _ClassVar[int]
    signal: int
    core_dumped: bool
    def __init__(self, signal: _Optional[int] = ..., core_dumped: _Optional[bool] = ...) -> None: ...

class TimedOut(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: _duration_pb2.Duration
    def __init__(self, limit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class OutOfMemory(_message.Message):
    __slots__ = ("limit_bytes", "peak_bytes", "kills")
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    KILLS_FIELD_NUMBER: _ClassVar[int]
    limit_bytes: int
    peak_bytes: int
    kills: int
    def __init__(self, limit_bytes: _Optional[int] = ..., peak_bytes: _Optional[int] = ..., kills: _Optional[int] = ...) -> None: ...

class LimitExceeded(_message.Message):
    __slots__ = ("limit", "used", "allowed", "subject")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    limit: LimitKind
    used: int
    allowed: int
    subject: str
    def __init__(self, limit: _Optional[_Union[LimitKind, str]] = ..., used: _Optional[int] = ..., allowed: _Optional[int] = ..., subject: _Optional[str] = ...) -> None: ...

class Stopped(_message.Message):
    __slots__ = ("by", "reason", "signal")
    BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    by: str
    reason: str
    signal: int
    def __init__(self, by: _Optional[str] = ..., reason: _Optional[str] = ..., signal: _Optional[int] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Interrupted(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class ResourceUsage(_message.Message):
    __slots__ = ("cpu_user", "cpu_system", "memory_peak_bytes", "pids_peak", "pids_start")
    CPU_USER_FIELD_NUMBER: _ClassVar[int]
    CPU_SYSTEM_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    PIDS_PEAK_FIELD_NUMBER: _ClassVar[int]
    PIDS_START_FIELD_NUMBER: _ClassVar[int]
    cpu_user: _duration_pb2.Duration
    cpu_system: _duration_pb2.Duration
    memory_peak_bytes: int
    pids_peak: int
    pids_start: int
    def __init__(self, cpu_user: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cpu_system: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., memory_peak_bytes: _Optional[int] = ..., pids_peak: _Optional[int] = ..., pids_start: _Optional[int] = ...) -> None: ...

class StreamSummary(_message.Message):
    __slots__ = ("stream", "digest", "stored_bytes", "truncated", "redactions", "tail_bytes")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    REDACTIONS_FIELD_NUMBER: _ClassVar[int]
    TAIL_BYTES_FIELD_NUMBER: _ClassVar[int]
    stream: StdStream
    digest: Digest
    stored_bytes: int
    truncated: bool
    redactions: int
    tail_bytes: int
    def __init__(self, stream: _Optional[_Union[StdStream, str]] = ..., digest: _Optional[_Union[Digest, _Mapping]] = ..., stored_bytes: _Optional[int] = ..., truncated: _Optional[bool] = ..., redactions: _Optional[int] = ..., tail_bytes: _Optional[int] = ...) -> None: ...

class OutputFile(_message.Message):
    __slots__ = ("path", "digest", "mode")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    digest: Digest
    mode: int
    def __init__(self, path: _Optional[bytes] = ..., digest: _Optional[_Union[Digest, _Mapping]] = ..., mode: _Optional[int] = ...) -> None: ...

class SkippedFile(_message.Message):
    __slots__ = ("path", "reason")
    PATH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    reason: str
    def __init__(self, path: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class Timeline(_message.Message):
    __slots__ = ("accepted", "preparing", "armed", "started", "ended", "destroyed")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PREPARING_FIELD_NUMBER: _ClassVar[int]
    ARMED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    DESTROYED_FIELD_NUMBER: _ClassVar[int]
    accepted: _timestamp_pb2.Timestamp
    preparing: _timestamp_pb2.Timestamp
    armed: _timestamp_pb2.Timestamp
    started: _timestamp_pb2.Timestamp
    ended: _timestamp_pb2.Timestamp
    destroyed: _timestamp_pb2.Timestamp
    def __init__(self, accepted: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., preparing: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., armed: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., destroyed: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ContentsRemoved(_message.Message):
    __slots__ = ("time", "why")
    TIME_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    why: str
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., why: _Optional[str] = ...) -> None: ...

class Erased(_message.Message):
    __slots__ = ("by", "time", "why")
    BY_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    by: str
    time: _timestamp_pb2.Timestamp
    why: str
    def __init__(self, by: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., why: _Optional[str] = ...) -> None: ...
