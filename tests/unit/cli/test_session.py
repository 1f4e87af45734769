"""The options of every verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.cli.session import Session
from supervisor.errors import InvalidRequest
from supervisor.v1 import tool_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client.fake_daemon import FakeDaemon


@pytest.mark.parametrize("before", [True, False])
def test_json_and_address_may_stand_before_and_after_the_verb(
    daemon: FakeDaemon, stockade: Stockade, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.delenv("STOCKADE_ADDR")
    daemon.play("ListCalls", lambda _: tool_pb2.ListCallsResponse())
    options = ["--json", "--address", daemon.address]
    result = stockade(*options, "ps") if before else stockade("ps", *options)
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])


def test_the_option_wins_over_the_environment(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("ListCalls", lambda _: tool_pb2.ListCallsResponse())
    assert stockade("ps").exit_code == 0
    assert stockade("ps", "--address", "unix:///nonexistent").exit_code == 7
    assert stockade("--address", "unix:///nonexistent", "ps").exit_code == 7


def test_tls_is_all_or_nothing() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Session(address="daemon.example.com:1", tls_ca=Path("ca")).client()
    assert caught.value.reason == "TLS_INCOMPLETE"


def test_tcp_without_tls(stockade: Stockade) -> None:
    result = stockade("ps", "--address", "daemon.example.com:7443")
    assert result.exit_code == 2
    assert "[TLS_REQUIRED]" in result.stderr
