"""The tree is the one of the design, and names nothing of one machine or of a registry."""

from __future__ import annotations

from pathlib import Path

from tests.style.tree import ROOT, files

TOP_LEVEL = {
    ".ci", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "SECURITY.md", "Vagrantfile",
    "cell", "docs", "probes", "profiles", "proto", "pyproject.toml", "supervisor", "tests",
}  # fmt: skip

# Written in pieces, so that this file does not hold what it looks for.
HOSTS = [
    ".".join(labels)
    for labels in (
        ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"),
        ("yarnpkg", "com"), ("crates", "io"), ("rubygems", "org"), ("docker", "io"),
        ("docker", "com"), ("ghcr", "io"), ("quay", "io"), ("gcr", "io"), ("golang", "org"),
        ("packagist", "org"), ("deb", "debian", "org"), ("maven", "org"), ("anaconda", "org"),
    )
]  # fmt: skip
MACHINE = ["/".join(("", *parts)) for parts in (
    ("work", "main"), ("work", "shared"), ("farm", ""), ("opt", "wheels"), ("opt", "pypi"),
    ("root", ".pyenv"), ("tmp", "SPEC"),
)]  # fmt: skip

TESTED_ELSEWHERE = {
    "supervisor/cli/main.py": "the entry point: tests/unit/cli and tests/system run it whole",
}
"""Modules without a test file of their own, and where they are tested instead."""


def test_top_level() -> None:
    names = {path.parts[0] for path in files()}
    assert {n for n in names if not n.startswith(".")} <= TOP_LEVEL
    assert {"README.md", "pyproject.toml", "LICENSE", "Makefile", ".ci"} <= names


def test_no_registry_is_named() -> None:
    assert not _mentions(HOSTS)


def test_no_path_of_one_machine() -> None:
    assert not _mentions(MACHINE)


def test_a_mention_would_be_found() -> None:
    assert _mentions(["TERMS AND CONDITIONS " + "FOR USE, REPRODUCTION"]) == ["LICENSE"]


def _mentions(needles: list[str]) -> list[str]:
    wanted = [needle.encode() for needle in needles]
    return [
        str(path)
        for path in files()
        if any(needle in (ROOT / path).read_bytes() for needle in wanted)
    ]


def test_tests_mirror_the_package() -> None:
    missing = [
        f"{module} wants {mirror}"
        for module, mirror in _mirrors()
        if str(module) not in TESTED_ELSEWHERE and not (ROOT / mirror).is_file()
    ]
    assert not missing, missing


def test_the_exceptions_are_still_needed() -> None:
    mirrors = {str(module): mirror for module, mirror in _mirrors()}
    stale = [m for m in TESTED_ELSEWHERE if m not in mirrors or (ROOT / mirrors[m]).is_file()]
    assert not stale


def test_unit_tests_have_something_to_test() -> None:
    known = {mirror for _, mirror in _mirrors()}
    orphans = [
        str(path)
        for path in files()
        if path.is_relative_to("tests/unit") and path.name.startswith("test_")
        if path not in known and not _is_part_of_a_split(path, known)
    ]
    assert not orphans


def _is_part_of_a_split(path: Path, known: set[Path]) -> bool:
    """Long tests of a module may be split: test_policy_sockets.py beside test_policy.py, or
    test_package.py for what a room promises as a whole."""
    if path.name == "test_package.py":
        return True
    parts = path.stem.split("_")
    return any(path.with_name("_".join(parts[:n]) + ".py") in known for n in range(2, len(parts)))


def _mirrors() -> list[tuple[Path, Path]]:
    """Pair each module that people write with the place of its test."""
    return [
        (path, Path("tests/unit", *path.parts[1:-1], f"test_{path.name}"))
        for path in files()
        if path.is_relative_to("supervisor") and path.suffix == ".py"
        if path.name != "__init__.py" and not path.is_relative_to("supervisor/v1")
    ]
