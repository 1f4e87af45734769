"""A file system in memory that knows what of it would survive a power cut.

Each file has what programs see, and what lies on the disk; each folder likewise. A write reaches
the disk with an fsync of its file, a name with an fsync of its folder, as POSIX has it and no
better: an fsync of a file says nothing of its name. What was not synced when the power goes may be
there or not, each block of 512 bytes and each change of a name for itself, except that a change of
a name never overtakes an earlier one of the same name.

A fault is a rule: which operation on which paths, after how many, how often, and what it does.
An fsync that fails drops what it was to write, and the next one knows nothing of it, as in the
kernel (Rebello et al., USENIX ATC 2020).
"""

from __future__ import annotations

import errno
import fnmatch
import random
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

SECTOR_BYTES = 512
FAULTS_MAX = 64
BLOCK_BYTES = 4096
CAPACITY_BYTES = 1 << 30

HIDDEN = ".fuse_hidden"
"""What libfuse calls a file that was deleted while it is open. No power cut leaves one."""

SHORT, LIE, SLOW = "short", "lie", "slow"
SLOW_S = 0.2

SHARES = (0.0, 0.3, 0.8, 1.0)
"""Of what was on its way when the power went: how much may have arrived."""


@dataclass(slots=True)
class Fault:
    """`does` is the name of an errno, or SHORT (write), LIE (sync), SLOW (any). `times` < 0 means
    without end."""

    operation: str
    does: str
    path: str = "*"
    after: int = 0
    times: int = -1
    hits: int = 0
    injected: int = 0

    def strikes(self, operation: str, path: str) -> bool:
        """Count an operation; say whether it is to go wrong."""
        if operation != self.operation or not fnmatch.fnmatchcase(path, self.path):
            return False
        self.hits += 1
        if self.hits <= self.after or self.injected == self.times:
            return False
        self.injected += 1
        return True


@dataclass(slots=True, eq=False)
class Node:
    """What all have: a number, mode, and times."""

    number: int
    mode: int
    changed_ns: int = field(default_factory=time.time_ns)


@dataclass(slots=True, eq=False)
class File(Node):
    """`pending` are writes, as (offset, bytes), and truncations, as (size, None)."""

    live: bytearray = field(default_factory=bytearray)
    disk: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Link(Node):
    """A symbolic link; it is on the disk with its name."""

    target: str = ""


@dataclass(slots=True, eq=False)
class Folder(Node):
    """Names now, and on the disk."""

    live: dict[str, Node] = field(default_factory=dict)
    disk: dict[str, Node] = field(default_factory=dict)


Slot = tuple[Folder, str]


@dataclass(slots=True, eq=False)
class Naming:
    """One change of names: which slots then have which node, or none. All of it or nothing."""

    slots: tuple[tuple[Folder, str, Node | None], ...]

    def changes(self) -> set[tuple[int, str]]:
        """Give what it changes."""
        return {(folder.number, name) for folder, name, _ in self.slots}


class FaultDisk:
    """The file system. Not thread-safe."""

    def __init__(self) -> None:
        self.root = Folder(1, stat.S_IFDIR | 0o700)
        self.faults: list[Fault] = []
        self._next = 2
        self._namings: list[Naming] = []

    def check(self, operation: str, path: str) -> str:
        """Raise the error that a fault gives this operation; or give what else it does, or ""."""
        for fault in self.faults:
            if fault.strikes(operation, path):
                if fault.does == SLOW:
                    time.sleep(SLOW_S)
                    continue
                if fault.does in (SHORT, LIE):
                    return fault.does
                code = getattr(errno, fault.does)
                raise OSError(code, fault.does)
        return ""

    def find(self, path: str) -> Node:
        """Give what lies at a path."""
        at: Node = self.root
        for name in filter(None, path.split("/")):
            if not isinstance(at, Folder):
                raise OSError(errno.ENOTDIR, path)
            if name not in at.live:
                raise OSError(errno.ENOENT, path)
            at = at.live[name]
        return at

    def slot(self, path: str) -> Slot:
        """Give the folder of a path, and the name in it."""
        parent, _, name = path.rpartition("/")
        folder = self.find(parent)
        if not isinstance(folder, Folder):
            raise OSError(errno.ENOTDIR, parent)
        return folder, name

    def add(self, path: str, kind: type[Node], mode: int, **more: object) -> Node:
        """Make a file, a folder or a link."""
        self.check("create", path)
        folder, name = self.slot(path)
        if name in folder.live:
            raise OSError(errno.EEXIST, path)
        node = kind(self._next, mode, **more)  # type: ignore[arg-type]
        self._next += 1
        self._name((folder, name, node))
        return node

    def remove(self, path: str) -> None:
        """Take a name away."""
        self.check("remove", path)
        node = self.find(path)
        if isinstance(node, Folder) and node.live:
            raise OSError(errno.ENOTEMPTY, path)
        self._name((*self.slot(path), None))

    def rename(self, old: str, new: str) -> None:
        """Give a node another name, in place of what has it."""
        self.check("rename", new)
        node = self.find(old)
        self._name((*self.slot(old), None), (*self.slot(new), node))

    def _name(self, *slots: tuple[Folder, str, Node | None]) -> None:
        naming = Naming(slots)
        _apply(naming, live=True)
        self._namings.append(naming)

    def write(self, path: str, file: File, offset: int, data: bytes) -> int:
        """Write; give how many bytes were."""
        if self.check("write", path) == SHORT:
            data = data[: max(1, len(data) // 2)]
        _put(file.live, offset, data)
        file.pending.append((offset, data))
        file.changed_ns = time.time_ns()
        return len(data)

    def truncate(self, path: str, file: File, size: int) -> None:
        """Cut a file, or make it longer with zeros."""
        self.check("truncate", path)
        _resize(file.live, size)
        file.pending.append((size, None))

    def sync(self, path: str, file: File) -> None:
        """Bring a file's content to the disk."""
        try:
            lies = self.check("sync", path) == LIE
        except OSError:
            file.pending.clear()
            raise
        if not lies:
            for offset, data in file.pending:
                _play(file.disk, offset, data)
            file.pending.clear()

    def sync_folder(self, path: str, folder: Folder) -> None:
        """Bring a folder's names to the disk, and what has to have come before them."""
        if self.check("sync", path) == LIE:
            return
        self._settle(naming for naming in self._namings if _touches(naming, folder))

    def _settle(self, wanted: Iterable[Naming]) -> None:
        """Apply changes of names to the disk, each after all earlier ones of the same names."""
        chosen = set(wanted)
        names = {key for naming in chosen for key in naming.changes()}
        for naming in reversed(self._namings):
            if naming.changes() & names:
                chosen.add(naming)
                names |= naming.changes()
        for naming in self._namings:
            if naming in chosen:
                _apply(naming, live=False)
        self._namings = [naming for naming in self._namings if naming not in chosen]

    def cut_power(self, seed: int, share: float | None) -> dict[str, int]:
        """Leave what is on the disk, and a share of what was on its way; give how much that was."""
        rng = random.Random(seed)
        told = {"names": len(self._namings), "writes": 0}
        kept = rng.choice(SHARES) if share is None else share
        self._settle([naming for naming in self._namings if rng.random() < kept])
        self._namings = []
        left: list[Node] = [self.root]
        while left:
            node = left.pop()
            if isinstance(node, Folder):
                node.disk = {k: v for k, v in node.disk.items() if not k.startswith(HIDDEN)}
                node.live = dict(node.disk)
                left += node.live.values()
            elif isinstance(node, File):
                told["writes"] += len(node.pending)
                _tear(node, rng, rng.choice(SHARES) if share is None else share)
        return told


def _touches(naming: Naming, folder: Folder) -> bool:
    return any(one is folder for one, _, _ in naming.slots)


def _apply(naming: Naming, *, live: bool) -> None:
    for folder, name, node in naming.slots:
        names = folder.live if live else folder.disk
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _tear(file: File, rng: random.Random, share: float) -> None:
    """Let some blocks of what was not synced be on the disk."""
    grown = max(len(file.live), len(file.disk)) if rng.random() < 0.2 else 0
    for offset, data in file.pending:
        if data is None:
            if rng.random() < share:
                _resize(file.disk, offset)
            continue
        at = 0
        while at < len(data):
            end = min(len(data), at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES)
            if rng.random() < share:
                _put(file.disk, offset + at, data[at:end])
            at = end
    if grown > len(file.disk):
        _resize(file.disk, grown)  # The size was on the disk before the blocks.
    file.pending.clear()
    file.live = bytearray(file.disk)


def _play(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        _resize(content, offset)
    else:
        _put(content, offset, data)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        _resize(content, offset)
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))
