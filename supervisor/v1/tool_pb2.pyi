import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from supervisor.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Command(_message.Message):
    __slots__ = ("argv", "env", "working_directory")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    ARGV_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    argv: _containers.RepeatedScalarFieldContainer[bytes]
    env: _containers.ScalarMap[str, bytes]
    working_directory: bytes
    def __init__(self, argv: _Optional[_Iterable[bytes]] = ..., env: _Optional[_Mapping[str, bytes]] = ..., working_directory: _Optional[bytes] = ...) -> None: ...

class ToolCall(_message.Message):
    __slots__ = ("name", "arguments_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    arguments_json: bytes
    def __init__(self, name: _Optional[str] = ..., arguments_json: _Optional[bytes] = ...) -> None: ...

class InputFile(_message.Message):
    __slots__ = ("path", "data", "digest", "mode")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    data: bytes
    digest: _types_pb2.Digest
    mode: int
    def __init__(self, path: _Optional[bytes] = ..., data: _Optional[bytes] = ..., digest: _Optional[_Union[_types_pb2.Digest, _Mapping]] = ..., mode: _Optional[int] = ...) -> None: ...

class Terminal(_message.Message):
    __slots__ = ("rows", "columns", "term")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    term: str
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., term: _Optional[str] = ...) -> None: ...

class ExecuteRequest(_message.Message):
    __slots__ = ("request_id", "profile", "kill_on_disconnect", "command", "tool", "files", "outputs", "stdin", "timeout", "correlation", "stdin_open", "terminal")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    KILL_ON_DISCONNECT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_FIELD_NUMBER: _ClassVar[int]
    STDIN_OPEN_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    profile: str
    kill_on_disconnect: bool
    command: Command
    tool: ToolCall
    files: _containers.RepeatedCompositeFieldContainer[InputFile]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    stdin: bytes
    timeout: _duration_pb2.Duration
    correlation: _types_pb2.Correlation
    stdin_open: bool
    terminal: Terminal
    def __init__(self, request_id: _Optional[str] = ..., profile: _Optional[str] = ..., kill_on_disconnect: _Optional[bool] = ..., command: _Optional[_Union[Command, _Mapping]] = ..., tool: _Optional[_Union[ToolCall, _Mapping]] = ..., files: _Optional[_Iterable[_Union[InputFile, _Mapping]]] = ..., outputs: _Optional[_Iterable[str]] = ..., stdin: _Optional[bytes] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., correlation: _Optional[_Union[_types_pb2.Correlation, _Mapping]] = ..., stdin_open: _Optional[bool] = ..., terminal: _Optional[_Union[Terminal, _Mapping]] = ...) -> None: ...

class ExecuteResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: CallEvent
    def __init__(self, event: _Optional[_Union[CallEvent, _Mapping]] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("call_id", "from_sequence")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    from_sequence: int
    def __init__(self, call_id: _Optional[str] = ..., from_sequence: _Optional[int] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: CallEvent
    def __init__(self, event: _Optional[_Union[CallEvent, _Mapping]] = ...) -> None: ...

class CallEvent(_message.Message):
    __slots__ = ("call_id", "sequence", "time", "accepted", "started", "output", "denied", "lost", "keep_alive", "finished", "processes", "watched", "flow", "resized")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DENIED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    WATCHED_FIELD_NUMBER: _ClassVar[int]
    FLOW_FIELD_NUMBER: _ClassVar[int]
    RESIZED_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    sequence: int
    time: _timestamp_pb2.Timestamp
    accepted: Accepted
    started: Started
    output: Output
    denied: Denied
    lost: Lost
    keep_alive: KeepAlive
    finished: Finished
    processes: Processes
    watched: Watched
    flow: Flow
    resized: Resized
    def __init__(self, call_id: _Optional[str] = ..., sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., started: _Optional[_Union[Started, _Mapping]] = ..., output: _Optional[_Union[Output, _Mapping]] = ..., denied: _Optional[_Union[Denied, _Mapping]] = ..., lost: _Optional[_Union[Lost, _Mapping]] = ..., keep_alive: _Optional[_Union[KeepAlive, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., processes: _Optional[_Union[Processes, _Mapping]] = ..., watched: _Optional[_Union[Watched, _Mapping]] = ..., flow: _Optional[_Union[Flow, _Mapping]] = ..., resized: _Optional[_Union[Resized, _Mapping]] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("profile", "profile_digest", "mode", "attached")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    profile: str
    profile_digest: str
    mode: str
    attached: bool
    def __init__(self, profile: _Optional[str] = ..., profile_digest: _Optional[str] = ..., mode: _Optional[str] = ..., attached: _Optional[bool] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("preparation",)
    PREPARATION_FIELD_NUMBER: _ClassVar[int]
    preparation: _duration_pb2.Duration
    def __init__(self, preparation: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Resized(_message.Message):
    __slots__ = ("rows", "columns")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("stream", "data", "offset", "truncated", "covered")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    COVERED_FIELD_NUMBER: _ClassVar[int]
    stream: _types_pb2.StdStream
    data: bytes
    offset: int
    truncated: bool
    covered: int
    def __init__(self, stream: _Optional[_Union[_types_pb2.StdStream, str]] = ..., data: _Optional[bytes] = ..., offset: _Optional[int] = ..., truncated: _Optional[bool] = ..., covered: _Optional[int] = ...) -> None: ...

class Denied(_message.Message):
    __slots__ = ("wall", "name", "arguments", "detail", "pid", "program", "count", "rule", "used", "allowed")
    WALL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    wall: str
    name: str
    arguments: _containers.RepeatedScalarFieldContainer[int]
    detail: str
    pid: int
    program: bytes
    count: int
    rule: str
    used: int
    allowed: int
    def __init__(self, wall: _Optional[str] = ..., name: _Optional[str] = ..., arguments: _Optional[_Iterable[int]] = ..., detail: _Optional[str] = ..., pid: _Optional[int] = ..., program: _Optional[bytes] = ..., count: _Optional[int] = ..., rule: _Optional[str] = ..., used: _Optional[int] = ..., allowed: _Optional[int] = ...) -> None: ...

class Watched(_message.Message):
    __slots__ = ("name", "arguments", "detail", "pid", "program", "count", "rule", "killed")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    KILLED_FIELD_NUMBER: _ClassVar[int]
    name: str
    arguments: _containers.RepeatedScalarFieldContainer[int]
    detail: str
    pid: int
    program: bytes
    count: int
    rule: str
    killed: bool
    def __init__(self, name: _Optional[str] = ..., arguments: _Optional[_Iterable[int]] = ..., detail: _Optional[str] = ..., pid: _Optional[int] = ..., program: _Optional[bytes] = ..., count: _Optional[int] = ..., rule: _Optional[str] = ..., killed: _Optional[bool] = ...) -> None: ...

class Flow(_message.Message):
    __slots__ = ("name", "address", "port", "rule", "verdict", "reason", "sent", "received", "started", "duration", "pid", "program")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    port: int
    rule: str
    verdict: _types_pb2.Verdict
    reason: str
    sent: int
    received: int
    started: _timestamp_pb2.Timestamp
    duration: _duration_pb2.Duration
    pid: int
    program: bytes
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., port: _Optional[int] = ..., rule: _Optional[str] = ..., verdict: _Optional[_Union[_types_pb2.Verdict, str]] = ..., reason: _Optional[str] = ..., sent: _Optional[int] = ..., received: _Optional[int] = ..., started: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., pid: _Optional[int] = ..., program: _Optional[bytes] = ...) -> None: ...

class Processes(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[ProcessEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[ProcessEvent, _Mapping]]] = ...) -> None: ...

class ProcessEvent(_message.Message):
    __slots__ = ("time", "pid", "started", "argv", "ended")
    TIME_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    pid: int
    started: ProgramStarted
    argv: MoreArgv
    ended: ProcessEnded
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., pid: _Optional[int] = ..., started: _Optional[_Union[ProgramStarted, _Mapping]] = ..., argv: _Optional[_Union[MoreArgv, _Mapping]] = ..., ended: _Optional[_Union[ProcessEnded, _Mapping]] = ...) -> None: ...

class ProgramStarted(_message.Message):
    __slots__ = ("path", "directory", "argv", "argv_bytes", "parent_pid", "uid", "gid", "cut")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    ARGV_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARENT_PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    directory: bytes
    argv: _containers.RepeatedScalarFieldContainer[bytes]
    argv_bytes: int
    parent_pid: int
    uid: int
    gid: int
    cut: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, path: _Optional[bytes] = ..., directory: _Optional[bytes] = ..., argv: _Optional[_Iterable[bytes]] = ..., argv_bytes: _Optional[int] = ..., parent_pid: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., cut: _Optional[_Iterable[str]] = ...) -> None: ...

class MoreArgv(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ProcessEnded(_message.Message):
    __slots__ = ("code", "signal", "cpu_user", "cpu_system", "memory_peak_bytes", "parent_pid")
    CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    CPU_USER_FIELD_NUMBER: _ClassVar[int]
    CPU_SYSTEM_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARENT_PID_FIELD_NUMBER: _ClassVar[int]
    code: int
    signal: int
    cpu_user: _duration_pb2.Duration
    cpu_system: _duration_pb2.Duration
    memory_peak_bytes: int
    parent_pid: int
    def __init__(self, code: _Optional[int] = ..., signal: _Optional[int] = ..., cpu_user: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cpu_system: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., memory_peak_bytes: _Optional[int] = ..., parent_pid: _Optional[int] = ...) -> None: ...

class Lost(_message.Message):
    __slots__ = ("what", "count", "reason")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    what: str
    count: int
    reason: str
    def __init__(self, what: _Optional[str] = ..., count: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class KeepAlive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Finished(_message.Message):
    __slots__ = ("exited", "signaled", "timed_out", "out_of_memory", "limit_exceeded", "stopped", "failed", "interrupted", "timeline", "streams", "outputs", "skipped", "usage", "record", "denials", "receipt")
    EXITED_FIELD_NUMBER: _ClassVar[int]
    SIGNALED_FIELD_NUMBER: _ClassVar[int]
    TIMED_OUT_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_MEMORY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_EXCEEDED_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    INTERRUPTED_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    DENIALS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    exited: _types_pb2.Exited
    signaled: _types_pb2.Signaled
    timed_out: _types_pb2.TimedOut
    out_of_memory: _types_pb2.OutOfMemory
    limit_exceeded: _types_pb2.LimitExceeded
    stopped: _types_pb2.Stopped
    failed: _types_pb2.Failed
    interrupted: _types_pb2.Interrupted
    timeline: _types_pb2.Timeline
    streams: _containers.RepeatedCompositeFieldContainer[_types_pb2.StreamSummary]
    outputs: _containers.RepeatedCompositeFieldContainer[_types_pb2.OutputFile]
    skipped: _containers.RepeatedCompositeFieldContainer[_types_pb2.SkippedFile]
    usage: _types_pb2.ResourceUsage
    record: _types_pb2.Digest
    denials: int
    receipt: bytes
    def __init__(self, exited: _Optional[_Union[_types_pb2.Exited, _Mapping]] = ..., signaled: _Optional[_Union[_types_pb2.Signaled, _Mapping]] = ..., timed_out: _Optional[_Union[_types_pb2.TimedOut, _Mapping]] = ..., out_of_memory: _Optional[_Union[_types_pb2.OutOfMemory, _Mapping]] = ..., limit_exceeded: _Optional[_Union[_types_pb2.LimitExceeded, _Mapping]] = ..., stopped: _Optional[_Union[_types_pb2.Stopped, _Mapping]] = ..., failed: _Optional[_Union[_types_pb2.Failed, _Mapping]] = ..., interrupted: _Optional[_Union[_types_pb2.Interrupted, _Mapping]] = ..., timeline: _Optional[_Union[_types_pb2.Timeline, _Mapping]] = ..., streams: _Optional[_Iterable[_Union[_types_pb2.StreamSummary, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[_types_pb2.OutputFile, _Mapping]]] = ..., skipped: _Optional[_Iterable[_Union[_types_pb2.SkippedFile, _Mapping]]] = ..., usage: _Optional[_Union[_types_pb2.ResourceUsage, _Mapping]] = ..., record: _Optional[_Union[_types_pb2.Digest, _Mapping]] = ..., denials: _Optional[int] = ..., receipt: _Optional[bytes] = ...) -> None: ...

class WriteStdinRequest(_message.Message):
    __slots__ = ("call_id", "offset", "data", "end")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    offset: int
    data: bytes
    end: bool
    def __init__(self, call_id: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...

class WriteStdinResponse(_message.Message):
    __slots__ = ("next_offset",)
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    next_offset: int
    def __init__(self, next_offset: _Optional[int] = ...) -> None: ...

class ResizeTerminalRequest(_message.Message):
    __slots__ = ("call_id", "rows", "columns")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    rows: int
    columns: int
    def __init__(self, call_id: _Optional[str] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ...) -> None: ...

class ResizeTerminalResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SignalRequest(_message.Message):
    __slots__ = ("call_id", "signal", "why")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    signal: int
    why: str
    def __init__(self, call_id: _Optional[str] = ..., signal: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class SignalResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCallRequest(_message.Message):
    __slots__ = ("call_id",)
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    def __init__(self, call_id: _Optional[str] = ...) -> None: ...

class GetCallResponse(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: Call
    def __init__(self, call: _Optional[_Union[Call, _Mapping]] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("call_id", "request_id", "caller", "profile", "profile_digest", "state", "argv", "accepted", "correlation", "finished", "last_sequence", "denials", "removed", "erased", "encrypted", "holds")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DENIALS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    ERASED_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    request_id: str
    caller: _types_pb2.Caller
    profile: str
    profile_digest: str
    state: _types_pb2.CallState
    argv: _containers.RepeatedScalarFieldContainer[bytes]
    accepted: _timestamp_pb2.Timestamp
    correlation: _types_pb2.Correlation
    finished: Finished
    last_sequence: int
    denials: int
    removed: _types_pb2.ContentsRemoved
    erased: _types_pb2.Erased
    encrypted: bool
    holds: int
    def __init__(self, call_id: _Optional[str] = ..., request_id: _Optional[str] = ..., caller: _Optional[_Union[_types_pb2.Caller, _Mapping]] = ..., profile: _Optional[str] = ..., profile_digest: _Optional[str] = ..., state: _Optional[_Union[_types_pb2.CallState, str]] = ..., argv: _Optional[_Iterable[bytes]] = ..., accepted: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., correlation: _Optional[_Union[_types_pb2.Correlation, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., last_sequence: _Optional[int] = ..., denials: _Optional[int] = ..., removed: _Optional[_Union[_types_pb2.ContentsRemoved, _Mapping]] = ..., erased: _Optional[_Union[_types_pb2.Erased, _Mapping]] = ..., encrypted: _Optional[bool] = ..., holds: _Optional[int] = ...) -> None: ...

class ListCallsRequest(_message.Message):
    __slots__ = ("live_only", "profile", "page_size", "page_token")
    LIVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    live_only: bool
    profile: str
    page_size: int
    page_token: str
    def __init__(self, live_only: _Optional[bool] = ..., profile: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCallsResponse(_message.Message):
    __slots__ = ("calls", "next_page_token")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[Call]
    next_page_token: str
    def __init__(self, calls: _Optional[_Iterable[_Union[Call, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WriteBlobRequest(_message.Message):
    __slots__ = ("digest", "data")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    digest: _types_pb2.Digest
    data: bytes
    def __init__(self, digest: _Optional[_Union[_types_pb2.Digest, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteBlobResponse(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: _types_pb2.Digest
    def __init__(self, digest: _Optional[_Union[_types_pb2.Digest, _Mapping]] = ...) -> None: ...

class ReadBlobRequest(_message.Message):
    __slots__ = ("digest", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: _types_pb2.Digest
    offset: int
    def __init__(self, digest: _Optional[_Union[_types_pb2.Digest, _Mapping]] = ..., offset: _Optional[int] = ...) -> None: ...

class ReadBlobResponse(_message.Message):
    __slots__ = ("data", "content")
    DATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    content: _types_pb2.Digest
    def __init__(self, data: _Optional[bytes] = ..., content: _Optional[_Union[_types_pb2.Digest, _Mapping]] = ...) -> None: ...
