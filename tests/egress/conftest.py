"""One island, one world and one daemon for all of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.world import World, world

pytest.register_assert_rewrite("tests.egress.arena")

from tests.egress.arena import PROFILES, SECRET  # noqa: E402 (rewritten first, to say what differs)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here as what needs root."""
    for item in items:
        if "/tests/egress/" in item.path.as_posix():
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session")
def there() -> Iterator[World]:
    """Make the island and the world that all tests here share."""
    with world() as made:
        yield made


@pytest.fixture(scope="session")
def daemon(there: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run the daemon that honest work and attacks are tried on; nothing of it may stay."""
    secret = tmp_path_factory.mktemp("secrets") / "github"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    config = there.config(profiles=PROFILES, secrets={"github": {"file": str(secret)}})
    with running_daemon(network=there.island, config=config) as running:
        yield running
