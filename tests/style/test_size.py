"""Functions fit on a screen; files stay readable; every module says what it is for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.style.tree import ROOT, files, is_generated, parse, python_files

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
COUNTED = {".py", ".c", ".h", ".proto", ".sh", ".yaml", ".md", ""}


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{path}:{node.lineno} {node.name}: {lines} lines"
        for path in python_files()
        for node, lines in _functions(path)
        if lines > FUNCTION_LINES_MAX
    ]
    assert not long, long


def _functions(path: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_stay_readable() -> None:
    long = {
        str(path): lines
        for path in files()
        if path.suffix in COUNTED and not is_generated(path) and path.name != "vmlinux.h"
        if (lines := (ROOT / path).read_bytes().count(b"\n")) > FILE_LINES_MAX
    }
    assert not long


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(path) for path in python_files() if not ast.get_docstring(parse(path))]
    assert not silent
