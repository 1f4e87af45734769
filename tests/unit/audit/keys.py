"""Keys that are the same each time, for tests of what is signed."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from supervisor.audit.notes import Algorithm, VerifierKey
from supervisor.errors import StockadeError

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
        self.refuses: StockadeError | None = None
        """What it says where it is asked to sign, as a token that was pulled."""

    def sign(self, message: bytes) -> bytes:
        if self.refuses is not None:
            raise self.refuses
        return self._private.sign(message)
