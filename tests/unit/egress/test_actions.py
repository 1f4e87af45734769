"""What is to be sent may hold a secret: no action shows it."""

from __future__ import annotations

import pytest

from supervisor.egress.actions import ToClient, ToServer


@pytest.mark.parametrize("action", [ToServer(b"hunter2"), ToClient(b"hunter2")])
def test_bytes_are_not_shown(action: ToServer | ToClient) -> None:
    assert "hunter2" not in repr(action)
