"""What holds for every test: no skip in silence, root where asked for, more rounds in soak."""

from __future__ import annotations

import os
import signal

import hypothesis
import pytest

from tests.support.filters import STUCK, filters_are_stuck
from tests.support.rounds import SOAK, rounds

NO_SKIP = os.environ.get("CI") == "true" or os.environ.get("STOCKADE_NO_SKIP") == "1"

SKIPS_ALLOWED = (
    # Beginnings of reasons that may be given where nothing may be skipped: a wall that the
    # kernel at hand does not have and that another host of the matrix tests.
    "the kernel has no cgroup v2 controllers:",
    "the kernel has only cgroup v2:",
    "the kernel has no such way out:",
    # A machine in this state can run no container at all; only its next boot can.
    STUCK,
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is in what a script starts with `&`, and daemons and programs of ours would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
for ignored in (signal.SIGQUIT, signal.SIGHUP):
    # As `&` leaves the one, and `nohup` the other.
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.SIG_DFL)

hypothesis.settings.register_profile(
    "stockade",
    max_examples=rounds(100),
    deadline=None,  # two cores, shared: time says nothing about the code
    derandomize=NO_SKIP and rounds(1) == 1,
    print_blob=True,
)
hypothesis.settings.load_profile("stockade")

_refused: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs root, with the reason; give longer rounds longer timeouts; leave out what is
    for `make soak` alone."""
    if not SOAK:
        left_out = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    for item in items:
        timeout = item.get_closest_marker("timeout")
        if timeout is not None and timeout.args:
            # A marker wins over --timeout, so it has to grow by itself.
            longer = pytest.mark.timeout(rounds(timeout.args[0]))
            item.add_marker(longer, append=False)
    asks = [item for item in items if item.get_closest_marker("root")]
    loads = [item for item in items if item.get_closest_marker("seccomp")]
    if os.geteuid() != 0:
        for item in asks:
            item.add_marker(pytest.mark.skip(reason="needs root"))
    if (asks or loads) and filters_are_stuck():
        for item in {*asks, *loads}:
            item.add_marker(pytest.mark.skip(reason=f"{STUCK} see tests/support/filters.py"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect each skip that is not allowed."""
    _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Collect each skipped module."""
    _note_skip(report)


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (NO_SKIP and report.skipped):
        return
    reason = getattr(report, "wasxfail", "")
    if not reason and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
    if not reason.startswith(SKIPS_ALLOWED):
        _refused.append(f"{report.nodeid}: {reason or 'no reason given'}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the skips that fail the run."""
    if _refused:
        terminalreporter.section("skipped, and may not be", red=True)
        for line in _refused:
            terminalreporter.write_line(line)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where something was skipped that may not be."""
    if _refused and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
