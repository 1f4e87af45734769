"""What the client gives back beside the events of a call: calls, profiles and records as values."""

from __future__ import annotations

import json
from dataclasses import dataclass

from supervisor.call.events import Finished
from supervisor.call.state import State
from supervisor.call.types import Caller, Correlation, Digest, Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """That retention removed what a call left on record: `why` is "age" or "size"."""

    time_ns: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """That the content of a call was erased: by which caller, when, and why."""

    by: str
    time_ns: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call in short; `argv` is its beginning, `finished` is set once it is closed, `removed` and
    `erased` where the contents of its streams and files are gone, or nobody can read them. `holds`
    is how many hold those; `encrypted`, whether they are."""

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
    removed: Removed | None = None
    erased: Erased | None = None
    encrypted: bool = False
    holds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """What would go now: the contents of a call, or an upload where `call_id` is empty; `why` is
    "age" or "size", `files` and `bytes` are what nothing else needs."""

    call_id: str
    index: int
    why: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What would go now, the oldest first (at most 1000 of `count`), and why not more: `rest` is
    what the next in line waits for, `problem` why nothing goes at all. Of what is old enough, or
    too much, `held` are held and `in_use` were asked for within the hour. Ages are counted from
    `now_ns`."""

    going: tuple[Going, ...]
    count: int
    bytes: int
    contents_bytes: int
    rest: str
    problem: str
    held: int
    in_use: int
    now_ns: int


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
class SignedHead:
    """What is signed of the log: `checkpoint` is a signed note, and `key`, as name+id+base64, the
    public key that verifies it, where one does not know it already."""

    checkpoint: bytes
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The whole account of one call."""

    call: Call
    entries: tuple[RecordEntry, ...]
