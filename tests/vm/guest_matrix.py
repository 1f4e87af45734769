"""The bypass matrix inside a virtual machine: see tests/escape/test_matrix.py."""

from __future__ import annotations

from tests.escape.test_matrix import (
    findings,
    places,
    test_a_cgroup_below_belongs_to_the_call,
    test_a_stranger_beside_the_calls_has_no_sockets,
    test_each_denial_is_told_once_and_no_other,
    test_no_hook_sees_it,
    test_ones_own_loopback_works_by_all_its_names,
    test_the_fence_stops_it,
    test_who_moves_below_is_still_of_the_call,
)

__all__ = [
    "findings",
    "places",
    "test_a_cgroup_below_belongs_to_the_call",
    "test_a_stranger_beside_the_calls_has_no_sockets",
    "test_each_denial_is_told_once_and_no_other",
    "test_no_hook_sees_it",
    "test_ones_own_loopback_works_by_all_its_names",
    "test_the_fence_stops_it",
    "test_who_moves_below_is_still_of_the_call",
]
