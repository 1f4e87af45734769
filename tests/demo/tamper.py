"""The record is verified without the daemon, and a copy with one flipped bit is not believed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.demo.evidence import expect

STOCKADE = Path(sys.executable).with_name("stockade")
CORRUPT_EXIT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What `stockade audit verify` said of the log, and of a copy that somebody touched."""

    verified: str
    touched: str
    noticed: str


def prove(state: Path, call_id: str, scratch: Path) -> Proof:
    """Verify the log, then flip one bit in the OUTCOME entry of a call in a copy of it.

    Raises:
        Fell: the log does not verify, or the flipped bit is not noticed and named.
    """
    good = verify(state)
    expect(good.returncode == 0, f"the log does not verify: {said(good)}")
    copy = scratch / "copy"
    shutil.copytree(state, copy)
    path, place, index = find_outcome(copy, call_id)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    bad = verify(copy)
    expect(bad.returncode == CORRUPT_EXIT, f"the flipped bit was not noticed: {said(bad)}")
    expect(f"entry {index}" in said(bad), f"entry {index} is not named: {said(bad)}")
    return Proof(
        verified=said(good).splitlines()[-1],
        touched=f"one bit of byte {place} in {path.relative_to(copy)}: entry {index}, the outcome",
        noticed=said(bad).splitlines()[0],
    )


def verify(state: Path) -> subprocess.CompletedProcess[bytes]:
    """Run `stockade audit verify` over a state folder."""
    return subprocess.run(
        [STOCKADE, "audit", "verify", state],
        check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
    )  # fmt: skip


def said(run: subprocess.CompletedProcess[bytes]) -> str:
    """Give what a command printed, on either stream."""
    return (run.stdout + run.stderr).decode(errors="replace").strip()


def find_outcome(state: Path, call_id: str) -> tuple[Path, int, int]:
    """Find a place inside the OUTCOME entry of a call: file, offset and the entry's index.

    Raises:
        Fell: there is none.
    """
    needle = f'"call":"{call_id}","index":'.encode()
    for path in sorted(p for p in (state / "log").rglob("*") if p.is_file()):
        data = path.read_bytes()
        place = data.find(needle)
        while place >= 0:
            index, kind = data[place + len(needle) :].split(b",", 2)[:2]
            if kind == b'"kind":"outcome"':
                # Two bytes before the call's id are inside the body of the same entry.
                return path, place - 2, int(index)
            place = data.find(needle, place + 1)
    expect(False, f"the log holds no outcome of {call_id}")
    raise AssertionError
