"""What an inspector asks of the relay that moves the bytes, in the order in which to do it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ToServer:
    """Send these bytes to the far side. Those that are `last` are only ours, and no part of what
    the other side said: where it has gone before it heard them, nothing is lost."""

    data: bytes = field(repr=False)  # It may hold a secret.
    last: bool = False


@dataclass(frozen=True, slots=True)
class ToClient:
    """Send these bytes to the sandbox; `last` as in `ToServer`."""

    data: bytes = field(repr=False)  # It may hold a secret.
    last: bool = False


@dataclass(frozen=True, slots=True)
class SpliceFromClient:
    """The next `count` bytes of the client's may go on untouched, when all before has been sent.

    An offer: tell `spliced_from_client` of what was moved so, before anything else is given to the
    gate; what comes through `from_client` instead counts as well.
    """

    count: int


@dataclass(frozen=True, slots=True)
class SpliceFromServer:
    """As `SpliceFromClient`, the other way."""

    count: int


@dataclass(frozen=True, slots=True)
class Upgraded:
    """From here on bytes pass both ways as they are, and either side may end its own."""


@dataclass(frozen=True, slots=True)
class EndToServer:
    """Tell the far side that the client sends no more."""


@dataclass(frozen=True, slots=True)
class EndToClient:
    """Tell the client that the far side sends no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """A rule was broken: for the record. A `Close` follows. `name` is "http" or "secret"."""

    reason: str
    name: str = "http"


@dataclass(frozen=True, slots=True)
class Close:
    """Send what is still to be sent, then end both connections; `reason` is empty where that is in
    order. The client may still be sending: end its side gently, or a reset outruns the answer. But
    where an answer is `cut` short, reset it: there are bodies that end with their connection."""

    reason: str = ""
    cut: bool = False


Action = (
    ToServer
    | ToClient
    | SpliceFromClient
    | SpliceFromServer
    | Upgraded
    | EndToServer
    | EndToClient
    | Denied
    | Close
)
