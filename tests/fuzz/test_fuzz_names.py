"""Names of hosts, from whatever text."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz import runner
from tests.fuzz.target_names import TARGET, check_text
from tests.support.rounds import rounds


@given(st.text() | st.text(st.characters(categories=["Nd", "No", "Po", "Cf", "Lo"])))
@example("\u2100.com")
@example("a.\u0661")
def test_any_text_is_refused_or_becomes_a_name(text: str) -> None:
    check_text(text)
    check_text(f"{text}.example.com")


def test_random_and_mutated_names() -> None:
    result = runner.run(TARGET, rounds(5000), seed=rounds(1))
    assert result.failure is None, result.failure
