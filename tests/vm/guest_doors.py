"""Doors inside a virtual machine: see tests/escape/test_doors.py."""

from __future__ import annotations

from tests.escape.test_doors import (
    fenced,
    free,
    one,
    test_a_datagram_socket_is_its_own_again,
    test_a_neighbours_places_are_its_own,
    test_a_place_of_the_call_is_at_the_door,
    test_an_address_of_another_family_leads_nowhere,
    test_nobody_gets_to_the_door_straight,
    test_ones_own_loopback_is_as_before,
    test_what_is_no_place_of_the_call_is_denied,
    world,
)
from tests.unit.linux.test_bpfmap import (
    pinned,
    test_who_has_no_privileges_can_read_and_not_write,
)

__all__ = [
    "fenced",
    "free",
    "one",
    "pinned",
    "test_a_datagram_socket_is_its_own_again",
    "test_a_neighbours_places_are_its_own",
    "test_a_place_of_the_call_is_at_the_door",
    "test_an_address_of_another_family_leads_nowhere",
    "test_nobody_gets_to_the_door_straight",
    "test_ones_own_loopback_is_as_before",
    "test_what_is_no_place_of_the_call_is_denied",
    "test_who_has_no_privileges_can_read_and_not_write",
    "world",
]
