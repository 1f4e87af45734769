"""`stockade console`: one line, and a browser where it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.v1 import console_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client.fake_daemon import FakeDaemon

URL = "http://127.0.0.1:7480/enter#token"


@pytest.fixture(autouse=True)
def link(daemon: FakeDaemon) -> None:
    daemon.play("OpenSession", lambda r: console_pb2.OpenSessionResponse(url=URL, uid=r.uid))


def test_a_link(stockade: Stockade) -> None:
    assert stockade("console").stdout == f"{URL}\n"


def test_json(stockade: Stockade) -> None:
    told = json.loads(stockade("console", "--json").stdout)
    assert told == {"url": URL, "expires": None, "uid": 0}


@pytest.mark.parametrize(("user", "uid"), [("nobody", 65534), ("1234", 1234)])
def test_for_whose_browser(user: str, uid: int, stockade: Stockade, daemon: FakeDaemon) -> None:
    assert stockade("console", "--user", user).exit_code == 0
    assert [request.uid for request in daemon.asked("OpenSession")] == [uid]


def test_no_such_user(stockade: Stockade, daemon: FakeDaemon) -> None:
    result = stockade("console", "--user", "no such user")
    assert (result.exit_code, daemon.asked("OpenSession")) == (2, [])
    assert "USER_UNKNOWN" in result.stderr


def test_sudo_is_told_of(stockade: Stockade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    assert "--user ann is for yours" in stockade("console").stderr
    assert stockade("console", "--user", "0").stderr == ""


def test_open(stockade: Stockade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opener = tmp_path / "xdg-open"
    opener.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/opened\n')
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert stockade("console", "--open").exit_code == 0
    assert (tmp_path / "opened").read_text() == f"{URL}\n"


def test_nothing_that_opens(
    stockade: Stockade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = stockade("console", "--open")
    assert (result.exit_code, result.stdout) == (5, f"{URL}\n")
    assert "BROWSER_MISSING" in result.stderr
