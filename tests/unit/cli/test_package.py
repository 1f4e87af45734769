"""What the command line promises as a whole: help everywhere, one look of errors, a quick start."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from supervisor.cli.verbs import VERBS, cli
from supervisor.client import Supervisor
from tests.unit.cli.conftest import Stockade
from tests.unit.client.fake_daemon import silence


def commands(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*path, name))


EVERY = [
    pytest.param(path, command, id=" ".join(path) or "stockade") for path, command in commands()
]


def test_every_verb_is_there() -> None:
    assert {path[0] for path, _ in commands() if path} == set(VERBS)
    assert {" ".join(path) for path, _ in commands()} >= {
        "serve", "run", "ps", "kill", "doctor", "profile lint", "profile show", "profile explain",
        "profile learn",
        "profile ls", "audit ls", "audit show", "audit cat", "audit verify", "audit log",
        "audit key new", "audit key show", "audit key rotate",
        "image import", "image ls", "image rm", "completion",
    }  # fmt: skip


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_help(path: tuple[str, ...], command: click.Command, stockade: Stockade) -> None:
    result = stockade(*path, "--help")
    assert result.exit_code == 0
    assert "Examples:\n" in result.stdout
    assert "Exit codes:\n" in result.stdout
    examples = result.stdout.split("Examples:\n")[1].split("\n\n")[0]
    assert " ".join(("stockade", *path)) in examples


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_every_option_is_explained(path: tuple[str, ...], command: click.Command) -> None:
    silent = [
        parameter.name
        for parameter in command.params
        if isinstance(parameter, click.Option) and not (parameter.help or "").endswith((".", "]"))
    ]
    assert not silent


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_json_everywhere(path: tuple[str, ...], command: click.Command) -> None:
    names = {name for parameter in command.params for name in parameter.opts}
    assert "--json" in names or path == ("completion",) or isinstance(command, click.Group)


def test_start_is_quick_because_little_is_imported() -> None:
    code = (
        "import sys; from supervisor.cli.verbs import cli; cli(['--help'], standalone_mode=False); "
        "print([m for m in ('grpc', 'pydantic', 'rich', 'google.protobuf') if m in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path.cwd()
    )
    assert said.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_examples_show_no_short_ids(path: tuple[str, ...], command: click.Command) -> None:
    """A call is named by its whole id only, so an example with less would fail."""
    assert not re.search(r"\b[0-9a-f]{8}\b(?!-)", command.help or ""), path


def test_a_daemon_that_never_answers(
    stockade: Stockade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = Supervisor.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "timeout", 0.5)
    with silence(tmp_path) as address:
        assert stockade("audit", "ls", "--address", address).exit_code == 7


def test_version(stockade: Stockade) -> None:
    from supervisor import __version__

    assert stockade("--version").stdout == f"stockade, version {__version__}\n"


MAIN = [sys.executable, "-m", "supervisor.cli.main"]


def shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with its standard streams as a shell sets them up."""
    return subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirection}', *MAIN, *arguments],
        check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


INTERRUPTED = """
import runpy, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
sys.argv = ["stockade", "ps", "--address", "unix:/nonexistent"]
runpy.run_module("supervisor.cli.main", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["click", "supervisor.cli.ps", "grpc"])
def test_an_interruption_while_importing(module: str) -> None:
    code = INTERRUPTED.format(module=module)
    said = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=Path.cwd()
    )
    assert (said.returncode, said.stdout, said.stderr) == (130, "", "")


@pytest.mark.parametrize("arguments", [["--help"], ["profile", "ls", "--dir", "profiles"]], ids=str)
def test_nowhere_to_write(arguments: list[str]) -> None:
    said = shell(">/dev/full", *arguments)
    assert said.returncode == 1
    assert re.fullmatch(r"stockade: .*No space left on device \[OS_ERROR\]\n", said.stderr)
    assert shell(">/dev/full 2>&1", *arguments).returncode == 1


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", [["--help"], ["profile", "ls", "--dir", "profiles"]], ids=str)
def test_closed_streams(redirection: str, arguments: list[str]) -> None:
    said = shell(redirection, *arguments)
    assert (said.returncode, said.stderr) == (0, "")
    assert bool(said.stdout) == (">&-" not in redirection.replace("2>&-", ""))


def test_grpc_keeps_silent_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, sys; from supervisor.cli.main import main; sys.argv[1:] = ['--version']\n"
    code += "try: main()\nfinally: print(os.environ['GRPC_VERBOSITY'])"

    def verbosity() -> str:
        said = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        return said.stdout.splitlines()[-1]

    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    assert verbosity() == "NONE"
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    assert verbosity() == "DEBUG"
