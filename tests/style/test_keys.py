"""Every key of a profile has a test that fails when the key is unwired.

The keys come from the models of the schema, the tests from the marker `key("limits.wall")`: a new
key without one fails here, and so does a marker of a key that is gone.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from supervisor.profile.schema import FragmentFile, ProfileFile
from tests.style.tree import ROOT

SHOWN = ("tests/system", "tests/escape", "tests/egress")
"""Where tests run real calls: an effect is seen there, not in what a function returns."""


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Give the path of each value that can be written, as `files.write.size`."""
    for name, field in model.model_fields.items():
        below = list(models(field.annotation))
        if not below or str in leaves(field.annotation):
            yield prefix + name
        for inner in below:
            yield from keys(inner, f"{prefix}{name}.")


def models(annotation: object) -> Iterator[type[BaseModel]]:
    """Find the models in a type, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from models(argument)


def leaves(annotation: object) -> Iterator[object]:
    """Find what is no model in a type: where a text may stand in the place of a mapping."""
    arguments = typing.get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from leaves(argument)


def all_keys() -> set[str]:
    """Give the keys of a profile; a fragment has its name besides."""
    fragment = {key for key in keys(FragmentFile) if key.startswith("fragment")}
    return {*keys(ProfileFile), *fragment}


def marked() -> dict[str, list[str]]:
    """Find the tests that say which key they are for."""
    found: dict[str, list[str]] = {}
    for folder in SHOWN:
        for path in sorted((ROOT / folder).glob("test_*.py")):
            for key, test in marks(path):
                found.setdefault(key, []).append(f"{path.relative_to(ROOT)}::{test}")
    return found


def marks(path: Path) -> Iterator[tuple[str, str]]:
    """Give key and test of each marker in a file; a test of several keys has several."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.key":
                for argument in mark.args:
                    yield ast.literal_eval(argument), node.name


def test_the_list_is_what_it_was_meant_to_be() -> None:
    known = all_keys()
    assert {"limits.wall", "files.write.exec", "drop.syscalls.allow", "env", "fragment"} <= known
    assert {"syscalls.allow", "syscalls.allow.why"} <= known
    assert not {"files", "files.write", "limits", "drop"} & known


def test_every_key_has_a_test_of_its_effect() -> None:
    found = marked()
    assert sorted(all_keys() - found.keys()) == []
    assert sorted(found.keys() - all_keys()) == []


def test_a_new_key_is_in_the_list() -> None:
    class More(ProfileFile):
        fresh: str = ""

    assert set(keys(More)) - all_keys() == {"fresh"}
