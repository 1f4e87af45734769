"""What the command line promises as a whole: help everywhere, one look of errors, a quick start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from supervisor.cli.main import VERBS, cli
from tests.unit.cli.conftest import Stockade
from tests.unit.client.fake_daemon import Abort, FakeDaemon


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
        "profile ls", "audit ls", "audit show", "audit cat", "audit verify", "image import",
        "image ls", "image rm", "completion",
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


@pytest.mark.parametrize("verb", VERBS)
def test_short_help_is_the_verbs_own(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert (command.short_help, command.name) == (VERBS[verb], verb)


def test_start_is_quick_because_little_is_imported() -> None:
    code = (
        "import sys; from supervisor.cli.main import cli; cli(['--help'], standalone_mode=False); "
        "print([m for m in ('grpc', 'pydantic', 'rich', 'google.protobuf') if m in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path.cwd()
    )
    assert said.stdout.splitlines()[-1] == "[]"


def test_version(stockade: Stockade) -> None:
    from supervisor import __version__

    assert stockade("--version").stdout == f"stockade, version {__version__}\n"


def test_unknown_verb(stockade: Stockade) -> None:
    assert stockade("fly").exit_code == 2


@pytest.mark.parametrize(
    ("abort", "exit_code"),
    [
        (Abort("PERMISSION_DENIED", "AUDIT_NOT_GRANTED", hint="ask"), 4),
        (Abort("UNAUTHENTICATED", "PEER_UNKNOWN"), 4),
        (Abort("NOT_FOUND", "RECORD_NOT_FOUND"), 3),
        (Abort("INVALID_ARGUMENT", "PAGE_SIZE_INVALID"), 2),
        (Abort("FAILED_PRECONDITION", "HOST_UNFIT"), 5),
        (Abort("RESOURCE_EXHAUSTED", "CALLS_LIMIT", retry_s=3), 6),
        (Abort("UNAVAILABLE", "JOURNAL_UNAVAILABLE"), 7),
        (Abort("DATA_LOSS", "CHAIN_BROKEN"), 8),
        (Abort("INTERNAL", "BUG"), 1),
    ],
    ids=lambda value: getattr(value, "reason", None),
)
def test_errors(daemon: FakeDaemon, stockade: Stockade, abort: Abort, exit_code: int) -> None:
    def refuse(_: object) -> None:
        raise abort

    daemon.play("ListRecords", refuse)
    result = stockade("audit", "ls", "--json")
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert result.stderr.startswith(f"stockade: no [{abort.reason}]\n")
    error = json.loads(result.stderr.splitlines()[-1])["error"]
    assert (error["reason"], error["hint"]) == (abort.reason, abort.hint)
    assert error.get("retry_after_s") == (abort.retry_s or None)
    assert "{" not in stockade("audit", "ls").stderr


def test_a_file_that_cannot_be_read_is_no_traceback(stockade: Stockade, tmp_path: Path) -> None:
    (tmp_path / "images" / "names" / "a").mkdir(parents=True)
    result = stockade("image", "ls", "--state", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"stockade: {tmp_path}/images/names/a: ")
    assert "[OS_ERROR]" in result.stderr
