"""Who is at the other end of each connection, and how many of them there may be.

Three rooms of places, so that nobody fills another's: callers on the unix socket, connections on
TCP, whose callers nobody knows before TLS is through, and strangers on the unix socket. Those are
let in only to be told that they are no callers: the socket's group may be larger than the list of
callers, and a stranger must not cost a caller its place. Nor must anybody cost another its time:
each user has a pace at which it may connect.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.api.pace import Pace

PEER_SCHEME = "unix-abstract:"
TOKEN_BYTES = 16
STRANGERS_MAX = 8
RESERVE_MAX = 4
"""Places that the daemon's own user and root find free, whatever the callers hold."""

CALLER_PER_S, CALLER_BURST = 100.0, 200
"""How often one user of the unix socket, or one address on TCP, may connect."""

STRANGERS_PER_S, STRANGERS_BURST = 20.0, 40
"""All strangers together: who has many user ids (user_namespaces(7)) gains nothing by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end of a connection: credentials on a unix socket, an address on TCP. The console
    is our own process, which asks for others."""

    transport: str  # "unix", "tls" or "console"
    address: str
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None


class NoRoomError(Exception):
    """There is no place for a connection; the text says whose and which bound is reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    peer: Peer
    room: str


class Peers:
    """Who is at the other end of each live connection, by the name that gRPC reports.

    `knows` says whether a peer can be a caller. Callers on the unix socket, and connections on
    TCP, are `connections_max` each; one user that is not our own gets half of them.

    A name is bound in the abstract namespace, which every user of the host sees and may bind in.
    So each has a token of its own, and the next one cannot be guessed from those that are seen.
    """

    def __init__(self, connections_max: int, knows: Callable[[Peer], bool]) -> None:
        self._max = connections_max
        self._knows = knows
        self._ours = frozenset({0, os.geteuid()})
        self._held: dict[str, _Held] = {}
        self._pace = Pace(per_s=CALLER_PER_S, burst=CALLER_BURST, clock_s=time.monotonic)
        self._strangers_pace = Pace(
            per_s=STRANGERS_PER_S, burst=STRANGERS_BURST, clock_s=time.monotonic
        )

    def __len__(self) -> int:
        return len(self._held)

    def meet(self, peer: Peer) -> bool:
        """Count that `peer` has connected, and say whether it is within its pace.

        Cheap, and before anything is done for it. Our own user may come as often as it likes.
        """
        if not self._knows(peer):
            return self._strangers_pace.take("")
        if peer.transport == "unix":
            return peer.uid in self._ours or self._pace.take(peer.address)
        return self._pace.take(peer.address.rpartition(":")[0])

    def add(self, peer: Peer) -> str:
        """Give a new name to `peer`.

        Raises:
            NoRoomError: as many as there may be are there.
        """
        room = peer.transport if self._knows(peer) else "strangers"
        full = self._full(peer, room)
        if full is not None:
            raise NoRoomError(f"{peer.address}: {full}")
        name = f"stockade-{secrets.token_hex(TOKEN_BYTES)}"
        self._held[name] = _Held(peer=peer, room=room)
        return name

    def remove(self, name: str) -> None:
        """Forget a connection that is closed."""
        del self._held[name]

    def is_stranger(self, name: str) -> bool:
        """Say whether a connection is of somebody who cannot be a caller."""
        return self._held[name].room == "strangers"

    def find(self, reported: str) -> Peer | None:
        """Give whose connection gRPC's `context.peer()` means, or None where it is not ours."""
        if not reported.startswith(PEER_SCHEME):
            return None
        held = self._held.get(reported.removeprefix(PEER_SCHEME))
        return held.peer if held is not None else None

    def _full(self, peer: Peer, room: str) -> str | None:
        """Say which bound keeps `peer` out of `room`, None where none does."""
        there = [held.peer for held in self._held.values() if held.room == room]
        places = STRANGERS_MAX if room == "strangers" else self._max
        if len(there) >= places:
            return f"all {places} ({room}) are in use"
        if room == "tls" or peer.uid in self._ours:
            return None
        share = (places + 1) // 2
        if sum(one.uid == peer.uid for one in there) >= share:
            return f"it has {share} ({room}), which is the most for one user"
        reserve = min(RESERVE_MAX, places // 4) if room == "unix" else 0
        if len(there) >= places - reserve:
            return f"the last {reserve} ({room}) are the daemon's own user's"
        return None


def peer_of(connection: socket.socket) -> Peer:
    """Read who is at the other end of an accepted connection.

    Raises:
        OSError: the connection is already gone.
    """
    if connection.family == socket.AF_UNIX:
        size = struct.calcsize("iII")
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, gid = struct.unpack("iII", raw)
        return Peer(transport="unix", address=f"uid {uid}", uid=uid, gid=gid, pid=pid)
    host, port, *_ = connection.getpeername()
    return Peer(transport="tls", address=f"{host}:{port}")
