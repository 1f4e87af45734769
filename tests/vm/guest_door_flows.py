"""Doors in a virtual machine, at length: see tests/escape/test_door_flows.py."""

from __future__ import annotations

from tests.escape.test_door_flows import (
    fenced,
    one,
    test_a_broker_that_is_late_still_learns_what_it_was,
    test_a_connection_in_the_making_is_counted_until_it_is_given_up,
    test_a_flood_gets_no_more_than_it_may_have,
    test_a_port_that_is_used_again_tells_what_is_asked_for_now,
    test_one_too_many_is_denied_and_told,
    test_whatever_is_done_to_sockets_they_are_counted_once,
)

__all__ = [
    "fenced",
    "one",
    "test_a_broker_that_is_late_still_learns_what_it_was",
    "test_a_connection_in_the_making_is_counted_until_it_is_given_up",
    "test_a_flood_gets_no_more_than_it_may_have",
    "test_a_port_that_is_used_again_tells_what_is_asked_for_now",
    "test_one_too_many_is_denied_and_told",
    "test_whatever_is_done_to_sockets_they_are_counted_once",
]
