"""What runs inside a virtual machine that was booted without bpf among its security modules.

There the guard's programs are loaded and attached, and never run. The daemon starts, and says so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited
from supervisor.errors import HostError
from tests.support.daemon import Daemon
from tests.support.profiles import with_profiles

START_S = 120.0
MODULES = Path("/sys/kernel/security/lsm")
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    config = with_profiles(tmp_path_factory.mktemp("profiles"), guarded="require: [guard]\n")
    with Daemon(tmp_path_factory.mktemp("state"), config=config) as one:
        one.start(wait=False)
        one.wait_until_serving(START_S)
        yield one
        assert one.stop() == 0, one.tail()
        assert one.leftovers() == []


def test_bpf_is_no_security_module() -> None:
    log.info("kernel %s", os.uname().release)
    assert "bpf" not in MODULES.read_text().strip().split(",")


def test_calls_run_without_the_guard_and_it_says_so(daemon: Daemon) -> None:
    assert daemon.client.run(["true"], profile="base").outcome == Exited(code=0)
    assert "the guard does not stand: it is attached, but" in daemon.log.read_text()
    assert "is bpf among the security modules" in daemon.log.read_text()
    assert not list(daemon.runtime.glob("*/bpf/v*/links/guard_*"))


def test_a_profile_that_requires_it_is_refused(daemon: Daemon) -> None:
    with pytest.raises(HostError) as caught:
        daemon.client.run(["true"], profile="guarded")
    assert caught.value.reason == "WALL_MISSING"
