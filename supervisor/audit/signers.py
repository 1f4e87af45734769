"""The key that signs the log's heads, where it is not the one in the state folder: in a file of
its own, in a credential of systemd's, or in a token.

Such a key is given the log's name; its public half follows from it. Whether it is the key that has
signed this log so far is known to who opens the log, and not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from supervisor.audit.keys import FileSigner, private_key
from supervisor.audit.notes import PUBLIC_BYTES, NoteError, Signer, VerifierKey
from supervisor.audit.pkcs11 import TokenSigner
from supervisor.errors import HostError
from supervisor.linux.private import GROUP_AND_OTHERS, OTHERS, NotPrivate, read_private

PIN_BYTES_MAX = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A file: exactly one of the two is not empty. `credential` is the name of one in the folder
    that systemd gives its services."""

    file: str = ""
    credential: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSource:
    """A key in a token, by the labels of both; `module` is the absolute path of the PKCS#11 library
    that speaks to it.

    The library becomes part of this process: who configures it sees to it that nobody else can
    write it.
    """

    module: str
    token: str
    key: str
    pin: FileSource


def open_signer(source: FileSource | TokenSource, origin: str, credentials: Path | None) -> Signer:
    """Give what signs the heads of the log `origin`; `credentials` is systemd's folder, None
    without.

    Raises:
        HostError: `KEY_INVALID`, `KEY_EXPOSED`, `KEY_UNAVAILABLE`, `PKCS11_MISSING`.
    """
    if isinstance(source, TokenSource):
        return TokenSigner(
            module=source.module,
            token=source.token,
            label=source.key,
            origin=_checked(origin),
            pin=lambda: _pin(source.pin, credentials),
        )
    private = private_key(_path(source, credentials), denied=_denied(source), follow=True)
    public = private.public_key().public_bytes_raw()
    return FileSigner(VerifierKey(name=_checked(origin), public=public), private)


def _checked(origin: str) -> str:
    """Refuse a name that no key can have, before anything is asked for the key."""
    try:
        return VerifierKey(name=origin, public=bytes(PUBLIC_BYTES)).name
    except NoteError as error:
        raise HostError(
            "KEY_INVALID", f"the log's name: {error}", hint="a name as log.example.com/host-1"
        ) from None


def _denied(source: FileSource) -> int:
    """Give the permissions that nobody may have of it: an ACL of systemd's, by which the service's
    user alone reads, shows as the group's."""
    return OTHERS if source.credential else GROUP_AND_OTHERS


def _path(source: FileSource, credentials: Path | None) -> Path:
    if source.file:
        return Path(source.file)
    if credentials is None:
        raise HostError(
            "KEY_UNAVAILABLE",
            f"no credential {source.credential}: systemd gave this daemon none",
            hint="LoadCredential= in the unit, or file: instead",
        )
    return credentials / source.credential


def _pin(source: FileSource, credentials: Path | None) -> str:
    """Read a token's PIN, now: it is not kept."""
    path = _path(source, credentials)
    try:
        raw = read_private(path, PIN_BYTES_MAX + 2, denied=_denied(source))
    except NotPrivate as error:
        raise HostError(
            "KEY_UNAVAILABLE", f"the token's PIN: {error}", hint=f"chmod 600 {path}"
        ) from None
    pin = raw[:-2] if raw.endswith(b"\r\n") else raw.removesuffix(b"\n")
    if not pin or len(pin) > PIN_BYTES_MAX or not pin.isascii() or not pin.decode().isprintable():
        raise HostError(
            "KEY_UNAVAILABLE",
            f"the token's PIN: {path} holds no line of printable ASCII",
            hint=f"one line, at most {PIN_BYTES_MAX} bytes",
        )
    return pin.decode()
