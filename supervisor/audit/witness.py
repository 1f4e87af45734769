"""Witnesses: who is given the log's signed heads while it grows, so that one that is rewritten or
cut back later shows.

A head says nothing of what is in the log, so anybody may have it; what counts is that whoever can
change the log cannot take it back. A witness that fails holds up nothing: that is told when it
begins and when it is over, and the next head covers all that came before it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from supervisor.errors import StockadeError

PUSH_EVERY_S = 5.0
"""How old a head may be before the next one is given away."""

COMMAND_S = 30.0
WITNESSES_MAX = 8
STDERR_CHARACTERS_MAX = 200

log = logging.getLogger(__name__)


class WitnessFailed(Exception):
    """A witness did not take a head, and why."""


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


@dataclass(frozen=True, slots=True)
class FileWitness:
    """A file to which heads are appended, one after the other (`heads_in`): on a share that keeps
    what was written, or with `chattr +a`."""

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
        every_s: float = PUSH_EVERY_S,
    ) -> None:
        """Take from `head` what is signed now, and from `prove` that one begins with another."""
        for one in witnesses:
            if prove is not None and isinstance(one, Proving):
                one.prove_with(prove)
        self._head = head
        self._every_s = every_s
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(one,), name=f"witness {number}", daemon=True)
            for number, one in enumerate(witnesses)
        ]

    def start(self) -> None:
        """Begin, with the head that there is."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Give the last head away and stop. Blocks, for as long as a witness takes."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self, witness: Witness) -> None:
        taken, failed = b"", False
        while True:
            is_last = self._stop.is_set()
            taken, failed = self._push(witness, taken, failed)
            if is_last:
                return
            self._stop.wait(self._every_s)

    def _push(self, witness: Witness, taken: bytes, failed: bool) -> tuple[bytes, bool]:
        """Give a witness what it has not had yet; give what it has now, and whether it failed."""
        try:
            head = self._head()
            if head != taken:
                witness.take(head)
        except (WitnessFailed, StockadeError, ValueError) as error:
            if not failed:
                log.warning("the witness %s takes no head of the record: %s", witness.name, error)
            return taken, True
        if failed:
            log.info("the witness %s has the head of the record again", witness.name)
        return head, False


def heads_in(data: bytes) -> Iterator[bytes]:
    """Give the signed heads that lie one after the other in `data`, as a file witness has them."""
    blocks = data.split(b"\n\n")
    for text, signatures in zip(blocks[::2], blocks[1::2], strict=False):
        yield text.lstrip(b"\n") + b"\n\n" + signatures.rstrip(b"\n") + b"\n"
