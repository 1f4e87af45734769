"""What the servers of the world saw, one JSON object a line, written whole before they answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Log:
    """A file that all servers append to; a line is written by one write(2)."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def __call__(self, kind: str, **what: Any) -> None:
        """Append a line of this kind."""
        os.write(self._fd, json.dumps({"kind": kind, **what}).encode() + b"\n")
