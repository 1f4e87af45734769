"""Signals are noted from the first to the last, and the process has what it needs."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import threading
from collections.abc import Iterator

import pytest

from supervisor.cli import process
from supervisor.cli.process import StopSignals, descriptors_needed, settle, stop_signals


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in stop_signals()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_noted_and_ends_nothing(number: signal.Signals) -> None:
    before = handlers()
    signals = StopSignals()
    with signals.installed():
        assert signals.asked is None
        os.kill(os.getpid(), number)
        assert signals.asked is number
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.asked is number
    assert handlers() == before


def test_the_loop_hears_of_it() -> None:
    async def main(signals: StopSignals) -> None:
        with signals.heard() as stop:
            assert not stop.is_set()
            # From another thread, while this one waits with nothing else to wake it.
            pid = os.getpid()
            threading.Timer(0.05, os.kill, (pid, signal.SIGTERM)).start()
            async with asyncio.timeout(20):
                await stop.wait()

    signals = StopSignals()
    with signals.installed():
        asyncio.run(main(signals))
        # The loop is gone, and it is still ours.
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals.asked is signal.SIGTERM
    assert signal.set_wakeup_fd(-1) == -1


def test_what_came_before_the_loop_is_not_lost() -> None:
    async def main(signals: StopSignals) -> None:
        with signals.heard() as stop:
            assert stop.is_set()

    signals = StopSignals()
    with signals.installed():
        os.kill(os.getpid(), signal.SIGHUP)
        asyncio.run(main(signals))


def test_a_hangup_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As nohup(1) does it."""
    monkeypatch.setattr(
        signal, "getsignal", lambda n: signal.SIG_IGN if n == signal.SIGHUP else signal.SIG_DFL
    )
    assert stop_signals() == (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """Put umask and limits back."""
    mask = os.umask(0o077)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    os.umask(mask)


def test_folders_can_be_passed_and_descriptors_are_there(
    limits: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stockade")
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    settle(calls=1, connections=1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert os.umask(0) == 0o022
    (line,) = caplog.records
    assert (line.levelno, str(hard) in line.getMessage()) == (logging.INFO, True)


@pytest.mark.parametrize(("spare", "warnings"), [(0, 0), (-1, 1)])
def test_too_few_descriptors_are_told(
    spare: int, warnings: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hard = descriptors_needed(calls=64, connections=128) + spare
    monkeypatch.setattr(process.resource, "getrlimit", lambda _: (256, hard))
    monkeypatch.setattr(process.resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(os, "umask", lambda _: 0)
    settle(calls=64, connections=128)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == warnings
    assert all("LimitNOFILE=" in line for line in told)
