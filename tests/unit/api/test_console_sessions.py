"""Links and sessions of the console: good once, for one user, and for no longer than said."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from supervisor.api.callers import Grants, Identity
from supervisor.api.console_sessions import (
    IDLE_S,
    LINK_S,
    OF_CALLER_MAX,
    SESSION_S,
    SESSIONS_MAX,
    Sessions,
)
from supervisor.call.types import Caller
from supervisor.errors import CapacityError, Unauthenticated


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(clock)


def somebody(name: str = "ann") -> Callable[[], Identity]:
    grants = Grants(caller=name, profiles=frozenset(), calls="own", audit="own")
    identity = Identity(caller=Caller(name=name, transport="unix", uid=7), grants=grants)
    return lambda: identity


def gone() -> Identity:
    raise Unauthenticated("PEER_UNKNOWN", "no caller any more")


def entered(sessions: Sessions, uid: int = 7) -> str:
    return sessions.enter(sessions.open("ann", uid, somebody()), uid)


def test_a_link_becomes_a_session_once(sessions: Sessions) -> None:
    token = sessions.open("ann", 7, somebody())
    assert sessions.opener(token, 7).caller.name == "ann"
    session = sessions.enter(token, 7)
    assert sessions.use(session, 7, watching=False).caller.name == "ann"
    with pytest.raises(Unauthenticated):
        sessions.enter(token, 7)
    with pytest.raises(Unauthenticated):
        sessions.use(token, 7, watching=False)


def test_secrets_are_of_one_kind_and_one_user(sessions: Sessions) -> None:
    token = sessions.open("ann", 7, somebody())
    for use in (
        lambda: sessions.enter(token, 8),
        lambda: sessions.opener(token, 0),
        lambda: sessions.use(entered(sessions), 8, watching=False),
        lambda: sessions.opener(entered(sessions), 7),
        lambda: sessions.use("", 7, watching=False),
        lambda: sessions.use("\udcff", 7, watching=False),
    ):
        with pytest.raises(Unauthenticated, match="no such session"):
            use()
    assert sessions.enter(token, 7)  # who tried did not use it up


def test_a_link_is_good_for_a_minute(sessions: Sessions, clock: Clock) -> None:
    token = sessions.open("ann", 7, somebody())
    clock.now_s += LINK_S
    with pytest.raises(Unauthenticated):
        sessions.enter(token, 7)


def test_a_session_ends_unless_it_is_used(sessions: Sessions, clock: Clock) -> None:
    session = entered(sessions)
    for _ in range(3):
        clock.now_s += IDLE_S - 1
        sessions.use(session, 7, watching=False)
    clock.now_s += IDLE_S
    with pytest.raises(Unauthenticated):
        sessions.use(session, 7, watching=False)


def test_to_watch_is_not_to_use(sessions: Sessions, clock: Clock) -> None:
    session = entered(sessions)
    clock.now_s += IDLE_S - 1
    sessions.use(session, 7, watching=True)
    clock.now_s += 1
    with pytest.raises(Unauthenticated):
        sessions.use(session, 7, watching=True)


def test_a_session_that_is_used_ends_all_the_same(sessions: Sessions, clock: Clock) -> None:
    session = entered(sessions)
    for _ in range(int(SESSION_S / (IDLE_S - 1))):
        clock.now_s += IDLE_S - 1
        sessions.use(session, 7, watching=False)
    clock.now_s += IDLE_S - 1
    with pytest.raises(Unauthenticated):
        sessions.use(session, 7, watching=False)


def test_leaving(sessions: Sessions) -> None:
    session, other = entered(sessions), entered(sessions)
    sessions.leave(session)
    sessions.leave(session)
    with pytest.raises(Unauthenticated):
        sessions.use(session, 7, watching=False)
    assert sessions.use(other, 7, watching=False)


def test_who_is_no_caller_any_more_has_none(sessions: Sessions) -> None:
    known = [somebody(), somebody(), gone]
    session = sessions.enter(sessions.open("ann", 7, lambda: known.pop(0)()), 7)
    assert sessions.use(session, 7, watching=False)
    known.pop(0)
    with pytest.raises(Unauthenticated, match="no caller any more"):
        sessions.use(session, 7, watching=False)


def test_a_caller_takes_no_others_place(sessions: Sessions, clock: Clock) -> None:
    for _ in range(OF_CALLER_MAX):
        sessions.open("ann", 7, somebody())
    with pytest.raises(CapacityError, match="may be 16"):
        sessions.open("ann", 7, somebody())
    assert sessions.open("bob", 7, somebody("bob"))
    clock.now_s += LINK_S
    assert sessions.open("ann", 7, somebody())


def test_all_together_are_bounded(sessions: Sessions) -> None:
    for number in range(SESSIONS_MAX):
        sessions.open(f"c{number}", 7, somebody())
    with pytest.raises(CapacityError):
        sessions.open("one more", 7, somebody())
