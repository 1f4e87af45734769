"""The verbs: each where the table says, errors as messages with their codes, missing packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import click
import pytest

from supervisor.cli.verbs import DAEMON_PACKAGES, VERBS, cli
from supervisor.cli.verbs import _is_of_the_daemon as is_of_the_daemon
from supervisor.v1 import audit_pb2
from tests.unit.cli import record
from tests.unit.cli.conftest import Stockade
from tests.unit.client.fake_daemon import Abort, FakeDaemon


@pytest.mark.parametrize("verb", VERBS)
def test_short_help_is_the_verbs_own(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert (command.short_help, command.name) == (VERBS[verb], verb)


WITHOUT_EXTRA = """
import runpy, sys

sys.modules.update(dict.fromkeys({missing!r}))
sys.argv = {argv!r}
runpy.run_module("supervisor.cli.main", run_name="__main__")
"""


def without_extra(*arguments: str, missing: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Run the command line where these packages are not installed."""
    code = WITHOUT_EXTRA.format(missing=set(missing), argv=["stockade", *arguments])
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=Path.cwd()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["doctor"],
        ["profile", "lint"],
        ["profile", "explain", "--dir", "profiles", "python"],
        ["audit", "verify", "."],
        ["audit", "what-if", "profiles/base.yaml"],
    ],
    ids=" ".join,
)
def test_base_install_says_what_is_missing(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    arguments = [str(tmp_path) if argument == "." else argument for argument in arguments]
    said = without_extra(*arguments, missing=DAEMON_PACKAGES)
    assert (said.returncode, said.stdout) == (5, "")
    assert said.stderr == (
        f"stockade: this use of `stockade {arguments[0]}` needs the daemon's packages: "
        "pip install 'stockade[daemon]' [EXTRA_MISSING]\n"
    )


def test_a_missing_module_that_is_a_bug_is_seen() -> None:
    said = without_extra("profile", "lint", missing=["supervisor.profile"])
    assert said.returncode == 1
    assert "ModuleNotFoundError" in said.stderr
    assert "EXTRA_MISSING" not in said.stderr


def test_a_missing_part_of_an_installed_package_is_a_bug() -> None:
    error = ModuleNotFoundError("no", name="pydantic.no_such_part")
    assert not is_of_the_daemon(error)


def test_the_extra_is_what_the_verbs_look_for() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extra = {
        re.split(r"[<>=]", one)[0].replace("-", "_")
        for one in project["optional-dependencies"]["daemon"]
    }
    renamed = {"grpcio_health_checking": "grpc_health", "grpcio_reflection": "grpc_reflection",
               "ruamel.yaml": "ruamel", "dnspython": "dns", "google_re2": "re2"}  # fmt: skip
    assert {renamed.get(name, name) for name in extra} == DAEMON_PACKAGES


@pytest.mark.parametrize(
    ("given", "said"),
    [("rnu", "No such command 'rnu'. Did you mean 'run'?\n"), ("fly", "No such command 'fly'.\n")],
)
def test_unknown_verb(stockade: Stockade, given: str, said: str) -> None:
    result = stockade(given)
    assert result.exit_code == 2
    assert result.stderr.endswith(said)


@pytest.mark.parametrize(
    "words",
    [("--help",), ("audit", "ls", "--help"), ("completion", "bash"), ("audit", "show", "call-1"),
     ("audit", "show", "--json", "call-1"), ("audit", "log", "--json")],
    ids=" ".join,
)  # fmt: skip
def test_nobody_reads(daemon: FakeDaemon, words: tuple[str, ...]) -> None:
    """As a shell would see SIGPIPE, whichever verb it is."""
    daemon.play("GetRecord", lambda _: record.response())
    daemon.play("ListEvents", lambda _: audit_pb2.ListEventsResponse())
    read, write = os.pipe()
    os.close(read)
    try:
        said = subprocess.run(
            [sys.executable, "-m", "supervisor.cli.main", *words], check=False, stdout=write,
            stderr=subprocess.PIPE,
        )  # fmt: skip
    finally:
        os.close(write)
    assert (said.returncode, said.stderr) == (141, b"")


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
    error = json.loads(result.stderr)["error"]
    assert (error["reason"], error["hint"]) == (abort.reason, abort.hint)
    assert error.get("retry_after_s") == (abort.retry_s or None)
    said = stockade("audit", "ls").stderr
    assert said.startswith(f"stockade: no [{abort.reason}]\n")
    assert "{" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json", "fly"),
        ("audit", "ls", "--json", "--none"),
        ("audit", "ls", "--limit", "0", "--json"),
        ("--json", "audit", "proof"),
        ("--none", "--json", "ps"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_under_json(stockade: Stockade, arguments: tuple[str, ...]) -> None:
    result = stockade(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    error = json.loads(line)["error"]
    assert error["reason"] == "USAGE_INVALID"
    assert error["message"]
    assert error["hint"].endswith(" --help")
    plain = stockade(*(argument for argument in arguments if argument != "--json"))
    assert plain.exit_code == 2
    assert "Usage: " in plain.stderr


def test_a_word_of_the_program_is_no_option(stockade: Stockade) -> None:
    assert "Usage: " in stockade("run", "--none", "--", "program", "--json").stderr


def test_a_file_that_cannot_be_read_is_no_traceback(stockade: Stockade, tmp_path: Path) -> None:
    (tmp_path / "images" / "names" / "a").mkdir(parents=True)
    result = stockade("image", "ls", "--state", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"stockade: {tmp_path}/images/names/a: ")
    assert "[OS_ERROR]" in result.stderr
