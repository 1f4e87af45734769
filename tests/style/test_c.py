"""C files are formatted and say their licence."""

from __future__ import annotations

import pytest

from tests.style.tree import ROOT, files, run

C_FILES = [p for p in files() if p.suffix in {".c", ".h"} and p.name != "vmlinux.h"]
LICENCES = {"probes": "GPL-2.0-only OR BSD-2-Clause"}
"""By top-level folder; everything else is Apache-2.0, as the repository."""


@pytest.mark.parametrize("path", C_FILES, ids=str)
def test_format(path: object) -> None:
    problems = run("clang-format", "--dry-run", "--Werror", str(path))
    assert not problems, problems


@pytest.mark.parametrize("path", C_FILES, ids=str)
def test_licence(path: object) -> None:
    first = (ROOT / str(path)).read_text().splitlines()[0]
    licence = LICENCES.get(str(path).split("/")[0], "Apache-2.0")
    assert f"SPDX-License-Identifier: {licence}" in first
