"""What both clients share."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.call.types import Correlation
from supervisor.client import rpc
from supervisor.client.address import Tls
from supervisor.errors import InvalidRequest


def test_the_call_wins_over_the_client() -> None:
    given = Correlation(agent="a", session="s", workflow="w", traceparent="t")
    found = rpc.correlation(given, agent="b", session="", workflow="", traceparent="u")
    assert found == Correlation(agent="b", session="s", workflow="w", traceparent="u")


def test_credentials_need_their_files(tmp_path: Path) -> None:
    tls = Tls(ca=tmp_path / "ca", certificate=tmp_path / "c", key=tmp_path / "k")
    with pytest.raises(InvalidRequest) as caught:
        rpc.credentials(tls)
    assert caught.value.reason == "TLS_FILE_UNREADABLE"
