from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Exposure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPOSURE_UNSPECIFIED: _ClassVar[Exposure]
    EXPOSURE_CLOSED: _ClassVar[Exposure]
    EXPOSURE_NARROW: _ClassVar[Exposure]
    EXPOSURE_WIDE: _ClassVar[Exposure]
EXPOSURE_UNSPECIFIED: Exposure
EXPOSURE_CLOSED: Exposure
EXPOSURE_NARROW: Exposure
EXPOSURE_WIDE: Exposure

class ProfileSummary(_message.Message):
    __slots__ = ("name", "why", "digest", "mode")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    name: str
    why: str
    digest: str
    mode: str
    def __init__(self, name: _Optional[str] = ..., why: _Optional[str] = ..., digest: _Optional[str] = ..., mode: _Optional[str] = ...) -> None: ...

class ListProfilesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListProfilesResponse(_message.Message):
    __slots__ = ("profiles",)
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    profiles: _containers.RepeatedCompositeFieldContainer[ProfileSummary]
    def __init__(self, profiles: _Optional[_Iterable[_Union[ProfileSummary, _Mapping]]] = ...) -> None: ...

class GetProfileRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ProfileLine(_message.Message):
    __slots__ = ("path", "value_json", "file", "line")
    PATH_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    path: str
    value_json: str
    file: str
    line: int
    def __init__(self, path: _Optional[str] = ..., value_json: _Optional[str] = ..., file: _Optional[str] = ..., line: _Optional[int] = ...) -> None: ...

class GetProfileResponse(_message.Message):
    __slots__ = ("summary", "canonical_json", "lines")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    CANONICAL_JSON_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    summary: ProfileSummary
    canonical_json: bytes
    lines: _containers.RepeatedCompositeFieldContainer[ProfileLine]
    def __init__(self, summary: _Optional[_Union[ProfileSummary, _Mapping]] = ..., canonical_json: _Optional[bytes] = ..., lines: _Optional[_Iterable[_Union[ProfileLine, _Mapping]]] = ...) -> None: ...

class ExplainProfileRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ProfileFinding(_message.Message):
    __slots__ = ("wall", "setting", "exposure", "verdict", "advice", "host")
    WALL_FIELD_NUMBER: _ClassVar[int]
    SETTING_FIELD_NUMBER: _ClassVar[int]
    EXPOSURE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    wall: str
    setting: str
    exposure: Exposure
    verdict: str
    advice: str
    host: str
    def __init__(self, wall: _Optional[str] = ..., setting: _Optional[str] = ..., exposure: _Optional[_Union[Exposure, str]] = ..., verdict: _Optional[str] = ..., advice: _Optional[str] = ..., host: _Optional[str] = ...) -> None: ...

class ExplainProfileResponse(_message.Message):
    __slots__ = ("summary", "findings")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    summary: ProfileSummary
    findings: _containers.RepeatedCompositeFieldContainer[ProfileFinding]
    def __init__(self, summary: _Optional[_Union[ProfileSummary, _Mapping]] = ..., findings: _Optional[_Iterable[_Union[ProfileFinding, _Mapping]]] = ...) -> None: ...
