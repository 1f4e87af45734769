"""The .proto files keep buf's rules, and the stubs are what they generate."""

from __future__ import annotations

from pathlib import Path

from tests.style.tree import ROOT, SCRIPTS, run


def test_buf_lint() -> None:
    problems = run(SCRIPTS / "buf", "lint", cwd=ROOT / "proto")
    assert not problems, problems


def test_buf_format() -> None:
    problems = run(SCRIPTS / "buf", "format", "--diff", "--exit-code", cwd=ROOT / "proto")
    assert not problems, problems


def test_stubs_are_generated_from_proto(tmp_path: Path) -> None:
    assert not run(ROOT / ".ci" / "proto", tmp_path)
    generated = _contents(tmp_path / "supervisor" / "v1")
    committed = _contents(ROOT / "supervisor" / "v1")
    assert generated.keys() == committed.keys(), "run: make proto"
    stale = [name for name, data in generated.items() if committed[name] != data]
    assert not stale, "run: make proto"


def _contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if "_pb2" in p.name}
