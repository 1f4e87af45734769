"""Where the built programs and probes lie: in a wheel's package, or in a checkout's output folders.

Whether they are there is checked where they are used.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def find_cell() -> Path:
    """Give the sandbox's init."""
    return _find("cell", "cell")


def find_canary() -> Path:
    """Give the program that tries to leave a call's cgroup."""
    return _find("canary", "cell")


def find_probes() -> Path:
    """Give the folder of the probes' objects."""
    packaged = PACKAGE / "_data" / "probes"
    return packaged if packaged.is_dir() else PACKAGE.parent / "probes" / ".output"


def _find(name: str, room: str) -> Path:
    packaged = PACKAGE / "_data" / name
    return packaged if packaged.is_file() else PACKAGE.parent / room / ".output" / name
