"""Fixtures of the system tests: real daemons, each removed with everything that it made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, running_daemon


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here as what needs root."""
    for item in items:
        if "/tests/system/" in item.path.as_posix():
            item.add_marker(pytest.mark.root)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Run a daemon with the default configuration for one test."""
    with running_daemon() as running:
        yield running


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    """Run a daemon for the tests of one module that leave it as they found it."""
    with running_daemon() as running:
        yield running
