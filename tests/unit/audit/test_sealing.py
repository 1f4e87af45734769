"""Content keys: bound to their place, never a nonce twice, wrapped to who may read."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.sealing import (
    NONCE_BYTES,
    SEAL_BYTES,
    ContentKey,
    check_recipient,
    identities_in,
    unwrapped,
)
from supervisor.errors import AuditCorrupt, InvariantError
from tests.support.records import IDENTITY, RECIPIENT

OTHER = pyrage.x25519.Identity.generate()


@given(data=st.binary(max_size=200))
def test_what_is_sealed_comes_back_in_its_place_alone(data: bytes) -> None:
    key = ContentKey.new("call-1")
    sealed = key.seal(["recording", "stdout", 0], data)
    assert len(sealed) == len(data) + SEAL_BYTES
    assert key.open(["recording", "stdout", 0], sealed) == data
    for place in (["recording", "stdout", 1], ["recording", "stderr", 0], ["recording"]):
        with pytest.raises(AuditCorrupt, match="does not open"):
            key.open(place, sealed)


def test_any_flipped_byte_is_found_and_so_is_a_cut() -> None:
    key = ContentKey.new("call-1")
    sealed = key.seal(["here"], b"something")
    for at in range(len(sealed)):
        with pytest.raises(AuditCorrupt):
            key.open(["here"], sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        with pytest.raises(AuditCorrupt):
            key.open(["here"], sealed[:at])


def test_the_same_key_under_another_name_opens_nothing() -> None:
    secret = os.urandom(32)
    sealed = ContentKey("call-1", secret, fresh=True).seal(["here"], b"x")
    with pytest.raises(AuditCorrupt):
        ContentKey("call-2", secret, fresh=False).open(["here"], sealed)


def test_no_nonce_comes_twice() -> None:
    key = ContentKey.new("call-1")
    nonces = {key.seal(["same"], b"same")[:NONCE_BYTES] for _ in range(1000)}
    assert len(nonces) == 1000


def test_a_key_that_was_wrapped_opens_and_never_seals() -> None:
    key = ContentKey.new("call-1")
    again = unwrapped(key.wrapped([str(OTHER.to_public()), RECIPIENT]), "call-1", [IDENTITY])
    assert again is not None
    assert again.open(["here"], key.seal(["here"], b"x")) == b"x"
    with pytest.raises(InvariantError, match="was used before"):
        again.seal(["here"], b"y")


def test_for_others_and_damaged() -> None:
    wrapped = ContentKey.new("call-1").wrapped([RECIPIENT])
    assert unwrapped(wrapped, "call-1", [str(OTHER)]) is None
    for bad in (b"", wrapped[:-1], wrapped[:100], wrapped[:-1] + bytes([wrapped[-1] ^ 1])):
        with pytest.raises(AuditCorrupt) as caught:
            unwrapped(bad, "call-1", [IDENTITY])
        assert caught.value.reason == "KEY_DAMAGED"
    with pytest.raises(AuditCorrupt, match="of another call"):
        unwrapped(wrapped, "call-2", [IDENTITY])


def test_the_age_program_opens_it(tmp_path: Path) -> None:
    age = shutil.which("age")
    assert age is not None, "`make setup` installs it"
    (tmp_path / "id").write_text(IDENTITY + "\n")
    wrapped = ContentKey.new("call-1").wrapped([RECIPIENT])
    command = [age, "-d", "-i", str(tmp_path / "id")]
    done = subprocess.run(command, input=wrapped, capture_output=True, check=True)
    assert done.stdout.startswith(b"stockade content key v1\ncall-1\n")


@pytest.mark.parametrize(
    "text", ["", "age1", "age1xyz", IDENTITY, RECIPIENT + "q", " " + RECIPIENT]
)
def test_no_recipient(text: str) -> None:
    with pytest.raises(ValueError, match="no age recipient"):
        check_recipient(text)


def test_an_identity_file() -> None:
    assert check_recipient(RECIPIENT) == RECIPIENT
    text = f"# created: 2026-11-27\n# public key: {RECIPIENT}\n{IDENTITY}\n\n{OTHER}\n"
    assert identities_in(text) == (IDENTITY, str(OTHER))
    for bad in ("", "# nothing\n", IDENTITY + "X", f"{IDENTITY}\nhello", f"{IDENTITY}\n" * 17):
        with pytest.raises(ValueError, match="identit") as caught:
            identities_in(bad)
        assert "AGE-SECRET-KEY-1" not in str(caught.value).replace("AGE-SECRET-KEY-1…", "")
