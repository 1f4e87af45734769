"""What may still grow into a match is known, at each byte, and little else is held back."""

from __future__ import annotations

import random

import pytest

from supervisor.audit.redaction.growth import beginnings
from supervisor.audit.redaction.literals import Literals
from supervisor.audit.redaction.redactor import Redactor
from supervisor.audit.redaction.rules import Rules, re2_compile, shipped
from tests.unit.audit.redaction.samples import literal_secrets, rule_samples

KEY = b"the key of one log, of 32 bytes."
PACK = shipped(optional=True)


@pytest.mark.parametrize(
    ("source", "all_of", "none_of"),
    [
        ("abc", ["", "a", "ab", "abc"], ["b", "abcd", "ac"]),
        ("a[0-9]{2,3}b", ["a", "a1", "a12", "a123", "a123b"], ["a1b", "a1234", "1"]),
        ("a(?:bc){1,2}d", ["a", "ab", "abc", "abcb", "abcbc", "abcbcd"], ["ad", "abd", "abcbcbc"]),
        ("(?i)x(ab|cd)e?", ["X", "xA", "xCd", "XcDe"], ["xe", "xad"]),
        (r"a(?:\.|[^\s\d]){9}z", ["a", "a.", "a.b.", "a.........z"], ["a b", "a1"]),
        (r"a.\\b", ["aq", "aq\\", "aq\\b"], ["a\n", "aqb"]),
    ],
)
def test_beginnings(source: str, all_of: list[str], none_of: list[str]) -> None:
    begun = re2_compile(beginnings(source))
    for text in all_of:
        assert begun.fullmatch(text.encode()) is not None, text
    for text in none_of:
        assert begun.fullmatch(text.encode()) is None, text


@pytest.mark.parametrize("source", ["a(?=b)", "^a"])
def test_what_is_not_known_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="it is not known how"):
        beginnings(source)


def test_each_beginning_of_a_match_is_held() -> None:
    for seed in range(3):
        for name, (text, _) in rule_samples(random.Random(seed)).items():
            data = text.encode()
            (rule,) = (one for one in PACK.all if one.id == name)
            match = re2_compile(rule.source).search(data)
            assert match is not None
            for end in range(match.start() + 1, match.end()):
                assert PACK.open_from(data[:end], 0) <= match.start(), (name, data[:end])


def test_each_beginning_of_a_needle_is_held() -> None:
    secrets = literal_secrets(20)
    literals = Literals(secrets)
    for value in secrets.values():
        for end in range(1, len(value)):
            data = b"\n before: " + value[:end]
            assert literals.open_from(data, 0) <= 10


@pytest.mark.parametrize(
    "line", [b"hello\n", b"tick 17\n", b"\n", b"$ ls\r\n", b"{}\n", b"100%\n", b"-- \n", b"a.b()\n"]
)
def test_an_ordinary_line_is_let_go_of_at_once(line: bytes) -> None:
    redactor = Redactor(Literals({"ours": b"correct-horse-battery"}), PACK, KEY)
    for _ in range(3):
        assert redactor.feed(line) == line


@pytest.mark.parametrize(
    ("data", "held"),
    [
        (b"a line, and gh", b"gh"),
        (b"x ghp_a1b2", b"ghp_a1b2"),
        (b"Password: ", b"Password: "),
        (b"say corr", b"corr"),
        (b"\n-----BEGIN RSA ", b"-----BEGIN RSA "),
        (b"the base64 is Y29y\r\ncmV", b"Y29y\r\ncmV"),
    ],
)
def test_only_what_may_begin_a_secret_is_held(data: bytes, held: bytes) -> None:
    redactor = Redactor(Literals({"ours": b"correct-horse-battery"}), PACK, KEY)
    assert redactor.feed(data) == data.removesuffix(held)
    assert redactor.finish() == held


def test_what_is_held_has_a_bound() -> None:
    redactor = Redactor(Literals({"ours": b"correct-horse-battery"}), PACK, KEY)
    rng = random.Random(5)
    words = [b"eyJ" + b"a" * 700, b"aws " * 300, b"https://u:" + b"p" * 900, b"12 " * 400]
    fed = 0
    for _ in range(200):
        word = rng.choice(words)
        fed += len(word)
        redactor.feed(word)
        assert fed - redactor.released <= PACK.longest + 1


def test_without_rules_nothing_is_held() -> None:
    assert Rules([]).open_from(b"gh", 0) == 2
    assert Literals({}).open_from(b"gh", 0) == 2
