"""A fake daemon, and the command line that asks it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from supervisor.cli.verbs import cli
from tests.unit.client.fake_daemon import FakeDaemon, fake_daemon

Stockade = Callable[..., Result]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    # A folder of our own: pytest's are too long for the path of a socket.
    with tempfile.TemporaryDirectory() as folder, fake_daemon(Path(folder)) as fake:
        monkeypatch.setenv("STOCKADE_ADDR", fake.address)
        yield fake


@pytest.fixture
def stockade(monkeypatch: pytest.MonkeyPatch) -> Stockade:
    """Run the command line; what it did not foresee fails the test."""
    monkeypatch.setattr("supervisor.client.follow.DEFAULT_RETRY.__class__.delay", _at_once)

    def run(*arguments: str | Path, stdin: bytes = b"") -> Result:
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def _at_once(*_: object) -> float:
    return 0.0
