"""Which kernels are booted, and what is run inside of each: Debian's, with its systemd and nothing
but cgroup v2.

`make vm-kernels` gets QEMU and the kernels: see .ci/kernels. Others can be tried as well:

    apt-get download linux-image-6.1.0-56-cloud-amd64 && dpkg -x linux-image-*.deb FOLDER
    STOCKADE_VM=FOLDER .venv/bin/python -m pytest tests/vm

Inside, pytest runs the files of FILES, in one boot of each kernel: all of them in `make soak`, and
in `make test` what depends on the kernel in both, and the rest in one of them. To run
some of them by hand: `STOCKADE_VM_ONLY=guest_guard`, or several names with commas; what each test
said is shown by `--log-cli-level=info`, and `-k 6.12` chooses a kernel.

They are booted when the tests are collected, and run beside those of the host until somebody waits
for what came of them (`test_kernels.py`, which is last).
"""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.rounds import SOAK
from tests.vm import machine

TIMEOUT_S = 3000.0 if SOAK else 1500.0
"""Many times what an idle machine of two cores needs without KVM."""

TEST_S = 900
"""Of one test inside, where a machine has what the host's tests leave of two processors."""

MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
AT_ONCE = 2 if MEMORY_BYTES > (7 << 30) else 1
"""Machines at a time where nothing else runs: one keeps about one processor busy, and may fill its
3 GiB. Beside the host's tests, which keep the other one busy, it is one."""

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


def can_boot(name: str) -> bool:
    """Say whether there is a machine and a kernel for it."""
    return TOOLS is not None and kernel_of(BOOTS[name].kernel) is not None


def run_inside(boot: Boot, stop: threading.Event) -> machine.Run:
    """Run the tests of a boot in a machine."""
    kernel = kernel_of(boot.kernel)
    assert TOOLS is not None
    assert kernel is not None
    inside = [sys.executable, "-m", "pytest", "--log-cli-level=info", "--color=no"]
    inside += ["-p", "no:cacheprovider", "--durations=12", f"--timeout={TEST_S}", *boot.files]
    return machine.run(TOOLS, kernel, inside, timeout_s=TIMEOUT_S, boot=boot.options, stop=stop)


class Booted:
    """Kernels that run inside machines, by their names in `BOOTS`."""

    def __init__(self, names: Iterable[str], at_once: int) -> None:
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(at_once)
        self._runs = {
            name: self._pool.submit(run_inside, BOOTS[name], self._stop)
            for name in names
            if can_boot(name)
        }

    def run(self, name: str) -> machine.Run | None:
        """Wait for what came of a boot; None where it cannot be booted here."""
        run = self._runs.get(name)
        return None if run is None else run.result()

    def close(self) -> None:
        """End what nobody waits for any more."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
