"""What only looks like a secret is looked at for a while, then replaced, whatever the chunks."""

from __future__ import annotations

import pytest

from supervisor.audit.redaction import patience as module
from supervisor.audit.redaction.literals import Literals
from supervisor.audit.redaction.patience import Effort, Patience
from supervisor.audit.redaction.redactor import Redactor, ValueRedactor
from supervisor.audit.redaction.rules import Rules, shipped

KEY = b"the key of one log, of 32 bytes."
PACK = shipped()
NONE = Literals({})
RUN = Literals({"tok": b"a" * 19 + b"b"})
NESTED = b"pwd=" * 8000


class Counting(Patience):
    """Counts what was looked at in vain."""

    looked = 0

    def lasts(self, at: int, length: int) -> bool:
        self.looked += length
        return super().lasts(at, length)


def _effort() -> tuple[Effort, Counting, Counting]:
    effort = Effort()
    effort.rules, effort.literals = rules, literals = Counting(), Counting()
    return effort, rules, literals


def _run(stream: bytes, size: int, literals: Literals = NONE) -> tuple[bytes, int]:
    effort, of_rules, of_literals = _effort()
    redactor = Redactor(literals, PACK, KEY, effort)
    out = b"".join(redactor.feed(stream[at : at + size]) for at in range(0, len(stream), size))
    out += redactor.finish()
    return out, of_rules.looked + of_literals.looked


def test_it_ends_and_begins_again_with_the_next_block() -> None:
    patience = Patience()
    many = module.BLOCK_BYTES * module.TIMES_MAX
    assert patience.lasts(0, many)
    assert not patience.lasts(module.BLOCK_BYTES - 1, 1)
    assert patience.lasts(module.BLOCK_BYTES, 1)
    effort = Effort()
    effort.rules.resume = 7
    effort.next_value(module.BLOCK_BYTES)
    assert (effort.rules.origin, effort.rules.resume) == (module.BLOCK_BYTES, 0)


@pytest.mark.parametrize(
    ("stream", "literals"),
    [(NESTED, NONE), (b"secret=" * 4000, NONE), (b"a" * 30_000, RUN)],
    ids=["rule", "other rule", "literal"],
)
def test_no_stream_is_looked_at_much_more_often_than_it_is_long(
    stream: bytes, literals: Literals
) -> None:
    out, looked = _run(stream, 8192, literals)
    assert looked < (module.TIMES_MAX + 2) * len(stream)
    assert b"[REDACTED:" in out
    for size in (100, 3000, len(stream)):
        assert _run(stream, size, literals) == (out, looked)


def test_values_one_after_the_other_share_it() -> None:
    values = ValueRedactor(NONE, PACK, KEY)
    values._effort, looked, _ = _effort()
    argv = [b"pwd=" * 50] * 300
    clean, found = values.redact_argv(argv)
    assert found and len(clean) == 300
    assert looked.looked < (module.TIMES_MAX + 2) * sum(map(len, argv))


def test_a_secret_behind_what_was_refused_is_found() -> None:
    for before in (b"pwd=", NESTED[:400], NESTED):
        out, _ = _run(before + b"tr0ub4dor&3;\n", 8192)
        assert b"tr0ub4dor" not in out
    secret = b"a" * 19 + b"b"
    for count in (1, 300, 30_000):
        out, _ = _run(b"a" * count + secret + b"\n", 8192, RUN)
        assert b"ab" not in out


@pytest.mark.parametrize(
    "text",
    [
        b"".join(b"password = None  # %d\n" % n for n in range(2000)),
        b"".join(b'  "api_key": "changeme", "pwd": "........"\n' for _ in range(1000)),
        b"".join(b"pwd=%d\n" % n for n in range(10**8, 10**8 + 3000)),
        b"".join(b"https://host%d:PORT@example.com/x\n" % n for n in range(2000)),
    ],
    ids=["code", "placeholders", "numbers", "urls"],
)
def test_ordinary_text_does_not_come_near_its_end(
    text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    effort, looked, _ = _effort()
    redactor = Redactor(NONE, PACK, KEY, effort)
    before = redactor.feed(text) + redactor.finish()
    monkeypatch.setattr(module, "TIMES_MAX", 10**6)
    rest = Redactor(NONE, PACK, KEY)
    assert before == rest.feed(text) + rest.finish()
    assert looked.looked <= 2 * len(text)


def test_tables_of_numbers_stay_with_personal_data_on() -> None:
    text = b"".join(b"%d\n" % n for n in range(4 * 10**15, 4 * 10**15 + 3000) if n % 10 == 3)
    pii: Rules = shipped(optional=True)
    effort, looked, _ = _effort()
    redactor = Redactor(NONE, pii, KEY, effort)
    out = redactor.feed(text) + redactor.finish()
    assert out.count(b"\n") == text.count(b"\n")
    assert looked.looked <= 2 * len(text)
