"""Single values: what passes, in which form, and what is refused with which words."""

from __future__ import annotations

import pytest
from pydantic_core import PydanticCustomError

from supervisor.profile import fields


def test_what_passes() -> None:
    assert fields.name("a-b2") == "a-b2"
    assert fields.why("  because ") == "because"
    assert fields.env_name("A_1") == "A_1"
    assert fields.size_of("2KiB") == 2048
    assert fields.duration_ms("2s") == 2000
    assert fields.render_ms(1500) == "1500ms"


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (fields.name, "A", "is not a name"),
        (fields.name, "a" * 64, "is not a name"),
        (fields.why, " ", "must give a reason"),
        (fields.why, "a\nb", "must be one line"),
        (fields.why, "x" * (fields.WHY_CHARACTERS_MAX + 1), "is longer"),
        (fields.env_name, "1A", "not a variable's name"),
        (fields.size_of, 5, "has no unit"),
        (fields.size_of, True, "must be a size"),
        (fields.duration_ms, "5", "has no unit"),
    ],
)
def test_what_is_refused(check: object, value: object, message: str) -> None:
    assert callable(check)
    with pytest.raises(PydanticCustomError, match=message):
        check(value)
