"""Who a peer is, and what that grants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from supervisor.api.callers import Directory, Grants, check_grants
from supervisor.api.config import CallerEntry
from supervisor.api.peers import Peer
from supervisor.call.types import Caller
from supervisor.errors import NotPermitted, ProfileError, Unauthenticated
from supervisor.profile.load import ProfileSet


def directory(*entries: dict[str, Any]) -> Directory:
    return Directory(
        CallerEntry.model_validate({"name": f"c{n}", "profiles": ["p"], **entry})
        for n, entry in enumerate(entries)
    )


def unix(uid: int, gid: int) -> Peer:
    return Peer(transport="unix", address=f"uid {uid}", uid=uid, gid=gid, pid=42)


TLS = Peer(transport="tls", address="192.0.2.1:5")


def certificate(*sans: bytes, cn: bytes = b"") -> dict[str, list[bytes]]:
    found = {"transport_security_type": [b"ssl"], "x509_subject_alternative_name": list(sans)}
    return found | ({"x509_common_name": [cn]} if cn else {})


def test_uid_before_gid() -> None:
    found = directory({"gid": 7}, {"uid": 5})
    assert found.identify(unix(5, 7), None).caller == Caller(
        name="c1", transport="unix", uid=5, gid=7, pid=42
    )
    assert found.identify(unix(6, 7), None).caller.name == "c0"


def test_san_before_cn() -> None:
    found = directory({"cn": "a"}, {"san": "a.example.com"})
    assert found.identify(TLS, certificate(b"a.example.com", cn=b"a")).caller == Caller(
        name="c1", transport="tls", certificate_name="a.example.com"
    )
    assert found.identify(TLS, certificate(b"b.example.com", cn=b"a")).caller.name == "c0"


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        (None, certificate(b"a.example.com")),
        (unix(6, 6), None),
        (unix(6, 6), certificate(b"a.example.com")),
        (TLS, None),
        (TLS, certificate(b"c.example.com", cn=b"c")),
        (TLS, certificate(b"a.example.com", b"b.example.com")),  # fits two
        (TLS, certificate(b"5")),  # not a user id
    ],
)
def test_nobody(peer: Peer | None, shown: dict[str, list[bytes]] | None) -> None:
    found = directory({"uid": 5}, {"san": "a.example.com"}, {"san": "b.example.com"})
    with pytest.raises(Unauthenticated) as caught:
        found.identify(peer, shown)
    assert caught.value.reason == "PEER_UNKNOWN"


def test_an_ambiguous_san_does_not_fall_back_to_the_name() -> None:
    found = directory({"san": "a.example.com"}, {"san": "b.example.com"}, {"cn": "a"})
    with pytest.raises(Unauthenticated):
        found.identify(TLS, certificate(b"a.example.com", b"b.example.com", cn=b"a"))


@pytest.mark.parametrize(
    ("profiles", "name", "may"),
    [(["p"], "p", True), (["p"], "q", False), (["*"], "q", True), (["p"], "*", False)],
)
def test_profiles(profiles: list[str], name: str, may: bool) -> None:
    found = directory({"uid": 5, "profiles": profiles}).identify(unix(5, 5), None)
    assert found.grants.may_use(name) is may


@pytest.mark.parametrize(
    ("calls", "audit", "sees", "reads"),
    [
        ("own", "none", (True, False), (False, False)),
        ("all", "own", (True, True), (True, False)),
        ("own", "all", (True, False), (True, True)),
    ],
)
def test_calls_and_records(
    calls: str, audit: str, sees: tuple[bool, bool], reads: tuple[bool, bool]
) -> None:
    grants = Grants(caller="me", profiles=frozenset(), calls=calls, audit=audit)
    assert (grants.sees("me"), grants.sees("other")) == sees
    assert (grants.reads_audit("me"), grants.reads_audit("other")) == reads


def test_audit_is_refused_by_default() -> None:
    grants = directory({"uid": 5}).identify(unix(5, 5), None).grants
    with pytest.raises(NotPermitted) as caught:
        grants.require_audit()
    assert caught.value.reason == "AUDIT_NOT_GRANTED"


@pytest.mark.parametrize(
    ("peer", "expected"),
    [(unix(5, 9), True), (unix(9, 7), True), (unix(9, 9), False), (TLS, True)],
)
def test_who_can_be_a_caller_at_all(peer: Peer, *, expected: bool) -> None:
    assert directory({"uid": 5}, {"gid": 7}).knows(peer) is expected


def test_a_grant_of_a_shipped_profile_that_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("profile: mine\n")
    entries = [CallerEntry.model_validate({"name": "a", "uid": 1, "profiles": ["python"]})]
    with pytest.raises(ProfileError) as caught:
        check_grants(entries, ProfileSet.load([tmp_path]))
    assert caught.value.reason == "CONFIG_PROFILE_UNKNOWN"
    assert "there are: mine; the shipped profiles are not loaded" in caught.value.hint


@pytest.mark.parametrize(
    ("grants", "sees", "manages"),
    [
        ({}, False, False),
        ({"audit": "own"}, False, False),
        ({"audit": "all"}, True, False),
        ({"exports": "see"}, True, False),
        ({"exports": "manage"}, True, True),
    ],
    ids=str,
)
def test_sinks_are_for_whom_they_are_granted(
    grants: dict[str, Any], sees: bool, manages: bool
) -> None:
    found = directory({"uid": 5, **grants}).identify(unix(5, 5), None).grants
    for may, require in (
        (sees, found.require_exports_seen),
        (manages, found.require_exports_managed),
    ):
        if may:
            require()
            continue
        with pytest.raises(NotPermitted) as caught:
            require()
        assert caught.value.reason == "EXPORTS_NOT_GRANTED"
