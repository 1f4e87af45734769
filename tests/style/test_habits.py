"""Nothing swallows an exception, uses a shell, inherits the daemon's environment, or has subprocess
fork where there may be threads of gRPC's."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.style.tree import parse, python_files

PACKAGE = [p for p in python_files() if p.parts[0] in {"supervisor", ".ci"}]


def _swallows(node: ast.AST) -> bool:
    """A handler whose whole body is `pass` or `...`, or that catches everything by name of
    nothing."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    return node.type is None or all(_is_nothing(statement) for statement in node.body)


def _is_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value is Ellipsis
    )


def _uses_a_shell(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if any(
        keyword.arg == "shell"
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
        for keyword in node.keywords
    ):
        return True
    name = ast.unparse(node.func)
    return name in {"os.system", "os.popen"} or name.endswith("create_subprocess_shell")


def _reads_the_environment(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) in {
        "os.environ",
        "os.environb",
        "os.getenv",
    }


def _has_a_child_fork(node: ast.AST) -> bool:
    """What subprocess can do in a child of fork(2) only, and not of vfork(2): gRPC's handlers of a
    fork abort such a child now and then (grpc/grpc issue 43055)."""
    forking = {"preexec_fn", "user", "extra_groups"}
    return isinstance(node, ast.Call) and (
        any(keyword.arg in forking for keyword in node.keywords)
        and ast.unparse(node.func).startswith(("subprocess.", "asyncio.create_subprocess"))
    )


def _hits(paths: list[Path], bad: Callable[[ast.AST], bool]) -> Iterator[str]:
    for path in paths:
        for node in ast.walk(parse(path)):
            if bad(node):
                yield f"{path}:{node.lineno}"  # type: ignore[attr-defined]


def test_no_exception_is_swallowed() -> None:
    assert not list(_hits(list(python_files()), _swallows))


def test_no_shell() -> None:
    assert not list(_hits(list(python_files()), _uses_a_shell))


def test_no_child_of_ours_forks() -> None:
    """`stockade trace` asks no daemon, so it has no such thread."""
    paths = [path for path in python_files() if path != Path("supervisor/cli/trace.py")]
    assert not list(_hits(paths, _has_a_child_fork))


def test_only_the_front_reads_the_environment() -> None:
    inside = [p for p in PACKAGE if not p.is_relative_to("supervisor/cli")
              and not p.is_relative_to("supervisor/client")]  # fmt: skip
    assert not list(_hits(inside, _reads_the_environment))


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (_swallows, "try: f()\nexcept OSError: pass"),
        (_swallows, "try: f()\nexcept: raise"),
        (_uses_a_shell, "run('x', shell=True)"),
        (_uses_a_shell, "os.system('x')"),
        (_has_a_child_fork, "subprocess.run(['x'], user=1, group=1)"),
        (_has_a_child_fork, "subprocess.Popen(['x'], preexec_fn=f)"),
        (_reads_the_environment, "a = os.environ['A']"),
    ],
)
def test_the_checks_can_fail(bad: Callable[[ast.AST], bool], code: str) -> None:
    assert any(bad(node) for node in ast.walk(ast.parse(code)))
