"""The effective profile: what is left when `extends`, `use` and `drop` have been worked out.

Plain frozen values in base units (bytes, seconds). pydantic stays in `schema`, at the door.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
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


class Inspect(enum.StrEnum):
    """What the broker checks of a connection besides the name that was asked for."""

    TLS = "tls"
    HTTP = "http"
    NONE = "none"
    TERMINATE = "tls-terminate"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRange:
    """Ports from `low` to `high`, both included."""

    low: int
    high: int

    def __contains__(self, port: int) -> bool:
        return self.low <= port <= self.high

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def united(ranges: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """Give ranges that hold the same ports, sorted, apart and not adjacent."""
    found: list[PortRange] = []
    for each in sorted(ranges, key=lambda one: one.low):
        if found and each.low <= found[-1].high + 1:
            found[-1] = PortRange(low=found[-1].low, high=max(found[-1].high, each.high))
        else:
            found.append(each)
    return tuple(found)


PORT_RANGES_MAX = 16
"""Of a place that can be reached, in all: as many as one row of the kernel's map holds."""

RULES_MAX = 256
WILDCARDS_MAX = 64
"""Each has a block of synthetic addresses of its own."""

HTTPS_PORT = 443
HTTP_PORT = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRule:
    """A place that a call may reach over TCP: exactly one of `host` and `cidr` is not empty.

    `host` is a canonical name or "*.suffix" (`profile.hosts`), `cidr` a network as `ipaddress`
    writes it. `ports` are sorted, apart and not adjacent. `inspect` is None where the port decides.
    Empty `methods` or `paths` are any.
    """

    host: str = ""
    cidr: str = ""
    ports: tuple[PortRange, ...]
    inspect: Inspect | None = None
    private: bool = False
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    why: str = ""

    @property
    def name(self) -> str:
        """Give what the rule is called in the record, and by which layers merge it."""
        return f"{self.host or self.cidr}:{','.join(map(str, self.ports))}"

    def covers(self, port: int) -> bool:
        """Say whether the rule is for this port."""
        return any(port in ports for ports in self.ports)

    @property
    def has_tls(self) -> bool:
        """Say whether its places speak TLS at one of the ports, as far as the broker knows."""
        if self.inspect is not None:
            return self.inspect in (Inspect.TLS, Inspect.TERMINATE)
        return self.inspect_at(HTTPS_PORT) is Inspect.TLS and self.covers(HTTPS_PORT)

    def inspect_at(self, port: int) -> Inspect:
        """Say what is checked of a connection to this port."""
        if self.inspect is not None:
            return self.inspect
        if self.cidr:
            return Inspect.NONE
        return {HTTPS_PORT: Inspect.TLS, HTTP_PORT: Inspect.HTTP}.get(port, Inspect.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretUse:
    """A secret of the daemon's, which the broker puts into `header` of requests to `host` where the
    sandbox wrote a placeholder; the sandbox finds that in the variable `env`."""

    name: str
    header: str
    host: str
    env: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a call may use at most; `files` is open descriptors of one process, `egress_bytes` what
    goes out and comes in together."""

    wall_s: float
    cpu_s: float
    memory_bytes: int
    pids: int
    files: int
    output_bytes: int
    egress_bytes: int = 0


TAIL_BYTES_MAX = 64 * 1024
TAIL_SHARE = 8
"""The end that is kept of a stream has no more than this part of its cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """How much of a stream is stored: "full", "digest" (nothing), or "head" up to `bytes_max` and,
    of a stream that has more, its last `tail_bytes` at most."""

    mode: str
    bytes_max: int | None = None

    @property
    def tail_bytes(self) -> int:
        """Give how many bytes of a stream's end are kept besides; 0 for none."""
        return min(TAIL_BYTES_MAX, (self.bytes_max or 0) // TAIL_SHARE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redact:
    """What is taken out of the record besides the secrets that the daemon hands out: what looks
    like a credential; personal data too with `pii`; nothing where `off` says why not."""

    pii: bool = False
    off: str = ""

    def written(self) -> Json:
        """Give it as it stands in a profile."""
        return {"off": self.off} if self.off else "pii" if self.pii else "secrets"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPolicy:
    """What of each stream is stored; its digest always covers all of it."""

    stdin: Capture
    stdout: Capture
    stderr: Capture
    redact: Redact = Redact()


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

    `require` are walls of `walls.HOST_WALLS`, without which no call is taken. `terminal` says
    whether a call may have one.
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
    egress: tuple[EgressRule, ...] = ()
    secrets: tuple[SecretUse, ...] = ()
    terminal: bool = False


def terminates(profile: EffectiveProfile) -> bool:
    """Say whether the broker ends TLS of this profile's calls, so that they trust its authority."""
    return any(rule.inspect is Inspect.TERMINATE for rule in profile.egress)
