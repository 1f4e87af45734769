"""Doors in a virtual machine, in short: see tests/escape/test_door_flows.py."""

from __future__ import annotations

from tests.escape.test_door_flows import (
    fenced,
    one,
    test_of_thousands_of_connections_none_stays_counted,
    test_what_a_dead_process_leaves_is_counted_until_the_other_side_is_done,
    test_who_is_refused_can_ask_again_by_the_same_socket,
)

__all__ = [
    "fenced",
    "one",
    "test_of_thousands_of_connections_none_stays_counted",
    "test_what_a_dead_process_leaves_is_counted_until_the_other_side_is_done",
    "test_who_is_refused_can_ask_again_by_the_same_socket",
]
