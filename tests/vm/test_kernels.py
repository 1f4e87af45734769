"""Debian's kernels with its systemd and nothing but cgroup v2: the doctor, and a daemon there.

What is run inside, and how to run some of it by hand: see `boots.py`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.vm import machine
from tests.vm.boots import BOOTS, FILES, NOT_HERE, SERIES, TIMEOUT_S, TOP, kernel_of
from tests.vm.conftest import BOOTED

HERE = Path(__file__).parent
log = logging.getLogger(__name__)


def test_every_file_is_run_somewhere() -> None:
    assert set(FILES) == {path.stem for path in HERE.glob("guest*.py")}
    assert {series for where in FILES.values() for series in where} == set(SERIES)


@pytest.mark.root
@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("boot", BOOTS)
def test_in_the_guest(boot: str, request: pytest.FixtureRequest) -> None:
    done = request.session.stash[BOOTED].run(boot)
    if done is None:
        pytest.skip(f"{NOT_HERE} {machine.missing(TOP)}")
    log.info("%s", done.output)
    assert done.code is not None, f"{done.output}\nit did not end:\n{done.console[-4000:]}"
    assert done.code == 0, done.output
    assert kernel_of(BOOTS[boot].kernel).release in done.output  # type: ignore[union-attr]
