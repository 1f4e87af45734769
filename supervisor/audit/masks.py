"""What takes the secrets out of one call's record: made when the call begins, and held as long.

The values that the daemon hands out to the call are looked for always; the pack of rules, and its
part for personal data, as the profile says. `redact.key` in the state folder keys what stands for
a secret: who has it and a guess can check the guess, and nothing else hangs on it.
"""

from __future__ import annotations

import functools
import secrets as random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from supervisor.audit.redaction import rules
from supervisor.audit.redaction.literals import Literals, RedactionFailed
from supervisor.audit.redaction.redactor import Redactor
from supervisor.audit.redaction.rules import Rules
from supervisor.audit.space import write_whole
from supervisor.call.types import Json
from supervisor.errors import HostError
from supervisor.linux.private import GROUP_AND_OTHERS, NotPrivate, read_private

if TYPE_CHECKING:
    from supervisor.profile.model import Redact

REDACT_KEY_NAME = "redact.key"
REDACT_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """Takes the secrets of one call out of its record. `failed` says why it cannot: nothing that
    may hold one is stored then."""

    literals: Literals
    rules: Rules
    key: bytes
    failed: str = ""

    @property
    def names(self) -> list[Json]:
        """Give which of our secrets are looked for."""
        return list[Json](self.literals.names)

    def stream(self) -> Redactor:
        """Give what redacts one stream."""
        return Redactor(self.literals, self.rules, self.key)

    def to_json(self) -> dict[str, Json]:
        """Give what INTENT says of it: the pack, what of ours is looked for, and what is not."""
        return {
            "rules": self.rules.version if self.rules.all else 0,
            "pii": any(rule.is_optional for rule in self.rules.all),
            "secrets": self.names,
            "too_short": list(self.literals.too_short),
            "failed": self.failed,
        }


class Masks:
    """Makes masks, with the key of one log; by `hyperscan` where the configuration says so."""

    def __init__(self, key: bytes, hyperscan: ModuleType | None = None) -> None:
        self._key, self._hyperscan = key, hyperscan
        self._packs: dict[bool, Rules] = {}

    def has(self, redact: Redact) -> bool:
        """Say whether a mask without secrets takes no time."""
        return bool(redact.off) or redact.pii in self._packs

    def make(self, redact: Redact, secrets: Mapping[str, bytes]) -> Mask | None:
        """Give the mask of a call to which the daemon hands out `secrets`; None where the profile
        wants no rules and there are none. Takes a while: not for the event loop."""
        if redact.off and not secrets:
            return None  # the profile says so, and why
        pack = Rules([]) if redact.off else self._pack(redact.pii)
        try:
            return Mask(literals=Literals(secrets), rules=pack, key=self._key)
        except RedactionFailed as error:
            return Mask(literals=Literals({}), rules=pack, key=self._key, failed=str(error))

    def of_former(self, intent: Mapping[str, Json]) -> Mask | None:
        """Give the mask of a former daemon's call by the body of its INTENT. Where that one handed
        out secrets, nobody knows them any more: whatever may hold one is not stored."""
        said = intent.get("redaction")
        if not isinstance(said, dict):
            return None  # nothing was to be masked, or the daemon was of an older version
        pack = self._pack(said.get("pii") is True)
        failed = "the secrets of the call are known no more" if said.get("secrets") else ""
        return Mask(literals=Literals({}), rules=pack, key=self._key, failed=failed)

    def _pack(self, pii: bool) -> Rules:
        if pii not in self._packs:
            self._packs[pii] = _shipped(optional=pii, hyperscan=self._hyperscan)
        return self._packs[pii]


@functools.cache
def _shipped(*, optional: bool, hyperscan: ModuleType | None) -> Rules:
    return rules.shipped(optional=optional, hyperscan=hyperscan)


def redact_key(directory: Path) -> bytes:
    """Give the key of the marks in a state folder, made where there is none.

    Raises:
        HostError: `KEY_INVALID`, `KEY_EXPOSED`.
    """
    path = directory / REDACT_KEY_NAME
    if not path.exists():
        write_whole(path, random.token_bytes(REDACT_KEY_BYTES), 0o600)
    try:
        key = read_private(path, REDACT_KEY_BYTES, denied=GROUP_AND_OTHERS, follow=False)
    except NotPrivate as error:
        raise HostError("KEY_EXPOSED", str(error), hint=_hint(path)) from None
    if len(key) != REDACT_KEY_BYTES:
        why = f"{path} does not hold {REDACT_KEY_BYTES} bytes"
        raise HostError("KEY_INVALID", why, hint=_hint(path))
    return key


def _hint(path: Path) -> str:
    return f"rm {path}: the next start makes another; equal secrets have other marks then"
