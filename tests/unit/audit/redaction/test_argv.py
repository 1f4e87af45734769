"""Arguments that come in pieces, cut anywhere: names decide as they do where all is at hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from supervisor.audit.redaction import argv as module
from supervisor.audit.redaction import rules
from supervisor.audit.redaction.argv import ArgvRedactor
from supervisor.audit.redaction.found import Found
from supervisor.audit.redaction.literals import Literals, RedactionFailed
from supervisor.audit.redaction.redactor import ValueRedactor

KEY = b"the key of one log, of 32 bytes."
API = b"correct-horse9"
LITERALS, PACK = Literals({"api": API}), rules.shipped()
VALUES = ValueRedactor(LITERALS, PACK, KEY)
ARGV = [
    b"docker", b"run", b"-e", b"DB_PASSWORD=zq", b"--token", b"changeme", b"--name=fine", b"", API,
    b"--pass", b"", b"x", b"--password", b"--pat", b"$PAT", b"say " + API, b"GH_PAT=a word", b"z",
]  # fmt: skip
WHOLE = b"\0".join(ARGV) + b"\0"


def _redact(*cuts: int, first: int = 0) -> tuple[bytes, list[Found]]:
    """Redact all from the argument `first` on, in pieces that end at the cuts."""
    begin = sum(len(one) + 1 for one in ARGV[:first])
    before = ARGV[first - 1] if first else b""
    redactor = ArgvRedactor(LITERALS, PACK, KEY, begin=begin, before=before)
    places = [begin, *cuts, len(WHOLE)]
    pieces = list(itertools.pairwise(places))
    clean = b"".join(
        redactor.feed(WHOLE[start:end], start, is_last=end == len(WHOLE)) for start, end in pieces
    )
    return clean, redactor.found


def _in_the_whole(found: Sequence[Found]) -> list[tuple[int, int, str]]:
    begins = [sum(len(one) + 1 for one in ARGV[:place]) for place in range(len(ARGV))]
    return [(begins[int(one.pointer[1:])] + one.offset, one.length, one.rule) for one in found]


def test_what_comes_at_once_is_as_redact_argv_has_it() -> None:
    clean, found = VALUES.redact_argv(ARGV)
    assert len(found) == 7
    given, told = _redact()
    assert given == b"\0".join(clean) + b"\0"
    assert [(one.offset, one.length, one.rule) for one in told] == _in_the_whole(found)


@pytest.mark.parametrize("second", [None, 1, 9])
def test_wherever_it_is_cut(second: int | None) -> None:
    clean, found = VALUES.redact_argv(ARGV)
    values = [(start, start + length) for start, length, _ in _in_the_whole(found)]
    for cut in range(1, len(WHOLE)):
        cuts = [cut] if second is None or cut + second >= len(WHOLE) else [cut, cut + second]
        given, told = _redact(*cuts)
        assert API not in given and b"changeme" not in given and b"zq" not in given
        assert given.count(b"[REDACTED:") == len(told) == len(found)
        if not any(start < one < end for one in cuts for start, end in values):
            assert given == b"\0".join(clean) + b"\0"


def test_the_argument_before_names_the_first() -> None:
    given, (first, *_, last) = _redact(first=ARGV.index(b"$PAT"))
    assert given.startswith(first.mark + b"\0say [REDACTED:api:")
    assert (first.length, last.offset) == (4, WHOLE.index(b"a word"))


def test_one_of_ours_behind_a_name_is_one_mark() -> None:
    redactor = ArgvRedactor(LITERALS, PACK, KEY, begin=0, before=b"")
    given = redactor.feed(b"GH_PAT=" + API + b"\0", 0, is_last=True)
    assert given == b"GH_PAT=" + redactor.found[0].mark + b"\0" and len(redactor.found) == 1


def test_the_byte_between_two_arguments_may_be_left_out() -> None:
    redactor = ArgvRedactor(LITERALS, PACK, KEY, begin=0, before=b"")
    given = redactor.feed(b"--password", 0) + redactor.feed(b"ab\0z\0", 11, is_last=True)
    assert given == b"--password\0" + redactor.found[0].mark + b"\0z\0"
    held = ArgvRedactor(LITERALS, PACK, KEY, begin=0, before=b"")
    assert held.feed(API[:7], 0) == b""
    assert held.feed(API[7:], 8, is_last=True) == API[:7] + b"\0" + API[7:]


def test_a_part_that_is_missing_ends_what_was_held_back() -> None:
    redactor = ArgvRedactor(LITERALS, PACK, KEY, begin=0, before=b"")
    assert redactor.feed(b"x" + API[:7], 0) == b"x"
    given = redactor.feed(b"-" + API + b"\0", 100, is_last=True)
    assert given.startswith(API[:7] + b"-[REDACTED:api:")
    assert [one.offset for one in redactor.found] == [101]


def test_with_too_many_nothing_more_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NAMED_MAX", 2)
    redactor = ArgvRedactor(LITERALS, PACK, KEY, begin=0, before=b"")
    redactor.feed(b"PASS=a\0PASS=b\0", 0)
    for data, offset in ((b"PASS=c\0", 14), (b"word\0", 21)):
        with pytest.raises(RedactionFailed):
            redactor.feed(data, offset)
