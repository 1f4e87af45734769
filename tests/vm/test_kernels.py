"""Debian's kernels with its systemd and nothing but cgroup v2: the doctor, and a daemon there.

`make vm-kernels` gets QEMU and the kernels: see .ci/kernels. Others can be tried as well:

    apt-get download linux-image-6.1.0-56-cloud-amd64 && dpkg -x linux-image-*.deb FOLDER
    STOCKADE_VM=FOLDER .venv/bin/python -m pytest tests/vm

Inside, pytest runs the files of FILES, in one boot of each kernel: all of them in `make soak`, and
in `make test` what depends on the kernel in both, and the rest in one of them. To run
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

from tests.support.rounds import SOAK
from tests.vm import machine

TIMEOUT_S = 3000.0 if SOAK else 1500.0
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

FILES = {
    # Loads and attaches every probe: the kernel's verifier decides.
    "guest_probes": SERIES,
    # The fence, the doors and the guard, each by itself: hooks of the kernel decide.
    "guest_matrix": SERIES,
    "guest_doors": SERIES,
    "guest_door_counts": SERIES,
    "guest_guard": SERIES,
    # Whole calls behind a guard that guest_guard has attacked.
    "guest_guarded": ("6.12",),
    # Their probes are loaded in any case, and guest_door_counts has the least that must be counted.
    "guest_door_flows": (),
    "guest_watching": (),
    # Whole calls, with nothing but cgroup v2, systemd and crun. The last ends their daemon.
    "guest_runtimes": ("6.1",),
    "guest": ("6.1",),
}
"""What is run inside, in this order, and in which series `make test` does; `make soak` runs all of
it in every kernel."""

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


def guest_files(series: str) -> tuple[str, ...]:
    """List what is run inside; STOCKADE_VM_ONLY names some, without their endings."""
    only = os.environ.get("STOCKADE_VM_ONLY")
    everything = SOAK or series not in SERIES
    names = only.split(",") if only else [n for n in FILES if everything or series in FILES[n]]
    in_order = sorted(names, key=list(FILES).index)
    return tuple(str((HERE / f"{name}.py").relative_to(machine.ROOT)) for name in in_order)


def kernel_of(name: str) -> machine.Kernel | None:
    """Find a kernel by its release or its series."""
    return next((one for one in KERNELS if f"{one.release}.".startswith(f"{name}.")), None)


BOOTS = {
    **{name: Boot(kernel=name, files=guest_files(name)) for name in (*SERIES, *OTHERS)},
}
if SOAK:
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


def test_every_file_is_run_somewhere() -> None:
    assert set(FILES) == {path.stem for path in HERE.glob("guest*.py")}
    assert {series for where in FILES.values() for series in where} == set(SERIES)


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
