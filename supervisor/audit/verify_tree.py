"""Verification of the log's tree: its signed head, its tiles, and that both are of this log.

The tree is grown again from the log's entries. Where it gets the root that was signed, all that
differs in the folder is wrong there; where it does not, the tiles may still have that root, and
then they say which entries are not those that were signed. Heads that were given away earlier can
be held against it as well: a log that was rewritten, or is shorter than it was, has not their
roots.

Whose the signatures have to be is only known once all entries were seen, since some of them may
hand the log over to another key. What was found by then against a head that turns out not to be
signed is nobody's problem.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from supervisor.audit.checkpoints import Checkpoint, CheckpointError, OtherKey, read_checkpoint
from supervisor.audit.entry import Kind, StoredEntry
from supervisor.audit.merkle import HASH_BYTES
from supervisor.audit.notes import VerifierKey
from supervisor.audit.rotation import ROTATIONS_MAX, KeyChain, RotationError, follow
from supervisor.audit.runs import Run
from supervisor.audit.tiles import (
    CHECKPOINT,
    HEIGHT,
    WIDTH,
    Growth,
    TileError,
    bundle_path,
    folder_reader,
    pack_bundle,
    read_bundle,
    read_tile,
    tile_path,
    unpack_bundle,
)
from supervisor.audit.tree import UNSIGNED_S
from supervisor.audit.verify_log import Problem, Report

HEAD_BYTES_MAX = 64 * 1024
NAMED_MAX = 100
"""Of entries that differ, and of files that do not belong into the folder."""

BUNDLES_MAX = 1000
"""Of bundles of entries that are not as the log: further ones are counted."""

_TILE = re.compile(
    r"tile/(?P<level>entries|[0-7])/(?P<number>(?:x[0-9]{3}/)*[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)
_NEW = re.compile(r"new\.[0-9]{1,2}")
_HEAD = -1
"""The place of the folder's own head among those that were given."""

HEAD_MISSING = "head_missing"
"""What the problem is called where entries are there, and no signed head."""

KEY_OF_OTHER_LOG = "key_of_other_log"
"""What it is called where the log is signed by the key that lies beside it, and not by the one that
was given."""

HEAD_BEHIND = "head_behind"
"""What it is called where entries of more than `UNSIGNED_S` are below no signed head."""


class Verdict(StrEnum):
    """What a head that was kept says of the log. All but the first are problems by that name, and
    so is why it cannot be told, where nothing can be."""

    FITS = "fits"
    CUT_BACK = "head_cut_back"
    REWRITTEN = "head_rewritten"
    OTHER_ORIGIN = "head_of_other_log"
    OTHER_KEY = "head_of_other_key"
    UNREADABLE = "head_unreadable"
    UNTOLD = "untold"


OF_WHAT_WAS_GIVEN = frozenset(
    {KEY_OF_OTHER_LOG, Verdict.OTHER_ORIGIN, Verdict.OTHER_KEY, Verdict.UNREADABLE}
)
"""Problems that say nothing of the log but that it is not the one which was meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHead:
    """A head that was given: what it is called, and what it came to; `size` is -1 where it cannot
    be read."""

    name: str
    origin: str
    size: int
    verdict: Verdict


class TreeCheck:
    """Checks a `tlog` folder while the log is read.

    `key` has to have signed its head, and the `heads` that were kept elsewhere (signed notes, each
    with what it is called), or the key that it had handed the log over to by then. `beside` is the
    one that lies there, where `key` is another: whether the log is that one's tells who is wrong.
    """

    def __init__(
        self,
        folder: Path,
        report: Report,
        *,
        key: VerifierKey | None,
        beside: VerifierKey | None = None,
        heads: Sequence[tuple[str, bytes]] = (),
        live: bool = False,
    ) -> None:
        self._folder = folder
        self._beside = beside
        self._live = live
        self._read = folder_reader(folder)
        self._report = report
        self._key = key
        self._given = heads
        self._note = b""
        self._statements: list[tuple[int, Mapping[str, object]]] = []
        self._leaves = functools.lru_cache(maxsize=1)(self._load)
        self._growth = Growth()
        self._bundle: list[bytes] = []
        self._whole = True
        self._wanted: dict[int, list[tuple[int, bytes]]] = {}
        self._sizes: list[int] = []
        self._fits: dict[int, bool] = {}
        self._differing: list[StoredEntry] = []
        self._in_tiles: dict[str, None] = {}
        self._in_bundles: list[str] = []
        self._more_bundles = 0
        self._unsigned: list[int] = []
        self._of_other = False
        self.head: Checkpoint | None = None
        """What is signed of the log, once it was looked at; None where nothing is, which is a
        problem."""
        self.signers: tuple[VerifierKey, ...] = ()
        """The keys of the log in their order, from the one that was given on."""
        self.heads: tuple[KeptHead, ...] = ()
        """What the heads that were given came to, in their order."""

    @property
    def consistent(self) -> int:
        """Give how many of the heads that were given have the root of this log."""
        return sum(head.verdict is Verdict.FITS for head in self.heads)

    def begin(self) -> None:
        """Read the head, before the log is read: a daemon may write both meanwhile."""
        try:
            with (self._folder / CHECKPOINT).open("rb") as file:
                self._note = file.read(HEAD_BYTES_MAX)
            self.head = read_checkpoint(self._note)
        except FileNotFoundError:
            self._problem(
                f"there is no signed head of the log: {self._folder.name}/{CHECKPOINT} is missing. "
                "Put it back from a copy: a daemon that finds none signs what log it has",
                HEAD_MISSING,
            )
        except OSError as error:
            self._problem(f"{CHECKPOINT}: {error.strerror}")
        except CheckpointError as error:
            self._problem(f"{CHECKPOINT}: {error}")
        self._want()
        self._compare_at()

    def take(self, run: Run) -> None:
        """Put entries into the tree, and hold what they fill to the folder."""
        for place in run.places_of(Kind.KEY_ROTATED):
            if len(self._statements) <= ROTATIONS_MAX:
                index = run.index + place
                try:
                    self._statements.append((index, run.entry(place).body()))
                except (TypeError, ValueError) as error:
                    self._problem(f"entry {index}: its body is not that of its kind: {error}")
        self._take_unsigned(run)
        begin = 0
        while begin < len(run) and run.index + begin < self._sizes[-1]:
            begin = self._take_part(run, begin)

    def _take_unsigned(self, run: Run) -> None:
        """Note when those entries were written, the first and the last, that are below no head."""
        if self.head is None or self._live or run.index + len(run) <= self._signed_size:
            return
        places = range(max(0, self._signed_size - run.index), len(run))
        times = [*self._unsigned, *(run.entry(place).time_ns for place in places)]
        self._unsigned = [min(times), max(times)]

    def _take_part(self, run: Run, begin: int) -> int:
        """Take the entries of a run from a place on, up to where there is something to compare;
        give where that is."""
        index, signed = run.index + begin, self._signed_size
        next_size = self._sizes[bisect_right(self._sizes, index)]
        end = min(len(run), min((index // WIDTH + 1) * WIDTH, next_size) - run.index)
        leaves = run.leaves[begin:end]
        if index < signed:
            self._compare_leaves(run, begin, leaves)
        if not self._whole or index != self._growth.size:
            self._whole = False  # One is missing: what is above it cannot be made again.
            return end
        filled = self._growth.extend(leaves)
        if self._growth.size <= signed:
            self._bundle += run.payloads[begin:end]
            for path, content in filled:
                self._compare_tile(path, content)
            if self._growth.size % WIDTH == 0 or self._growth.size == signed:
                self._compare_bundle(index // WIDTH)
        self._compare_at()
        return end

    @property
    def _signed_size(self) -> int:
        """Give how many entries the folder's own head is over, 0 where there is none."""
        return self.head.size if self.head is not None else 0

    def _compare_leaves(self, run: Run, begin: int, leaves: Sequence[bytes]) -> None:
        number, place = divmod(run.index + begin, WIDTH)
        found = self._leaves(number)
        if found is None or found[place : place + len(leaves)] == leaves:
            return
        for more, leaf in enumerate(leaves):
            if found[place + more] != leaf and len(self._differing) < NAMED_MAX:
                self._differing.append(run.entry(begin + more))

    def finish(self, entries: int) -> None:
        """Tell what is wrong, the log having had so many entries."""
        chain: KeyChain | None
        if self._key is not None and self._is_of_other(self._key):
            # A head that this key has signed still tells of a log that was made anew.
            chain, self.head = KeyChain(keys=(self._key,), sizes=(0,)), None
            self._of_other = True
        else:
            chain = self._chain()
            self.head = self._opened(CHECKPOINT, self._note, chain) if self.head else None
        if chain is not None and self.head is not None:
            self._tell_root(self.head, entries)
        self.heads = tuple(
            self._held(name, data, self._fits.get(place), chain, entries)
            for place, (name, data) in enumerate(self._given)
        )
        if chain is not None and self.head is not None:
            self._tell_files(self.head)
        self._check_files()

    def _is_of_other(self, key: VerifierKey) -> bool:
        """Tell where the log is not that of the key that was given, but of the one beside it."""
        if self._beside is None or self.head is None:
            return False
        if _opens(key, self._statements, self._note) is not None:
            return False
        whose = _opens(self._beside, self._statements, self._note)
        if whose is None:
            return False
        self._problem(
            f"the log is signed as {whose.name} by the key {whose.key_id.hex()}, and not by the "
            f"one that was given, {key.key_id.hex()} of {key.name}: either that is not "
            "this log's key, or somebody else signed this log",
            KEY_OF_OTHER_LOG,
        )
        return True

    def _chain(self) -> KeyChain | None:
        """Follow the key that is known; None where that leads nowhere."""
        if self._key is None:
            return None
        try:
            chain = follow(self._key, self._statements)
        except RotationError as error:
            self._problem(str(error))
            return None
        self.signers = chain.keys
        return chain

    def _opened(self, name: str, data: bytes, chain: KeyChain | None) -> Checkpoint | None:
        if chain is None:
            self._problem(f"{name}: not verified, since nobody knows which key it has to be of")
            return None
        try:
            return chain.open(data)
        except CheckpointError as error:
            self._problem(f"{name}: {error}")
            return None

    def _tell_root(self, head: Checkpoint, entries: int) -> None:
        if entries < head.size:
            self._problem(f"a head over {head.size} entries was signed, and the log has {entries}")
        if self._fits.get(_HEAD) is False:
            self._problem(
                f"{CHECKPOINT}: the log's first {head.size} entries have not the root that was "
                "signed"
            )
        if self._unsigned and self._unsigned[1] - self._unsigned[0] > UNSIGNED_S * 10**9:
            self._problem(
                f"{CHECKPOINT}: it is over {head.size} of {entries} entries; those after it are of "
                f"{(self._unsigned[1] - self._unsigned[0]) // 10**9} s, and nobody signed them",
                HEAD_BEHIND,
            )

    def _held(
        self, name: str, data: bytes, fits: bool | None, chain: KeyChain | None, entries: int
    ) -> KeptHead:
        """Hold the log to a head that was kept, and tell what is wrong."""
        try:
            head = read_checkpoint(data)
        except CheckpointError as error:
            self._problem(f"{name}: {error}", Verdict.UNREADABLE)
            return KeptHead(name=name, origin="", size=-1, verdict=Verdict.UNREADABLE)
        verdict, why = _judged(head, data, fits, chain, entries)
        if self._of_other and verdict in OF_WHAT_WAS_GIVEN:
            verdict, why = Verdict.UNTOLD, ""  # Whose it has to be is what nobody knows.
        if why:
            self._problem(f"{name}: {why}", verdict)
        return KeptHead(name=name, origin=head.origin, size=head.size, verdict=verdict)

    def _tell_files(self, head: Checkpoint) -> None:
        for message in self._in_bundles:
            self._problem(message)
        if self._more_bundles:
            self._problem(f"{self._more_bundles} more bundles of entries are not as the log")
        if not self._fits.get(_HEAD) and self._tiles_hold(head):
            for entry in self._differing:
                self._report(Problem.of(entry, "it is not the entry that was signed"))
        else:
            for message in self._in_tiles:
                self._problem(message)

    def _want(self) -> None:
        """Note the roots that the tree must have, by its size: a receipt's head may be newer than
        the one that lies in the folder."""
        if self.head is not None:
            self._wanted[self.head.size] = [(_HEAD, self.head.root)]
        for place, (_, data) in enumerate(self._given):
            with contextlib.suppress(CheckpointError):  # `finish` tells.
                given = read_checkpoint(data)
                self._wanted.setdefault(given.size, []).append((place, given.root))
        self._sizes = sorted({0, *self._wanted})

    def _compare_at(self) -> None:
        """Compare what there is to compare with the tree as it is now."""
        if self.head is not None and self._growth.size == self.head.size:
            for path, content in self._growth.partial():
                self._compare_tile(path, content)
        for place, root in self._wanted.pop(self._growth.size, ()):
            self._fits[place] = self._growth.root() == root

    def _compare_tile(self, path: str, content: bytes) -> None:
        """Note where a tile of the folder is not the one of the log."""
        try:
            data, longer = self._tile(path)
        except OSError as error:
            self._in_tiles[_named(path, error)] = None
            return
        if (data[: len(content)] if longer else data) != content:
            self._in_tiles[f"{path}: its hashes are not those of the log"] = None

    def _tile(self, path: str) -> tuple[bytes, bool]:
        """Read a file of tiles; say whether it is the full one, which a partial one may have made
        way for."""
        full = path.partition(".p/")[0]
        try:
            return self._read(path), False
        except FileNotFoundError:
            if full == path:
                raise
        return self._read(full), True

    def _compare_bundle(self, number: int) -> None:
        bundle, self._bundle = self._bundle, []
        path = bundle_path(number, len(bundle))
        if self._is(path, pack_bundle(bundle)):
            return
        try:
            found = read_bundle(self._read, number, len(bundle))
        except (TileError, OSError) as error:
            self._in_bundle(_named(path, error))
            return
        differing = [
            number * WIDTH + place
            for place, (one, other) in enumerate(zip(bundle, found, strict=True))
            if one != other
        ]
        if differing:
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            self._in_bundle(f"{path}: entry {differing[0]}{more} in it: not as in the log")

    def _is(self, path: str, content: bytes) -> bool:
        """Say whether a file is just this; where it cannot be read, who looks closer tells."""
        try:
            return self._read(path) == content
        except OSError:
            return False

    def _in_bundle(self, message: str) -> None:
        if len(self._in_bundles) < BUNDLES_MAX:
            self._in_bundles.append(message)
        else:
            self._more_bundles += 1

    def _tiles_hold(self, head: Checkpoint) -> bool:
        """Say whether the leaves in the folder have the root that was signed."""
        grown = Growth()
        for number in range(-(-head.size // WIDTH)):
            for leaf in self._leaves(number) or ():
                grown.add(leaf)
        return grown.size == head.size and grown.root() == head.root

    def _load(self, number: int) -> Sequence[bytes] | None:
        """Read the leaves of a tile; None where it cannot be, which is told once all are seen."""
        width = min(WIDTH, self._signed_size - number * WIDTH)
        try:
            return read_tile(self._read, 0, number, width)
        except (TileError, OSError) as error:
            self._in_tiles[_named(tile_path(0, number, width), error)] = None
            return None

    def _check_files(self) -> None:
        """Tell what does not belong into the folder, and what is left there of smaller heads and
        does not begin what came after it."""
        unknown = 0
        for path in sorted(self._folder.rglob("*")) if self._folder.is_dir() else ():
            name = path.relative_to(self._folder).as_posix()
            if (path.is_dir() and not path.is_symlink()) or not os.path.lexists(path):
                continue  # A daemon takes the files of former heads away.
            if name == CHECKPOINT or _NEW.fullmatch(name):
                continue
            found = _TILE.fullmatch(name)
            if found is None:
                unknown += 1
                if unknown <= NAMED_MAX:
                    self._problem(f"{name} does not belong into the tree of a log")
            elif found["width"] is not None and self.head is not None:
                self._check_former(self.head, name, found)

    def _check_former(self, head: Checkpoint, name: str, found: re.Match[str]) -> None:
        level = 0 if found["level"] == "entries" else int(found["level"])
        number = int(found["number"].replace("x", "").replace("/", ""))
        width = min(WIDTH, (head.size >> (HEIGHT * level)) - number * WIDTH)
        if int(found["width"]) >= width:
            return  # The head's own, which was looked at, or of one that is not published yet.
        former, is_bundle = int(found["width"]), found["level"] == "entries"
        later = bundle_path(number, width) if is_bundle else tile_path(level, number, width)
        try:
            now, _ = self._tile(later)
            if is_bundle:
                begins = pack_bundle(unpack_bundle(now)[:former])
            else:
                begins = now[: former * HASH_BYTES]
            if self._read(name) != begins:
                self._problem(f"{name}: it is not how {later} begins")
        except (OSError, TileError):
            return  # What came after it is told of already; a former one may be taken away.

    def _problem(self, message: str, reason: str = "") -> None:
        self._report(Problem(message=message, reason=reason))


def _judged(
    head: Checkpoint, data: bytes, fits: bool | None, chain: KeyChain | None, entries: int
) -> tuple[Verdict, str]:
    """Say what a head that was kept says of a log of so many `entries`, and what is wrong with
    that; `fits` is None where no root over as many could be made."""
    if chain is None:
        return (
            Verdict.UNTOLD,
            "not verified, since nobody knows which key it has to be of",
        )
    if head.origin != (origin := chain.current.name):
        return Verdict.OTHER_ORIGIN, f"it is a head of the log {head.origin}, and this is {origin}"
    try:
        chain.open(data)
    except OtherKey as error:
        why = f"it is not of this log's key: {error}, and the log was never handed over to that one"
        return Verdict.OTHER_KEY, why
    except CheckpointError as error:
        return Verdict.OTHER_KEY, f"it is not of this log's key: {error}"
    if head.size > entries:
        return (
            Verdict.CUT_BACK,
            f"it is over {head.size} entries, and the log has {entries}: it was cut back",
        )
    if fits is None:  # Entries are missing, which is told.
        return Verdict.UNTOLD, ""
    if fits:
        return Verdict.FITS, ""
    return (
        Verdict.REWRITTEN,
        f"the log's first {head.size} entries have not the root that was signed: it was rewritten",
    )


def _opens(
    key: VerifierKey, statements: Sequence[tuple[int, Mapping[str, object]]], note: bytes
) -> VerifierKey | None:
    """Give the key that signs the log by now, where `key` leads to it and it has signed a head."""
    try:
        chain = follow(key, statements)
        chain.open(note)
    except (RotationError, CheckpointError):
        return None
    return chain.current


def _named(path: str, error: TileError | OSError) -> str:
    """Say what is wrong with a file of the tree, which is named once, however it was found."""
    if isinstance(error, FileNotFoundError):
        return f"{path} is missing" + (", and so is the full one" if ".p/" in path else "")
    text = str(error) if isinstance(error, TileError) else error.strerror or str(error)
    return text if text.startswith(path) else f"{path}: {text}"
