"""The effective profile: what is left when `extends`, `use` and `drop` have been worked out.

Plain frozen values in base units (bytes, seconds). pydantic stays in `schema`, at the door.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.call.types import Json


class ImageKind(enum.StrEnum):
    """Where the root filesystem comes from."""

    HOST = "host"
    OCI = "oci"
    DIR = "dir"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The root filesystem; `digest` is the SHA-256 of an OCI manifest, `path` is for DIR."""

    kind: ImageKind
    name: str = ""
    digest: str = ""
    path: str = ""

    def __str__(self) -> str:
        if self.kind is ImageKind.OCI:
            return f"oci:{self.name}@sha256:{self.digest}"
        return f"dir:{self.path}" if self.kind is ImageKind.DIR else "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPath:
    """A path of the host that the sandbox sees, read-only."""

    path: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WritableMount:
    """A tmpfs of `size_bytes`; programs run from it only where `exec` is set."""

    path: str
    size_bytes: int
    exec: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a call may use at most; `files` is open descriptors of one process."""

    wall_s: float
    cpu_s: float
    memory_bytes: int
    pids: int
    files: int
    output_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """How much of a stream is stored: "full", "digest" (nothing), or "head" up to `bytes_max`."""

    mode: str
    bytes_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPolicy:
    """What of each stream is stored; its digest always covers all of it."""

    stdin: Capture
    stdout: Capture
    stderr: Capture


@dataclass(frozen=True, slots=True, kw_only=True)
class SyscallPolicy:
    """The system calls by name: sets expanded, conditions on arguments in `syscalls.rules_for`.

    `sets` are the elementary sets that were granted; they decide the socket families. `watch` is
    the part of `allow` that is told.
    """

    allow: frozenset[str]
    kill: frozenset[str]
    sets: frozenset[str]
    watch: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileLine:
    """One value and where it comes from; `file` has no folder but `fragments/`."""

    path: str
    value: Json
    file: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveProfile:
    """A profile as it is enforced. `digest` is the SHA-256 of `canonical`, in hexadecimal.

    `require` are walls of `walls.HOST_WALLS`, without which no call is taken.
    """

    name: str
    lineage: tuple[str, ...]
    why: str
    require: tuple[str, ...]
    runtime: str
    image: Image
    read: tuple[ReadPath, ...]
    write: tuple[WritableMount, ...]
    syscalls: SyscallPolicy
    env: Mapping[str, str]
    limits: Limits
    record: RecordPolicy
    mode: str
    canonical: bytes
    digest: str
    lines: tuple[ProfileLine, ...]
