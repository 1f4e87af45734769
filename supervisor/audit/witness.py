"""Witnesses: who is given the log's signed heads while it grows, so that one that is rewritten or
cut back later shows.

A head says nothing of what is in the log, so anybody may have it; what counts is that whoever can
change the log cannot take it back. A witness that fails holds up nothing: that is told when it
begins and when it is over, and the next head covers all that came before it.
"""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from supervisor.errors import StockadeError

PUSH_EVERY_S = 5.0
"""How old a head may be before the next one is given away."""

COMMAND_S = 30.0
WITNESSES_MAX = 8
STDERR_CHARACTERS_MAX = 200
SIGNATURE_MARK = "\N{EM DASH} ".encode()
"""What each line of signatures begins with (C2SP signed-note)."""

KEPT_BYTES_MAX = 256 << 10
"""Of the end of a file of heads: a thousand of them."""

log = logging.getLogger(__name__)


class WitnessFailed(Exception):
    """A witness did not take a head, and why."""


class Contradicted(WitnessFailed):
    """A witness has a head that our log does not begin with: its size, and its root in base64 where
    it is known; `shorter` where the log is, at the time."""

    def __init__(self, why: str, *, size: int, root: str = "", shorter: bool) -> None:
        super().__init__(why)
        self.size = size
        self.root = root
        self.shorter = shorter


class WitnessObserver(Protocol):
    """Who wants to know how witnesses do. Called from their threads."""

    def witness_took(self, witness: str, time_s: float) -> None:
        """Take note of when a witness had the newest head, in seconds since the epoch."""

    def witness_fails(self, witness: str, why: str) -> None:
        """Take note of why a witness takes no head; "" where it takes them."""

    def head_contradicted(self, witness: str, why: str) -> None:
        """Take note of a head that the log does not begin with."""


FAILURES = (WitnessFailed, StockadeError, ValueError, OSError)
"""After which a witness is asked again later."""


class Witness(Protocol):
    """Takes signed heads."""

    @property
    def name(self) -> str:
        """Give what it is called in messages."""

    def take(self, head: bytes) -> None:
        """Keep a head. Blocks.

        Raises:
            WitnessFailed: it is not kept.
        """


@runtime_checkable
class Proving(Protocol):
    """A witness that wants to see that each head begins with the one before."""

    def prove_with(self, prove: Callable[[int, int], Sequence[bytes]]) -> None:
        """Take what makes consistency proofs, from one size to another."""


@runtime_checkable
class Keeping(Protocol):
    """A witness that can be asked which heads it has."""

    def kept(self) -> list[bytes]:
        """Give the newest of them.

        Raises:
            WitnessFailed: they cannot be read.
        """


@dataclass(frozen=True, slots=True)
class FileWitness:
    """A file to which heads are appended, one after the other (`heads_within`): on a share that
    keeps what was written, or with `chattr +a`."""

    path: Path

    @property
    def name(self) -> str:
        """Give its path."""
        return str(self.path)

    def take(self, head: bytes) -> None:
        """Append a head."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags, 0o644)
            try:
                left = memoryview(head + b"\n")
                while left:
                    left = left[os.write(fd, left) :]
                os.fdatasync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise WitnessFailed(error.strerror or str(error)) from error

    def kept(self) -> list[bytes]:
        """Give the heads at its end."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - KEPT_BYTES_MAX))
                data = file.read(KEPT_BYTES_MAX)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise WitnessFailed(error.strerror or str(error)) from error
        return list(heads_within(data))


@dataclass(frozen=True, slots=True)
class CommandWitness:
    """A command that gets each head on its standard input, and exits with 0 once it is kept."""

    argv: tuple[str, ...]

    @property
    def name(self) -> str:
        """Give the path of the program."""
        return self.argv[0]

    def take(self, head: bytes) -> None:
        """Run it, without a shell and without our environment."""
        try:
            done = subprocess.run(
                self.argv,
                input=head,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=COMMAND_S,
                env={},
                cwd="/",
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise WitnessFailed(f"it was not done within {COMMAND_S:.0f} s") from None
        except OSError as error:
            raise WitnessFailed(error.strerror or str(error)) from error
        if done.returncode:
            said = done.stderr.decode("ascii", "backslashreplace").strip()
            raise WitnessFailed(
                f"it exited with {done.returncode}: {said[:STDERR_CHARACTERS_MAX]!r}"
            )


class Pusher:
    """Gives heads to witnesses, each from a thread of its own, until it is closed."""

    def __init__(
        self,
        head: Callable[[], bytes],
        witnesses: Sequence[Witness],
        *,
        prove: Callable[[int, int], Sequence[bytes]] | None = None,
        check: Callable[[Sequence[bytes]], None] | None = None,
        contradicted: Callable[[str, Contradicted], None] | None = None,
        observer: WitnessObserver | None = None,
        every_s: float = PUSH_EVERY_S,
    ) -> None:
        """Take from `head` what is signed now, and from `prove` that one begins with another.
        `check` raises `Contradicted` where the log does not begin with what a witness has, of which
        `contradicted` is told."""
        for one in witnesses:
            if prove is not None and isinstance(one, Proving):
                one.prove_with(prove)
        self._head = head
        self._check = check
        self._contradicted = contradicted
        self._observer = observer
        self._every_s = every_s
        self._stop = threading.Event()
        self._asked = [threading.Event() for _ in witnesses]
        self._threads = [
            threading.Thread(
                target=self._run, args=(one, asked), name=f"witness {number}", daemon=True
            )
            for number, (one, asked) in enumerate(zip(witnesses, self._asked, strict=True))
        ]

    def start(self) -> None:
        """Begin, with the head that there is."""
        for thread in self._threads:
            thread.start()

    def settle(self) -> None:
        """Wait until each was asked once what it has, where they were started. Blocks, for as long
        as a witness takes."""
        for thread, asked in zip(self._threads, self._asked, strict=True):
            if thread.ident is not None:
                asked.wait()

    def close(self) -> None:
        """Give the last head away and stop. Blocks, for as long as a witness takes."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self, witness: Witness, asked: threading.Event) -> None:
        turn = _Turn(witness)
        try:
            self._push(turn)
        finally:
            asked.set()
        while not self._stop.wait(self._every_s):
            self._push(turn)
        self._push(turn)

    def _look_back(self, turn: _Turn) -> None:
        """Hold the log to what a witness has; where that cannot be now, the next time."""
        if turn.looked_back or self._check is None or not isinstance(turn.witness, Keeping):
            return
        try:
            self._check(turn.witness.kept())
        except Contradicted as error:
            self._tell(turn, error)
        except FAILURES as error:
            if not turn.blind:
                name = turn.witness.name
                log.warning("what the witness %s has cannot be looked at: %s", name, error)
            turn.blind = True
            return
        turn.looked_back = True

    def _push(self, turn: _Turn) -> None:
        """Give a witness what it has not had yet."""
        self._look_back(turn)
        try:
            head = self._head()
            if head != turn.taken:
                turn.witness.take(head)
        except FAILURES as error:
            self._tell(turn, error)
            self._observe(turn, str(error) or type(error).__name__)
            return
        if turn.failed:
            log.info("the witness %s has the head of the record again", turn.witness.name)
        turn.taken = head
        self._observe(turn, "")

    def _tell(self, turn: _Turn, error: Exception) -> None:
        name = turn.witness.name
        if isinstance(error, Contradicted):
            # Its text may tell how long our log is, which what is told makes longer.
            what = error.size, error.root, error.shorter
            if what not in turn.told and self._contradicted is not None:
                self._contradicted(name, error)
                if self._observer is not None:
                    self._observer.head_contradicted(name, str(error))
            turn.told.add(what)
        elif not turn.failed:
            log.warning("the witness %s takes no head of the record: %s", name, error)

    def _observe(self, turn: _Turn, why: str) -> None:
        turn.failed = bool(why)
        if self._observer is None:
            return
        self._observer.witness_fails(turn.witness.name, why)
        if not why:
            self._observer.witness_took(turn.witness.name, time.time())


@dataclass(slots=True, eq=False)
class _Turn:
    """What one witness was asked and has had, whether it could not be asked, or failed last, and
    which contradictions were told."""

    witness: Witness
    looked_back: bool = False
    blind: bool = False
    taken: bytes = b""
    failed: bool = False
    told: set[tuple[int, str, bool]] = field(default_factory=set)


def heads_within(data: bytes) -> Iterator[bytes]:
    """Give the whole heads in a part of a file witness's file, wherever that begins and whatever is
    between them."""
    for text, signatures in itertools.pairwise(data.split(b"\n\n")):
        if signatures.startswith(SIGNATURE_MARK):
            yield text.lstrip(b"\n") + b"\n\n" + signatures.rstrip(b"\n") + b"\n"
