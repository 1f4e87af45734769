"""What the client gives back beside the events of a call: calls, profiles and records as values."""

from __future__ import annotations

import json
from dataclasses import dataclass

from supervisor.call.events import Finished
from supervisor.call.state import State
from supervisor.call.types import Caller, Correlation, Digest, Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call in short; `argv` is its beginning, `finished` is set once it is closed."""

    call_id: str
    request_id: str
    caller: Caller
    profile: str
    profile_digest: str
    state: State
    argv: tuple[bytes, ...]
    accepted_ns: int
    correlation: Correlation
    finished: Finished | None
    last_sequence: int
    denials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSummary:
    """A profile in short."""

    name: str
    why: str
    digest: str
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileLine:
    """One value of an effective profile, with the file and line that it comes from."""

    path: str
    value: Json
    file: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """An effective profile; `canonical` are the bytes that the digest is over."""

    summary: ProfileSummary
    canonical: bytes
    lines: tuple[ProfileLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One wall under a profile; `exposure` is "closed", "narrow" or "wide", and `host` what the
    daemon's host has of it, empty where that is the same on every host."""

    wall: str
    setting: str
    exposure: str
    verdict: str
    advice: str
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordEntry:
    """One entry of the log; `json` is the exact bytes that `leaf` is over."""

    index: int
    sequence: int
    time_ns: int
    kind: str
    json: bytes
    leaf: Digest

    def body(self) -> dict[str, Json]:
        """Parse the entry."""
        parsed = json.loads(self.json)
        return parsed if isinstance(parsed, dict) else {"value": parsed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The whole account of one call."""

    call: Call
    entries: tuple[RecordEntry, ...]
