"""What is a credential, and what only looks like one."""

from __future__ import annotations

import pytest

from supervisor.audit.redaction.validators import VALIDATORS, entropy_bits


@pytest.mark.parametrize(
    ("check", "secret", "is_one"),
    [
        ("entropy", b"a8Fk2Lq9ZxW4mN7v", True),
        ("entropy", b"aaaaaaaaaaaaaaa1", False),
        ("entropy", b"abcdefghijklmnop", False),
        ("value", b"hunter2", True),
        ("value", b"correcthorse", True),
        ("value", b"x7%#quack", True),
        ("value", b"#x7%quack", True),
        ("value", b"$x7%quack", True),
        ("value", b"%(password)s", False),
        ("value", b"${PASSWORD}", False),
        ("value", b"<password>", False),
        ("value", b"********", False),
        ("value", b"xxxxxxxx", False),
        ("value", b"changeme", False),
        ("value", b"your-password", False),
        ("chosen", b"hunter2hunter", True),
        ("chosen", b"get_password", False),
        ("chosen", b"12345678", False),
        ("luhn", b"4242 4242 4242 4242", True),
        ("luhn", b"4242-4242-4242-4243", False),
        ("luhn", b"0000000000000000", False),
        ("luhn", b"42", False),
        ("iban", b"DE89 3704 0044 0532 0130 00", True),
        ("iban", b"GB82WEST12345698765432", True),
        ("iban", b"DE89 3704 0044 0532 0130 01", False),
        ("iban", b"DE89", False),
        ("ssn", b"123-45-6789", True),
        ("ssn", b"000-45-6789", False),
        ("ssn", b"666-45-6789", False),
        ("ssn", b"900-45-6789", False),
        ("ssn", b"123-00-6789", False),
        ("ssn", b"123-45-0000", False),
    ],
)
def test_validators(check: str, secret: bytes, is_one: bool) -> None:
    assert VALIDATORS[check](secret) is is_one


def test_entropy() -> None:
    assert entropy_bits(b"aaaa") == 0
    assert entropy_bits(b"abcd") == 2
