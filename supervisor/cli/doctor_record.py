"""What `stockade doctor` says of the record: what signs it, and how its witnesses do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.cli import output as out
from supervisor.errors import StockadeError

if TYPE_CHECKING:
    from supervisor.api.config import Record
    from supervisor.api.witness_config import WitnessEntry
    from supervisor.audit.notes import VerifierKey
    from supervisor.audit.witness_word import WitnessState
    from supervisor.sandbox.doctor import Row

NANOS = 1_000_000_000
CONTRADICTED = "stockade audit log --kind head_contradicted, and audit verify --head"


def log_key(state: Path, record: Record | None) -> Row:
    """Say what signs the log in a state folder, where its key is, and who can read contents."""
    from supervisor.audit.keys import KEY_NAME

    given = record.key if record is not None else None
    try:
        key = _key(state, is_own=given is None)
    except (StockadeError, OSError) as error:
        hint = error.hint if isinstance(error, StockadeError) else ""
        return _row("log key", "fails", str(error), hint or "")
    if key is None:
        return _row("log key", "absent", f"no daemon has made one in {state} yet")
    where = state / KEY_NAME if given is None else _where(given.source)
    recipients = record.recipients if record is not None else None
    readers = out.count(len(recipients), "recipient") if recipients else "who has the disk"
    said = f"{key.name}, {key.key_id.hex()}, by the key in {where}; contents are for {readers}"
    return _row("log key", "holds", said)


def witness_rows(state: Path, witnesses: Sequence[WitnessEntry]) -> list[Row]:
    """Say how each witness does, as the daemon of a state folder left word."""
    from supervisor.audit.witness_word import WordError, read_word, word_left_s
    from supervisor.cli.witnesses import witness_of

    try:
        known, left_s = read_word(state), word_left_s(state)
    except WordError as error:
        return [_row("witness", "fails", str(error), "the daemon writes it anew")]
    rows = []
    for entry in witnesses:
        try:
            name = witness_of(entry).name
        except StockadeError as error:
            rows.append(_row(f"witness {entry.stockade}", "fails", error.message, error.hint or ""))
            continue
        rows.append(_witness(f"witness {name}", known.get(name), left_s))
    return rows


def _witness(wall: str, state: WitnessState | None, left_s: float) -> Row:
    if state is None:
        return _row(wall, "absent", "no daemon has given it a head yet")
    last = f"it had the newest head at {_at(state.taken_s)}" if state.taken_s else "it has had none"
    if state.contradicted:
        said = f"the log is not the one that it knows: {state.contradicted}"
        return _row(wall, "fails", said, CONTRADICTED)
    if state.why:
        said = f"it takes none since {_at(state.failing_since_s)}: {state.why}; {last}"
        return _row(wall, "fails", said, "docs/operations.md, Witnesses")
    return _row(wall, "holds", f"{last}, as of {_at(left_s)}: told once a minute at most")


def _key(state: Path, *, is_own: bool) -> VerifierKey | None:
    from supervisor.audit.keys import PUBLIC_NAME, known_key, own_key

    if not (state / PUBLIC_NAME).exists():
        return None
    return own_key(state, is_new=False).key if is_own else known_key(state)


def _where(source: object) -> str:
    from supervisor.audit.signers import FileSource, TokenSource

    if isinstance(source, TokenSource):
        return f"the token {source.token}"
    if isinstance(source, FileSource):
        return source.file or f"the credential {source.credential}"
    return str(source)


def _at(time_s: float) -> str:
    return out.moment(int(time_s * NANOS))


def _row(wall: str, verdict: str, detail: str, advice: str = "") -> Row:
    from supervisor.sandbox.doctor import Row

    return Row(wall=wall, verdict=verdict, detail=detail, advice=advice)
