"""Keys that are the same each time, for tests of what is signed."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from supervisor.audit.notes import Algorithm, VerifierKey

ORIGIN = "log.example.com/stockade"


class TestSigner:
    """A key made of its name."""

    __test__ = False

    def __init__(
        self, name: str = ORIGIN, algorithm: Algorithm = Algorithm.ED25519, seed: bytes = b""
    ) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(
            seed or hashlib.sha256(name.encode()).digest()
        )
        public = self._private.public_key().public_bytes_raw()
        self.key = VerifierKey(name=name, public=public, algorithm=algorithm)

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)
