"""The pack of rules: linted with places, and each rule finds what it says."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from supervisor.audit.redaction import rules as module
from supervisor.audit.redaction.rules import Rules, load, shipped
from supervisor.errors import ProfileError
from tests.unit.audit.redaction.samples import rule_samples


def _pack(tmp_path: Path, *rules: str) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text("version: 1\nrules:\n" + "".join(f"  - {{{rule}}}\n" for rule in rules))
    return path


def _first(rules: Rules, data: bytes) -> tuple[str, bytes] | None:
    found = rules.find(data, 0, len(data))
    return (found[0].id, data[found[1] : found[2]]) if found else None


@pytest.mark.parametrize(
    ("rule", "column", "message"),
    [
        ("id: a, regex: 'ab+'", 20, "no longest match"),
        ("id: a, regex: 'abcd.*'", 20, "no longest match"),
        ("id: a, regex: 'x{4,2000}'", 20, "is not understood"),
        ("id: a, regex: '(?:x{0,900}){0,9}abcd'", 20, "is not understood"),
        ("id: a, regex: 'x{900}y{900}'", 20, "1024 bytes"),
        ("id: a, regex: 'abc'", 20, "less than 4"),
        ("id: a, regex: '^abcd'", 20, "anchor"),
        ("id: a, regex: '(?:x|abcd$)'", 20, "anchor"),
        ("id: a, regex: '(ab)(cd)'", 20, "2 groups"),
        ("id: a, regex: 'ab(?=cd)ef'", 20, "is not understood"),
        ("id: a, regex: '(ab)\\1cd'", 20, "is not understood"),
        ("id: a, regex: '(abcd'", 20, "is not understood"),
        ("id: a, regex: 'abcd€'", 20, "bytes"),
        ("id: a, regex: '(ab)cd', tail: '[a-z]'", 20, "has to end"),
        ("id: a, regex: 'abcd', tail: 'a-z'", 34, "no class"),
        ("id: a, regex: 'abcd', tail: '[^a-z]'", 34, "no class"),
        ("id: a, regex: 'abcd', tail: '[z-a]'", 34, "is not understood"),
        ("id: a, regex: 'abcd', until: 'end'", 35, "needs a tail"),
        ("id: a, regex: 'abcd', tail: '[a-z]', until: 'e+'", 50, "no longest match"),
        ("id: a, regex: 'abcd', check: lunh", 35, "there is no check"),
        ("id: a, of: name, regex: 'abcd', tail: '[a-z]'", 17, "takes the whole value"),
        ("id: A, regex: 'abcd'", 10, ""),
        ("id: a, regexp: 'abcd'", 5, "the key 'regex' is missing"),
    ],
)
def test_faults_have_a_place(tmp_path: Path, rule: str, column: int, message: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load(_pack(tmp_path, "id: fine, regex: 'abcd'", rule))
    assert caught.value.reason == "RULES_INVALID"
    assert re.search(r"rules\.yaml:4:\d+: ", str(caught.value))
    assert message in str(caught.value)
    assert f":4:{column}:" in str(caught.value)


def test_an_id_is_there_once(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="there twice"):
        load(_pack(tmp_path, "id: a, regex: 'abcd'", "id: a, regex: 'efgh'"))


def test_the_group_is_the_secret(tmp_path: Path) -> None:
    rules = load(_pack(tmp_path, "id: a, regex: 'key=(x{4})y'", "id: b, regex: '(?:z|q){4}'"))
    assert _first(rules, b"key=xxxxy") == ("a", b"xxxx")
    assert _first(rules, b"..zqzq..") == ("b", b"zqzq")


def test_the_first_rule_whose_check_agrees_is_taken(tmp_path: Path) -> None:
    path = _pack(
        tmp_path,
        "id: a, regex: '[0-9]{16}', check: luhn",
        "id: b, regex: '[0-9]{5}x?', check: entropy",
        "id: c, regex: '[0-9]{4}'",
    )
    rules = load(path)
    assert _first(rules, b"4242424242424242") == ("a", b"4242424242424242")
    assert _first(rules, b"4242424242424243") == ("c", b"4242")
    assert (
        load(_pack(tmp_path, "id: a, regex: '[0-9]{16}', check: luhn")).find(b"4" * 20, 0, 20)
        is None
    )


def test_only_what_begins_in_the_window(tmp_path: Path) -> None:
    rules = load(_pack(tmp_path, r"id: a, regex: '\bword\b'"))
    data = b"xword word"
    assert rules.find(data, 1, 10) is not None  # what stands before decides on the first boundary
    assert rules.find(data, 1, 6) is None
    assert rules.find(b"words", 0, 5) is None


def test_names(tmp_path: Path) -> None:
    pack = shipped()
    for name in (
        b"DB_PASSWORD",
        b"apiKey",
        b"token",
        b"refresh_token",
        b"Authorization",
        b"Cookie",
    ):
        assert pack.of_name(name, b"hunter2") is not None, name
    for name in (b"PATH", b"tokenizer", b"max_tokens", b"author", b"keyboard"):
        assert pack.of_name(name, b"hunter2") is None, name
    for value in (b"${PASSWORD}", b"changeme", b"xxxxxxxx", b"ab", b"1"):
        assert pack.of_name(b"PASSWORD", value) is not None, value
    assert pack.of_name(b"PASSWORD", b"") is None
    assert Rules([]).of_name(b"PASSWORD", b"hunter2") is None


def test_personal_data_is_off_unless_asked_for() -> None:
    more = {rule.id for rule in shipped(optional=True).all} - {rule.id for rule in shipped().all}
    assert more == {"iban", "card", "us-ssn", "e-mail"}


def test_the_shipped_pack_holds_back_little() -> None:
    assert shipped(optional=True).longest <= module.MATCH_BYTES_MAX


@pytest.mark.parametrize("name", sorted(rule_samples(random.Random(0))))
def test_each_rule_alone_finds_its_sample(name: str) -> None:
    (rule,) = [one for one in shipped(optional=True).all if one.id == name]
    text, secret = rule_samples(random.Random(7))[name]
    found = _first(Rules([rule]), text.encode())
    assert found is not None and secret.encode().startswith(found[1])


@pytest.mark.parametrize(
    "text",
    [
        "password = get_password(user)",
        "password: str | None = None",
        "PASSWORD=${PASSWORD}",
        "PASSWORD=$(cat file)",
        "https://api.github.com:443/repos@main",
        "https://user:${TOKEN}@api.github.com/",
        "Authorization: Bearer $TOKEN",
        "commit 0123456789abcdef0123456789abcdef01234567",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A",
        'if line == "-----BEGIN PRIVATE KEY-----": pass',
        "sk-learn-is-a-library-of-python",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@host",
        "tokens = tokenizer(text, max_tokens=100)",
    ],
)
def test_look_alikes_are_left(text: str) -> None:
    assert _first(shipped(), text.encode()) is None
