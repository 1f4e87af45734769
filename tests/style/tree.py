"""The files of this repository, as the style tests see them."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent
"""Where the virtual environment keeps its programs."""


@functools.cache
def files() -> tuple[Path, ...]:
    """Give every file that git knows or would add, relative to the root; the wheel's and the
    build's are ignored by git and so not here."""
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
    ).stdout.decode()
    return tuple(sorted(p for p in map(Path, listing.split("\0")[:-1]) if (ROOT / p).is_file()))


def python_files() -> Iterator[Path]:
    """Give the Python files that people write."""
    return (p for p in files() if p.suffix == ".py" and not is_generated(p))


def is_generated(path: Path) -> bool:
    """Say whether a generator wrote the file."""
    return path.is_relative_to("supervisor/v1")


@functools.cache
def parse(path: Path) -> ast.Module:
    """Give the file's syntax tree."""
    return ast.parse((ROOT / path).read_text(), str(path))


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a linter; give what it said, or "" where it found nothing."""
    done = subprocess.run(
        command, cwd=cwd, check=False, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return done.stdout or f"exit {done.returncode}" if done.returncode else ""
