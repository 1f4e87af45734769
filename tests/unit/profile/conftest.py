"""Folders of profiles for the tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.profile.load import ProfileSet

COMPLETE = """\
profile: base
why: The tests begin here.
image: host
files:
  write: [{path: /work, size: 64MiB}]
syscalls: {allow: ["@local"]}
env: {LANG: C.UTF-8}
limits: {wall: 60s, cpu: 30s, memory: 512MiB, pids: 64, files: 256, output: 16MiB}
record: {stdin: full, stdout: full, stderr: full}
"""

MakeSet = Callable[..., ProfileSet]


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """Write profiles (NAME="…") and fragments (fragment_NAME="…") and load the folder.

    `base` is COMPLETE where it is not given.
    """

    numbers = itertools.count()

    def make(**texts: str) -> ProfileSet:
        texts.setdefault("base", COMPLETE)
        folder = tmp_path / f"profiles-{next(numbers)}"
        (folder / "fragments").mkdir(parents=True)
        for name, text in texts.items():
            own = name.removeprefix("fragment_")
            place = folder / "fragments" if own != name else folder
            (place / f"{own}.yaml").write_text(text)
        return ProfileSet.load([folder])

    return make
