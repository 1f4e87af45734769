"""Rules on arguments: evaluation, inversion, and that no bit is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.profile.arguments import (
    ALL_BITS,
    LOW_32,
    Alternatives,
    ArgRule,
    denials,
    equal,
    evaluate,
    masked,
    not_equal,
)

WORDS = st.one_of(
    st.integers(min_value=0, max_value=ALL_BITS),
    st.integers(min_value=0, max_value=40),
    st.integers(min_value=0, max_value=63).map(lambda bit: 1 << bit),
    st.integers(min_value=0, max_value=63).map(lambda bit: ALL_BITS & ~(1 << bit)),
)


def test_no_alternatives_mean_always() -> None:
    assert evaluate((), (0,) * 6)


def test_alternatives_are_or_and_conjunctions_are_and() -> None:
    rules = ((equal(0, 1), equal(1, 2)), (equal(0, 3),))
    assert evaluate(rules, (1, 2, 0, 0, 0, 0))
    assert evaluate(rules, (3, 9, 0, 0, 0, 0))
    assert not evaluate(rules, (1, 3, 0, 0, 0, 0))


@pytest.mark.parametrize("high", [1 << 32, 1 << 63, 0xFFFFFFFF00000000])
def test_equal_looks_at_the_high_bits(high: int) -> None:
    assert not equal(0, 5).matches(5 | high)


def test_a_value_outside_its_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="never true"):
        masked(0, 0xF0, 0x0F)


def test_a_full_mask_is_equality() -> None:
    assert masked(2, ALL_BITS, 7) == equal(2, 7)


@given(st.sets(st.integers(min_value=0, max_value=LOW_32), min_size=1, max_size=4), WORDS)
def test_not_equal_in_the_low_half(values: set[int], word: int) -> None:
    rules = not_equal(0, values, LOW_32)
    for probe in (word, *values, *(value | 1 << 40 for value in values)):
        assert evaluate(rules, (probe,)) == (probe & LOW_32 not in values)


@given(st.sets(WORDS, min_size=1, max_size=4), WORDS)
def test_not_equal_in_all_bits(values: set[int], word: int) -> None:
    rules = not_equal(0, values)
    for probe in (word, *values, *(value ^ 1 << 33 for value in values)):
        assert evaluate(rules, (probe,)) == (probe not in values)


def test_not_equal_to_nothing_is_always() -> None:
    assert evaluate(not_equal(0, ()), (5,))


@given(st.sets(st.integers(min_value=0, max_value=255), min_size=1, max_size=255))
def test_not_equal_exhaustively_in_eight_bits(values: set[int]) -> None:
    rules = not_equal(0, values, 0xFF)
    hits = [sum(evaluate((rule,), (probe,)) for rule in rules) for probe in range(256)]
    # Each excluded value in no rule, every other in exactly one: the rules are disjoint.
    assert hits == [0 if probe in values else 1 for probe in range(256)]


@given(
    st.dictionaries(
        st.integers(min_value=0, max_value=40),
        st.sets(st.integers(min_value=0, max_value=40), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    ),
    WORDS,
    WORDS,
)
def test_denials_are_the_exact_complement(
    table: dict[int, set[int]], first: int, second: int
) -> None:
    rules: Alternatives = tuple(
        (equal(0, one), masked(1, ALL_BITS & ~0x800, other & ~0x800))
        for one, others in table.items()
        for other in others
    )
    inverse = denials(rules)
    probes = [(first, second), *((one, second) for one in table)]
    probes += [(one, other | 0x800) for one, others in table.items() for other in others]
    for probe in probes:
        assert evaluate(rules, probe) != any(
            all(rule.matches(probe[rule.index]) for rule in conjunction) for conjunction in inverse
        )


def test_a_call_that_is_always_allowed_is_never_denied() -> None:
    assert denials(()) == ()


def test_no_conjunction_names_an_argument_twice() -> None:
    rules = ((equal(0, 2), masked(1, ALL_BITS & ~0x80800, 1), equal(2, 6)), (equal(0, 1),))
    for conjunction in (*not_equal(1, (5, 9), LOW_32), *denials(rules)):
        indices = [rule.index for rule in conjunction]
        assert len(set(indices)) == len(indices)


def test_overlapping_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="overlapping"):
        denials(((masked(0, 0x1, 0x1),), (masked(0, 0x2, 0x2),)))


def test_alternatives_on_different_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="named once"):
        denials(((equal(0, 1),), (equal(1, 1),)))


def test_greater_than_is_unsigned() -> None:
    rule = ArgRule(index=0, op="gt", value=31)
    assert [rule.matches(word) for word in (0, 31, 32, 1 << 63, ALL_BITS)] == [
        False, False, True, True, True,
    ]  # fmt: skip
