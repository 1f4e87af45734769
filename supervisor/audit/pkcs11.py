"""A key in a token, spoken to by PKCS#11: it signs, and stays where it is.

The library that speaks to the token is the operator's, and runs in this process. It is asked by one
thread at a time. What it signs is checked before anybody gets it: a token whose halves do not
belong together, or one that is broken, must not spoil the log.

A token that was gone is opened again when something is to be signed. A PIN that it refused is not
tried again: a few wrong ones lock a token for good.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from supervisor.audit.notes import PUBLIC_BYTES, VerifierKey
from supervisor.errors import HostError

T = TypeVar("T")

PROBE = b"stockade asks whether this key can sign"
"""What a key signs when it is opened. It ends without a newline, so it is no note's text."""

# Before the point of a public key: an OCTET STRING's (PKCS#11 2.40, 3.0), a BIT STRING's, nothing.
_POINT_PREFIXES = (bytes([4, PUBLIC_BYTES]), bytes([3, PUBLIC_BYTES + 1, 0]), b"")

# Libraries are not told that there are threads, and a logout ends all sessions of a process.
_one_at_a_time = threading.Lock()


class TokenSigner:
    """A private key in a token (`notes.Signer`), by the labels of both. `pin` is asked each time
    that there is something to log in to."""

    def __init__(
        self, *, module: str, token: str, label: str, origin: str, pin: Callable[[], str]
    ) -> None:
        """Log in, find the key, and see it sign.

        Raises:
            HostError: `PKCS11_MISSING`, `KEY_UNAVAILABLE`, `KEY_INVALID`, or as `pin` says.
        """
        self._pkcs11 = _library()
        self._module, self._token, self._label = module, token, label
        self._pin = pin
        self._refused = ""
        self._session: Any = None
        self._private: Any = None
        with _one_at_a_time:
            self._key = VerifierKey(name=origin, public=self._use(self._public))
        self.sign(PROBE)

    @property
    def key(self) -> VerifierKey:
        """Give its public half."""
        return self._key

    def sign(self, message: bytes) -> bytes:
        """Give the Ed25519 signature of a message.

        Raises:
            HostError: `KEY_UNAVAILABLE`, `KEY_INVALID`, or as the PIN's source says.
        """
        with _one_at_a_time:
            signature = self._use(lambda: self._signed(message))
        try:
            Ed25519PublicKey.from_public_bytes(self._key.public).verify(signature, message)
        except InvalidSignature:
            raise self._invalid("what it signs is not of the public key beside it") from None
        return signature

    def close(self) -> None:
        """Let go of the token."""
        with _one_at_a_time:
            self._drop()

    def _use(self, ask: Callable[[], T]) -> T:
        """Ask the token; once more where it was only an old session that did not work."""
        error_type: type[Exception] = self._pkcs11.PKCS11Error
        try:
            if self._session is not None:
                with contextlib.suppress(error_type):
                    return ask()
                self._drop()
            self._log_in()
            return ask()
        except error_type as error:
            self._drop()
            raise self._unavailable(_text(error)) from error
        except HostError:
            self._drop()
            raise

    def _log_in(self) -> None:
        if self._refused:
            raise self._unavailable(self._refused)
        p11 = self._pkcs11
        # A token that was put in since is only seen by who asks for it.
        token = p11.lib(self._module).get_token(token_label=self._token)
        try:
            self._session = token.open(user_pin=self._pin())
        except p11.UserAlreadyLoggedIn:
            # Another key of this process is in the same token: a login is one for all of them.
            self._session = token.open()
        except (
            p11.PinIncorrect, p11.PinInvalid, p11.PinLenRange, p11.PinExpired, p11.PinLocked,
            p11.UserPinNotInitialized,
        ) as error:  # fmt: skip
            self._refused = f"{_text(error)}; that PIN is not tried again before the next start"
            raise self._unavailable(self._refused) from None
        self._private = self._find(p11.ObjectClass.PRIVATE_KEY)
        if not hasattr(self._private, "sign"):
            raise self._invalid("it may not sign (CKA_SIGN)")

    def _find(self, kind: Any) -> Any:
        p11 = self._pkcs11
        what = kind.name.lower().replace("_", " ")
        attribute = p11.Attribute
        wanted = {
            attribute.CLASS: kind,
            attribute.KEY_TYPE: p11.KeyType.EC_EDWARDS,
            attribute.LABEL: self._label,
        }
        found = list(self._session.get_objects(wanted))
        if len(found) != 1:
            count = "more than one" if found else "no"
            raise self._invalid(f"there is {count} Ed25519 {what} of that label")
        return found[0]

    def _public(self) -> bytes:
        p11 = self._pkcs11
        point = bytes(self._find(p11.ObjectClass.PUBLIC_KEY)[p11.Attribute.EC_POINT])
        for prefix in _POINT_PREFIXES:
            if point.startswith(prefix) and len(point) == len(prefix) + PUBLIC_BYTES:
                return point.removeprefix(prefix)
        raise self._invalid(f"its public key has {len(point)} bytes, as no Ed25519 key has")

    def _signed(self, message: bytes) -> bytes:
        return bytes(self._private.sign(message, mechanism=self._pkcs11.Mechanism.EDDSA))

    def _drop(self) -> None:
        session, self._session, self._private = self._session, None, None
        if session is not None:
            # What cannot be closed is gone already: the token was pulled, or the library restarted.
            with contextlib.suppress(self._pkcs11.PKCS11Error):
                session.close()

    def _invalid(self, why: str) -> HostError:
        return HostError(
            "KEY_INVALID",
            f"the key {self._label} in the token {self._token}: {why}",
            hint="the log needs an Ed25519 key (CKM_EDDSA), both halves under one label",
        )

    def _unavailable(self, why: str) -> HostError:
        return HostError(
            "KEY_UNAVAILABLE",
            f"the key {self._label} in the token {self._token}, by {self._module}: {why}",
            hint=f"pkcs11-tool --module {self._module} --list-token-slots shows what there is",
        )


def _library() -> ModuleType:
    try:
        return importlib.import_module("pkcs11")
    except ImportError as error:
        raise HostError(
            "PKCS11_MISSING",
            f"a key in a token needs the Python package python-pkcs11: {error}",
            hint="pip install 'stockade[pkcs11]', or keep the key in a file or a credential",
        ) from None


def _text(error: Exception) -> str:
    """Say what went wrong: most of these errors have a name and nothing else."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
