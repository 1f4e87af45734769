"""Names are not to be guessed, and nobody fills another's places."""

from __future__ import annotations

import os

import pytest

from supervisor.api.peers import (
    CALLER_BURST,
    STRANGERS_BURST,
    STRANGERS_MAX,
    NoRoomError,
    Peer,
    Peers,
)

SOMEBODY = os.getuid() + 1000
ANOTHER = os.getuid() + 2000


def unix(uid: int) -> Peer:
    return Peer(transport="unix", address=f"uid {uid}", uid=uid, gid=uid, pid=42)


def tcp(port: int) -> Peer:
    return Peer(transport="tls", address=f"192.0.2.1:{port}")


def everybody(_: Peer) -> bool:
    return True


def fill(peers: Peers, peer: Peer) -> list[str]:
    """Add `peer` until there is no room."""
    names = []
    while True:
        try:
            names.append(peers.add(peer))
        except NoRoomError:
            return names


@pytest.mark.parametrize(
    "reported",
    ["", "unix:", "unix:/run/x", "ipv4:127.0.0.1:5", "unix-abstract:", "unix-abstract:stockade-1"],
)
def test_a_name_that_is_not_ours(reported: str) -> None:
    peers = Peers(1, everybody)
    peers.add(unix(0))
    assert peers.find(reported) is None


def test_a_name_until_it_is_given_back() -> None:
    peers = Peers(1, everybody)
    name = peers.add(unix(0))
    assert peers.find(f"unix-abstract:{name}") == unix(0)
    peers.remove(name)
    assert peers.find(f"unix-abstract:{name}") is None
    assert len(peers) == 0


def test_a_name_does_not_tell_the_next() -> None:
    names = fill(Peers(100, everybody), unix(0))
    tokens = {name.rpartition("-")[2] for name in names}
    assert len(tokens) == 100
    assert {len(token) for token in tokens} == {32}
    # No two begin alike: nothing in them is counted up.
    assert len({token[:16] for token in tokens}) == 100


def test_strangers_on_tcp_do_not_take_the_places_of_the_unix_socket() -> None:
    peers = Peers(1, everybody)
    assert len(fill(peers, tcp(5))) == 1
    assert len(fill(peers, unix(0))) == 1


@pytest.mark.parametrize(("places", "share"), [(1, 1), (2, 1), (3, 2), (128, 64)])
def test_one_user_gets_half(places: int, share: int) -> None:
    assert len(fill(Peers(places, everybody), unix(SOMEBODY))) == share


@pytest.mark.parametrize("ours", [0, os.geteuid()])
def test_our_own_user_gets_all(ours: int) -> None:
    assert len(fill(Peers(128, everybody), unix(ours))) == 128


@pytest.mark.parametrize(("places", "reserve"), [(4, 1), (8, 2), (128, 4)])
def test_the_last_places_are_our_own(places: int, reserve: int) -> None:
    peers = Peers(places, everybody)
    others = len(fill(peers, unix(SOMEBODY))) + len(fill(peers, unix(ANOTHER)))
    assert others == places - reserve
    assert len(fill(peers, unix(0))) == reserve


def test_strangers_take_no_place_of_a_caller() -> None:
    peers = Peers(8, lambda peer: peer.uid == 0)
    strangers = fill(peers, unix(SOMEBODY)) + fill(peers, unix(ANOTHER))
    assert len(strangers) == STRANGERS_MAX
    assert len(fill(peers, unix(ANOTHER + 1))) == 0
    assert all(peers.is_stranger(name) for name in strangers)
    assert not any(peers.is_stranger(name) for name in fill(peers, unix(0)))
    assert len(peers) == STRANGERS_MAX + 8


def test_strangers_leave_places_to_each_other() -> None:
    peers = Peers(8, lambda _: False)
    assert len(fill(peers, unix(SOMEBODY))) == STRANGERS_MAX // 2


def test_our_own_user_can_be_a_stranger() -> None:
    assert len(fill(Peers(128, lambda _: False), unix(0))) == STRANGERS_MAX


def met(peers: Peers, peer: Peer, tries: int = 2 * CALLER_BURST) -> bool:
    """Connect that often; say whether each of them was let through."""
    return all(peers.meet(peer) for _ in range(tries))


def test_one_user_that_comes_too_often_keeps_no_other_out() -> None:
    peers = Peers(8, everybody)
    assert not met(peers, unix(SOMEBODY))
    assert met(peers, unix(ANOTHER), CALLER_BURST)
    assert not met(peers, tcp(5))
    assert met(peers, unix(0))


def test_strangers_have_one_pace_together() -> None:
    """One person may have many user ids (subuid(5))."""
    peers = Peers(8, lambda peer: peer.uid == 0)
    came = [met(peers, unix(SOMEBODY + number), 1) for number in range(2 * STRANGERS_BURST)]
    assert came.count(True) in range(STRANGERS_BURST, STRANGERS_BURST + 10)
    assert met(peers, unix(0))
