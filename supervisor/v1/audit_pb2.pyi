import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from supervisor.v1 import tool_pb2 as _tool_pb2
from supervisor.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListRecordsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "profile", "caller", "denied_only", "since", "until", "agent", "session", "outcome", "denied", "to", "program", "text")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    DENIED_ONLY_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DENIED_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    profile: str
    caller: str
    denied_only: bool
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    agent: str
    session: str
    outcome: str
    denied: str
    to: str
    program: str
    text: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., profile: _Optional[str] = ..., caller: _Optional[str] = ..., denied_only: _Optional[bool] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., agent: _Optional[str] = ..., session: _Optional[str] = ..., outcome: _Optional[str] = ..., denied: _Optional[str] = ..., to: _Optional[str] = ..., program: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class ListRecordsResponse(_message.Message):
    __slots__ = ("records", "next_page_token")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[_tool_pb2.Call]
    next_page_token: str
    def __init__(self, records: _Optional[_Iterable[_Union[_tool_pb2.Call, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetRecordRequest(_message.Message):
    __slots__ = ("call_id", "from_sequence", "profile")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    from_sequence: int
    profile: bool
    def __init__(self, call_id: _Optional[str] = ..., from_sequence: _Optional[int] = ..., profile: _Optional[bool] = ...) -> None: ...

class RecordEntry(_message.Message):
    __slots__ = ("index", "sequence", "time", "kind", "json", "leaf")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    LEAF_FIELD_NUMBER: _ClassVar[int]
    index: int
    sequence: int
    time: _timestamp_pb2.Timestamp
    kind: str
    json: bytes
    leaf: _types_pb2.Digest
    def __init__(self, index: _Optional[int] = ..., sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[str] = ..., json: _Optional[bytes] = ..., leaf: _Optional[_Union[_types_pb2.Digest, _Mapping]] = ...) -> None: ...

class GetRecordResponse(_message.Message):
    __slots__ = ("call", "entries", "next_sequence", "profile_json")
    CALL_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_JSON_FIELD_NUMBER: _ClassVar[int]
    call: _tool_pb2.Call
    entries: _containers.RepeatedCompositeFieldContainer[RecordEntry]
    next_sequence: int
    profile_json: bytes
    def __init__(self, call: _Optional[_Union[_tool_pb2.Call, _Mapping]] = ..., entries: _Optional[_Iterable[_Union[RecordEntry, _Mapping]]] = ..., next_sequence: _Optional[int] = ..., profile_json: _Optional[bytes] = ...) -> None: ...

class ReadOutputRequest(_message.Message):
    __slots__ = ("call_id", "stream")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    stream: _types_pb2.StdStream
    def __init__(self, call_id: _Optional[str] = ..., stream: _Optional[_Union[_types_pb2.StdStream, str]] = ...) -> None: ...

class ReadOutputResponse(_message.Message):
    __slots__ = ("data", "offset")
    DATA_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    offset: int
    def __init__(self, data: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...
