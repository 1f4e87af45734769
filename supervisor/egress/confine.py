"""What a broker gives up before anything of a sandbox reaches it.

The forked child closes every descriptor but its own, gets a session of its own, an empty root, an
unprivileged user without groups and capabilities, small limits, and a filter that leaves it the
system calls that moving bytes takes. It cannot open a file, start or signal a process, get back a
privilege, or be looked into by its user. It dies with the zygote.

Not taken away: the host's network namespace, in which it dials (`dial` judges each address), and
reading memory of its own user's processes, of which there is no other.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.linux.seccomp import Argument, Filter, Rules
from supervisor.linux.syscalls import PR_SET_DUMPABLE, prctl

PR_SET_PDEATHSIG = 1
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
CAPABILITIES_MAX = 64
CAPABILITY_VERSION_3 = 0x20080522

FIRST_FD = 3
"""Where the descriptors lie that the child keeps, in the order that they are given; below, null."""

OOM_SCORE = 500
"""It goes before anything of the host does, and after its sandbox."""

ADDRESS_BYTES = 2 << 30
DATA_BYTES = 512 << 20
"""A broker of a thousand flows takes a tenth of it."""

FDS_OF_FLOW = 6
"""Two sockets, and a pipe for each direction that is stuck."""

FDS_APART = 256
"""Listeners, queries to resolvers, DNS over TCP, sockets that are dialled."""

BPF_MAP_LOOKUP_ELEM = 1
PROT_EXEC = 4
SECOND = 1
POINTER = (1 << 64) - 1

RULES: Rules = {
    **dict.fromkeys(
        (
            "read", "write", "readv", "writev", "close", "lseek", "fstat", "splice", "pipe2",
            "recvfrom", "recvmsg", "sendto", "sendmsg", "accept4", "bind", "connect",
            "shutdown", "getsockname", "getpeername", "getsockopt", "setsockopt",
            "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "poll", "ppoll", "select",
            "fcntl", "dup", "munmap", "mremap", "madvise", "brk", "futex",
            "clock_gettime", "clock_nanosleep", "clock_getres", "gettimeofday", "nanosleep",
            "getrandom", "getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid",
            "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall",
            "sched_yield", "exit", "exit_group",
        ),
        (),
    ),
    # Files that are open already: glibc's fstat(3) is newfstatat with an empty path.
    "newfstatat": ((Argument(index=3, value=0x1000, mask=0x1000),),),
    "ioctl": ((Argument(index=SECOND, value=0x5421),), (Argument(index=SECOND, value=0x541B),)),
    "socket": ((Argument(index=0, value=socket.AF_INET),),
               (Argument(index=0, value=socket.AF_INET6),)),
    # One that is connected for good: with datagrams it could send to any abstract address.
    "socketpair": (
        (Argument(index=0, value=socket.AF_UNIX),
         Argument(index=SECOND, value=socket.SOCK_STREAM, mask=0xF)),
    ),
    "mmap": ((Argument(index=2, value=0, mask=PROT_EXEC),),),
    "mprotect": ((Argument(index=2, value=0, mask=PROT_EXEC),),),
    # Reading limits, not setting them.
    "prlimit64": (
        (Argument(index=0, value=0), Argument(index=2, value=0, mask=POINTER)),
    ),
    "bpf": ((Argument(index=0, value=BPF_MAP_LOOKUP_ELEM),),),
}  # fmt: skip
"""All system calls that a broker is left with. ioctl is FIONBIO and FIONREAD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What a child is put into. `filter`, `root` and `parent` are the zygote's."""

    uid: int
    files: int
    root: Path
    filter: Filter
    parent: int


class NotConfined(Exception):
    """A step did not do what it should; the child must not go on."""


def files_of(flows_max: int) -> int:
    """Give how many descriptors so many flows take."""
    return flows_max * FDS_OF_FLOW + FDS_APART


def flows_of(files: int) -> int:
    """Give for how many flows so many descriptors do."""
    return max(0, files - FDS_APART) // FDS_OF_FLOW


def confine(to: Confinement) -> None:
    """Give up everything, in an order in which each step still may; see the module.

    Raises:
        OSError, NotConfined: the child must end.
    """
    if to.uid <= 0:
        raise NotConfined(f"a broker cannot be user {to.uid}")
    os.setsid()
    Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    os.chroot(to.root)
    os.chdir("/")
    os.umask(0o077)
    _limit(to.files)
    os.setgroups([])
    for capability in range(CAPABILITIES_MAX):
        _drop_bounding(capability)
    os.setresgid(to.uid, to.uid, to.uid)
    os.setresuid(to.uid, to.uid, to.uid)
    _no_capabilities()
    # A change of user clears both of these (kernel/cred.c, commit_creds).
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != to.parent:
        raise NotConfined("the zygote has gone meanwhile")
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    to.filter.load()
    _check(to.uid)


def keep(fds: Sequence[int]) -> None:
    """Close every descriptor but these, which are FIRST_FD and following afterwards."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    sources = [null, null, null, *fds]
    # Out of the way first: a source may lie where another one goes.
    above = max([len(sources), *sources]) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in sources]
    for number, fd in enumerate(moved):
        os.dup2(fd, number, inheritable=False)
    os.closerange(len(sources), _highest_fd() + 1)


def _highest_fd() -> int:
    return max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())


def _limit(files: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    limits: Mapping[int, int] = {
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_FSIZE: 0,
        # The value that also keeps a piped core_pattern from running (fs/coredump.c).
        resource.RLIMIT_CORE: 1,
        resource.RLIMIT_NOFILE: files,
        resource.RLIMIT_AS: ADDRESS_BYTES,
        resource.RLIMIT_DATA: DATA_BYTES,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


def _drop_bounding(capability: int) -> None:
    try:
        prctl(PR_CAPBSET_READ, capability)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return  # The kernel knows no more of them.
    prctl(PR_CAPBSET_DROP, capability)


def _no_capabilities() -> None:
    """Clear all sets of the thread (capset(2)): the inheritable one survives a change of user."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, nothing) < 0:
        raise OSError(ctypes.get_errno(), "capset")


def _check(uid: int) -> None:
    """See that what matters most holds: by effect, after all is done."""
    if os.getuid() != uid or os.geteuid() != uid or os.getgid() != uid:
        raise NotConfined("it is still another user")
    for attempt in (_open_something, _become_root):
        try:
            attempt()
        except PermissionError:
            continue
        raise NotConfined(f"{attempt.__name__.strip('_')} was possible")


def _open_something() -> None:
    os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))


def _become_root() -> None:
    os.setresuid(0, 0, 0)
