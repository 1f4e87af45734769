"""Debian's kernels with its systemd and nothing but cgroup v2: the doctor, and a daemon there.

`make vm-kernels` gets QEMU and the kernels: see .ci/kernels. Others can be tried as well:

    apt-get download linux-image-6.1.0-56-cloud-amd64 && dpkg -x linux-image-*.deb FOLDER
    STOCKADE_VM=FOLDER .venv/bin/python -m pytest tests/vm

Inside, pytest runs `guest.py` and the `guest_*.py` beside it, in one boot of each kernel. To run
some of them by hand: `STOCKADE_VM_ONLY=guest_guard`, or several names with commas; what each test
said is shown by `--log-cli-level=info`, and `-k 6.12` chooses a kernel.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.rounds import rounds
from tests.vm import machine

TIMEOUT_S = 1500.0
"""Many times what an idle machine of two cores needs without KVM."""

MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
AT_ONCE = 2 if MEMORY_BYTES > (7 << 30) else 1
"""Machines at a time: one keeps about one processor busy, and may fill its 3 GiB."""

NOT_HERE = "no virtual machine can be made here:"
HERE = Path(__file__).parent
TOP = machine.prefix()
TOOLS = machine.tools(TOP)
KERNELS = machine.kernels(TOP)
SERIES = ("6.1", "6.12")
"""The oldest that is supported, and the next of Debian's: without one of them it is no matrix."""

SOAKED = frozenset({"guest_watching", "guest_door_flows"})
"""What is run in `make soak` alone, to keep `make test` short: their probes are loaded and attached
by `guest_probes` in any case, and `guest_door_counts` has the least that must be counted."""

OTHERS = [
    one.release for one in KERNELS if not one.release.startswith(tuple(f"{s}." for s in SERIES))
]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """A kernel by its series or release, what is added to its command line, and the tests that are
    run inside."""

    kernel: str
    files: tuple[str, ...]
    options: str = ""


def guest_files() -> tuple[str, ...]:
    """List what is run inside; STOCKADE_VM_ONLY names some, without their endings."""
    files = {path.stem: str(path.relative_to(machine.ROOT)) for path in HERE.glob("guest*.py")}
    only = os.environ.get("STOCKADE_VM_ONLY")
    usual = (name for name in sorted(files) if name not in SOAKED or rounds(1) > 1)
    return tuple(files[name] for name in (only.split(",") if only else usual))


def kernel_of(name: str) -> machine.Kernel | None:
    """Find a kernel by its release or its series."""
    return next((one for one in KERNELS if f"{one.release}.".startswith(f"{name}.")), None)


BOOTS = {
    **{name: Boot(kernel=name, files=guest_files()) for name in (*SERIES, *OTHERS)},
}
if rounds(1) > 1:
    # In make soak alone: a host without the guard is what most others of the tests run on.
    BOOTS[f"{SERIES[0]}, no BPF LSM"] = Boot(
        kernel=SERIES[0],
        files=("tests/vm/without_guard.py",),
        options="lsm=lockdown,yama,apparmor",
    )


@pytest.fixture(scope="module")
def booted(
    request: pytest.FixtureRequest,
) -> Iterator[Mapping[str, concurrent.futures.Future[machine.Run]]]:
    """Boot what the selected tests ask for, some at a time: each waits for its own."""
    asked = [
        item.callspec.params["boot"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_in_the_guest
    ]
    pool = concurrent.futures.ThreadPoolExecutor(AT_ONCE)
    try:
        yield {name: pool.submit(run_inside, BOOTS[name]) for name in asked if can_boot(name)}
    finally:
        pool.shutdown(cancel_futures=True)


def can_boot(name: str) -> bool:
    """Say whether there is a machine and a kernel for it."""
    return TOOLS is not None and kernel_of(BOOTS[name].kernel) is not None


def run_inside(boot: Boot) -> machine.Run:
    """Run the tests of a boot in a machine."""
    kernel = kernel_of(boot.kernel)
    assert TOOLS is not None
    assert kernel is not None
    inside = [sys.executable, "-m", "pytest", "--log-cli-level=info", "--color=no"]
    inside += ["-p", "no:cacheprovider", "--durations=12", *boot.files]
    return machine.run(TOOLS, kernel, inside, timeout_s=TIMEOUT_S, boot=boot.options)


@pytest.mark.root
@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("boot", BOOTS)
def test_in_the_guest(
    boot: str, booted: Mapping[str, concurrent.futures.Future[machine.Run]]
) -> None:
    if boot not in booted:
        pytest.skip(f"{NOT_HERE} {machine.missing(TOP)}")
    done = booted[boot].result()
    log.info("%s", done.output)
    assert done.code is not None, f"{done.output}\nit did not end:\n{done.console[-4000:]}"
    assert done.code == 0, done.output
    assert kernel_of(BOOTS[boot].kernel).release in done.output  # type: ignore[union-attr]
