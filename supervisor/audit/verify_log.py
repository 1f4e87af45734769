"""Verification of the log: every frame, the chain, the segments and the durable mark.

After a damaged frame the next good one is searched for, so that one flipped byte is one problem
and the rest of the log is still looked at.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.audit.entry import NO_LEAF, Head, StoredEntry
from supervisor.audit.mark import MARK_NAME, NEW_NAME, DurableMark, read_mark
from supervisor.audit.runs import RUN_BYTES, Run, read_run
from supervisor.audit.segment import (
    MAGIC,
    BadFrame,
    Frame,
    find_frame,
    read_exactly,
    read_frames,
    segment_name,
    select_segments,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong, and where: `index` is -1 and `segment` is "" where it is in no entry.
    `reason` is its name, where it has one."""

    message: str
    reason: str = ""
    segment: str = ""
    offset: int = 0
    index: int = -1
    call: str = ""
    kind: str = ""

    @classmethod
    def of(cls, entry: StoredEntry, message: str) -> Problem:
        """Say what is wrong with an entry."""
        return cls(
            message=message,
            segment=segment_name(entry.position.segment),
            offset=entry.position.offset,
            index=entry.index,
            call=entry.call_id,
            kind=entry.kind,
        )

    def __str__(self) -> str:
        if self.index < 0:
            return self.message
        what = f"entry {self.index}"
        if self.kind:
            what += f" ({self.kind}" + (f" of call {self.call})" if self.call else ")")
        return f"{what}: {self.message}, in {self.segment} at offset {self.offset}"


Report = Callable[[Problem], None]


class LogCheck:
    """Walks over a log, gives out the good entries and reports the rest."""

    def __init__(
        self,
        directory: Path,
        report: Report,
        *,
        live: bool,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._directory = directory
        self._report = report
        self._live = live
        self._progress = progress
        self._done_bytes = 0
        self._mark = DurableMark()
        self.index = 0
        self.leaf: bytes | None = NO_LEAF
        """Hash of the entry before `index`; None where that one could not be read."""

    def entries(self) -> Iterator[StoredEntry]:
        """Give the entries that can be read, in the order of the files."""
        for run in self.runs():
            yield from run.entries()

    def runs(self) -> Iterator[Run]:
        """Give them in runs."""
        segments = self._begin()
        total = sum(self._size(first) for first in segments)
        for first in segments:
            if first != self.index:
                self._gap(first)
            try:
                yield from self._segment(first, is_last=first == segments[-1], total=total)
            except PermissionError:
                raise
            except OSError as error:  # A bad place of the disk: the next segment may be well.
                self._problem(f"it cannot be read further: {error.strerror}", first, 0)
                self.leaf = None
        if self.index < self._mark.size and self._mark.end.segment not in segments:
            name = segment_name(self._mark.end.segment)
            self._report(
                Problem(
                    message=f"{name} is missing: the log ends with "
                    f"{self.index or 'no'} entries, and {self._mark.size} were durable",
                    segment=name,
                )
            )
        elif self.index < self._mark.size:
            self._problem(
                f"the log ends here, and {self._mark.size} entries were durable",
                self._mark.end.segment,
                self._mark.end.offset,
            )

    def _begin(self) -> list[int]:
        try:
            mark = read_mark(self._directory)
        except ValueError as error:
            self._report(Problem(message=str(error), segment=MARK_NAME))
            mark = DurableMark()
        except PermissionError:
            raise
        except OSError as error:
            self._report(Problem(message=f"it cannot be read: {error}", segment=MARK_NAME))
            mark = DurableMark()
        try:
            # Listed once, after the mark was read: a daemon may begin another segment meanwhile.
            names = {path.name for path in self._directory.iterdir()}
        except OSError as error:
            self._report(Problem(message=f"the log cannot be read: {error}"))
            return []
        segments = select_segments(names)
        if mark is None:
            self._report(Problem(message="the durable mark is missing", segment=MARK_NAME))
        self._mark = mark or DurableMark()
        known = {segment_name(first) for first in segments} | {MARK_NAME, NEW_NAME}
        for name in sorted(names - known):
            self._report(Problem(message=f"{name} does not belong into a log"))
        return segments

    def _size(self, first: int) -> int:
        return (self._directory / segment_name(first)).stat().st_size

    def _gap(self, first: int) -> None:
        if first > self.index:
            what = f"entries {self.index} to {first - 1} are missing"
        else:
            what = f"the segment begins with entry {first}, and {self.index} is next"
        self._problem(what, first, 0)
        self.index, self.leaf = first, None

    def _segment(self, first: int, *, is_last: bool, total: int) -> Iterator[Run]:
        with _reading(self._directory / segment_name(first)) as fd:
            if read_exactly(fd, len(MAGIC), 0) != MAGIC:
                self._problem("the segment has an unknown format", first, 0)
            offset = len(MAGIC)
            while True:
                size = os.fstat(fd).st_size
                for run in self._runs(fd, first, offset, size):
                    offset = run.end
                    yield run
                    self._tell(offset, total)
                try:
                    frame = next(read_frames(fd, offset, size), None)
                    if frame is None:
                        break
                    offset = frame.end
                    yield Run.of(self._good(frame, first))
                    self._tell(offset, total)
                except BadFrame as bad:
                    if self._live and is_last and self.index >= self._mark.size:
                        break  # it is being written right now
                    following = self._bad(fd, first, bad, size)
                    if following is None:
                        break
                    offset = following
            self._done_bytes += offset
        if not is_last and offset == len(MAGIC):
            self._problem("the segment is empty", first, offset)

    def _runs(self, fd: int, first: int, offset: int, size: int) -> Iterator[Run]:
        """Give what is flawless from `offset` on, as far as the durable mark, and from there on; it
        ends at the first frame that has to be looked at by itself."""
        while self.leaf is not None and offset < size:
            buffer = read_exactly(fd, min(RUN_BYTES, size - offset), offset)
            run = read_run(buffer, segment=first, offset=offset, index=self.index, leaf=self.leaf)
            if not run:
                return
            last = self.index + len(run)
            if self.index < self._mark.size <= last:
                self._compare_mark(run, self._mark.size - self.index - 1)
            self.index, self.leaf, offset = last, run.leaves[-1], run.end
            yield run

    def _tell(self, offset: int, total: int) -> None:
        if self._progress is not None:
            self._progress(self._done_bytes + offset, total)

    def _bad(self, fd: int, first: int, bad: BadFrame, size: int) -> int | None:
        """Report a bad frame; give where the next good one begins."""
        self._problem(bad.why, first, bad.offset, bad.head)
        self.index, self.leaf = self.index + 1, None
        following = find_frame(fd, bad.offset + 1, size)
        return None if following is None else following.offset

    def _good(self, frame: Frame, first: int) -> StoredEntry:
        head = frame.head
        if head.index != self.index:
            self._problem(f"it says that it is entry {head.index}", first, frame.offset, head)
        elif self.leaf is not None and head.prev != self.leaf:
            self._problem("it does not follow the entry before it", first, frame.offset, head)
        self.index, self.leaf = head.index + 1, frame.leaf
        entry = frame.entry(first)
        if self._mark.size == self.index:
            self._compare_mark(Run.of(entry), 0)
        return entry

    def _compare_mark(self, run: Run, place: int) -> None:
        """Compare the mark with the entry at a place of a run."""
        mark, following = self._mark, place + 1
        end = run.offsets[following] if following < len(run) else run.end
        # A log that was opened again with an empty segment last has its end in that one.
        ends = ((run.segment, end), (mark.size, len(MAGIC)))
        if mark.leaf != run.leaves[place] or mark.end not in ends:
            entry = run.entry(place)
            self._report(Problem.of(entry, "the durable mark names another entry"))

    def _problem(self, message: str, segment: int, offset: int, head: Head | None = None) -> None:
        self._report(
            Problem(
                message=message,
                segment=segment_name(segment),
                offset=offset,
                index=self.index,
                call=head.call if head else "",
                kind=head.kind if head else "",
            )
        )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
