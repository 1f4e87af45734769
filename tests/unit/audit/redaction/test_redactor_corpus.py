"""A corpus of 200 planted secrets: in every spelling, cut at every place, none is left."""

from __future__ import annotations

import base64
import json
import random
import re
import shlex
from urllib.parse import quote, quote_plus

import pytest

from supervisor.audit.redaction import rules as rules_module
from supervisor.audit.redaction.literals import Literals
from supervisor.audit.redaction.redactor import Redactor
from supervisor.audit.redaction.rules import Rules
from tests.unit.audit.redaction.samples import Spelling, literal_secrets, rule_samples

KEY = b"the key of one log, of 32 bytes."
SECRETS = literal_secrets(200)
LITERALS = Literals(SECRETS)
PACK = rules_module.shipped(optional=True)
LEFT_BYTES = 8
"""So many bytes of a secret in a row must be left nowhere."""


def _wrapped(data: bytes) -> bytes:
    return base64.encodebytes(b"some text before it: " * 3 + data + b" and after")


SPELLINGS: dict[str, Spelling] = {
    "plain": bytes,
    "base64": base64.b64encode,
    "base64 at 1": lambda data: base64.b64encode(b"a" + data + b"!"),
    "base64 at 2": lambda data: base64.b64encode(b"ab" + data + b"!?"),
    "base64 at 3": lambda data: base64.b64encode(b"user:" + data + b"\n"),
    "base64, no padding": lambda data: base64.b64encode(data).rstrip(b"="),
    "base64, URL-safe": lambda data: base64.urlsafe_b64encode(b"a" + data),
    "base64, URL-safe, no padding": lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
    "base64, in lines": _wrapped,
    "percent, reserved": lambda data: quote(data, safe="").encode(),
    "percent, reserved, lower": lambda data: re.sub(
        rb"%..", lambda found: found.group().lower(), quote(data).encode()
    ),
    "percent, form": lambda data: quote_plus(data).encode(),
    "percent, all": lambda data: "".join(f"%{byte:02x}" for byte in data).encode(),
    "hex": lambda data: data.hex().encode(),
    "hex, upper": lambda data: data.hex().upper().encode(),
    "JSON": lambda data: json.dumps({"value": data.decode()}).encode(),
    "JSON, UTF-8": lambda data: json.dumps([data.decode()], ensure_ascii=False).encode(),
    "JSON in JSON": lambda data: json.dumps(json.dumps(data.decode())).encode(),
    "JSON, slashes": lambda data: json.dumps(data.decode()).replace("/", "\\/").encode(),
    "shell": lambda data: shlex.quote(data.decode()).encode(),
    "shell, backslashes": lambda data: re.sub(r"([^\w@%+=:,./-])", r"\\\1", data.decode()).encode(),
    "Python": lambda data: repr(data.decode()).encode(),
}


def _run(data: bytes, sizes: list[int], literals: Literals, rules: Rules) -> tuple[bytes, Redactor]:
    """Redact in one chunk, and see that chunks of each size give the same."""
    redactor = Redactor(literals, rules, KEY)
    whole = redactor.feed(data) + redactor.finish()
    for size in sizes:
        other = Redactor(literals, rules, KEY)
        out = b"".join(other.feed(data[at : at + size]) for at in range(0, len(data), size))
        assert out + other.finish() == whole, size
        assert other.found == redactor.found
    return whole, redactor


def _decoded(text: bytes) -> bytes:
    """Decode whatever may be base64, from each of the four places that it may begin at."""
    joined = re.sub(rb"\[REDACTED:[^\]]*\]", b" | ", text).replace(b"\n", b"")
    out = []
    for run in re.findall(rb"[A-Za-z0-9+/_-]{4,}", joined):
        plain = run.replace(b"-", b"+").replace(b"_", b"/")
        for start in range(4):
            part = plain[start:]
            out.append(base64.b64decode(part[: len(part) // 4 * 4]))
            out.append(base64.b64decode(part + b"A" * (-len(part) % 4)))
    return b"|".join(out)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_planted_secret_is_left(spelling: str) -> None:
    write = SPELLINGS[spelling]
    # By one byte: the state after each byte is a border once.
    for group in range(0, len(SECRETS), 50):
        names = list(SECRETS)[group : group + 50]
        spelt = [write(SECRETS[name]) for name in names]
        stream = b" .. ".join([b"begin", *spelt, b"end"])
        out, redactor = _run(stream, [1] if group == 0 else [7, 97], LITERALS, Rules([]))
        assert {one.rule for one in redactor.found} >= set(names)
        assert out.startswith(b"begin .. ") and out.endswith(b" .. end")
        clear = out + b"|" + _decoded(out)
        for name in names:
            for line in SECRETS[name].split(b"\n"):
                windows = [line[at : at + LEFT_BYTES] for at in range(len(line) - LEFT_BYTES + 1)]
                assert not any(window in clear for window in windows), (name, spelling)


def test_the_search_for_what_is_left_would_find_it() -> None:
    secret = SECRETS["planted-0"]
    text = b"xx " + base64.b64encode(b"ab" + secret) + b" yy"
    assert secret[1:9] in _decoded(text)


def test_one_secret_and_each_border_of_it() -> None:
    secret = SECRETS["planted-1"]
    for write in SPELLINGS.values():
        stream = b"before " + write(secret) + b" after" + b"." * (LITERALS.longest + 8)
        whole, _ = _run(stream, [], LITERALS, Rules([]))
        for border in range(6, len(write(secret)) + 8):
            redactor = Redactor(LITERALS, Rules([]), KEY)
            out = redactor.feed(stream[:border]) + redactor.feed(stream[border:])
            assert out + redactor.finish() == whole


@pytest.mark.parametrize("seed", range(5))
def test_what_rules_know_is_never_left(seed: int) -> None:
    samples = rule_samples(random.Random(seed))
    assert set(samples) == {rule.id for rule in PACK.all if rule.of == "text"}
    for name, (text, secret) in samples.items():
        stream = b"start of it\n" + text.encode() + b"\nthe end of it " + b"= " * 40
        out, redactor = _run(stream, [1] if seed == 0 else [13], LITERALS, PACK)
        assert secret.encode() not in out
        assert [one.rule for one in redactor.found] == [name], (name, text, out)
        assert out.startswith(b"start of it\n") and b"\nthe end of it = = " in out
        (one,) = redactor.found
        assert stream[one.offset : one.offset + one.length] == secret.encode()
        assert f"[REDACTED:{name}:{one.hmac8}]".encode() in out


CALLED = ("pwd={}", "password: {}", "DB_PASSWORD={}", "login me password {}", "x://me:{}@host",
          "secret = '{}'")  # fmt: skip


@pytest.mark.parametrize("called", CALLED)
@pytest.mark.parametrize("length", [9, 100, 200, 201, 202, 300])
def test_nothing_of_a_long_one_is_left_where_another_follows(called: str, length: int) -> None:
    """Arguments follow each other with a zero byte between them."""
    rng = random.Random(length)
    values = ["".join(rng.choices("abcXYZ0189", k=length)) for _ in range(30)]
    for between in ("\0", "\n", " "):
        stream = between.join(called.format(value) for value in values).encode()
        out, redactor = _run(stream, [1000], LITERALS, PACK)
        assert len(redactor.found) == len(values)
        assert not any(value[-5:].encode() in out for value in values)


def test_all_of_them_in_one_stream() -> None:
    rng = random.Random(99)
    texts = [text for seed in range(4) for text, _ in rule_samples(random.Random(seed)).values()]
    texts += [write(rng.choice(list(SECRETS.values()))).decode() for write in SPELLINGS.values()]
    rng.shuffle(texts)
    stream = "\n".join(texts).encode()
    out, redactor = _run(stream, [3, 64, 1000], LITERALS, PACK)
    assert redactor.found_total >= 200
    _, again = _run(stream, [], LITERALS, PACK)
    assert again.found == redactor.found
    position, at = 0, 0
    for one in redactor.found:  # what was not redacted is there, byte for byte
        clear = stream[position : one.offset]
        assert out[at : at + len(clear)] == clear
        mark = f"[REDACTED:{one.rule}:{one.hmac8}]".encode()
        assert out[at + len(clear) :].startswith(mark)
        at += len(clear) + len(mark)
        position = one.offset + one.length
    assert out[at:] == stream[position:]
