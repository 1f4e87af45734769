"""Exact secrets: every one, the longest at each place, over line breaks, and none that is short."""

from __future__ import annotations

import base64
import json

import pytest

from supervisor.audit.redaction import literals as module
from supervisor.audit.redaction.literals import (
    Literal,
    Literals,
    RedactionFailed,
    mac8,
    needles,
)

KEY = b"the key of one log, of 32 bytes."


def _names(literals: Literals, data: bytes) -> list[tuple[bytes, str]]:
    spans = literals.spans(data, 0, len(data))
    return [(data[first:end], literal.name) for first, end, literal in spans]


def test_what_overlaps_is_given_too() -> None:
    literals = Literals({"one": b"abcdefgh", "two": b"efghijkl", "long": b"abcdefghij"})
    assert _names(literals, b"--abcdefghijkl--") == [
        (b"abcdefghij", "long"),
        (b"efghijkl", "two"),
    ]
    assert _names(literals, b"--abcdefgh--") == [(b"abcdefgh", "one")]


def test_only_what_begins_in_the_window_is_given() -> None:
    literals = Literals({"one": b"secret"})
    data = b"secret secret secret"
    assert [first for first, _, _ in literals.spans(data, 1, 14)] == [7]
    assert [first for first, _, _ in literals.spans(data, 7, 15)] == [7, 14]


def test_no_secrets_no_spans() -> None:
    literals = Literals({})
    assert literals.longest == 0 and _names(literals, b"anything") == []


def test_what_is_too_short_is_told() -> None:
    literals = Literals({"pin": b"123", "empty": b"", "pin4": b"1234"})
    assert literals.too_short == ("pin", "empty")
    assert _names(literals, b"123 1234") == [(b"1234", "pin4")]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\\n", b"\\r\\n"])
@pytest.mark.parametrize("width", [1, 5, 19, 64])
def test_base64_in_lines(ending: bytes, width: int) -> None:
    secret = b"correct horse battery staple, and more of it"
    encoded = base64.b64encode(b"xyz" + secret)
    lines = [encoded[at : at + width] for at in range(0, len(encoded), width)]
    ((found, name),) = _names(Literals({"a": secret}), ending.join(lines))[:1]
    assert name == "a"
    assert base64.b64decode(found.replace(ending, b"")) == secret


def test_each_longer_line_of_a_value_and_no_marker() -> None:
    value = b"-----BEGIN X KEY-----\nfirst line of it\r\n  short\nsecond line of it\n"
    value += b"-----END X KEY-----\n"
    literals = Literals({"key": value})
    assert [found for found, _ in _names(literals, b"> first line of it <")] == [
        b"first line of it"
    ]
    assert [found for found, _ in _names(literals, b"second line of it")] == [b"second line of it"]
    assert not _names(literals, b"-----BEGIN X KEY----- short")


def test_the_strings_in_a_json_value() -> None:
    value = json.dumps({"user": "me", "keys": [{"private": "line one of it\nline two of it"}]})
    literals = Literals({"account": value.encode()})
    for text in (b"line one of it\nline two of it", b"line two of it", value.encode()):
        assert _names(literals, text)[0] == (text, "account")
    assert not _names(literals, b"user me keys private")


@pytest.mark.parametrize("value", [b"{not json at all", b"[" * 60_000])
def test_what_only_begins_as_json_is_text(value: bytes) -> None:
    assert _names(Literals({"a": value}), value)[0][1] == "a"


def test_a_long_value_is_found_in_pieces() -> None:
    value = bytes(33 + at * 7 % 89 for at in range(1000)) + b"the end"
    literals = Literals({"a": value})
    assert literals.longest <= module.PIECE_BYTES * 5
    covered = {
        at for first, end, _ in literals.spans(value, 0, len(value)) for at in range(first, end)
    }
    assert covered == set(range(len(value)))


@pytest.mark.parametrize(
    "secrets",
    [
        {"a": b"x" * (module.SECRET_BYTES_MAX + 1)},
        {f"s{number}": b"secret" for number in range(module.SECRETS_MAX + 1)},
        {"no spaces": b"secret"},
        {"a]": b"secret"},
        {"a": json.dumps(["long enough"] * (module.JSON_LEAVES_MAX + 1)).encode()},
    ],
)
def test_limits(secrets: dict[str, bytes]) -> None:
    with pytest.raises(RedactionFailed):
        Literals(secrets)


def test_all_needles_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEEDLES_BYTES_MAX", 100)
    with pytest.raises(RedactionFailed, match="needles"):
        Literals({"a": b"correct horse battery staple"})


def test_no_error_and_no_repr_holds_the_secret() -> None:
    assert "hunter" not in repr(Literal(name="a", value=b"hunter22"))
    with pytest.raises(RedactionFailed) as caught:
        Literals({"a": b"hunter22" * 10_000})
    assert "hunter" not in str(caught.value)


def test_no_needle_is_so_short_that_it_is_everywhere() -> None:
    assert min(len(needle) for needle, _ in needles(b"abcd")) == module.SECRET_BYTES_MIN
    assert {needle for needle, _ in needles(b"abcd") if len(needle) < 6} == {b"abcd"}


def test_the_mac_is_of_the_secret_and_of_the_key() -> None:
    assert mac8(KEY, b"a") == mac8(KEY, b"a") != mac8(KEY, b"b")
    assert mac8(KEY, b"a") != mac8(KEY[::-1], b"a")
    assert len(mac8(KEY, b"a")) == 8
