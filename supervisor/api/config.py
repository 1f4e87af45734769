"""The daemon's configuration: a closed schema, and the defaults where there is no file.

The file is the same strict YAML as a profile: unknown keys, anchors and tags are errors with
file, line and column. Without a file, or without `callers:`, only the user that runs the daemon
may call it. Nothing here can loosen a profile.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from supervisor.api.config_values import (
    LOOPBACK,
    MIB,
    Age,
    Credential,
    Duration,
    Name,
    Secret,
    Size,
    with_unit,
)
from supervisor.api.console_config import Console
from supervisor.api.sink_config import Sinks, problems_of
from supervisor.api.witness_config import (
    WITNESS_FOR_MAX,
    Closed,
    WitnessEntry,
    WitnessFor,
    absolute_path,
    split_host_port,
)
from supervisor.audit.cursors import CURSORS_MAX
from supervisor.audit.notes import PUBLIC_BYTES, NoteError, VerifierKey
from supervisor.audit.retention import RetainPolicy
from supervisor.audit.sealing import RECIPIENTS_MAX, check_recipient
from supervisor.audit.signers import FileSource, TokenSource
from supervisor.audit.watermark import Mark
from supervisor.audit.witness import WITNESSES_MAX
from supervisor.errors import ProfileError
from supervisor.profile import units, yaml_source
from supervisor.profile.fields import NAME
from supervisor.sandbox.secrets import Secrets

DEFAULT_PATH = Path("/etc/stockade/config.yaml")
DEFAULT_SOCKET = "unix:///run/stockade/stockade.sock"
DEFAULT_GROUP = "stockade"
UNIX_PATH_BYTES_MAX = 107
"""sun_path with its NUL is 108 bytes (unix(7))."""

DNS_PORT = 53
RESOLVERS_MAX = 8
SECRETS_MAX = 256
WHO_EXPORTS = "retain: needs exported_by: what has to be past it beside sinks:, or [] for none"


Label = Annotated[str, Field(min_length=1, max_length=64)]


class Tls(Closed):
    """Certificate, key and the authority that client certificates must come from."""

    cert: str
    key: str
    client_ca: str


class Listener(Closed):
    """One address: `unix:///path` as plain text, or `tcp` with `tls`."""

    unix: str | None = None
    tcp: str | None = None
    tls: Tls | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not value.startswith("unix:///"):
            raise ValueError("an address is unix:///path, or a mapping with tcp: and tls:")
        return {"unix": value.removeprefix("unix://")}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.unix is None) == (self.tcp is None):
            raise ValueError("an address is either unix:///path or tcp:")
        if self.unix is not None:
            if self.tls is not None:
                raise ValueError("tls: belongs to a tcp: address")
            absolute_path(self.unix)
            if len(os.fsencode(self.unix)) > UNIX_PATH_BYTES_MAX:
                raise ValueError(f"a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes")
        if self.tcp is not None:
            split_host_port(self.tcp)
            if self.tls is None:
                raise ValueError("tcp: needs tls: with cert, key and client_ca")
        return self


class Socket(Closed):
    """Permission bits and group of the unix socket."""

    mode: Annotated[str, Field(pattern=r"^0[0-7]{3}$")] = "0660"
    group: str = DEFAULT_GROUP

    @model_validator(mode="after")
    def _not_for_all(self) -> Self:
        if self.mode_bits & 0o007:
            raise ValueError("the socket is never open to all users: the last digit must be 0")
        return self

    @property
    def mode_bits(self) -> int:
        """Give the mode as a number."""
        return int(self.mode, 8)

    @property
    def group_is_default(self) -> bool:
        """Say whether nobody asked for this group."""
        return "group" not in self.model_fields_set


class CallerEntry(Closed):
    """One caller: exactly one of uid, gid, san or cn says who it is.

    `profiles` must be given; an empty list is for who only follows calls or reads records.
    """

    name: Name
    uid: Annotated[int, Field(ge=0, lt=2**32 - 1)] | None = None
    gid: Annotated[int, Field(ge=0, lt=2**32 - 1)] | None = None
    san: Annotated[str, Field(min_length=1)] | None = None
    cn: Annotated[str, Field(min_length=1)] | None = None
    profiles: list[str]
    calls: Literal["own", "all"] = "own"
    audit: Literal["none", "own", "all"] = "none"
    holds: bool = False
    erase: Literal["none", "own", "all"] = "none"
    witness: bool = False
    exports: Literal["none", "see", "manage"] = "none"

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        given = [key for key in ("uid", "gid", "san", "cn") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("a caller is exactly one of uid:, gid:, san: or cn:")
        return self

    @property
    def identity(self) -> tuple[str, int | str]:
        """Give what the transport must show for this entry."""
        for key in ("uid", "gid", "san", "cn"):
            value = getattr(self, key)
            if value is not None:
                return key, value
        raise ValueError("a caller without an identity")


class Limits(Closed):
    """What bounds the daemon as a whole."""

    calls: Annotated[int, Field(gt=0)] = 64
    calls_per_caller: Annotated[int, Field(gt=0)] | None = None
    connections: Annotated[int, Field(gt=0)] = 128
    message_size: Annotated[int, BeforeValidator(with_unit(units.parse_size))] = Field(
        default=16 * MIB, ge=MIB, le=256 * MIB
    )
    blob_size: Size = 256 * MIB
    unary_deadline: Duration = 30.0
    keepalive: Duration = 15.0
    drain_grace: Duration = 30.0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.calls_per_caller is not None and self.calls_per_caller > self.calls:
            raise ValueError("calls_per_caller is more than calls")
        return self


class Metrics(Closed):
    """Where Prometheus may ask."""

    listen: str

    @model_validator(mode="after")
    def _loopback(self) -> Self:
        host, _ = split_host_port(self.listen)
        if host not in LOOPBACK:
            raise ValueError("metrics are served on a loopback address only")
        return self


class Egress(Closed):
    """How the broker gets from names to hosts: `resolver` are DNS servers, the host's own where it
    is empty; `ca` is a file of authorities, in PEM, that servers' certificates must come from where
    TLS is terminated, the host's own where it is empty."""

    resolver: Annotated[list[str], Field(min_length=1, max_length=RESOLVERS_MAX)] | None = None
    ca: str | None = None

    @field_validator("resolver")
    @classmethod
    def _addresses(cls, resolvers: list[str] | None) -> list[str] | None:
        for text in resolvers or ():
            _resolver(text)
        return resolvers

    @field_validator("ca")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return path if path is None else absolute_path(path)

    @property
    def resolvers(self) -> tuple[tuple[str, int], ...]:
        """Give address and port of each DNS server, none for the host's own."""
        return tuple(_resolver(text) for text in self.resolver or ())


class Pin(Closed):
    """Where a token's PIN is from: exactly one of file and credential."""

    file: str | None = None
    credential: Credential | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.credential is None):
            raise ValueError("a PIN is from exactly one of file: or credential:")
        if self.file is not None:
            absolute_path(self.file)
        return self

    @property
    def source(self) -> FileSource:
        """Give where it is from as a plain value."""
        return FileSource(file=self.file or "", credential=self.credential or "")


class Pkcs11(Closed):
    """A key in a token, by the labels of both; `module` is the library that speaks to the token,
    and becomes part of the daemon."""

    module: str
    token: Label
    key: Label
    pin: Pin

    @field_validator("module")
    @classmethod
    def _absolute(cls, path: str) -> str:
        return absolute_path(path)


class LogKey(Closed):
    """Where the log's key is: exactly one of file, credential and pkcs11."""

    file: str | None = None
    credential: Credential | None = None
    pkcs11: Pkcs11 | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("file", "credential", "pkcs11") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("the log's key is in exactly one of file:, credential: or pkcs11:")
        if self.file is not None:
            absolute_path(self.file)
        return self

    @property
    def source(self) -> FileSource | TokenSource:
        """Give where it is as a plain value."""
        if self.pkcs11 is None:
            return FileSource(file=self.file or "", credential=self.credential or "")
        return TokenSource(
            module=self.pkcs11.module,
            token=self.pkcs11.token,
            key=self.pkcs11.key,
            pin=self.pkcs11.pin.source,
        )


class Retain(Closed):
    """How long the contents of calls stay, and how much of them. All sinks must be past a call
    before it goes, and so must the cursors of `exported_by`, which are exporters of others."""

    age: Age | None = None
    size: Size | None = None
    exported_by: Annotated[list[Name], Field(max_length=CURSORS_MAX)]

    @model_validator(mode="before")
    @classmethod
    def _says_who_exports(cls, value: Any) -> Any:
        if isinstance(value, dict) and "exported_by" not in value:
            raise ValueError(WHO_EXPORTS)
        return value

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.age is None and self.size is None:
            raise ValueError("retain: needs age: or size:, or both")
        return self

    @property
    def policy(self) -> RetainPolicy:
        """Give it as a plain value."""
        return RetainPolicy(
            age_ns=None if self.age is None else round(self.age * 10**9),
            size_bytes=self.size,
            exported_by=tuple(dict.fromkeys(self.exported_by)),
        )


class RedactBy(Closed):
    """By what library the pack of rules is searched for; what is found is the same."""

    engine: Literal["re2", "hyperscan"]


def _mark(text: str) -> Mark:
    share = re.fullmatch(r"([0-9]{1,2})%", text, re.ASCII)
    return Mark(per_mille=int(share[1]) * 10) if share else Mark(units.parse_size(text))


FreeSpace = Annotated[Mark, BeforeValidator(with_unit(_mark))]


class WatermarkEntry(Closed):
    """What has to be free on the state folder's file system, as a size or a share of it: below
    `soft` it is said, below `hard` no new call begins."""

    soft: FreeSpace = Mark(per_mille=100)
    hard: FreeSpace = Mark(per_mille=50)


class Record(Closed):
    """The log's name, and its key where it is not the one in the state folder; what of the record
    is kept; who can read the content of calls, as `age` recipients, everybody with the disk where
    there are none; the `identity` by which the daemon itself does; how secrets are looked for; what
    has to be left of the disk."""

    origin: str | None = None
    key: LogKey | None = None
    retain: Retain | None = None
    recipients: Annotated[list[str], Field(min_length=1, max_length=RECIPIENTS_MAX)] | None = None
    identity: Secret | None = None
    redact: RedactBy | None = None
    watermark: WatermarkEntry | None = None

    @model_validator(mode="after")
    def _named_with_its_key(self) -> Self:
        if (self.origin is None) != (self.key is None):
            raise ValueError("origin: and key: belong together")
        if not self.model_fields_set:
            raise ValueError("record: says nothing")
        return self

    @field_validator("recipients")
    @classmethod
    def _recipients(cls, recipients: list[str] | None) -> list[str] | None:
        for text in recipients or ():
            check_recipient(text)
        if recipients is not None and len(set(recipients)) != len(recipients):
            raise ValueError("a recipient stands twice")
        return recipients

    @field_validator("origin")
    @classmethod
    def _names_a_log(cls, origin: str | None) -> str | None:
        if origin is None:
            return None
        try:
            return VerifierKey(name=origin, public=bytes(PUBLIC_BYTES)).name
        except NoteError as error:
            raise ValueError(str(error)) from None


class Configuration(Closed):
    """Everything that the daemon can be told."""

    listen: Annotated[list[Listener], Field(min_length=1)] = Field(
        default_factory=lambda: [Listener(unix=DEFAULT_SOCKET.removeprefix("unix://"))]
    )
    socket: Socket = Socket()
    state: str = "/var/lib/stockade"
    profiles: Annotated[list[str], Field(min_length=1)] | None = None
    callers: Annotated[list[CallerEntry], Field(min_length=1)] = Field(
        default_factory=lambda: [own_entry()]
    )
    limits: Limits = Limits()
    egress: Egress = Egress()
    secrets: dict[str, Secret] = Field(default_factory=dict, max_length=SECRETS_MAX)
    record: Record | None = None
    witnesses: Annotated[list[WitnessEntry], Field(max_length=WITNESSES_MAX)] = []  # noqa: RUF012
    witness_for: Annotated[list[WitnessFor], Field(max_length=WITNESS_FOR_MAX)] = []  # noqa: RUF012
    metrics: Metrics | None = None
    console: Console | None = None
    sinks: Sinks = Field(default_factory=dict)

    @field_validator("sinks")
    @classmethod
    def _sinks_apart(cls, sinks: dict[str, Any]) -> dict[str, Any]:
        for name in sinks:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a sink: lower-case letters, digits, -")
        for problem in problems_of(sinks):
            raise ValueError(problem)
        return sinks

    @field_validator("secrets")
    @classmethod
    def _secrets_named(cls, secrets: dict[str, Secret]) -> dict[str, Secret]:
        for name in secrets:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a secret: lower-case letters, digits, -")
        return secrets

    @field_validator("state")
    @classmethod
    def _state_absolute(cls, path: str) -> str:
        return absolute_path(path)

    @field_validator("callers")
    @classmethod
    def _callers_apart(cls, callers: list[CallerEntry]) -> list[CallerEntry]:
        identities: dict[tuple[str, int | str], str] = {}
        names: set[str] = set()
        for entry in callers:
            if entry.identity in identities:
                key, value = entry.identity
                other = identities[entry.identity]
                raise ValueError(f"callers {other!r} and {entry.name!r} are both {key} {value}")
            if entry.name in names:
                raise ValueError(f"two callers are named {entry.name!r}")
            identities[entry.identity] = entry.name
            names.add(entry.name)
        return callers

    @field_validator("listen")
    @classmethod
    def _listeners_apart(cls, listeners: list[Listener]) -> list[Listener]:
        addresses = [listener.unix or listener.tcp for listener in listeners]
        for address in addresses:
            if addresses.count(address) > 1 and not str(address).endswith(":0"):
                raise ValueError(f"{address} stands twice")
        return listeners

    @model_validator(mode="after")
    def _callers_reachable(self) -> Self:
        unix = any(listener.unix is not None for listener in self.listen)
        tcp = any(listener.tcp is not None for listener in self.listen)
        if not unix and "callers" not in self.model_fields_set:
            raise ValueError(
                "callers: is needed where only TCP is served: the default, the daemon's own user, "
                "calls over the unix socket"
            )
        for entry in self.callers:
            key, _ = entry.identity
            if key in {"uid", "gid"} and not unix:
                raise ValueError(f"caller {entry.name!r} matches nothing: no unix address")
            if key in {"san", "cn"} and not tcp:
                raise ValueError(f"caller {entry.name!r} matches nothing: no tcp address")
        return self

    @property
    def marks(self) -> WatermarkEntry | None:
        """Give what has to be left of the disk: where retention waits for sinks, never nothing."""
        given = self.record.watermark if self.record is not None else None
        waits = any(entry.is_record for entry in self.sinks.values())
        return given or (WatermarkEntry() if waits else None)

    def secrets_with(self, credentials: Path | None) -> Secrets:
        """Give all secrets; `credentials` is the folder that systemd gives its services."""
        sources = {name: secret.source for name, secret in self.secrets.items()}
        return Secrets(sources=sources, credentials=credentials)


def own_entry() -> CallerEntry:
    """Give the entry of the user that runs the daemon, who may do everything."""
    return CallerEntry(
        name="owner",
        uid=os.getuid(),
        profiles=["*"],
        calls="all",
        audit="all",
        erase="all",
        holds=True,
        witness=True,
        exports="manage",
    )


def _resolver(text: str) -> tuple[str, int]:
    try:
        return str(ipaddress.ip_address(text)), DNS_PORT
    except ValueError:
        try:
            host, port = split_host_port(text)
        except ValueError:
            raise ValueError(
                f"{text!r} is no address as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353"
            ) from None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{text!r} is a name: a resolver has an address") from None
    if port == 0:
        raise ValueError(f"{text!r} has no port")
    return str(address), port


def load(path: Path | None) -> Configuration:
    """Read a configuration; the defaults where `path` is None and the usual file is missing.

    Raises:
        ProfileError: `CONFIG_MISSING` where a named file is not there, `CONFIG_INVALID` with
            file, line, column and caret where it is wrong.
    """
    if path is None:
        if not DEFAULT_PATH.exists():
            return Configuration()
        path = DEFAULT_PATH
    if not path.is_file():
        raise ProfileError("CONFIG_MISSING", f"there is no configuration {path}")
    try:
        document = yaml_source.load_document(path, reason="CONFIG_INVALID")
    except yaml_source.ProblemsFound as error:
        raise _about_configuration(error) from error
    return yaml_source.validate(document, Configuration, reason="CONFIG_INVALID")


def _about_configuration(error: yaml_source.ProblemsFound) -> yaml_source.ProblemsFound:
    """Say what to write into an empty file: here no key is required."""
    hint = "say under `callers:` who may call, or remove the file for the defaults"
    problems = [
        dataclasses.replace(problem, hint=hint) if problem.message == "is empty" else problem
        for problem in error.problems
    ]
    return yaml_source.ProblemsFound(error.reason, problems)
