"""One end of a TLS connection as bytes in and bytes out. No I/O."""

from __future__ import annotations

import ssl

_READ_BYTES = 64 * 1024


class PipeError(Exception):
    """The other end is not whom it should be, or does not speak TLS as it must."""


class TlsPipe:
    """A server where `name` is empty, else a client of the server `name`.

    After `feed` and `write`, `outgoing` has what is to be sent.
    """

    def __init__(self, context: ssl.SSLContext, name: str = "") -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=not name,
            server_hostname=name or None,
        )
        self.ready = False
        """The handshake is over: the other end is whom it says."""
        self.ended = False
        """The other end has said that it says no more."""

    def feed(self, data: bytes = b"") -> bytes:
        """Take what the other end sent; give what it said. With no data, begin.

        Raises:
            PipeError: with the reason; `outgoing` may have an alert for the other end.
        """
        self._incoming.write(data)
        said = bytearray()
        try:
            if not self.ready:
                self._tls.do_handshake()
                self.ready = True
            while part := self._tls.read(_READ_BYTES):
                said += part
            self.ended = True
        except ssl.SSLWantReadError:
            return bytes(said)
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLCertVerificationError as error:
            raise PipeError(f"a certificate that does not hold: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise PipeError(
                f"TLS that does not hold: {error.reason or 'no reason given'}"
            ) from None
        return bytes(said)

    def write(self, data: bytes) -> None:
        """Say `data` to the other end, when `ready`.

        Raises:
            PipeError: the connection is over.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[self._tls.write(view) :]
        except ssl.SSLError as error:
            raise PipeError(f"TLS that is over: {error.reason or 'no reason given'}") from None

    def finish(self) -> None:
        """Say that no more is said."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            return  # The other end has not said so yet; nobody waits for it.
        except ssl.SSLError:
            return  # It is over already: an alert was sent or received.

    def outgoing(self) -> bytes:
        """Take what is to be sent to the other end."""
        return self._outgoing.read()
