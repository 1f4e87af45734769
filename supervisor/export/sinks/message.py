"""A syslog message of RFC 5424 from an event. Pure.

    <PRI>1 2026-11-27T16:32:38.000001Z HOST stockade - KIND [stockade@32473 uid="…" index="…"] EVENT

The event's bytes are the message, as they are: JSON or CEF in UTF-8. A byte order mark stands
before them only where `bom` says so. RFC 5424, section 6.4, wants it there; no receiver that was
tried takes it off again, and what reads JSON stops at it.

Nothing of an event begins a second message: the header has letters of its own choosing only, the
structured data are escaped, and an event that is more than one line is not sent at all.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from supervisor.audit.frames import CONTROLS, count_controls
from supervisor.export.event import Event
from supervisor.export.sink import Rejected

APP_NAME = b"stockade"
SD_ID = b"stockade@32473"
"""32473 is the number that RFC 5612 keeps for whom has none."""

BOM = b"\xef\xbb\xbf"
HOST_MAX, MSGID_MAX = 255, 32
FACILITY_MAX = 23
_SECONDS_MAX = 253402300799
"""The end of the year 9999: a timestamp has four digits for it."""

_BLANK = bytes(byte if byte > 0x20 and byte != 0x7F else 0x5F for byte in range(256))
_UNSAFE = re.compile(rb'["\\\]]')
_PLAIN = re.compile("[A-Za-z0-9-]*")
_PRIORITIES = {1: 6, 2: 5, 3: 4, 4: 3, 5: 2, 6: 1}
_NOTICE = 5


def priority(severity: int) -> int:
    """Give the severity of syslog for one of OCSF: informational is 6, fatal 1 (alert). What OCSF
    does not know or name is 5 (notice)."""
    return _PRIORITIES.get(severity, _NOTICE)


def lines(batch: Sequence[Event], bytes_max: int) -> tuple[list[Event], list[Rejected]]:
    """Part a batch into what is one line of at most `bytes_max` bytes and what is not.

    A control character in an event is a fault of its format. It is not mended here: what stands in
    the dead-letter file says so, and what was sent is what was recorded.
    """
    data = [event.data for event in batch]
    if max(map(len, data), default=0) <= bytes_max and not count_controls(b"".join(data)):
        return list(batch), []
    good: list[Event] = []
    rejected: list[Rejected] = []
    for position, event in enumerate(batch):
        if why := _fault(event.data, bytes_max):
            rejected.append(Rejected(position, why))
        else:
            good.append(event)
    return good, rejected


def text(batch: Sequence[Event], bytes_max: int) -> tuple[bytes, list[Rejected]]:
    """Give a batch as lines, one after the other, without what `lines` rejects."""
    data = [event.data for event in batch]
    whole = _text(data)
    if max(map(len, data), default=0) <= bytes_max and count_controls(whole) == len(data):
        return whole, []
    good, rejected = lines(batch, bytes_max)
    return _text([event.data for event in good]), rejected


def _text(data: Sequence[bytes]) -> bytes:
    return b"\n".join([*data, b""])


def _fault(data: bytes, bytes_max: int) -> str:
    if count_controls(data):
        return "it has control characters, so it is no line"
    if len(data) > bytes_max:
        return f"it has {len(data)} bytes, and no more than {bytes_max} are sent"
    return ""


def timestamp(time_ns: int) -> bytes:
    """Give a time in UTC with microseconds, cut and not rounded; the nil value "-" where it has no
    year of four digits from 1970 on."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    if not 0 <= seconds <= _SECONDS_MAX:
        return b"-"
    at = time.gmtime(seconds)
    return b"%04d-%02d-%02dT%02d:%02d:%02d.%06dZ" % (*at[:6], rest // 1000)


def word(text: str, size_max: int) -> bytes:
    """Give a field of the header: printable ASCII without spaces, cut; "-" where nothing is left.
    What it cannot have becomes "_"."""
    return text.encode("ascii", "replace").translate(_BLANK)[:size_max] or b"-"


def value(text: str) -> bytes:
    """Give a value of structured data as it stands between its quotes. Control characters become
    "_", which the RFC lets be done."""
    if _PLAIN.fullmatch(text) is not None:
        return text.encode()
    data = text.encode("utf-8", "replace").translate(_WITHOUT_CONTROL)
    return _UNSAFE.sub(rb"\\\g<0>", data)


_WITHOUT_CONTROL = bytes(0x5F if byte in CONTROLS else byte for byte in range(256))


class Messages:
    """Makes the messages of one sink. `facility` is 0…23, `host` the host that the record is of.

    Raises:
        ValueError: there is no such facility.
    """

    def __init__(self, *, facility: int, host: str, bom: bool = False) -> None:
        if not 0 <= facility <= FACILITY_MAX:
            raise ValueError(f"{facility} is no facility of syslog: they are 0 to {FACILITY_MAX}")
        self._facility = facility
        self._middle = b" %s %s - " % (word(host, HOST_MAX), APP_NAME)
        self._mark = BOM if bom else b""
        self._second: int | None = None
        self._stamp = b""

    def message(self, event: Event) -> bytes:
        """Give the message of an event that `lines` has let through."""
        return self.head(event) + event.data

    def head(self, event: Event) -> bytes:
        """Give what its message says before its event."""
        return b'<%d>1 %s%s%s [%s uid="%s" index="%d" class="%d"] %s' % (
            self._facility * 8 + priority(event.severity),
            self._time(event.time_ns),
            self._middle,
            word(event.kind, MSGID_MAX),
            SD_ID,
            value(event.uid),
            event.index,
            event.class_uid,
            self._mark,
        )

    def _time(self, time_ns: int) -> bytes:
        second, rest = divmod(time_ns, 1_000_000_000)
        if second != self._second:
            self._second, self._stamp = second, timestamp(second * 1_000_000_000)[:20]
        return b"%s%06dZ" % (self._stamp, rest // 1000) if self._stamp != b"-" else b"-"
