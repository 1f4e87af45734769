"""Which secrets a call's record is kept free of, and the key of what stands for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.audit.masks import REDACT_KEY_BYTES, REDACT_KEY_NAME, Mask, Masks, redact_key
from supervisor.audit.redaction.literals import SECRETS_MAX
from supervisor.errors import HostError
from supervisor.profile.model import Redact

KEY = bytes(range(32))
TOKEN = b"ghp_" + b"a1B2c3D4e5" * 3 + b"f6G7h8"
MAIL = b"to somebody@mail.example.com, "


def clean(mask: Mask | None, data: bytes) -> bytes:
    if mask is None:
        return data
    redactor = mask.stream()
    return redactor.feed(data) + redactor.finish()


def test_rules_by_default_and_personal_data_where_asked() -> None:
    masks = Masks(KEY)
    assert not masks.has(Redact())
    plain, private = masks.make(Redact(), {}), masks.make(Redact(pii=True), {})
    assert masks.has(Redact())
    assert TOKEN not in clean(plain, TOKEN)
    assert clean(plain, MAIL) == MAIL
    assert MAIL not in clean(private, MAIL)
    assert plain is not None and private is not None
    assert (plain.to_json()["pii"], private.to_json()["pii"]) == (False, True)


def test_what_we_hand_out_is_looked_for_whatever_the_profile_says() -> None:
    masks = Masks(KEY)
    off = Redact(off="Said why.")
    assert masks.has(off)
    assert masks.make(off, {}) is None
    mask = masks.make(off, {"api": b"hunter2hunter2", "pin": b"123"})
    assert mask is not None
    assert clean(mask, b"hunter2hunter2 " + TOKEN).endswith(b"] " + TOKEN)
    assert mask.to_json() == {
        "rules": 0, "pii": False, "secrets": ["api"], "too_short": ["pin"], "failed": "",
    }  # fmt: skip


def test_a_mask_that_cannot_be_made_says_so() -> None:
    secrets = {f"s{number}": b"secret-%d" % number for number in range(SECRETS_MAX + 1)}
    mask = Masks(KEY).make(Redact(), secrets)
    assert mask is not None
    assert str(SECRETS_MAX) in mask.failed
    assert mask.to_json()["failed"] == mask.failed


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    key = redact_key(tmp_path)
    path = tmp_path / REDACT_KEY_NAME
    assert len(key) == REDACT_KEY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert redact_key(tmp_path) == key
    path.chmod(0o640)
    with pytest.raises(HostError, match="open to others"):
        redact_key(tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(HostError, match="32 bytes"):
        redact_key(tmp_path)


def test_the_mask_of_a_former_daemons_call() -> None:
    masks = Masks(KEY)
    assert masks.of_former({}) is None
    told = masks.make(Redact(pii=True), {})
    assert told is not None
    again = masks.of_former({"redaction": told.to_json()})
    assert MAIL not in clean(again, MAIL)
    assert again is not None and not again.failed
    held = masks.make(Redact(), {"api": b"hunter2hunter2"})
    assert held is not None
    gone = masks.of_former({"redaction": held.to_json()})
    assert gone is not None and "known no more" in gone.failed
