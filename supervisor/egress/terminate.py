"""Certificates for `inspect: tls-terminate`: an authority of one sandbox's own, and TLS under it.

The authority signs one certificate, for all the hosts that the profile terminates, and its key is
forgotten at once: nothing that lives can sign another. It may vouch for these hosts alone, and is
trusted in this sandbox alone.

A broker has no files and no way to make any, so `Terminator` is made before it is confined.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from supervisor.egress.control import Authority

LIFETIME = datetime.timedelta(days=7)
"""Longer than any sandbox lives, and it is trusted in no other."""
_SKEW = datetime.timedelta(hours=1)
"""A sandbox has the host's clock, but an hour is cheap."""

HOST_AUTHORITIES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/cert.pem"),
)
"""Where distributions keep whom a host trusts."""


_ANYWHERE = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def make_authority(hosts: Iterable[str]) -> Authority:
    """Make what a sandbox is to trust for `hosts` (canonical names, or "*.suffix").

    In a certificate a star stands for one label: a client does not believe that the broker is a
    host further below.

    Raises:
        ValueError: there are no hosts.
    """
    names = sorted(set(hosts))
    if not names:
        raise ValueError("an authority for no host")
    now = datetime.datetime.now(datetime.UTC)
    signing, serving = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _authority(signing, names, now)
    leaf = _leaf(serving, signing, authority, names, now)
    private = serving.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Authority(certificate=_pem(authority), key=private.decode("ascii") + _pem(leaf))


def _authority(
    key: ec.EllipticCurvePrivateKey, names: list[str], now: datetime.datetime
) -> x509.Certificate:
    subject = _subject("Stockade: this sandbox only")
    # A name in a constraint covers all below it; it has no star (RFC 5280, section 4.2.1.10).
    permitted = [x509.DNSName(name.removeprefix("*.")) for name in names]
    return (
        _builder(key, subject, subject, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(
            x509.NameConstraints(
                permitted_subtrees=permitted,
                excluded_subtrees=[x509.IPAddress(network) for network in _ANYWHERE],
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )


def _leaf(
    key: ec.EllipticCurvePrivateKey,
    signing: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    names: list[str],
    now: datetime.datetime,
) -> x509.Certificate:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    return (
        _builder(key, _subject("Stockade: the broker"), authority.subject, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
        .add_extension(identifier, critical=False)
        .sign(signing, hashes.SHA256())
    )


def _builder(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    issuer: x509.Name,
    now: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


class Terminator:
    """Both sides of TLS that is terminated, for one call.

    `towards_sandbox` is a server that is the hosts of the profile, `towards_server` a client that
    verifies whom it reaches. Neither reads a file any more.
    """

    def __init__(self, authority: Authority, authorities: str = "") -> None:
        """Take the call's authority, and in PEM whom far sides are vouched for by: those that the
        host trusts where it is empty.

        Raises:
            OSError, ssl.SSLError: there is nobody to trust, or one of them is malformed.
        """
        self.towards_sandbox = server_context(authority)
        self.towards_server = upstream_context(authorities)


def server_context(authority: Authority) -> ssl.SSLContext:
    """Make a server that is the hosts of an authority, and speaks HTTP/1.1 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0  # Connections are few, and a ticket holds what is said on them.
    # OpenSSL by way of `ssl` takes keys from files only; this one is in nobody's file system.
    with os.fdopen(os.memfd_create("serving", os.MFD_CLOEXEC), "wb") as file:
        file.write(authority.key.encode("ascii"))
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context


def upstream_context(authorities: str = "") -> ssl.SSLContext:
    """Make a client that verifies certificate and name, and speaks HTTP/1.1 only.

    Raises:
        OSError, ssl.SSLError: there is nobody to trust, or one of them is malformed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(cadata=authorities or host_authorities())
    return context


def host_authorities() -> str:
    """Give whom the host trusts, in PEM.

    Raises:
        FileNotFoundError: the host says nowhere.
    """
    for path in HOST_AUTHORITIES:
        if path.is_file():
            return path.read_text("ascii", "ignore")
    raise FileNotFoundError(f"none of {', '.join(map(str, HOST_AUTHORITIES))} is there")
