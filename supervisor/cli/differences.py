"""What two calls did differently, out of their records: the ends, streams, denials, connections,
programs and files. Pure, but for `read`.

That something happened at all is compared, how often is told beside it: what a program does again
until it succeeds differs from run to run. Times and resources are never a difference.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from supervisor.call import outcome
from supervisor.call.events import FLOWS, PROBE_EVENTS
from supervisor.call.types import Digest, Stream, StreamSummary
from supervisor.cli import flows
from supervisor.cli import output as out
from supervisor.cli.learn import programs
from supervisor.cli.story import named
from supervisor.cli.streaming import CONTENT_GONE
from supervisor.errors import StockadeError

if TYPE_CHECKING:
    from supervisor.call.events import Finished
    from supervisor.client import Record

DIFF_BYTES_MAX = 256 * 1024
DIFF_LINES_MAX = 5_000
"""What is longer is compared byte by byte: a difference of lines takes a time that is quadratic."""

HASH_WIDTH = 12
NONE = "none"
MEASURED = frozenset({"peak_bytes", "kills", "used", "message", "core_dumped"})
"""Fields of an outcome that are never the same twice, or that say in words what another says."""

LOST = {
    "output": "what was written",
    "denial": "denials",
    "exec": "programs",
    PROBE_EVENTS: "programs and denials",
    FLOWS: "connections",
}
"""What is lost → what then cannot be compared; of arguments and ends of processes nothing is."""

Read = Callable[[str, Stream], Iterable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that differs. `what` is its sort, `of` which one; `recorded` and `rerun` are what
    the two calls have of it. Of a stream, `diff` are the lines of a unified difference, or else
    `offset` is the first byte that differs, None where that is not on record."""

    what: str
    of: str
    recorded: str
    rerun: str
    diff: tuple[str, ...] = ()
    offset: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What differs, and what cannot be told, since one of the records has lost it."""

    differences: tuple[Difference, ...]
    unknown: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Say whether nothing differs as far as two whole records tell."""
        return not (self.differences or self.unknown)


def compare(before: Record, after: Record, read: Read) -> Compared:
    """Compare two calls that have ended; `read` gives the recorded bytes of a call's stream."""
    ends = [_finished(record) for record in (before, after)]
    found = [*_outcomes(*ends)]
    gone: list[str] = []
    for stream in (Stream.STDOUT, Stream.STDERR):
        try:
            found += _streams(stream, before, after, read)
        except StockadeError as error:
            if error.reason not in CONTENT_GONE:
                raise
            found += _by_digest(stream, *ends)
            gone.append(f"what was written to {stream}: {error.message}")
    for what, of in (("denied", _denials), ("connection", _flows), ("program", _programs)):
        found += _kinds(what, of(before), of(after))
    found += _files("file", *({os.fsdecode(one.path): f"{_short(one.digest)} mode {one.mode:o}"
                              for one in end.outputs} for end in ends))  # fmt: skip
    found += _files("not taken", *({os.fsdecode(one.path): one.reason for one in end.skipped}
                                   for end in ends))  # fmt: skip
    unknown = [*gone, *(f"{why} of the {which}" for which, record in (("recorded call", before),
               ("rerun", after)) for why in _lost(record))]  # fmt: skip
    return Compared(differences=tuple(found), unknown=tuple(unknown))


def _finished(record: Record) -> Finished:
    assert record.call.finished is not None, "only calls that have ended are compared"  # noqa: S101
    return record.call.finished


def _outcomes(before: Finished, after: Finished) -> Iterator[Difference]:
    if _settled(before.outcome) != _settled(after.outcome):
        told = [outcome.describe(one.outcome, started=one.timeline.started_ns > 0)
                for one in (before, after)]  # fmt: skip
        yield Difference(what="outcome", of="", recorded=told[0], rerun=told[1])


def _settled(ended: outcome.Outcome) -> tuple[Any, ...]:
    values = {one.name: getattr(ended, one.name) for one in fields(ended)}
    return outcome.kind(ended), *((k, v) for k, v in values.items() if k not in MEASURED)


def _streams(stream: Stream, before: Record, after: Record, read: Read) -> Iterator[Difference]:
    calls = [record.call.call_id for record in (before, after)]
    had = [_summary(_finished(record), stream) for record in (before, after)]
    known = all(one.digest.sha256 for one in had)  # an interrupted encrypted call has none
    if known and had[0].digest == had[1].digest:
        return
    diff: tuple[str, ...] = ()
    offset: int | None = None
    if all(one.digest.size_bytes <= DIFF_BYTES_MAX and not one.truncated for one in had):
        whole = [b"".join(read(call, stream)) for call in calls]
        lines = [_lines(data) for data in whole]
        if lines[0] is not None and lines[1] is not None:
            diff = tuple(_unified(lines[0], lines[1], calls))
        offset = first_difference([whole[0]], [whole[1]])
    else:
        offset = _first_known(had, [read(call, stream) for call in calls])
    if offset is None and not known and not any(one.truncated for one in had):
        return
    yield Difference(
        what=str(stream), of="", recorded=_amount(had[0]), rerun=_amount(had[1]), diff=diff,
        offset=offset,
    )  # fmt: skip


def _by_digest(stream: Stream, *ends: Finished) -> Iterator[Difference]:
    """Compare what cannot be read; of an encrypted call the digest may not be known either."""
    had = [_summary(end, stream) for end in ends]
    known = all(one.digest.sha256 for one in had)
    if known or had[0].digest.size_bytes != had[1].digest.size_bytes:
        yield Difference(what=str(stream), of="", recorded=_amount(had[0]), rerun=_amount(had[1]))


def _summary(finished: Finished, stream: Stream) -> StreamSummary:
    nothing = StreamSummary(stream=stream, digest=Digest.of(b""), stored_bytes=0)
    return next((one for one in finished.streams if one.stream is stream), nothing)


def _first_known(had: list[StreamSummary], sources: list[Iterable[bytes]]) -> int | None:
    """Give the offset of the first difference in what both records have from the beginning on;
    what is behind a gap is compared with nothing."""
    if any(one.tail_bytes and one.redactions for one in had):
        return None  # nobody knows where in the given bytes, with marks, the gap is
    heads = [one.missing[0] for one in had if one.truncated]
    if not heads:
        return first_difference(*sources)
    known = min(heads)
    offset = first_difference(*(_first(source, known) for source in sources))
    return offset if offset is None or offset < known else None


def _first(source: Iterable[bytes], count: int) -> Iterator[bytes]:
    for piece in source:
        yield piece[:count]
        count -= len(piece)
        if count <= 0:
            return


def first_difference(one: Iterable[bytes], other: Iterable[bytes]) -> int | None:
    """Give the offset of the first byte that differs, also where one is longer; None where none
    does."""
    sources, rest, done = (iter(one), iter(other)), [b"", b""], 0
    while True:
        for side, source in enumerate(sources):
            while not rest[side] and (piece := next(source, None)) is not None:
                rest[side] = piece
        length = min(len(rest[0]), len(rest[1]))
        if not length:
            return None if not (rest[0] or rest[1]) else done
        heads = [part[:length] for part in rest]
        if heads[0] != heads[1]:
            pairs = enumerate(zip(heads[0], heads[1], strict=True))
            return done + next(place for place, (a, b) in pairs if a != b)
        rest, done = [part[length:] for part in rest], done + length


def _lines(data: bytes) -> list[str] | None:
    """Give the lines of a text; None where it is none, or too long for a difference of lines."""
    if b"\0" in data or data.count(b"\n") > DIFF_LINES_MAX:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    lines = text.split("\n")
    ends = [line + "\n" for line in lines[:-1]]
    return [*ends, lines[-1]] if lines[-1] else ends


def _unified(one: list[str], other: list[str], names: list[str]) -> Iterator[str]:
    for line in difflib.unified_diff(one, other, names[0], names[1]):
        yield line.removesuffix("\n")
        if not line.endswith("\n"):
            yield "\\ no line end"


def _amount(summary: StreamSummary) -> str:
    cut = f", {out.size(summary.stored_bytes)} on record" if summary.truncated else ""
    replaced = f", {out.count(summary.redactions, 'secret')} replaced" if summary.redactions else ""
    return _short(summary.digest) + cut + replaced


def _short(digest: Digest) -> str:
    return f"{out.size(digest.size_bytes)} sha256:{digest.sha256[:HASH_WIDTH]}"


def _kinds(what: str, before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[Difference]:
    for of in dict.fromkeys((*before, *after)):
        if (of in before) != (of in after):
            yield Difference(what=what, of=of, recorded=_times(before.get(of, 0)),
                             rerun=_times(after.get(of, 0)))  # fmt: skip


def _times(count: int) -> str:
    return f"x{count}" if count else NONE


def _files(what: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Difference]:
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path):
            yield Difference(what=what, of=path, recorded=before.get(path, NONE),
                             rerun=after.get(path, NONE))  # fmt: skip


def _denials(record: Record) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for body in _bodies(record, "denied"):
        count = int(body["count"])
        if body["wall"] == "limit":  # what was used when it was reached differs every time
            counts[f"limit {body['name']} {body['detail']}".rstrip()] += count
        else:
            counts[f"{body['wall']} {named({**body, 'arguments': ()})}"] += count
    return counts


def _flows(record: Record) -> dict[str, int]:
    return Counter(
        f"{flows.place(str(body['name']), body['port'])} {body['verdict']}"
        for body in _bodies(record, "flow")
    )


def _programs(record: Record) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for body in _bodies(record, "processes"):
        counts.update(programs(body["events"]))
    return counts


def _lost(record: Record) -> Iterator[str]:
    for body in _bodies(record, "lost"):
        if sort := LOST.get(str(body["what"])):
            yield f"{sort}: {body['count'] or 'an unknown number'} lost ({body['reason']})"
    for body in _bodies(record, "outcome"):
        if body.get("files_dropped"):
            yield f"files: {body['files_dropped']} are not on record"


def _bodies(record: Record, kind: str) -> Iterator[Mapping[str, Any]]:
    for entry in record.entries:
        body = entry.body()["body"]
        if entry.kind == kind and isinstance(body, dict):
            yield body
