"""Calls that change or watch the kernel: modules, kexec, bpf, perf, swap, clocks, logs."""

from __future__ import annotations

from tests.escape.arena import NO_FD, NOWHERE, Row, expect_refused
from tests.support.daemon import Daemon

ROWS = (
    Row("init_module", (NOWHERE, 8, NOWHERE), "lockdown"),
    Row("finit_module", (NO_FD, NOWHERE, 0), "lockdown"),
    Row("delete_module", (NOWHERE, 0)),
    Row("kexec_load", (0, 17, NOWHERE, 0), "lockdown"),
    Row("kexec_file_load", (NO_FD, NO_FD, 0, NOWHERE, 0), "lockdown"),
    Row("bpf", (0, NOWHERE, 48)),
    Row("perf_event_open", (NOWHERE, 0, NO_FD, NO_FD, 0)),
    Row("userfaultfd", (0,)),
    Row("userfaultfd", (1,)),
    Row("lookup_dcookie", (0, NOWHERE, 0)),
    Row("reboot", (0, 0, 0, 0)),
    Row("swapon", (NOWHERE, 0)),
    Row("swapoff", (NOWHERE,)),
    Row("acct", (NOWHERE,)),
    Row("quotactl", (0, NOWHERE, 0, NOWHERE)),
    Row("quotactl_fd", (NO_FD, 0, 0, NOWHERE)),
    Row("syslog", (3, NOWHERE, 8)),
    Row("ioperm", (0, 70000, 1), "lockdown"),
    Row("iopl", (9,), "lockdown"),
    Row("settimeofday", (NOWHERE, 0)),
    Row("clock_settime", (0, NOWHERE)),
    Row("adjtimex", (NOWHERE,)),
    Row("clock_adjtime", (0, NOWHERE)),
    Row("sethostname", (NOWHERE, 2)),
    Row("setdomainname", (NOWHERE, 2)),
    Row("vhangup"),
    Row("fanotify_init", (0xFFFF, 0)),
    Row("fanotify_mark", (NO_FD, 0xFFFF, 0, 0, 0)),
    Row("lsm_set_self_attr", (0, NOWHERE, 8, 0)),
    Row("modify_ldt", (1, NOWHERE, 16)),
    Row("mbind", (NOWHERE, 1, 99, 0, 0, 0)),
    Row("migrate_pages", (1, 0, NOWHERE, NOWHERE)),
)


def test_it_is_refused_and_on_record(daemon: Daemon) -> None:
    expect_refused(daemon, ROWS)
