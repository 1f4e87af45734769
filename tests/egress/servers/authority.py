"""A certificate authority of the test's own, which certifies whatever name is asked for."""

from __future__ import annotations

import datetime
import functools
import hashlib
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFE = datetime.timedelta(days=2)
LABEL_MAX = 63


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:LABEL_MAX])])


class Authority:
    """The key, its certificate in `folder`/ca.pem, and a server's context for each name."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _name("CA of tests/egress")
        root = (
            self._begin(self._subject, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._folder = folder / "certificates"
        self._folder.mkdir()
        (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))

    def _begin(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - LIFE)
            .not_valid_after(now + LIFE)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
        )

    @functools.lru_cache(maxsize=256)  # noqa: B019 (one authority, as long as its process)
    def chain(self, name: str) -> Path:
        """Certify a name or an address; give the file with certificate and key."""
        try:
            shown: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            shown = x509.DNSName(name)
        leaf = (
            self._begin(_name(name), self._leaf_key)
            .add_extension(x509.SubjectAlternativeName([shown]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        path = self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.pem"
        path.write_bytes(
            leaf.public_bytes(serialization.Encoding.PEM)
            + self._leaf_key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path

    def certify(self, context: ssl.SSLContext, name: str) -> None:
        """Give a server's context the certificate of a name."""
        context.load_cert_chain(self.chain(name))

    @functools.lru_cache(maxsize=256)  # noqa: B019 (as above)
    def context(self, name: str) -> ssl.SSLContext:
        """Give a server's context for a name."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certify(context, name)
        return context


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
