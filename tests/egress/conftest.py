"""One island, one world and one daemon for all of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.world import World, world


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
