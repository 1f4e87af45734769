"""What entries of `sinks:` in the configuration are made of, whatever their type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from supervisor.api.config_values import MIB, Duration, Secret, Size
from supervisor.api.witness_config import Closed, absolute_path

if TYPE_CHECKING:
    from supervisor.export.event import Source
    from supervisor.export.sinks.http import HttpTls

AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""Of Debian's ca-certificates."""

STAND_IN = "a-word-where-a-secret-would-be-0000"
"""Stands for each secret while a configuration is checked: secrets are read when it is used."""

JSON_FORMATS = frozenset({"ocsf", "ocsf-1.1", "ocsf-1.9", "ecs", "json"})
FormatName = Literal["ocsf", "ocsf-1.1", "ocsf-1.9", "ecs", "cef", "json", "spans"]
Text = Annotated[str, Field(min_length=1, max_length=1024)]
SecretValues = Callable[[str], str]
"""Gives the value of a secret, by the key that it stands under."""


class SinkTls(Closed):
    """From what authority the other side's certificate has to be, the host's own ones where `ca` is
    not given, and by what certificate and key it knows us."""

    ca: str = AUTHORITIES
    cert: str | None = None
    key: str | None = None
    name: Text | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert: and key: belong together")
        for path in self.files:
            absolute_path(path)
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Give all files."""
        return tuple(path for path in (self.ca, self.cert, self.key) if path is not None)

    @property
    def over_http(self) -> HttpTls:
        """Give it as the sinks of HTTP take it."""
        from supervisor.export.sinks.http import HttpTls

        cert, key = (None if path is None else Path(path) for path in (self.cert, self.key))
        return HttpTls(ca=Path(self.ca), certificate=cert, key=key)


class SinkEntry(Closed):
    """What every sink has: a format; and how large a batch is and how long it waits for more, where
    that is not to be as this type of sink wants it."""

    type: str
    format: FormatName = "ocsf"
    batch: Annotated[int, Field(ge=1, le=100_000)] | None = None
    batch_size: Annotated[Size, Field(le=64 * MIB)] | None = None
    linger: Annotated[Duration, Field(le=3600)] | None = None

    takes: ClassVar[frozenset[str]] = JSON_FORMATS | {"cef"}
    extra: ClassVar[str] = ""
    needs_root: ClassVar[bool] = False
    is_record: ClassVar[bool] = True
    """Whether it is the record that it gets, so that retention waits for it."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.format not in self.takes:
            takes = ", ".join(sorted(self.takes))
            raise ValueError(f"a sink of type {self.type} takes {takes}, not {self.format}")
        self._check()
        return self

    def _check(self) -> None:
        """See that it can be made, with words in the place of secrets."""
        from supervisor.export.event import Source

        try:
            self.options("sink", lambda _: STAND_IN, Source(origin="log", host="host", version="0"))
        except ImportError as error:
            raise ValueError(
                f"type {self.type} needs {error.name}: pip install 'stockade[{self.extra}]'"
            ) from error

    @property
    def secrets(self) -> Mapping[str, Secret]:
        """Give its secrets, by the key that they stand under."""
        return {}

    @property
    def tls_files(self) -> tuple[str, ...]:
        """Give the files of certificates and keys."""
        tls = getattr(self, "tls", None)
        return tls.files if isinstance(tls, SinkTls) else ()

    @property
    def tls_key(self) -> str | None:
        """Give the file of our private key."""
        tls = getattr(self, "tls", None)
        return tls.key if isinstance(tls, SinkTls) else None

    @property
    def writes(self) -> tuple[str, ...]:
        """Give the files that are written on this host."""
        return ()

    def options(self, name: str, secret: SecretValues, source: Source) -> Any:
        """Give what a sink of this type is made of; `name` is the sink's.

        Raises:
            ValueError: a value does not fit, or a secret is not what it should be.
            ImportError: what this type needs is not installed.
        """
        raise NotImplementedError


def plain_or_tls(tls: SinkTls | None, why: str | None) -> str:
    """Give why there is no TLS, "" where there is.

    Raises:
        ValueError: there is neither.
    """
    if tls is None and why is None:
        raise ValueError("needs tls:, or plain_because: why it is well that anybody can read it")
    return why or ""
