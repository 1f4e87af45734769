"""The link to a console."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from supervisor.client import Supervisor
from supervisor.client.console import Link, open_console
from supervisor.errors import CallStateError
from supervisor.v1 import console_pb2
from tests.unit.client.fake_daemon import Abort, fake_daemon


def test_a_link() -> None:
    with tempfile.TemporaryDirectory() as folder, fake_daemon(Path(folder)) as daemon:
        answer = console_pb2.OpenSessionResponse(url="http://127.0.0.1:1/enter#t", uid=7)
        answer.expires.FromNanoseconds(5)
        daemon.play("OpenSession", lambda _: answer)
        with Supervisor(daemon.address) as supervisor:
            expected = Link(url="http://127.0.0.1:1/enter#t", expires_ns=5, uid=7)
            assert open_console(supervisor) == expected
            assert open_console(supervisor, uid=0) == expected
        first, second = daemon.asked("OpenSession")
        assert not first.HasField("uid")
        assert second.HasField("uid")


def test_no_console() -> None:
    with tempfile.TemporaryDirectory() as folder, fake_daemon(Path(folder)) as daemon:

        def off(_: object) -> None:
            raise Abort("FAILED_PRECONDITION", "CONSOLE_OFF")

        daemon.play("OpenSession", off)
        with Supervisor(daemon.address) as supervisor, pytest.raises(CallStateError):
            open_console(supervisor)
