"""The key that signs the log's heads: a file of the state folder, made with the log.

    log.key    the private half, PKCS#8 in PEM, for its owner alone
    log.pub    the public half, with the log's name

Whoever can read the first can sign another log. No log is signed yet: nothing calls `own_key`.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
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

from supervisor.audit.notes import NoteError, VerifierKey
from supervisor.audit.space import sync_directory
from supervisor.errors import HostError
from supervisor.linux.private import (
    GROUP_AND_OTHERS,
    Exposed,
    Foreign,
    NotPrivate,
    read_private,
)

KEY_NAME, PUBLIC_NAME = "log.key", "log.pub"
KEY_BYTES_MAX = 16 * 1024

_ODD = re.compile(r"[^A-Za-z0-9.-]")


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
        _make(path, public)
    private = private_key(path)
    try:
        key = VerifierKey.parse(public.read_text())
    except (OSError, UnicodeDecodeError, NoteError) as error:
        raise _invalid(public, str(error)) from None
    if key.public != private.public_key().public_bytes_raw():
        raise _invalid(public, f"it is not the public half of {KEY_NAME}")
    return FileSigner(key, private)


def new_origin() -> str:
    """Give a name for a log that no other has."""
    host = _ODD.sub("-", socket.gethostname())[:64] or "host"
    return f"{host}/stockade/{secrets.token_hex(4)}"


def _make(path: Path, public: Path) -> None:
    private = Ed25519PrivateKey.generate()
    key = VerifierKey(name=new_origin(), public=private.public_key().public_bytes_raw())
    # The public half first: a private one without it would be the key of a log without a name.
    _write(public, f"{key}\n".encode(), 0o600)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(path, pem, 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:  # noqa: PTH123 (no path)
        file.write(content)
        file.flush()
        os.fsync(fd)
    new.rename(path)
    sync_directory(path.parent)


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
        raise _invalid(path, str(error)) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # What the parser says could be of what it read.
        raise _invalid(path, "it is no private key as PKCS#8 in PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _invalid(path, "it is no Ed25519 key")
    return key


def _invalid(path: Path, why: str) -> HostError:
    return HostError(
        "KEY_INVALID",
        f"{path}: {why}",
        hint="put back the key that signed this log: another one starts another log",
    )
