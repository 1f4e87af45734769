"""What the daemon leaves in its state folder of how its witnesses do, for who looks without asking
the daemon: `doctor`. It begins anew with each start."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supervisor.audit.witness import WitnessObserver

WORD_NAME = "witnesses.json"
WORD_EVERY_S = 60.0
"""How old the time may be that is told of a witness that goes on taking heads."""

log = logging.getLogger("stockade.audit")


class WordError(Exception):
    """What was left cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessState:
    """How a witness does: when it had the newest head last, since when it takes none, in seconds
    since the epoch, 0 where it never did; why, and what contradicts the log."""

    taken_s: float = 0.0
    failing_since_s: float = 0.0
    why: str = ""
    contradicted: str = ""


class WitnessWord:
    """A `WitnessObserver` that leaves word, and tells another one. For any threads."""

    def __init__(
        self, state: Path, inner: WitnessObserver, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._path = state / WORD_NAME
        self._inner = inner
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._states: dict[str, WitnessState] = {}
        self._left = self._states

    def witness_took(self, witness: str, time_s: float) -> None:
        """Take note of when a witness had the newest head."""
        self._inner.witness_took(witness, time_s)
        self._note(witness, taken_s=time_s)

    def witness_fails(self, witness: str, why: str) -> None:
        """Take note of why a witness takes no head; "" where it takes them."""
        self._inner.witness_fails(witness, why)
        with self._lock:
            since = self._states.get(witness, WitnessState()).failing_since_s
        self._note(witness, why=why, failing_since_s=(since or self._clock_s()) if why else 0.0)

    def head_contradicted(self, witness: str, why: str) -> None:
        """Take note of a head that the log does not begin with."""
        self._inner.head_contradicted(witness, why)
        self._note(witness, contradicted=why)

    def _note(self, witness: str, **changes: float | str) -> None:
        with self._lock:
            known = self._states.get(witness, WitnessState())
            state = dataclasses.replace(known, **changes)  # type: ignore[arg-type]
            self._states = {**self._states, witness: state}
            left = self._left.get(witness, WitnessState())
            is_old = state.taken_s - left.taken_s >= WORD_EVERY_S
            if is_old or dataclasses.replace(left, taken_s=state.taken_s) != state:
                self._leave()

    def _leave(self) -> None:
        part = self._path.with_suffix(".part")
        told = {name: dataclasses.asdict(state) for name, state in self._states.items()}
        try:
            part.write_text(json.dumps(told) + "\n")
            part.rename(self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)
        self._left = self._states


def word_left_s(state: Path) -> float:
    """Give when that was said, in seconds since the epoch; 0 where nothing was."""
    try:
        return (state / WORD_NAME).stat().st_mtime
    except OSError:
        return 0.0


def read_word(state: Path) -> dict[str, WitnessState]:
    """Give how the witnesses of a state folder's daemon do, by name, as it said last.

    Raises:
        WordError: it cannot be read.
    """
    try:
        found = json.loads((state / WORD_NAME).read_bytes())
        return {str(name): WitnessState(**one) for name, one in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WordError(f"{WORD_NAME} cannot be read: {error}") from error
