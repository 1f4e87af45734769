"""`stockade audit erase`: what it asks, and what it says."""

from __future__ import annotations

from supervisor.cli.erase import told_erased
from supervisor.client import Erased
from tests.unit.cli.conftest import Stockade


def test_it_needs_a_reason(stockade: Stockade) -> None:
    done = stockade("audit", "erase", "CALL")
    assert done.exit_code == 2
    assert "--why" in done.output


def test_what_is_said() -> None:
    erased = Erased(by="officer", time_ns=10**18, why="asked\nfor")
    assert told_erased(erased).startswith("erased by officer on 2001-09-09T01:46:40")
    assert "\n" not in told_erased(erased)
