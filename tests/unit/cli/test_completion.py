"""Completion: the scripts of three shells, and names that come from the daemon."""

from __future__ import annotations

import click
import pytest

from supervisor.call.events import Wall
from supervisor.cli import audit, completion
from supervisor.cli.verbs import cli
from supervisor.v1 import export_pb2, profile_pb2, tool_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import FakeDaemon


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_scripts(stockade: Stockade, shell: str) -> None:
    assert "_STOCKADE_COMPLETE" in stockade("completion", shell).stdout


def test_another_shell(stockade: Stockade) -> None:
    assert stockade("completion", "csh").exit_code == 2


def complete(function: object, incomplete: str, **params: str) -> list[str]:
    context = click.Context(cli)
    context.params = dict(params)
    return [item.value for item in function(context, click.Option(["-x"]), incomplete)]  # type: ignore[operator]


def test_profile_names(daemon: FakeDaemon) -> None:
    profiles = [profile_pb2.ProfileSummary(name=name) for name in ("python", "shell")]
    daemon.play("ListProfiles", lambda _: profile_pb2.ListProfilesResponse(profiles=profiles))
    assert complete(completion.profile_names, "py") == ["python"]
    assert complete(completion.profile_names, "") == ["python", "shell"]
    assert complete(completion.profile_names, "", address="unix:///nonexistent") == []


def test_call_ids(daemon: FakeDaemon) -> None:
    daemon.play("ListCalls", lambda _: tool_pb2.ListCallsResponse(calls=[fake.call()]))
    assert complete(completion.call_ids, "call") == ["call-1"]
    assert complete(completion.call_ids, "x") == []


def test_sink_names(daemon: FakeDaemon) -> None:
    sinks = [fake.sink(), fake.sink(name="lake")]
    daemon.play("ListSinks", lambda _: export_pb2.ListSinksResponse(sinks=sinks))
    assert complete(completion.sink_names, "si") == ["siem"]
    assert complete(completion.sink_names, "") == ["siem", "lake"]
    assert complete(completion.sink_names, "", address="unix:///nonexistent") == []


def test_walls() -> None:
    assert complete(completion.walls, "") == list(Wall)
    assert complete(completion.walls, "net") == ["network"]


def test_ls_completes_its_filters() -> None:
    parameters = {parameter.name: parameter for parameter in audit.ls.params}
    assert parameters["denied"].shell_complete(click.Context(cli), "sys")[0].value == "syscall"
    ended = parameters["outcome"].shell_complete(click.Context(cli), "not")
    assert [item.value for item in ended] == ["not_ok"]


def test_no_daemon_is_no_error() -> None:
    assert complete(completion.call_ids, "", address="unix:///nonexistent") == []
