"""`trace`: what cannot be traced is refused with a way out, and words are completed in order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from supervisor.cli import trace
from supervisor.cli.verbs import cli
from supervisor.sandbox.tracing import RunningDaemon
from supervisor.v1 import tool_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import FakeDaemon


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tool that takes the map, and one that does not."""
    for name, text in (("opensnoop", "--cgroupmap"), ("biotop", "")):
        tool = tmp_path / f"{name}-bpfcc"
        tool.write_text(f"#!/bin/sh\necho '{text}'\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        (), ("call",), ("--all",), ("--list", "x"), ("--list", "--all"),
        ("--all", "opensnoop", "--cgroupmap", "/x"), ("--all", "opensnoop", "--cgroup=/x"),
    ],
)  # fmt: skip
def test_words_that_make_no_sense(stockade: Stockade, words: tuple[str, ...]) -> None:
    assert stockade("trace", *words).exit_code == 2


def test_it_needs_root(stockade: Stockade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = stockade("trace", "--all", "opensnoop")
    assert (result.exit_code, "[ROOT_REQUIRED]" in result.stderr) == (5, True)


@pytest.mark.root
def test_no_daemon(stockade: Stockade, tmp_path: Path) -> None:
    result = stockade("trace", "--runtime-dir", tmp_path, "--all", "opensnoop")
    assert (result.exit_code, "[DAEMON_NOT_RUNNING]" in result.stderr) == (7, True)


@pytest.mark.root
def test_the_list(stockade: Stockade, tools: Path) -> None:
    result = stockade("trace", "--list", "--runtime-dir", tools)
    assert result.stdout.splitlines()[1].split() == ["opensnoop", f"{tools}/opensnoop-bpfcc"]
    assert "biotop" not in result.stdout
    assert json.loads(stockade("trace", "--list", "--json", "--runtime-dir", tools).stdout) == {
        "tools": [{"name": "opensnoop", "path": f"{tools}/opensnoop-bpfcc"}],
        "maps": [],
    }


@pytest.mark.root
@pytest.mark.usefixtures("tools")
def test_the_list_says_whether_a_daemon_runs(
    stockade: Stockade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        f"no daemon runs over {tmp_path}"
        in stockade("trace", "--list", "--runtime-dir", tmp_path).stderr
    )
    running = RunningDaemon(pid=7, pins=tmp_path, calls=tmp_path)
    monkeypatch.setattr("supervisor.sandbox.tracing.daemons", lambda *_: [running])
    said = stockade("trace", "--list", "--runtime-dir", tmp_path).stderr
    assert f"the daemon 7 runs, but its map is not there: {tmp_path}/live" in said
    (tmp_path / "live").touch()
    said = stockade("trace", "--list", "--runtime-dir", tmp_path).stderr
    assert f"for --cgroupmap: {tmp_path}/live" in said
    assert "not there" not in said


def test_a_call_beside_all_is_not_taken_for_a_tool(stockade: Stockade) -> None:
    call_id = "0199a3f2-6c1d-7b4e-9a55-3f0c8d2e71b6"
    result = stockade("trace", "--all", call_id, "opensnoop")
    assert (result.exit_code, "--all is every call" in result.stderr) == (2, True)


@pytest.mark.root
@pytest.mark.parametrize(("code", "ends"), [(0, 0), (2, 2), (3, 5)])
def test_a_tool_s_own_usage_error_is_no_fault_of_the_kernel(
    code: int,
    ends: int,
    stockade: Stockade,
    tools: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tools / "live").touch()
    daemon = RunningDaemon(pid=os.getpid(), pins=tools, calls=tools)
    monkeypatch.setattr("supervisor.sandbox.tracing.daemons", lambda *_: [daemon])
    monkeypatch.setattr("supervisor.linux.bcc.kernel_lacks", lambda: iter(["no kprobes"]))
    monkeypatch.setattr(trace, "_supervise", lambda *_: (code, ""))
    result = stockade("trace", "--all", "opensnoop", "--nonsense")
    assert result.exit_code == ends
    assert ("[TOOL_FAILED]" in result.stderr) == (ends == 5)


def test_an_empty_list_says_what_to_install(
    stockade: Stockade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = stockade("trace", "--list", "--runtime-dir", tmp_path)
    assert "apt-get install bpfcc-tools" in said.stdout + said.stderr


def completed(*words: str) -> list[str]:
    complete = ShellComplete(cli, {}, "stockade", "_STOCKADE_COMPLETE")
    *before, last = words
    return [item.value for item in complete.get_completions(["trace", *before], last)]


@pytest.mark.root
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("option", [("--runtime-dir", "/x"), ("--state=/x",), ("-T",)])
def test_an_option_of_ours_behind_the_tool_is_told(
    stockade: Stockade, tmp_path: Path, option: tuple[str, ...]
) -> None:
    result = stockade("trace", "--runtime-dir", tmp_path, "--all", "opensnoop", *option)
    assert result.exit_code == 7
    name = option[0].partition("=")[0]
    said = f"{name} stands after TOOL, so it is the tool's: ours go before TOOL"
    assert (said in result.stderr) == (name != "-T")


@pytest.mark.root
@pytest.mark.usefixtures("tools")
def test_completion(daemon: FakeDaemon) -> None:
    daemon.play("ListCalls", lambda _: tool_pb2.ListCallsResponse(calls=[fake.call()]))
    assert completed("") == ["call-1"]
    assert completed("call-1", "open") == ["opensnoop"]
    assert completed("--all", "") == ["opensnoop"]
    assert completed("call-1", "opensnoop", "") == []


def test_it_is_a_verb() -> None:
    assert isinstance(trace.command, click.Command)
    assert cli.get_command(click.Context(cli), "trace") is trace.command
