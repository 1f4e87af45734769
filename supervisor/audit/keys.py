"""The key that signs the log's heads: a file of the state folder, made with the log.

    log.key        the private half, PKCS#8 in PEM, for its owner alone
    log.pub        the public half, with the log's name
    log.first.pub  where the log was handed over: the public half of the first key that it had

Whoever can read `log.key` can sign another log. Where the key is elsewhere (`signers`), there are
the public halves alone. `log.key.next` is there while a log is handed over to a key that is made
for it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from supervisor.audit.directory import AGAIN, TREE_NAME, lock_state
from supervisor.audit.notes import PUBLIC_BYTES, NoteError, Signer, VerifierKey
from supervisor.audit.space import make_folder, sync_directory, write_whole
from supervisor.audit.tiles import CHECKPOINT
from supervisor.errors import HostError, InvalidRequest, NotFound
from supervisor.linux.private import (
    GROUP_AND_OTHERS,
    Exposed,
    Foreign,
    NotPrivate,
    read_private,
)

KEY_NAME, PUBLIC_NAME = "log.key", "log.pub"
NEXT_NAME, FIRST_NAME = "log.key.next", "log.first.pub"
KEY_BYTES_MAX = 16 * 1024

PUT_BACK = "put back the key that signed this log: another one starts another log"
FINISH = "the log was being handed over: run `stockade audit key rotate` again, which ends it"

_ODD = re.compile(r"[^A-Za-z0-9.-]")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileSigner:
    """A private key in memory (`notes.Signer`)."""

    key: VerifierKey
    _private: Ed25519PrivateKey = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """Give the signature of a message."""
        return self._private.sign(message)


def own_key(directory: Path, *, is_new: bool) -> FileSigner:
    """Give the key of the log in a state folder, made where the log `is_new`: no head of it was
    ever signed.

    Raises:
        HostError: `KEY_INVALID`, `KEY_EXPOSED`.
    """
    path, public = directory / KEY_NAME, directory / PUBLIC_NAME
    if is_new and not path.exists():
        _make(path, public, new_origin())
    private = private_key(path)
    key = _public(public)
    if key.public != _public_bytes(private):
        raise _invalid(
            public,
            f"it is not the public half of {KEY_NAME}",
            hint=FINISH if os.path.lexists(directory / NEXT_NAME) else PUT_BACK,
        )
    return FileSigner(key, private)


def next_key(directory: Path, origin: str) -> FileSigner:
    """Give the key that the log in a state folder is to have next, made where there is none yet.

    Raises:
        HostError: `KEY_INVALID`, `KEY_EXPOSED`.
    """
    path = directory / NEXT_NAME
    if not os.path.lexists(path):
        write_whole(path, _pem(Ed25519PrivateKey.generate()), 0o600)
    private = private_key(path)
    return FileSigner(VerifierKey(name=origin, public=_public_bytes(private)), private)


def settle(directory: Path, key: VerifierKey, *, own: bool) -> None:
    """Leave the state folder as it has to be once its log is `key`'s: its `own` next key in the
    place of the one before, or else no former private key at all.

    Raises:
        OSError: a file cannot be written or removed.
        HostError: `KEY_INVALID`, `KEY_EXPOSED`.
    """
    keep_public(directory, key)
    if own:
        (directory / NEXT_NAME).rename(directory / KEY_NAME)
    else:
        for path in (directory / KEY_NAME, directory / NEXT_NAME):
            # The one that signs may be configured to lie here, too.
            if os.path.lexists(path) and _public_bytes(private_key(path)) != key.public:
                path.unlink()
    sync_directory(directory)


def keys_of(directory: Path, given: Signer | None) -> tuple[Signer, Sequence[VerifierKey]]:
    """Give what signs the log in a state folder, `given` or else the key there, and the public
    keys that may have signed it so far: the last is the one that the log is known by.

    Raises:
        HostError: `KEY_INVALID`, `KEY_EXPOSED`.
    """
    is_new = not (directory / TREE_NAME / CHECKPOINT).exists()
    signer = own_key(directory, is_new=is_new) if given is None else given
    if given is not None and os.path.lexists(directory / KEY_NAME):
        log.warning(
            "%s is not used, since the configuration names another key: remove it where nothing "
            "else needs it",
            directory / KEY_NAME,
        )
    known = known_key(directory)
    return signer, (known,) if known is not None else ()


def new_key(directory: Path, origin: str) -> VerifierKey:
    """Make the key of the log `origin` in a state folder, which is made where it is missing: the
    daemon that then starts there finds it.

    Raises:
        InvalidRequest: `KEY_EXISTS`, `ORIGIN_INVALID`.
        AuditUnavailable: `STATE_LOCKED`, where a daemon has the folder.
    """
    try:
        VerifierKey(name=origin, public=bytes(PUBLIC_BYTES))
    except NoteError as error:
        raise InvalidRequest(
            "ORIGIN_INVALID", str(error), hint="a name as log.example.com/host-1"
        ) from None
    make_folder(directory)
    lock_fd = lock_state(directory, hint=AGAIN)
    try:
        for path in (directory / KEY_NAME, directory / TREE_NAME / CHECKPOINT):
            if os.path.lexists(path):
                raise InvalidRequest(
                    "KEY_EXISTS",
                    f"the log in {directory} has a key already: there is {path}",
                    hint="another key starts another log, in a state folder of its own",
                )
        return _make(directory / KEY_NAME, directory / PUBLIC_NAME, origin)
    finally:
        os.close(lock_fd)


def public_key(directory: Path) -> VerifierKey:
    """Give the public half of the key of the log in a state folder, or in a copy of one that has
    no private half.

    Raises:
        NotFound: `KEY_MISSING`.
        HostError: `KEY_INVALID`, `KEY_EXPOSED`.
    """
    path = directory / PUBLIC_NAME
    if not os.path.lexists(path):
        raise NotFound(
            "KEY_MISSING",
            f"there is no {PUBLIC_NAME} in {directory}",
            hint="name the daemon's state folder; a daemon makes the key at its first start, and "
            "`stockade audit key new` before it",
        )
    if os.path.lexists(directory / KEY_NAME):
        return own_key(directory, is_new=False).key
    return _public(path)


def known_key(directory: Path) -> VerifierKey | None:
    """Give the public half that lies in a state folder, whoever has the private one; None where
    there is none.

    Raises:
        HostError: `KEY_INVALID`.
    """
    path = directory / PUBLIC_NAME
    return _public(path) if os.path.lexists(path) else None


def keep_public(directory: Path, key: VerifierKey) -> None:
    """Put the public half of a log's key where `audit verify` finds it, and keep the first one
    that there was.

    Raises:
        OSError: it cannot be written.
        HostError: `KEY_INVALID`.
    """
    known, first = known_key(directory), directory / FIRST_NAME
    if known == key:
        return
    if known is not None and not os.path.lexists(first):
        write_whole(first, f"{known}\n".encode(), 0o600)
    write_whole(directory / PUBLIC_NAME, f"{key}\n".encode(), 0o600)


def first_key(directory: Path) -> VerifierKey | None:
    """Give the public half of the first key that the log in a state folder had, as far as it is
    there; None where there is none.

    Raises:
        HostError: `KEY_INVALID`.
    """
    first = directory / FIRST_NAME
    return _public(first) if os.path.lexists(first) else known_key(directory)


def new_origin() -> str:
    """Give a name for a log that no other has."""
    host = _ODD.sub("-", socket.gethostname())[:64] or "host"
    return f"{host}/stockade/{secrets.token_hex(4)}"


def _make(path: Path, public: Path, origin: str) -> VerifierKey:
    private = Ed25519PrivateKey.generate()
    key = VerifierKey(name=origin, public=_public_bytes(private))
    # The public half first: a private one without it would be the key of a log without a name.
    write_whole(public, f"{key}\n".encode(), 0o600)
    write_whole(path, _pem(private), 0o600)
    return key


def _public_bytes(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


def _pem(private: Ed25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public(path: Path) -> VerifierKey:
    try:
        with path.open("rb") as file:
            return VerifierKey.parse(file.read(KEY_BYTES_MAX).decode())
    except OSError as error:
        raise _invalid(path, f"it cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, NoteError) as error:
        raise _invalid(path, str(error)) from None


def private_key(
    path: Path, *, denied: int = GROUP_AND_OTHERS, follow: bool = False
) -> Ed25519PrivateKey:
    """Read a private key, PKCS#8 in PEM, from a file which nobody has the `denied` permissions of.

    Raises:
        HostError: `KEY_INVALID`, `KEY_EXPOSED`.
    """
    try:
        pem = read_private(path, KEY_BYTES_MAX, denied=denied, follow=follow)
        if len(pem) > KEY_BYTES_MAX:
            raise _invalid(path, f"it is longer than {KEY_BYTES_MAX} bytes")
        key = load_pem_private_key(pem, password=None)
    except (Exposed, Foreign):
        raise HostError(
            "KEY_EXPOSED",
            f"{path}: others than its owner may read the log's key, or it is another's",
            hint=f"chmod 600 {path}; where somebody may have read it, it signs for nobody any more",
        ) from None
    except NotPrivate as error:
        raise _invalid(path, f"it {error.why}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # What the parser says could be of what it read.
        raise _invalid(path, "it is no private key as PKCS#8 in PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _invalid(path, "it is no Ed25519 key")
    return key


def _invalid(path: Path, why: str, *, hint: str = PUT_BACK) -> HostError:
    return HostError("KEY_INVALID", f"{path}: {why}", hint=hint)
