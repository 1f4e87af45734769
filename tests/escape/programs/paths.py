"""Try to read and write by way of /proc, links and dots; argv[1] is a file that the host has.

Prints one JSON object: what was tried, and what came of it (an errno's name, or what was read).
"""

import errno
import json
import os
import sys

secret = sys.argv[1]
here = sys.argv[2] if len(sys.argv) > 2 else "/work"


def said(action):
    try:
        return action()
    except OSError as error:
        return errno.errorcode[error.errno]


def read(path):
    with open(path, "rb") as file:
        return file.read(200).decode(errors="replace")


def write(path, data):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    return "WRITTEN"


def through_link():
    link = os.path.join(here, "link")
    os.symlink(secret, link)
    return read(link)


reads = {
    "plain": lambda: read(secret),
    "dots": lambda: read("/work" + "/.." * 20 + secret),
    "own root": lambda: read("/proc/self/root" + secret),
    "init's root": lambda: read("/proc/1/root" + secret),
    "init's cwd": lambda: read("/proc/1/cwd" + secret),
    "parent's root": lambda: read(f"/proc/{os.getppid()}/root" + secret),
    "thread's root": lambda: read("/proc/thread-self/root" + secret),
    "link": through_link,
}
writes = {
    name: (lambda path=name: write(path, b"|/tmp/evil"))
    for name in (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/self/uid_map",
        "/proc/self/oom_score_adj",
        "/proc/1/oom_score_adj",
        "/proc/self/attr/exec",
        "/proc/irq/default_smp_affinity",
        "/etc/passwd",
        "/usr/bin/env",
        "/.stockade/cell",
        "/etc/ld.so.cache",
        "/dev/full",
    )
}
init = {
    name: (lambda path=name: read(path) if not path.endswith("fd") else str(os.listdir(path)))
    for name in (
        "/proc/1/fd",
        "/proc/1/environ",
        "/proc/1/mem",
        "/proc/1/maps",
        "/proc/1/auxv",
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/keys",
        "/dev/mem",
        "/dev/kmsg",
        "/sys/kernel/notes",
        "/sys/fs/cgroup/cgroup.procs",
        "/proc/self/mem",
    )
}


def make(folder):
    os.close(os.open(folder + "/new", os.O_CREAT | os.O_WRONLY))
    return "MADE"


creates = {
    "create in " + folder: (lambda folder=folder: make(folder))
    for folder in ("/", "/etc", "/usr/local/bin", "/proc", "/dev", "/run", "/var", "/.stockade")
}
# On the host the reads alone are tried: the rest would change it.
tables = [reads] if len(sys.argv) > 2 else [reads, writes, init, creates]
found = {name: said(action) for table in tables for name, action in table.items()}
if len(sys.argv) < 3:
    found["/dev"] = sorted(os.listdir("/dev"))
print(json.dumps(found))
