"""How much time has passed, by two clocks that the test moves."""

from __future__ import annotations

from supervisor.audit.passed import CATCH_UP, GRACE_NS, NANOS, STEP_NS_MAX, Passed, running_ns

YEAR_NS = 365 * 86_400 * NANOS
BEGIN_NS = 1_700_000_000 * NANOS


class Clocks:
    """A wall clock and one that only runs."""

    def __init__(self) -> None:
        self.wall_ns, self.running_ns = BEGIN_NS, 7 * NANOS

    def go(self, span_ns: int, *, wall_ns: int | None = None) -> None:
        self.running_ns += span_ns
        self.wall_ns += span_ns if wall_ns is None else wall_ns

    def passed(self, believed_ns: int = 0) -> Passed:
        return Passed(
            believed_ns=believed_ns, wall=lambda: self.wall_ns, running=lambda: self.running_ns
        )


def test_clocks_that_agree_are_believed() -> None:
    clocks = Clocks()
    passed = clocks.passed()
    clocks.go(100 * NANOS)
    assert passed.now() == BEGIN_NS + 100 * NANOS
    assert (passed.ahead_ns, passed.is_settled()) == (0, True)


def test_a_clock_that_jumps_a_year_ahead_makes_nothing_old() -> None:
    clocks = Clocks()
    passed = clocks.passed()
    clocks.go(60 * NANOS, wall_ns=YEAR_NS)
    assert passed.now() == BEGIN_NS + CATCH_UP * 60 * NANOS
    assert passed.ahead_ns == YEAR_NS - CATCH_UP * 60 * NANOS
    assert not passed.is_settled()


def test_a_clock_that_is_ahead_at_the_start_makes_nothing_old() -> None:
    clocks = Clocks()
    clocks.wall_ns += YEAR_NS
    passed = clocks.passed(believed_ns=BEGIN_NS)
    assert passed.now() == BEGIN_NS
    assert passed.ahead_ns == YEAR_NS


def test_a_pause_is_made_up_for_in_as_much_time_again() -> None:
    clocks = Clocks()
    clocks.wall_ns += 8 * GRACE_NS
    passed = clocks.passed(believed_ns=BEGIN_NS)
    clocks.go(8 * GRACE_NS)
    assert passed.now() == clocks.wall_ns


def test_a_clock_that_is_set_back_is_followed_at_once() -> None:
    clocks = Clocks()
    passed = clocks.passed()
    clocks.go(NANOS, wall_ns=-YEAR_NS)
    assert passed.now() == BEGIN_NS - YEAR_NS


def test_after_a_step_ages_of_files_are_not_told_for_a_while() -> None:
    clocks = Clocks()
    passed = clocks.passed()
    touched_ns = clocks.wall_ns
    clocks.go(NANOS, wall_ns=STEP_NS_MAX + 2 * GRACE_NS)
    assert not passed.is_unused(touched_ns)
    clocks.go(GRACE_NS)
    assert not passed.is_unused(touched_ns)
    clocks.go(1)
    assert passed.is_unused(touched_ns)


def test_a_file_is_in_use_for_a_while_after_it_was_asked_for() -> None:
    clocks = Clocks()
    passed = clocks.passed()
    touched_ns = clocks.wall_ns
    clocks.go(GRACE_NS)
    assert not passed.is_unused(touched_ns)
    assert not passed.is_unused(clocks.wall_ns + YEAR_NS)  # nobody knows when that was
    clocks.go(1)
    assert passed.is_unused(touched_ns)


def test_the_clock_that_only_runs_runs() -> None:
    before = running_ns()
    assert running_ns() >= before > 0
