"""What a sink is to who feeds it: it takes batches, in order, and says what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from supervisor.export.event import Event


class SinkError(Exception):
    """The other side did not take a batch, and may take it later: it is sent again.

    `retry_after_s` is how long the other side asked to wait, 0.0 where it did not say.
    """

    def __init__(self, why: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.why = why
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """The other side will never take this batch as it is: too large, or not what it takes. Of one
    with several events each is tried alone; one that is refused alone is a dead letter."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Rejected(NamedTuple):
    """An event of a batch that the other side will never take, and why; it has all the others."""

    position: int
    why: str


class Sink(Protocol):
    """A place for events. One task uses it, one batch at a time; it keeps no batch after `send`.

    Whatever `send` raises, events may have arrived: they are sent again with the same `uid`.
    """

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Deliver a batch, in order; return once the other side has acknowledged it, with what it
        has not and never will.

        Connects where that is needed, and waits no longer than the sink's own deadline.

        Raises:
            SinkError: it may be sent again; where it cannot be told, this.
            Refused: it never will be taken as it is.
        """

    def trails(self) -> int:
        """Give how many of the last events that `send` took may not have arrived: 0 where the other
        side acknowledges. They count as delivered once they are no more among these; until then,
        who starts anew sends them again."""

    async def close(self) -> None:
        """Part in good order (TLS close_notify, RELP close); does nothing a second time, and raises
        nothing."""
