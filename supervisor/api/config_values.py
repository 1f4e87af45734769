"""What parts of the configuration share: sizes, times, names, and where secrets are from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from supervisor.api.witness_config import COMMAND_ARGUMENTS_MAX, Closed, absolute_path
from supervisor.profile import units
from supervisor.sandbox.secrets import SecretSource

MIB = 1 << 20
DAY_S, AGE_MIN_S = 86_400, 3600.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def with_unit(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Give what reads text with a unit by `parse`, and refuses anything else."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError("needs a unit, as in 16MiB or 30s")
        return parse(value)

    return read


def _parse_age(text: str) -> float:
    days = re.fullmatch(r"([0-9]{1,6})d", text, re.ASCII)
    return int(days[1]) * DAY_S if days else units.parse_duration(text)


Size = Annotated[int, BeforeValidator(with_unit(units.parse_size)), Field(gt=0)]
Duration = Annotated[float, BeforeValidator(with_unit(units.parse_duration)), Field(gt=0)]
Age = Annotated[float, BeforeValidator(with_unit(_parse_age)), Field(ge=AGE_MIN_S)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Credential = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]


class Secret(Closed):
    """Where a secret is from: exactly one of file, credential and command."""

    file: str | None = None
    credential: Credential | None = None
    command: Annotated[list[str], Field(min_length=1, max_length=COMMAND_ARGUMENTS_MAX)] | None = (
        None
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("file", "credential", "command") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("a secret is from exactly one of file:, credential: or command:")
        if self.file is not None:
            absolute_path(self.file)
        if self.command is not None:
            absolute_path(self.command[0])
        return self

    @property
    def source(self) -> SecretSource:
        """Give where it is from as a plain value."""
        return SecretSource(
            file=self.file or "",
            credential=self.credential or "",
            command=tuple(self.command or ()),
        )
