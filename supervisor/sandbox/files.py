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

    A byte that is not UTF-8 counts as one character.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._parts = [
            None if part == "**" else re.compile(fnmatch.translate(part))
            for part in pattern.split("/")
        ]

    def matches(self, path: Sequence[bytes]) -> bool:
        """Say whether the parts of a path are named by this glob.

        Takes time in proportion to the lengths of both, however many `**` there are.
        """
        names = [os.fsdecode(part) for part in path]
        # ends[n]: the glob so far matches exactly the first n parts of the path.
        ends = [True] + [False] * len(names)
        for wanted in self._parts:
            if wanted is None:
                first = ends.index(True) if True in ends else len(ends)
                ends = [at >= first for at in range(len(ends))]
            else:
                ends = [
                    at > 0 and ends[at - 1] and wanted.fullmatch(names[at - 1]) is not None
                    for at in range(len(ends))
                ]
        return ends[-1]


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
) -> Collected:
    """Store every regular file below `work` that a glob names.

    `size_bytes_max` bounds all of them together: a sparse file can be larger than its mount.
    """
    globs = [Glob(pattern) for pattern in patterns]
    collected = Collected([], [])
    left = size_bytes_max
    if not globs:
        return collected
    for path, parent, name, mode in _walk(work, collected):
        if not any(glob.matches(path) for glob in globs):
            continue
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


def _walk(work: int, collected: Collected) -> Iterator[tuple[list[bytes], int, bytes, int]]:
    """Give (parts, open parent directory, name, mode) of everything below `work`, sorted."""
    seen = 0
    pending: list[list[bytes]] = [[]]
    while pending:
        folder = pending.pop()
        try:
            fd = _parent(work, folder)
        except OSError:
            collected.skip(b"/".join(folder), UNREADABLE)
            continue
        with closing_fd(fd):
            for name in sorted(os.fsencode(entry) for entry in os.listdir(fd)):  # noqa: PTH208 (an open folder)
                seen += 1
                if seen > WALK_ENTRIES_MAX:
                    collected.skip(b"/".join([*folder, name]), TOO_MANY)
                    return
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                yield [*folder, name], fd, name, mode
                if not stat.S_ISDIR(mode):
                    continue
                if len(folder) < DEPTH_MAX:
                    pending.append([*folder, name])
                else:
                    collected.skip(b"/".join([*folder, name]), TOO_MANY)
