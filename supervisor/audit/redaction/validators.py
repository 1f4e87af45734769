"""Tells a credential from what only looks like one, by the bytes of the secret."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping

ENTROPY_BITS_MIN = 3.0
"""Of each byte: random letters and digits have about 4 in 20 of them, words 2.5 to 3."""

_PLACEHOLDER = re.compile(
    rb"[\s<{\[(]|\$[({A-Z_]|%[({sd]|\*{3}|\.{3}|[xX]{3}|"
    rb"(?i:[a-z_.-]{0,12}(?:example|placeholder|change.?me|your[_-]|redacted))"
)
_DIGIT, _NOT_DIGIT = re.compile(rb"[0-9]"), re.compile(rb"[^0-9]")
_NOT_ALNUM = re.compile(rb"[^0-9A-Za-z]")


def entropy_bits(secret: bytes) -> float:
    """Give Shannon's entropy of each byte."""
    counts = Counter(secret).values()
    return -sum(n / len(secret) * math.log2(n / len(secret)) for n in counts)


def is_random(secret: bytes) -> bool:
    """Say whether it is as mixed as what a generator makes, and holds a digit."""
    return entropy_bits(secret) >= ENTROPY_BITS_MIN and _DIGIT.search(secret) is not None


def is_value(secret: bytes) -> bool:
    """Say whether a value is one: not a placeholder, a variable or a row of one character."""
    return _PLACEHOLDER.match(secret) is None and len(set(secret)) > 3


def is_chosen(secret: bytes) -> bool:
    """Say whether a value in running text is a password rather than a word or a name of code."""
    return (
        is_value(secret)
        and _DIGIT.search(secret) is not None
        and _NOT_DIGIT.search(secret) is not None
    )


def passes_luhn(secret: bytes) -> bool:
    """Say whether the digits are a card's (ISO/IEC 7812-1, annex B)."""
    digits = [byte - 48 for byte in secret if 48 <= byte <= 57]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[::-2]) + doubled) % 10 == 0


def is_iban(secret: bytes) -> bool:
    """Say whether the two check digits are right (ISO 13616-1)."""
    plain = _NOT_ALNUM.sub(b"", secret).upper().decode()
    if not 15 <= len(plain) <= 34 or not plain[2:4].isdigit():
        return False
    return int("".join(str(int(one, 36)) for one in plain[4:] + plain[:4])) % 97 == 1


def is_ssn(secret: bytes) -> bool:
    """Say whether it may be a US social security number: of area, group and serial none is all
    zeros, and no area is 666 or from 900 on."""
    area, group, serial = secret.split(b"-")
    return area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"


VALIDATORS: Mapping[str, Callable[[bytes], bool]] = {
    "entropy": is_random,
    "value": is_value,
    "chosen": is_chosen,
    "luhn": passes_luhn,
    "iban": is_iban,
    "ssn": is_ssn,
}
"""What a rule may name under `check:`."""
