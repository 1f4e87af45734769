"""A webhook: each batch, or each event, is one POST that is signed as Standard Webhooks say.

Headers and what is signed follow the specification's "Verifying webhook authenticity": the id, the
time of the attempt in seconds and the body, joined with dots, under HMAC-SHA256. While a secret is
changed there are two, and a signature of each; the receiver takes either. The id stays the same
when the same is sent again, so a receiver can leave out what it has.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from supervisor.export.event import Event
from supervisor.export.sink import Refused, Rejected
from supervisor.export.sinks.http import Endpoint, Poster, Taken, judge, parts

SECRETS_MAX = 2
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64
"""As the specification has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOptions:
    """`secrets` are the keys themselves, not their "whsec_" form. With `single`, each event is a
    body of its own; else a body is a JSON array, so events have to be JSON, of `body_bytes_max` at
    most. A larger event is never sent."""

    endpoint: Endpoint
    secrets: tuple[bytes, ...] = field(repr=False)
    single: bool
    content_type: str = "application/json"
    body_bytes_max: int = 1 << 20

    def __post_init__(self) -> None:
        if not 1 <= len(self.secrets) <= SECRETS_MAX:
            raise ValueError("a webhook has one secret, or two while one replaces the other")
        if any(not SECRET_BYTES_MIN <= len(one) <= SECRET_BYTES_MAX for one in self.secrets):
            raise ValueError("a secret of a webhook has 24 to 64 bytes")


class WebhookSink:
    """The sink. Errors are those of `Sink`."""

    def __init__(self, options: WebhookOptions) -> None:
        self._options = options
        self._poster = Poster(options.endpoint, options.secrets)
        self._taken = Taken()

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Send a batch; return once each POST was answered with a 2xx.

        Raises:
            SinkError: one was not, and may be later.
            Refused: an array never will be.
        """
        rejected: list[Rejected] = []
        good: list[int] = []
        for at in self._taken.missing(batch):
            if len(batch[at].data) + 2 > self._options.body_bytes_max:
                rejected.append(Rejected(at, f"more than {self._options.body_bytes_max} bytes"))
            else:
                good.append(at)
        if self._options.single:
            rejected += await self._each(batch, good)
        else:
            await self._arrays([batch[at] for at in good])
        self._taken.forget(batch)
        return sorted(rejected)

    def trails(self) -> int:
        """Give none: each has its answer."""
        return 0

    async def close(self) -> None:
        """Part."""
        await self._poster.close()

    async def _each(self, batch: Sequence[Event], good: Sequence[int]) -> list[Rejected]:
        refused = []
        for at in good:
            event = batch[at]
            try:
                await self._post(event.uid, event.data)
            except Refused as never:
                refused.append(Rejected(at, never.why))
            else:
                self._taken.add(event)
        return refused

    async def _arrays(self, events: Sequence[Event]) -> None:
        sizes = (len(event.data) + 1 for event in events)
        for begin, end in parts(sizes, self._options.body_bytes_max - 1):
            piece = events[begin:end]
            body = b"[" + b",".join(event.data for event in piece) + b"]"
            await self._post(f"{piece[0].uid}_{piece[-1].uid}", body)
            for event in piece:
                self._taken.add(event)

    async def _post(self, uid: str, body: bytes) -> None:
        stamp = str(int(time.time()))
        headers = {
            "content-type": self._options.content_type,
            "webhook-id": uid,
            "webhook-timestamp": stamp,
            "webhook-signature": signature(self._options.secrets, uid, stamp, body),
        }
        judge(await self._poster.post("", body, headers))


def signature(secrets: Sequence[bytes], uid: str, stamp: str, body: bytes) -> str:
    """Give the header: a signature for each secret, the first one's first."""
    signed = b".".join((uid.encode(), stamp.encode(), body))
    macs = (hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets)
    return " ".join("v1," + base64.b64encode(mac).decode() for mac in macs)
