"""The part of the configuration that is about witnesses, and what all its parts are made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from supervisor.audit.notes import NoteError, VerifierKey
from supervisor.audit.witness import CommandWitness, FileWitness, Witness

COMMAND_ARGUMENTS_MAX = 64
WITNESS_FOR_MAX = 64


class Closed(BaseModel):
    """A mapping with these keys and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ClientTls(Closed):
    """Our certificate and its key, and the authority that the other side's must come from."""

    cert: str
    key: str
    ca: str


class WitnessEntry(Closed):
    """Who is given the signed heads of the record: a `file` to which they are appended, a `command`
    that gets each on its standard input, or another `stockade`, with `tls` where that is TCP."""

    file: str | None = None
    stockade: str | None = None
    tls: ClientTls | None = None
    command: Annotated[list[str], Field(min_length=1, max_length=COMMAND_ARGUMENTS_MAX)] | None = (
        None
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [key for key in ("file", "command", "stockade") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("a witness is exactly one of file:, command: and stockade:")
        for path in (self.file, *(self.command or ())[:1]):
            absolute_path(path or "/")
        unix = (self.stockade or "").startswith("unix:///")
        if self.stockade is not None and not unix:
            split_host_port(self.stockade)
        if (self.tls is not None) != (self.stockade is not None and not unix):
            raise ValueError("tls: is needed for stockade: HOST:PORT, and belongs to it alone")
        return self

    @property
    def witness(self) -> Witness | None:
        """Give it as a plain value; None for another Stockade, which only its client can reach."""
        if self.file is not None:
            return FileWitness(Path(self.file))
        return CommandWitness(tuple(self.command)) if self.command is not None else None


class WitnessFor(Closed):
    """A log of which heads are kept here, and the public key that signs it: one for each key."""

    origin: str
    key: str

    @model_validator(mode="after")
    def _is_its_key(self) -> Self:
        try:
            name = self.verifier.name
        except NoteError as error:
            raise ValueError(str(error)) from None
        if name != self.origin:
            raise ValueError(f"the key is of {name!r}, not of {self.origin!r}")
        return self

    @property
    def verifier(self) -> VerifierKey:
        """Give the key."""
        return VerifierKey.parse(self.key)


def split_host_port(text: str) -> tuple[str, int]:
    """Split `127.0.0.1:7443` or `[::1]:7443`; port 0 asks for any free port.

    Raises:
        ValueError: it is neither.
    """
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{text!r} is not an address as 127.0.0.1:7443 or [::1]:7443")
    return match[1] or match[2], int(match[3])


def absolute_path(path: str) -> str:
    """Give a path that is absolute.

    Raises:
        ValueError: it is not.
    """
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"{path!r} is not an absolute path")
    return path
