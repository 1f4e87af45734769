"""Debian's kernels with its systemd and nothing but cgroup v2: the doctor, and a daemon there.

`make vm-kernels` gets QEMU and the kernels: see .ci/kernels. Others can be tried as well:

    apt-get download linux-image-6.1.0-56-cloud-amd64 && dpkg -x linux-image-*.deb FOLDER
    STOCKADE_VM=FOLDER .venv/bin/python -m pytest tests/vm

Inside, pytest runs `guest.py` and every `guest_*.py` beside it, in one boot of each kernel. To run
some of them by hand: `STOCKADE_VM_ONLY=guest_guard`, or several names with commas; what each test
said is shown by `--log-cli-level=info`, and `-k 6.12` chooses a kernel.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.vm import machine

TIMEOUT_S = 900.0
"""Four times what an idle machine of two cores needs without KVM."""

NOT_HERE = "no virtual machine can be made here:"
HERE = Path(__file__).parent
TOP = machine.prefix()
TOOLS = machine.tools(TOP)
KERNELS = machine.kernels(TOP)
SERIES = ("6.1", "6.12")
"""The oldest that is supported, and the next of Debian's: without one of them it is no matrix."""

OTHERS = [
    one.release for one in KERNELS if not one.release.startswith(tuple(f"{s}." for s in SERIES))
]
log = logging.getLogger(__name__)


def guest_files() -> list[str]:
    """List what is run inside; STOCKADE_VM_ONLY names some, without their endings."""
    files = {path.stem: str(path.relative_to(machine.ROOT)) for path in HERE.glob("guest*.py")}
    only = os.environ.get("STOCKADE_VM_ONLY")
    return [files[name] for name in (only.split(",") if only else sorted(files))]


def kernel_of(name: str) -> machine.Kernel | None:
    """Find a kernel by its release or its series."""
    return next((one for one in KERNELS if f"{one.release}.".startswith(f"{name}.")), None)


@pytest.mark.root
@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("name", [*SERIES, *OTHERS])
def test_in_the_guest(name: str) -> None:
    run_inside(name, guest_files())


@pytest.mark.root
@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_without_bpf_among_the_security_modules() -> None:
    run_inside(SERIES[0], ["tests/vm/without_guard.py"], boot="lsm=lockdown,yama,apparmor")


def run_inside(name: str, files: Sequence[str], *, boot: str = "") -> None:
    """Run tests in a machine with the kernel of this name; skip where none can be made."""
    kernel = kernel_of(name)
    if TOOLS is None or kernel is None:
        pytest.skip(f"{NOT_HERE} {machine.missing(TOP)}")
    inside = [sys.executable, "-m", "pytest", "--log-cli-level=info", "--color=no"]
    inside += ["-p", "no:cacheprovider", *files]
    done = machine.run(TOOLS, kernel, inside, timeout_s=TIMEOUT_S, boot=boot)
    log.info("%s", done.output)
    assert done.code is not None, f"{done.output}\nit did not end:\n{done.console[-4000:]}"
    assert done.code == 0, done.output
    assert kernel.release in done.output
