"""Where the console may be."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from supervisor.api.config import Configuration


@pytest.mark.parametrize("listen", ["127.0.0.1:7480", "[::1]:7480", "127.0.0.1:0"])
def test_loopback(listen: str) -> None:
    console = Configuration.model_validate({"console": {"listen": listen}}).console
    assert console is not None
    assert console.listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:7480", "[::]:1", "192.0.2.1:7480", "localhost:1", ""])
def test_nowhere_else(listen: str) -> None:
    with pytest.raises(ValidationError):
        Configuration.model_validate({"console": {"listen": listen}})


def test_off_where_nothing_is_said() -> None:
    assert Configuration().console is None
    with pytest.raises(ValidationError):
        Configuration.model_validate({"console": {}})
