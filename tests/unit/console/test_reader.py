"""What the console asks for goes in somebody's name, or not at all."""

from __future__ import annotations

import pytest

from supervisor.call.types import SESSION_KEY, UID_KEY, WATCHING_KEY
from supervisor.console.reader import Asking, asking, named
from supervisor.errors import Unauthenticated

KEY = "s"


def test_a_request_names_the_session_of_its_task() -> None:
    before = asking.set(Asking(secret=KEY, uid=7))
    try:
        assert list(named([("a", "b")])) == [("a", "b"), (SESSION_KEY, KEY), (UID_KEY, "7")]
        asking.set(Asking(secret=KEY, uid=7, watching=True))
        assert (WATCHING_KEY, "1") in list(named(None))
    finally:
        asking.reset(before)


def test_without_one_nothing_is_asked() -> None:
    with pytest.raises(Unauthenticated):
        named(None)
