import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OpenSessionRequest(_message.Message):
    __slots__ = ("uid",)
    UID_FIELD_NUMBER: _ClassVar[int]
    uid: int
    def __init__(self, uid: _Optional[int] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("url", "expires", "uid")
    URL_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    url: str
    expires: _timestamp_pb2.Timestamp
    uid: int
    def __init__(self, url: _Optional[str] = ..., expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., uid: _Optional[int] = ...) -> None: ...

class EnterSessionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EnterSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: str
    def __init__(self, session: _Optional[str] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("caller", "reads_audit")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    READS_AUDIT_FIELD_NUMBER: _ClassVar[int]
    caller: str
    reads_audit: bool
    def __init__(self, caller: _Optional[str] = ..., reads_audit: _Optional[bool] = ...) -> None: ...

class LeaveSessionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
