"""Connections through doors inside a virtual machine: see tests/escape/test_door_flows.py."""

from __future__ import annotations

from tests.escape.test_door_flows import (
    fenced,
    one,
    test_a_broker_that_is_late_still_learns_what_it_was,
    test_a_connection_in_the_making_is_counted_until_it_is_given_up,
    test_a_flood_gets_no_more_than_it_may_have,
    test_a_port_that_is_used_again_tells_what_is_asked_for_now,
    test_of_thousands_of_connections_none_stays_counted,
    test_one_too_many_is_denied_and_told,
    test_what_a_dead_process_leaves_is_counted_until_the_other_side_is_done,
    test_whatever_is_done_to_sockets_they_are_counted_once,
    test_who_is_refused_can_ask_again_by_the_same_socket,
)

__all__ = [
    "fenced",
    "one",
    "test_a_broker_that_is_late_still_learns_what_it_was",
    "test_a_connection_in_the_making_is_counted_until_it_is_given_up",
    "test_a_flood_gets_no_more_than_it_may_have",
    "test_a_port_that_is_used_again_tells_what_is_asked_for_now",
    "test_of_thousands_of_connections_none_stays_counted",
    "test_one_too_many_is_denied_and_told",
    "test_what_a_dead_process_leaves_is_counted_until_the_other_side_is_done",
    "test_whatever_is_done_to_sockets_they_are_counted_once",
    "test_who_is_refused_can_ask_again_by_the_same_socket",
]
