"""What Hyperscan spares RE2 a look at, and nothing that RE2 takes; which libraries are refused."""

from __future__ import annotations

import concurrent.futures
import itertools
import random
import re
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.redaction import prefilter as module
from supervisor.audit.redaction import rules as rules_module
from supervisor.audit.redaction.literals import Literals, RedactionFailed
from supervisor.audit.redaction.prefilter import Prefilter, open_hyperscan
from supervisor.audit.redaction.redactor import Redactor
from supervisor.audit.redaction.rules import Rules, re2_compile, shipped
from supervisor.errors import HostError
from tests.support.rounds import rounds
from tests.unit.audit.redaction.samples import literal_secrets, rule_samples

INSTALL = "stockade[hyperscan] is not installed: there are wheels for x86-64 and Python 3.11, 3.12"
hyperscan: ModuleType = pytest.importorskip("hyperscan", reason=INSTALL)

KEY = b"the key of one log, of 32 bytes."
SLOW = shipped(optional=True)
FAST = shipped(optional=True, hyperscan=hyperscan)
TEXT_RULES = [rule for rule in SLOW.all if rule.of == "text"]
LITERALS = Literals(literal_secrets(5))
ALPHABETS = (
    bytes(range(256)),
    b"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ\n",
    b"0123456789-. ",
    b"aA0_-.=:/@'\" \n\v\xe9\xc9",
)


def one(source: str) -> Prefilter:
    made = Prefilter(hyperscan, [source])
    assert made.is_used, source
    return made


def redacted(data: bytes, sizes: list[int], rules: Rules) -> tuple[bytes, list[Any], int]:
    """Redact data that comes in chunks of these sizes, over and over."""
    redactor = Redactor(LITERALS, rules, KEY)
    out, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(data):
            break
        out.append(redactor.feed(data[at : at + size]))
        at += size
    out.append(redactor.finish())
    return b"".join(out), redactor.found, redactor.found_total


def planted(rng: random.Random, length: int) -> bytes:
    """Make a text of noise, ordinary words, samples of all rules and halves of them."""
    parts: list[bytes] = []
    samples = [text.encode() for text, _ in rule_samples(rng).values()]
    while sum(map(len, parts)) < length:
        sample = rng.choice(samples)
        kind = rng.randrange(6)
        if kind == 0:
            parts.append(sample)
        elif kind == 1:
            parts.append(sample[: rng.randrange(len(sample))])
        elif kind == 2:
            broken = bytearray(sample)
            broken[rng.randrange(len(broken))] = rng.randrange(256)
            parts.append(bytes(broken))
        elif kind == 3:
            parts.append(rng.choice(list(literal_secrets(5).values())))
        else:
            parts.append(bytes(rng.choices(rng.choice(ALPHABETS), k=rng.randrange(900))))
        parts.append(rng.choice([b"", b" ", b"\n", b"a", b"="]))
    return b"".join(parts)


def test_all_shipped_rules_are_handed_over() -> None:
    assert FAST.prefilter is not None and FAST.prefilter.is_used
    plain = shipped(hyperscan=hyperscan).prefilter
    assert plain is not None and plain.is_used
    assert SLOW.prefilter is None


def test_text_without_secrets_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"nothing to be seen in here, line after line\n" * 2000
    monkeypatch.setattr(Rules, "_search", lambda *_: pytest.fail("RE2 was asked"))
    assert FAST.find(text, 0, len(text)) is None
    with pytest.raises(pytest.fail.Exception):
        FAST.find(text + b"ghp_" + b"a1B2c3D4e5" * 4, 0, len(text))


@pytest.mark.parametrize("seed", range(rounds(12)))
def test_the_result_is_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    data = planted(rng, 40_000)
    sizes = [rng.choice([1, 7, 100, 4096, 16384, 65536, 100_000]) for _ in range(5)]
    if seed % 3:  # many borders, and nothing too short to be asked about
        monkeypatch.setattr(rules_module, "STEP_BYTES", rng.choice([64, 300, 1500]))
        monkeypatch.setattr(rules_module, "STEP_BYTES_MIN", 0)
        sizes = [size for size in sizes if size > 99] or [5000]
    slow = redacted(data, sizes, SLOW)
    assert slow[2] > 20
    assert redacted(data, sizes, FAST) == slow


@pytest.mark.parametrize("rule", TEXT_RULES, ids=lambda rule: str(rule.id))
def test_a_sample_is_seen_wherever_it_stands(rule: rules_module.Rule) -> None:
    alone, together = one(rule.source), FAST.prefilter
    assert together is not None
    rng = random.Random(rule.id)
    sample = rule_samples(rng)[rule.id][0].encode()
    compiled = re2_compile(rule.source)
    for before in [*range(66), 1000, 16383]:
        for after in (0, 1, 31, 200):
            text = b" " * before + sample + b"." * after
            assert compiled.search(text) is not None
            assert not alone.is_clean(text), (before, after)
            assert not together.is_clean(text), (before, after)


@pytest.mark.parametrize("rule", TEXT_RULES, ids=lambda rule: str(rule.id))
def test_whatever_a_rule_matches_is_seen(rule: rules_module.Rule) -> None:
    compiled, alone, together = re2_compile(rule.source), one(rule.source), FAST.prefilter
    assert together is not None
    noise = st.binary(max_size=80)

    @given(noise, st.from_regex(re.compile(rule.source.encode("latin-1"))), noise)
    def matches_are_seen(before: bytes, match: bytes, after: bytes) -> None:
        for text in (match, before + match + after, before * 3 + b" " + match + b"\n" + after * 3):
            if compiled.search(text) is not None:
                assert not alone.is_clean(text)
                assert not together.is_clean(text)

    matches_are_seen()


@pytest.mark.parametrize(
    "part",
    [
        ".", r"\s", r"\S", r"\w", r"\W", r"\d", r"\D", "[^a]", r"[^\s]", r"[\w.-]", "(?i:k)",
        "(?i:[^k-m])", "(?i:s)", "(?i:é)", "(?i:[à-ï])", "(?i:µ)", "(?s:.)", "(?-i:K)", r"\x00",
        r"[\]\\^-]", "ÿ", "[^é]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("flags", ["", "(?i)", "(?s)"])
def test_a_byte_is_taken_where_re2_takes_it(part: str, flags: str) -> None:
    source = f"{flags}abcd{part}"
    compiled, prefilter = re2_compile(source), one(source)
    for byte in range(256):
        text = b"abcd" + bytes([byte])
        assert prefilter.is_clean(text) is (compiled.search(text) is None), byte


@pytest.mark.parametrize("source", [r"\babcd\b", r"\Babcd", r"abcd\B", r"(?:x\b|y\B)abcd"])
def test_borders_of_words(source: str) -> None:
    compiled, prefilter = re2_compile(source), one(source)
    for first, last in itertools.product([b"", *(bytes([n]) for n in range(256))], repeat=2):
        for text in (first + b"abcd" + last, first + b"xabcd" + last):
            assert prefilter.is_clean(text) is (compiled.search(text) is None), text


def test_what_cannot_be_handed_over_stays_with_re2() -> None:
    rest = ["abcdef", "ab(?:[0-9]{1,40}x){1,4}cd"]
    assert Prefilter(hyperscan, rest).is_used
    unknown = Prefilter(hyperscan, [*rest, "^abcd"])
    refused = Prefilter(hyperscan, ["a?"])  # it matches everywhere, which the library takes badly
    for made in (unknown, refused):
        assert not made.is_used
        assert not made.is_clean(b"nothing")


def test_only_a_scan_that_came_to_its_end_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    prefilter = one("abcd")
    assert prefilter.is_clean(b"nothing")
    monkeypatch.setattr(module, "_stop", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prefilter.is_clean(b"abcd")


def test_a_scan_that_fails_fails_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise hyperscan.error("error code -10")

    rules = Rules(TEXT_RULES, hyperscan=hyperscan)
    assert rules.prefilter is not None
    database = SimpleNamespace(scan=fails)
    monkeypatch.setattr(rules.prefilter, "_scratch", lambda: None)
    monkeypatch.setattr(rules.prefilter, "_database", database)
    with pytest.raises(RedactionFailed):
        Redactor(LITERALS, rules, KEY).feed(b"nothing " * 100)


def test_threads_share_it() -> None:
    prefilter = FAST.prefilter
    assert prefilter is not None
    clean = b"nothing to be seen in here\n" * 20_000
    texts = [clean, clean + b" ghp_" + b"a1B2c3D4e5" * 4] * 20
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert list(threads.map(prefilter.is_clean, texts)) == [True, False] * 20


def test_the_library_of_the_extra_is_taken() -> None:
    assert open_hyperscan() is hyperscan


def test_other_libraries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Vectorscan(hyperscan.Database):  # type: ignore[misc,name-defined]
        def info(self) -> bytes:
            return b"Version: 5.4.12 Features:  Mode: BLOCK"

    monkeypatch.setattr(hyperscan, "Database", Vectorscan)
    _is_refused("HYPERSCAN_UNSUITABLE", r"5\.4\.12")


def test_a_processor_that_it_does_not_work_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(hyperscan.Database):  # type: ignore[misc,name-defined]
        def compile(self, **_: object) -> None:
            raise hyperscan.ArchitectureError("error code -6")

    monkeypatch.setattr(hyperscan, "Database", Elsewhere)
    _is_refused("HYPERSCAN_UNSUITABLE", "does not work here")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hyperscan", None)
    _is_refused("HYPERSCAN_MISSING", "hyperscan")


def test_the_extra_is_loaded_by_who_needs_it_alone() -> None:
    code = "import sys, supervisor.audit.masks; print('hyperscan' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def _is_refused(reason: str, said: str) -> None:
    with pytest.raises(HostError, match=said) as caught:
        open_hyperscan()
    assert caught.value.reason == reason
    assert "engine: re2" in caught.value.hint


def test_re2_knows_the_classes_that_are_asked_for() -> None:
    with pytest.raises(ValueError, match="takes no byte"):
        module._class(r"[^\x00-\xff]")
    with pytest.raises(re2.error):
        module._class("[")
