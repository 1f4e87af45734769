"""One daemon for all attacks: what one of them leaves behind shows in the next, or at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, running_daemon

pytest.register_assert_rewrite("tests.escape.arena")

from tests.escape.arena import PROFILES  # noqa: E402 (rewritten first, to say what differs)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here as what needs root."""
    for item in items:
        if "/tests/escape/" in item.path.as_posix():
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """Run the daemon that all attacks are tried on; nothing may be left of it in the end."""
    with running_daemon(config={"profiles": PROFILES}) as running:
        yield running
