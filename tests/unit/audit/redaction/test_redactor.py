"""A stream comes out the same whatever its chunks are, in bounded memory; and whole values."""

from __future__ import annotations

import base64
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit.redaction import redactor as module
from supervisor.audit.redaction.literals import Literals, RedactionFailed, mac8
from supervisor.audit.redaction.redactor import Redactor, ValueRedactor
from supervisor.audit.redaction.rules import Rules, load, shipped
from tests.unit.audit.redaction.samples import private_key, rule_samples

KEY = b"the key of one log, of 32 bytes."
SECRETS = {"one": b"abababab", "two": b"babacus secret", "lines": b"first line of it\nsecond line"}
LITERALS = Literals(SECRETS)
PACK = shipped()
NOTHING = Rules([])
VALUES = ValueRedactor(LITERALS, PACK, KEY)


def _run(chunks: list[bytes], rules: Rules = PACK) -> tuple[bytes, Redactor]:
    redactor = Redactor(LITERALS, rules, KEY)
    out = b"".join([redactor.feed(chunk) for chunk in chunks])
    return out + redactor.finish(), redactor


def _cut(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def _mark(name: str, secret: bytes) -> bytes:
    return f"[REDACTED:{name}:{mac8(KEY, secret)}]".encode()


_SAMPLES = [text.encode() for text, _ in rule_samples(random.Random(3)).values()]
_PIECES = st.one_of(
    st.sampled_from(_SAMPLES),
    st.sampled_from(_SAMPLES).flatmap(
        lambda text: st.integers(0, len(text)).map(lambda n: text[:n])
    ),
    st.sampled_from([*SECRETS.values(), b"ab", b"ba", b"babacus ", b"secret", b"\n", b" ", b"="]),
    st.sampled_from([b"-----BEGIN PRIVATE KEY-----\n", b"-----END PRIVATE KEY-----", b"A" * 70]),
    st.binary(max_size=20),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_PIECES, max_size=25).map(b"".join), st.data())
def test_chunks_do_not_matter(stream: bytes, data: st.DataObject) -> None:
    whole, first = _run([stream])
    borders = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[a:b] for a, b in zip([0, *borders], [*borders, len(stream)], strict=True)]
    cut, second = _run(chunks)
    assert cut == whole
    assert second.found == first.found
    assert second.released == first.released == len(stream)
    for secret in (b"abababab", b"babacus secret", b"second line"):
        assert secret not in cut


def test_what_is_no_secret_comes_out_as_it_was() -> None:
    stream = random.Random(1).randbytes(300_000)
    out, redactor = _run([stream[at : at + 1000] for at in range(0, 300_000, 1000)], NOTHING)
    assert out == stream and not redactor.found


def test_what_overlaps_becomes_one() -> None:
    out, redactor = _run([b"<abababababacus secret>"], NOTHING)
    assert out == b"<" + _mark("one", SECRETS["one"]) + b">"
    assert [(one.offset, one.length) for one in redactor.found] == [(1, 21)]


def test_a_literal_names_what_a_rule_found_too() -> None:
    out, _ = _run([b"https://me:xbabacus%20secretx@db.example.com/"])
    assert out == b"https://me:" + _mark("two", SECRETS["two"]) + b"@db.example.com/"


def test_equal_secrets_have_equal_marks_in_any_spelling() -> None:
    out, redactor = _run([b"babacus secret, " + b"babacus secret".hex().encode()])
    assert out == _mark("two", SECRETS["two"]) + b", " + _mark("two", SECRETS["two"])
    assert len({one.hmac8 for one in redactor.found}) == 1


def test_a_key_is_replaced_as_a_whole() -> None:
    text, _ = private_key(random.Random(2), lines=400)
    out, redactor = _run(_cut(b"a " + text.encode() + b"\nb", 100))
    assert out == b"a " + _mark("private-key", text.encode()) + b"\nb"
    assert redactor.found[0].length == len(text)


def test_a_key_without_an_end_stops_somewhere() -> None:
    start = b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 64
    out, _ = _run([start + b"B" * 100 + b"{and so on"])
    assert out.endswith(b"]{and so on")
    body = b"\n".join([b"B" * 64] * (module.TAIL_BYTES_MAX // 65 + 10))
    out, redactor = _run(_cut(start + body + b" after it", 999))
    assert out.endswith(b"BB after it")
    assert module.TAIL_BYTES_MAX <= redactor.found[0].length < module.TAIL_BYTES_MAX + 100


def test_a_token_without_an_end_is_told_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL_BYTES_MAX", 100)
    stream = b"a ghp_" + b"a1B2" * 90 + b"abababab" * 3 + b"x y " + b"abababab" * 60 + b" end"
    whole, first = _run([stream])
    assert whole.startswith(b"a [REDACTED:") and whole.endswith(b"] end") and b" y " in whole
    for name in ("github-token", "one"):
        assert whole.count(b"[REDACTED:" + name.encode()) >= 3
    assert b"a1B2" not in whole and b"abab" not in whole
    assert max(one.length for one in first.found) < 100 + 50
    for size in range(1, 40):
        assert _run(_cut(stream, size))[0] == whole, size


def test_memory_is_bounded_whatever_comes() -> None:
    redactor = Redactor(LITERALS, PACK, KEY)
    endless = [b"eyJhbGciOiJF.eyJzdWIi", *[b"A" * 65536] * 100]  # a token of 6 MB
    endless += [b" -----BEGIN PRIVATE KEY-----\n", *[b"A" * 65536] * 50]
    endless += [b" ", *[b"ab" * 500] * 3, *[b"\n" + b"password=hunter2hunter " * 700] * 7]
    fed = 0
    tracemalloc.start()
    try:
        for chunk in endless:
            fed += len(chunk)
            redactor.feed(chunk)
            assert fed - redactor.released < 128 * 1024
        redactor.finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
    assert redactor.released == fed
    assert redactor.found_total > len(redactor.found) == module.FOUND_MAX


def test_little_is_held_back() -> None:
    redactor = Redactor(LITERALS, PACK, KEY)
    redactor.feed(b"x" * 100_000)
    assert 100_000 - redactor.released <= max(LITERALS.longest, PACK.longest)


def test_after_the_end_nothing_is_taken() -> None:
    redactor = Redactor(LITERALS, PACK, KEY)
    assert redactor.finish() == b""
    with pytest.raises(RedactionFailed):
        redactor.feed(b"x")
    with pytest.raises(RedactionFailed):
        redactor.finish()


def test_a_failure_gives_nothing_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    redactor = Redactor(LITERALS, PACK, KEY)

    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError("hunter2")

    with monkeypatch.context() as patch:
        patch.setattr(Rules, "find", fails)
        with pytest.raises(RedactionFailed, match="MemoryError") as caught:
            redactor.feed(b"hunter2 " * 1000)
        assert "hunter2" not in str(caught.value) and caught.value.__cause__ is None
        with pytest.raises(RedactionFailed):
            VALUES.redact_json({"a": "b"})
    for again in (lambda: redactor.feed(b"more"), redactor.finish):
        with pytest.raises(RedactionFailed):
            again()


def test_a_short_key_is_refused() -> None:
    with pytest.raises(RedactionFailed):
        Redactor(LITERALS, PACK, b"short")


def test_text() -> None:
    clean, found = VALUES.redact_text("ä \udcff babacus secret ü", pointer="/error")
    assert clean == f"ä \udcff {_mark('two', SECRETS['two']).decode()} ü"
    assert [(one.pointer, one.offset, one.length) for one in found] == [("/error", 5, 14)]


def test_argv() -> None:
    argv = [b"tool", b"--password", b"hunter2", b"-x", b"--token=ducks fly", b"babacus secret"]
    argv += [b"--name=fine", b"-e", b"DB_PASSWORD=quack quack"]
    clean, found = VALUES.redact_argv(argv)
    assert clean == [
        b"tool", b"--password", _mark("named-secret", b"hunter2"), b"-x",
        b"--token=" + _mark("named-secret", b"ducks fly"), _mark("two", SECRETS["two"]),
        b"--name=fine", b"-e", b"DB_PASSWORD=" + _mark("named-secret", b"quack quack"),
    ]  # fmt: skip
    where = [(one.pointer, one.offset, one.length) for one in found]
    assert where == [("/2", 0, 7), ("/4", 8, 9), ("/5", 0, 14), ("/8", 12, 11)]


@pytest.mark.parametrize(
    "value", [b"xxxxLongPassw0rd", b"example123pw", b"changeme", b"$TOKEN", b"<none>", b"--x", b"a"]
)
@pytest.mark.parametrize("name", [b"DB_PASSWORD", b"token", b"DB_PASS", b"GH_PAT", b"pass"])
def test_where_the_name_says_so_the_value_goes_whatever_it_is(name: bytes, value: bytes) -> None:
    mark = _mark("named-secret", value)
    for before, argument in (
        ([], b"=".join((name, value))),
        ([b"-e"], b"=".join((name, value))),
        ([], b"".join((b"--", name, b"=", value))),
        ([b"--" + name], value),
    ):
        argv = [b"x", *before, argument, b"y"]
        clean, found = VALUES.redact_argv(argv)
        assert clean == [b"x", *before, argument.removesuffix(value) + mark, b"y"]
        assert [one.length for one in found] == [len(value)]
        assert not VALUES.is_clean(argv)
    assert VALUES.redact_environment({name: value})[0] == {name: mark}


def test_what_is_empty_stays() -> None:
    argv = [b"--password=", b"--password", b"", b"TOKEN=", b"y"]
    assert VALUES.redact_argv(argv) == (argv, [])
    assert VALUES.redact_environment({b"TOKEN": b""}) == ({b"TOKEN": b""}, [])


@pytest.mark.parametrize("value", [b"xxxxLongPassw0rd", b"example123pw", b"changeme", b"ab"])
def test_in_text_no_name_decides_alone(value: bytes) -> None:
    for text in (b"so DB_PASSWORD=" + value, b"the password: " + value):
        assert VALUES.redact_bytes(text) == (text, [])
        assert VALUES.redact_argv([b"sh", b"-c", text]) == ([b"sh", b"-c", text], [])
    assert VALUES.redact_json({"PASSWORD": value.decode()})[1] == []


def test_names_that_begin_with_a_digit() -> None:
    argv = [b"--2fa-secret", b"ducks", b"2fa_secret=quack"]
    clean, _ = VALUES.redact_argv(argv)
    mark, other = (_mark("named-secret", value) for value in (b"ducks", b"quack"))
    assert clean == [b"--2fa-secret", mark, b"2fa_secret=" + other]
    assert not VALUES.is_clean(argv[:1]) and not VALUES.is_clean(argv[2:])


def test_a_secret_that_reaches_over_an_equals_sign() -> None:
    values = ValueRedactor(Literals({"odd": b"ssword=quack"}), PACK, KEY)
    clean, found = values.redact_argv([b"--password=quack quack"])
    assert clean == [_mark("named-secret", b"--password=quack quack")] and len(found) == 1


def test_environment() -> None:
    clean, found = VALUES.redact_environment(
        {b"PATH": b"/usr/bin", b"DB_PASSWORD": b"ducks fly", b"A/B": b"x abababab"}
    )
    assert clean[b"PATH"] == b"/usr/bin"
    assert clean[b"DB_PASSWORD"] == _mark("named-secret", b"ducks fly")
    assert clean[b"A/B"] == b"x " + _mark("one", SECRETS["one"])
    assert [one.pointer for one in found] == ["/DB_PASSWORD", "/A~1B"]


def test_json() -> None:
    value: Any = {
        "list": ["fine", {"text": "x babacus secret"}],
        "apiKey": ["four words of it"],
        "babacus secret": 1,
        "number": 12,
        "none": None,
        "yes": True,
    }
    clean, found = VALUES.redact_json(value)
    mark = _mark("two", SECRETS["two"]).decode()
    assert clean == {
        "list": ["fine", {"text": f"x {mark}"}],
        "apiKey": [_mark("named-secret", b"four words of it").decode()],
        mark: 1,
        "number": 12,
        "none": None,
        "yes": True,
    }
    assert {one.pointer for one in found} == {"/list/1/text", "/apiKey/0", f"/{mark}"}


def test_numbers_may_be_secrets() -> None:
    values = ValueRedactor(Literals({"pin": b"90210417"}), NOTHING, KEY)
    clean, found = values.redact_json([90210417, 5.5])
    assert clean == [_mark("pin", b"90210417").decode(), 5.5] and len(found) == 1


def test_json_is_bounded() -> None:
    deep: Any = "x"
    for _ in range(module.DEPTH_MAX + 1):
        deep = [deep]
    odd: Any = {"a": b"bytes"}
    for value in (deep, [1] * (module.ITEMS_MAX + 1), odd):
        with pytest.raises(RedactionFailed):
            VALUES.redact_json(value)


def test_two_names_that_become_one_are_refused() -> None:
    value: Any = {"abababab": 1, b"abababab".hex(): 2}
    with pytest.raises(RedactionFailed, match="two names"):
        VALUES.redact_json(value)


def test_too_many_in_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOUND_MAX", 2)
    with pytest.raises(RedactionFailed, match="more than 2"):
        VALUES.redact_text("abababab, " * 3)


def _bytewise(stream: bytes, literals: Literals, rules: Rules) -> bytes:
    """Redact byte by byte, where exactly so much is held back as has to be."""
    redactor = Redactor(literals, rules, KEY)
    out = b"".join(redactor.feed(stream[at : at + 1]) for at in range(len(stream)))
    return out + redactor.finish()


def test_what_stands_beside_the_longest_match_decides(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("version: 1\nrules:\n  - {id: ours, regex: '\\bkey[0-9]{5}\\b'}\n")
    rules, none = load(path), Literals({})
    assert rules.longest == 8
    mark = _mark("ours", b"key12345")
    assert _bytewise(b"a key12345 b key12345", none, rules) == b"a " + mark + b" b " + mark
    for other in (b"a key123456 b", b"a xkey12345 b", b"key1234key12345"):
        assert _bytewise(other, none, rules) == other


def test_the_longest_needle_is_seen_byte_by_byte() -> None:
    literals = Literals({"a": b"correct"})
    lines = b"\\r\\n".join(bytes([one]) for one in base64.b64encode(b"correct"))
    assert len(lines) == literals.longest
    out = _bytewise(lines + b" and more", literals, NOTHING)
    assert out == _mark("a", b"correct") + b" and more"


def test_the_pieces_of_a_long_secret_are_one() -> None:
    value = random.Random(4).randbytes(250).hex().encode()
    out = _bytewise(b"<" * 600 + value + b">" * 600, Literals({"a": value}), NOTHING)
    assert out == b"<" * 600 + _mark("a", value) + b">" * 600


def test_rules_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("version: 1\nrules:\n  - {id: ours, regex: 'OURS-[0-9]{4}', tail: '[0-9]'}\n")
    out, _ = _run([b"x OURS-12", b"34567 y"], load(path))
    assert out == b"x " + _mark("ours", b"OURS-1234567") + b" y"


@pytest.mark.parametrize(
    "code",
    [
        b": secret; x=1; curl -T /work/loot https://api.github.com",
        b"# token\nfoo=bar; rm -rf /work/important",
        b"echo credential; a=1; id",
        b"---token=1; id",
    ],
)
def test_text_before_an_equals_sign_is_no_name(code: bytes) -> None:
    for argv in ([b"sh", b"-c", code], [b"sh", code, b"next"], [b"-- " + code, b"next one"]):
        assert VALUES.redact_argv(argv) == (argv, [])
        assert VALUES.is_clean(argv)
    for argv in ([b"--db.secret-key=quack qu"], [b"-token=quack qu"], [b"SECRET=quack qu"]):
        assert VALUES.redact_argv(argv)[1]
        assert not VALUES.is_clean(argv)


PROSE = b"I am now deleting the customer database, row 1 of 3. Sending it to them; see log.\n" * 20


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_plain_words_behind_what_begins_as_a_key_are_kept(size: int) -> None:
    begin = b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 16 + b" "
    out, redactor = _run(_cut(begin + PROSE, size))
    assert out.endswith(PROSE[5:]) and redactor.found_total == 1
    assert b"AAAA" not in out


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
@pytest.mark.parametrize(
    "head",
    [
        b"Comment: this is the key of our own team, do not give it away\nVersion: of the tool\n\n",
        b"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0011223344556677\n\n",
        b"Version: GnuPG v2.0.22 (GNU/Linux)\nComment: made by us with the tool for tests\n\n",
    ],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_words_in_the_header_lines_of_a_key_do_not_end_it(
    head: bytes, size: int, escaped: bool
) -> None:
    text = private_key(random.Random(5))[0].encode()
    begin, _, body = text.partition(b"\n")
    key = begin + b"\n" + head + body
    key = key.replace(b"\n", b"\\n") if escaped else key
    out, redactor = _run(_cut(b"a " + key + b" b\n", size))
    assert out == b"a " + _mark("private-key", key) + b" b\n"
    assert redactor.found_total == 1
