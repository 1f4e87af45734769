"""The authority of one sandbox: for its hosts alone, and with a key that nobody keeps."""

from __future__ import annotations

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from supervisor.egress.pipe import PipeError, TlsPipe
from supervisor.egress.terminate import (
    LIFETIME,
    Terminator,
    host_authorities,
    make_authority,
    server_context,
    upstream_context,
)
from tests.unit.egress.battery import EVIL, HOST
from tests.unit.egress.test_pipe import talk

WILD = "*.wild.example.com"
AUTHORITY = make_authority([HOST, WILD, HOST])


def reached(name: str) -> None:
    talk(TlsPipe(upstream_context(AUTHORITY.certificate), name), TlsPipe(server_context(AUTHORITY)))


@pytest.mark.parametrize("name", [HOST, "a.wild.example.com"])
def test_a_client_believes_that_the_broker_is_its_hosts(name: str) -> None:
    reached(name)


@pytest.mark.parametrize("name", [EVIL, f"a.{HOST}", "wild.example.com", "a.b.wild.example.com"])
def test_and_no_others(name: str) -> None:
    with pytest.raises(PipeError, match="does not hold"):
        reached(name)


def test_no_authority_is_like_another() -> None:
    with pytest.raises(PipeError, match="does not hold"):
        talk(
            TlsPipe(upstream_context(make_authority([HOST]).certificate), HOST),
            TlsPipe(server_context(AUTHORITY)),
        )


def test_no_host_no_authority() -> None:
    with pytest.raises(ValueError, match="no host"):
        make_authority([])


def test_the_key_is_not_the_authoritys_own() -> None:
    key = serialization.load_pem_private_key(AUTHORITY.key.encode(), None)
    authority = x509.load_pem_x509_certificate(AUTHORITY.certificate.encode())
    assert key.public_key() != authority.public_key()
    assert AUTHORITY.key.count("-----BEGIN") == 2
    assert "PRIVATE KEY" not in AUTHORITY.certificate
    assert AUTHORITY.key not in repr(AUTHORITY)


def test_the_authority_is_bound_and_short_lived() -> None:
    authority = x509.load_pem_x509_certificate(AUTHORITY.certificate.encode())
    basic = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    bound = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert basic.critical
    assert basic.value.path_length == 0
    assert bound.critical
    assert bound.value.permitted_subtrees == [x509.DNSName(WILD[2:]), x509.DNSName(HOST)]
    assert bound.value.excluded_subtrees is not None
    left = authority.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left <= LIFETIME


def test_clients_hold_an_authority_to_its_bounds() -> None:
    """What `make_authority` never does, done with a key of its like: its leaf is not believed."""
    key = ec.generate_private_key(ec.SECP256R1())
    mine = x509.load_pem_x509_certificate(AUTHORITY.certificate.encode())
    now = datetime.datetime.now(datetime.UTC)

    critical = {e.oid for e in mine.extensions if e.critical}

    def signed(subject: x509.Name, *extensions: x509.ExtensionType) -> str:
        builder = x509.CertificateBuilder(
            issuer_name=mine.subject, subject_name=subject, public_key=key.public_key(),
            serial_number=x509.random_serial_number(), not_valid_before=now,
            not_valid_after=now + LIFETIME,
        )  # fmt: skip
        for extension in extensions:
            builder = builder.add_extension(extension, extension.oid in critical)
        pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return pem.decode()

    authority = signed(
        mine.subject,
        *(e.value for e in mine.extensions if not isinstance(e.value, x509.SubjectKeyIdentifier)),
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
    )
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    for name, holds in ((HOST, True), (EVIL, False)):
        leaf = signed(x509.Name([]), x509.SubjectAlternativeName([x509.DNSName(name)]), identifier)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()  # fmt: skip
        forged = type(AUTHORITY)(certificate=authority, key=private + leaf)
        client = TlsPipe(upstream_context(authority), name)
        if holds:
            talk(client, TlsPipe(server_context(forged)))
        else:
            with pytest.raises(PipeError, match="permitted subtree violation"):
                talk(client, TlsPipe(server_context(forged)))


def test_only_http_1_1_is_spoken_and_nothing_old() -> None:
    terminator = Terminator(AUTHORITY, AUTHORITY.certificate)
    for context in (terminator.towards_sandbox, terminator.towards_server):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert terminator.towards_server.check_hostname
    assert terminator.towards_server.verify_mode is ssl.CERT_REQUIRED
    client = ssl.create_default_context(cadata=AUTHORITY.certificate)
    client.set_alpn_protocols(["h2", "http/1.1"])
    pipe = TlsPipe(client, HOST)
    talk(pipe, TlsPipe(terminator.towards_sandbox))
    assert pipe._tls.selected_alpn_protocol() == "http/1.1"


def test_nobody_to_trust_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.egress.terminate.HOST_AUTHORITIES", ())
    with pytest.raises(FileNotFoundError):
        host_authorities()
    with pytest.raises(ssl.SSLError):
        upstream_context("not PEM")
