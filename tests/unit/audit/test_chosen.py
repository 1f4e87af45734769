"""What a caller chose outside of a call is cleaned by the rules, with the marks of the records."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from supervisor.audit.chosen import SEEN_CHARACTERS_MAX, Chosen
from supervisor.audit.masked import FAILED, Masked
from supervisor.audit.masks import Masks
from supervisor.audit.redaction.literals import RedactionFailed
from supervisor.audit.redaction.redactor import ValueRedactor
from supervisor.audit.search import CallFilter
from supervisor.call.types import Correlation
from supervisor.profile.model import Redact
from tests.support.records import begin, make_finished, make_profile, opened

TOKEN = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"
MASKS = Masks(b"k" * 32)
CHOSEN = Chosen(MASKS)


def test_a_token_becomes_the_mark_that_it_has_in_a_record() -> None:
    mask = MASKS.make(Redact(), {})
    assert mask is not None
    recorded, _ = Masked(mask).why(TOKEN)
    assert CHOSEN.text(TOKEN) == recorded and "ghp_" not in recorded
    assert CHOSEN.text(f"since {TOKEN}, ä\udcff") == f"since {recorded}, ä\udcff"


def test_all_texts_of_a_value() -> None:
    shown = CHOSEN.json({"a": [TOKEN, 7, None], "b": {"c": TOKEN}, "d": "plain", "e": True})
    assert "ghp_" not in str(shown) and str(shown).count("[REDACTED:") == 2
    assert isinstance(shown, dict) and (shown["d"], shown["e"]) == ("plain", True)


def test_where_it_fails_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RedactionFailed("on purpose")

    monkeypatch.setattr(ValueRedactor, "redact_text", fails)
    assert CHOSEN.text("anything") == FAILED.decode()


@pytest.mark.parametrize("seen", [1, len(TOKEN) // 2, len(TOKEN) - 1])
def test_it_is_cut_and_no_secret_in_two(seen: int) -> None:
    plain = "x " * SEEN_CHARACTERS_MAX
    assert plain.startswith(CHOSEN.text(plain)) and len(CHOSEN.text(plain)) < SEEN_CHARACTERS_MAX
    before = plain[: SEEN_CHARACTERS_MAX - seen]
    assert before.startswith(CHOSEN.text(before + TOKEN))


def test_who_looks_for_a_secret_finds_its_mark(tmp_path: Path) -> None:
    token, other = (f"ghp_{letter}" + "a1B2c3D4e5" * 3 + "f6G7h" for letter in "xy")

    async def main() -> None:
        async with opened(tmp_path) as store:
            one = await begin(
                store,
                profile=make_profile(redact=Redact()),
                argv=(b"curl", b"-u", f"me:{token}".encode()),
                correlation=Correlation(agent=token, session="s"),
            )
            await one.finish(make_finished())
            for wanted, count in (
                (CallFilter(agent=token, session="s"), 1),
                (CallFilter(text=f"curl {token}"), 1),
                (CallFilter(agent=other), 0),
                (CallFilter(text=other), 0),
                (CallFilter(agent=token, session="t"), 0),
                (CallFilter(text="curl"), 1),
            ):
                keys, _ = store.find_calls(wanted, limit=9, page_token="")
                assert len(keys) == count, wanted

    asyncio.run(main())


def test_who_looks_for_a_secret_finds_it_where_nothing_is_masked(tmp_path: Path) -> None:
    token = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"

    async def main() -> None:
        async with opened(tmp_path) as store:
            one = await begin(
                store,
                profile=make_profile(redact=Redact(off="a test")),
                correlation=Correlation(agent=token, session="s"),
            )
            await one.finish(make_finished())
            keys, _ = store.find_calls(CallFilter(agent=token), limit=9, page_token="")
            assert len(keys) == 1

    asyncio.run(main())
