"""Files into /work before the program runs, and out of it after everything in it is dead.

Paths are walked with open directories and O_NOFOLLOW at every step, so a symlink never leads
anywhere. On the way out nothing can move any more: the whole cgroup has been killed.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from supervisor.call.types import Digest, InputFile, OutputFile, SkippedFile, canonical_json, text
from supervisor.errors import InvalidRequest
from supervisor.linux.fds import closing_fd, open_below
from supervisor.linux.identity import filesystem_identity
from supervisor.oci.spec import GID, UID

WALK_ENTRIES_MAX = 100_000
DEPTH_MAX = 64
LISTING_BYTES_MAX = 32 * 1024
"""The outcome entry names every file and must stay below 64 KiB."""

SKIPPED_MAX = 64
READ_BYTES = 1 << 20

NOT_REGULAR, TOO_LARGE, TOO_MANY, UNREADABLE = "NOT_REGULAR", "TOO_LARGE", "TOO_MANY", "UNREADABLE"
TOO_LATE = "TOO_LATE"
"""Taking the outputs took too long, or was stopped: this path and what would have come after it."""


def place_inputs(
    work: int,
    files: Iterable[InputFile],
    uid_base: int,
    content: Callable[[InputFile], Iterator[bytes]],
) -> None:
    """Write the input files below the open directory `work`, as the sandbox's user.

    Only that user may make files there: the mount belongs to the sandbox's user namespace, and
    the kernel refuses ids that it does not map (EOVERFLOW). Blocks; its thread is ours alone.

    Raises:
        InvalidRequest: `FILES_TOO_LARGE`, where the mount is full.
    """
    for file in files:
        *folders, name = file.path.split(b"/")
        try:
            with _as_user(uid_base), closing_fd(_make_folders(work, folders)) as folder:
                fd = open_below(folder, [name], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            with closing_fd(fd):
                for chunk in content(file):
                    _write_all(fd, chunk)
                os.fchmod(fd, file.mode)
        except OSError as error:
            raise InvalidRequest(
                "FILES_TOO_LARGE" if error.errno == 28 else "FILE_PATH_INVALID",
                f"input file {file.path.decode(errors='replace')!r}: {error.strerror}",
            ) from error


def _as_user(uid_base: int) -> contextlib.AbstractContextManager[None]:
    return filesystem_identity(uid_base + UID, uid_base + GID)


def _make_folders(work: int, parts: Sequence[bytes]) -> int:
    """Make the folders of a path where they are missing; give the last one, open."""
    current = os.dup(work)
    for part in parts:
        with closing_fd(current) as parent:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=parent)
            current = open_below(parent, [part], os.O_RDONLY | os.O_DIRECTORY)
    return current


def _parent(work: int, parts: list[bytes]) -> int:
    if not parts:
        return os.dup(work)
    return open_below(work, parts, os.O_RDONLY | os.O_DIRECTORY)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Glob:
    """A glob under /work: `*` and `?` and `[…]` within a part, `**` for any number of parts.

    A byte that is not UTF-8 counts as one character. A state says which parts of the glob could be
    next, a bit for each; 0 is a path that nothing below can bring back.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        parts = pattern.split("/")
        # Two of them in a row say no more than one.
        parts = [
            part for at, part in enumerate(parts) if part != "**" or parts[at - 1 : at] != ["**"]
        ]
        self._parts = [
            None if part == "**" else re.compile(fnmatch.translate(part)) for part in parts
        ]
        self._all = 1 << len(parts)
        self.begin = self._past_any(1)

    def _past_any(self, state: int) -> int:
        """Add what is next where a `**` stands for nothing."""
        for at, part in enumerate(self._parts):
            if part is None and state >> at & 1:
                state |= 1 << at + 1
        return state

    def step(self, state: int, name: str) -> int:
        """Give the state after one more part of a path."""
        found = 0
        for at, part in enumerate(self._parts):
            if not state >> at & 1:
                continue
            if part is None:
                found |= 1 << at
            elif part.fullmatch(name) is not None:
                found |= 1 << at + 1
        return self._past_any(found)

    def accepts(self, state: int) -> bool:
        """Say whether the path so far is named by this glob."""
        return bool(state & self._all)

    def matches(self, path: Sequence[bytes]) -> bool:
        """Say whether the parts of a path are named by this glob."""
        state = self.begin
        for part in path:
            state = self.step(state, os.fsdecode(part))
        return self.accepts(state)


@dataclass(slots=True)
class Collected:
    """What was taken, and what was not."""

    outputs: list[OutputFile]
    skipped: list[SkippedFile]
    listing_bytes: int = 0

    def skip(self, path: bytes, reason: str) -> None:
        """Note a path that is not taken."""
        if len(self.skipped) < SKIPPED_MAX:
            self.skipped.append(SkippedFile(path=path[:255], reason=reason))


def collect_outputs(
    work: int,
    patterns: Iterable[str],
    size_bytes_max: int,
    store: Callable[[Iterator[bytes]], Digest],
    go_on: Callable[[], bool] = lambda: True,
) -> Collected:
    """Store every regular file below `work` that a glob names.

    `size_bytes_max` bounds all of them together: a sparse file can be larger than its mount. What
    is left when `go_on` says no is not taken, and that is noted.
    """
    globs = [Glob(pattern) for pattern in patterns]
    collected = Collected([], [])
    left = size_bytes_max
    if not globs:
        return collected
    for path, parent, name, mode in _walk(work, globs, collected, go_on):
        joined = b"/".join(path)
        if not stat.S_ISREG(mode):
            if not stat.S_ISDIR(mode):
                collected.skip(joined, NOT_REGULAR)
            continue
        cost = len(canonical_json(text(joined))) + 160
        if collected.listing_bytes + cost > LISTING_BYTES_MAX:
            collected.skip(joined, TOO_MANY)
            continue
        output = _take(parent, name, joined, left, store, collected)
        if output is not None:
            left -= output.digest.size_bytes
            collected.listing_bytes += cost
            collected.outputs.append(output)
    return collected


def _take(
    parent: int,
    name: bytes,
    path: bytes,
    size_bytes_max: int,
    store: Callable[[Iterator[bytes]], Digest],
    collected: Collected,
) -> OutputFile | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=parent)
    except OSError:
        collected.skip(path, UNREADABLE)
        return None
    with closing_fd(fd):
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            collected.skip(path, NOT_REGULAR)
            return None
        if status.st_size > size_bytes_max:
            collected.skip(path, TOO_LARGE)
            return None
        digest = store(_chunks(fd))
        return OutputFile(path=path, digest=digest, mode=stat.S_IMODE(status.st_mode) & 0o777)


def _chunks(fd: int) -> Iterator[bytes]:
    while chunk := os.read(fd, READ_BYTES):
        yield chunk


States = tuple[int, ...]


def _walk(
    work: int, globs: Sequence[Glob], collected: Collected, go_on: Callable[[], bool]
) -> Iterator[tuple[list[bytes], int, bytes, int]]:
    """Give (parts, open parent directory, name, mode) of everything below `work` that a glob names,
    sorted; folders below which none can name anything are not entered."""
    seen = 0
    pending: list[tuple[list[bytes], States]] = [([], tuple(glob.begin for glob in globs))]
    while pending:
        folder, states = pending.pop()
        try:
            fd = _parent(work, folder)
        except OSError:
            collected.skip(b"/".join(folder), UNREADABLE)
            continue
        with closing_fd(fd):
            for name in sorted(os.fsencode(entry) for entry in os.listdir(fd)):  # noqa: PTH208 (an open folder)
                seen += 1
                if seen > WALK_ENTRIES_MAX or not go_on():
                    reason = TOO_MANY if seen > WALK_ENTRIES_MAX else TOO_LATE
                    collected.skip(b"/".join([*folder, name]), reason)
                    return
                word = os.fsdecode(name)
                after = tuple(
                    glob.step(state, word) if state else 0
                    for glob, state in zip(globs, states, strict=True)
                )
                if not any(after):
                    continue
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                if any(glob.accepts(state) for glob, state in zip(globs, after, strict=True)):
                    yield [*folder, name], fd, name, mode
                if not stat.S_ISDIR(mode):
                    continue
                if len(folder) < DEPTH_MAX:
                    pending.append(([*folder, name], after))
                else:
                    collected.skip(b"/".join([*folder, name]), TOO_MANY)
