"""Content keys: what is kept under one can be read by who has it, and by nobody once it is gone.

A key is 32 random bytes. What it seals is AES-256-GCM under a nonce that counts from 0, in the one
process that made the key: a key that was unwrapped again opens and never seals, so no nonce comes
twice. Each sealed piece is bound to its place, which is the associated data: whose it is, of what,
and where in it. A piece that is moved to another place, or another call, does not open.

On disk a key is wrapped to `age` recipients, together with the name that it is for.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence

import pyrage
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from supervisor.call.types import canonical_json
from supervisor.errors import AuditCorrupt, InvariantError

KEY_BYTES = 32
NONCE_BYTES = 12
SEAL_BYTES = NONCE_BYTES + 16
"""What sealing adds: the nonce before, and the tag of AES-GCM behind."""

RECIPIENTS_MAX = 16
IDENTITIES_MAX = 16
_WRAPPED_FIRST = b"stockade content key v1\n"


class ContentKey:
    """One key; `key_id` is the call that it is for, or the upload. May be used by any thread."""

    def __init__(self, key_id: str, secret: bytes, *, fresh: bool) -> None:
        self.key_id = key_id
        self._secret = secret
        self._aead = AESGCM(secret)
        self._nonces = itertools.count() if fresh else None

    @classmethod
    def new(cls, key_id: str) -> ContentKey:
        """Make a key."""
        return cls(key_id, secrets.token_bytes(KEY_BYTES), fresh=True)

    def seal(self, place: Sequence[str | int], data: bytes) -> bytes:
        """Give `data` sealed, for this place."""
        if self._nonces is None:
            raise InvariantError("KEY_NOT_FRESH", f"the key of {self.key_id} was used before")
        nonce = next(self._nonces).to_bytes(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, data, self._bound(place))

    def open(self, place: Sequence[str | int], sealed: bytes) -> bytes:
        """Undo `seal`.

        Raises:
            AuditCorrupt: `DIGEST_MISMATCH`, where it is not what was sealed for this place.
        """
        nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return self._aead.decrypt(nonce, text, self._bound(place))
        except (InvalidTag, ValueError) as error:
            what = " ".join(map(str, place))
            raise AuditCorrupt(
                "DIGEST_MISMATCH",
                f"{what}: it does not open with the key of {self.key_id}",
                hint="run `stockade audit verify`",
            ) from error

    def wrapped(self, recipients: Sequence[str]) -> bytes:
        """Give the key as an `age` file for the recipients.

        Raises:
            ValueError: one of them is none.
        """
        text = _WRAPPED_FIRST + self.key_id.encode() + b"\n" + self._secret
        wrapped: bytes = pyrage.encrypt(text, [_recipient(one) for one in recipients])
        return wrapped

    def _bound(self, place: Sequence[str | int]) -> bytes:
        return canonical_json(["stockade", self.key_id, *place])


def unwrapped(data: bytes, key_id: str, identities: Sequence[str]) -> ContentKey | None:
    """Give the key of `key_id` out of an `age` file; None where no identity opens it.

    Raises:
        AuditCorrupt: `KEY_DAMAGED`, where it is not that key.
    """
    try:
        text = pyrage.decrypt(data, [_identity(one) for one in identities])
    except pyrage.DecryptError as error:
        if _is_for_others(error):
            return None
        raise _damaged(key_id, str(error)) from error
    head = _WRAPPED_FIRST + key_id.encode() + b"\n"
    if not text.startswith(head) or len(text) != len(head) + KEY_BYTES:
        raise _damaged(key_id, "it is of another call")
    return ContentKey(key_id, text[len(head) :], fresh=False)


def check_recipient(text: str) -> str:
    """Give an `age` recipient, an X25519 public key as age1…, as it is.

    Raises:
        ValueError: it is none.
    """
    _recipient(text)
    return text


def identities_in(text: str) -> tuple[str, ...]:
    """Give the identities of an identity file, as `age-keygen` writes them: one a line, with
    comments.

    Raises:
        ValueError: there is none, or something else. The message holds nothing of the text.
    """
    lines = [line.strip() for line in text.splitlines()]
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if not found:
        raise ValueError("there is no identity in it")
    if len(found) > IDENTITIES_MAX:
        raise ValueError(f"there are more than {IDENTITIES_MAX} identities in it")
    for one in found:
        _identity(one)
    return found


def _recipient(text: str) -> pyrage.x25519.Recipient:
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise ValueError(f"{text!r} is no age recipient as age1…: {error}") from None


def _identity(text: str) -> pyrage.x25519.Identity:
    try:
        return pyrage.x25519.Identity.from_str(text)
    except pyrage.IdentityError:
        raise ValueError("a line is no age identity as AGE-SECRET-KEY-1…") from None


def _is_for_others(error: pyrage.DecryptError) -> bool:
    return "No matching keys" in str(error)


def _damaged(key_id: str, why: str) -> AuditCorrupt:
    return AuditCorrupt(
        "KEY_DAMAGED",
        f"the key of {key_id} cannot be used: {why}",
        hint="restore its file in keys/ of the state folder from a copy",
    )
