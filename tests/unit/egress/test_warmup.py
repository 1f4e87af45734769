"""What the zygote has run before it forks: that it goes the way of what is allowed, to its end."""

from __future__ import annotations

import pytest

from supervisor.egress import warmup
from supervisor.egress.http import HttpGate


def test_each_round_passes_a_request_and_its_response(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[object]] = []

    class Told(HttpGate):
        def from_client(self, data: bytes) -> list[object]:  # type: ignore[override]
            said.append(list(super().from_client(data)))
            return said[-1]

        def from_server(self, data: bytes) -> list[object]:  # type: ignore[override]
            said.append(list(super().from_server(data)))
            return said[-1]

    monkeypatch.setattr(warmup, "HttpGate", Told)
    warmup.warm_up()
    assert len(said) == 2 * warmup.ROUNDS
    assert {type(action).__name__ for actions in said for action in actions} == {
        "ToServer", "ToClient",
    }  # fmt: skip


def test_a_name_that_is_denied_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "NAME", "other.example.com")
    with pytest.raises(RuntimeError, match="denied"):
        warmup.warm_up()
