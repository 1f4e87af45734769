"""What TLS needs of files: whom we trust, and who we are."""

from __future__ import annotations

import ssl
from pathlib import Path


def check_pair(certificate: Path | None, key: Path | None) -> None:
    """Make sure that a certificate of ours comes with its key.

    Raises:
        ValueError: one of the two is missing.
    """
    if (certificate is None) != (key is None):
        raise ValueError("a certificate of ours needs its key, and a key its certificate")


def client_context(ca: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Make a client's context of PEM files as they are now. Blocks.

    Raises:
        ssl.SSLError, OSError: a file is missing, or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.load_verify_locations(ca)
    if certificate is not None:
        # With no password given, OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password=b"")
    return context
