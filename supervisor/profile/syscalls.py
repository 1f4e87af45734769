"""The table of system calls: sets, what is in none of them and why, and rules on arguments.

Every known call stands in a set, in `BY_NAME_ONLY` or in `REFUSED`. A set has systemd's name
where it has systemd's meaning (systemd.exec(5), SystemCallFilter=). A call in no set can be
allowed by its own name and with a reason, unless it is refused: those would undo a wall.

What arguments a call may have is `CONDITIONS` and the socket tables below. They always apply,
also to a call that is allowed by name. Flags and families were taken from the kernel's uapi
headers and from the functions that read them; no rule depends on a pointer's target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from supervisor.profile.arguments import (
    ALL_BITS,
    LOW_32,
    Alternatives,
    equal,
    masked,
    not_equal,
)
from supervisor.profile.model import SyscallPolicy
from supervisor.profile.syscall_numbers import NUMBERS


@dataclass(frozen=True, slots=True, kw_only=True)
class SyscallSet:
    """A named set: `help` in one sentence, its own `names`, and the sets that it `includes`."""

    name: str
    help: str
    names: frozenset[str] = frozenset()
    includes: tuple[str, ...] = ()


def _set(name: str, help_: str, names: str) -> SyscallSet:
    return SyscallSet(name=name, help=help_, names=frozenset(names.split()))


_SOCKET_CALLS = (
    "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg "
    "recvmsg sendmmsg sendmsg sendto setsockopt shutdown socket"
)

START_NEEDS = frozenset(
    {
        "access", "arch_prctl", "brk", "chdir", "clone", "close", "dup2", "execve", "exit_group",
        "fcntl", "fstat", "fstatfs", "futex", "getdents64", "getpid", "gettid", "kill", "lseek",
        "mmap", "mprotect", "munmap", "nanosleep", "newfstatat", "openat", "pipe2", "poll", "prctl",
        "pread64", "prlimit64", "read", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
        "sched_yield", "set_robust_list", "set_tid_address", "setsid", "sigaltstack", "signalfd4",
        "tgkill", "wait4", "write",
    }
)  # fmt: skip
"""Without these no program starts: what the runtime's init, the sandbox's own init and the dynamic
loader call when the filter is already in place. A profile that lacks one is refused, rather than
given more than it says."""

INIT_ASKS = frozenset(
    {
        "clock_gettime", "epoll_ctl", "epoll_pwait", "getrandom", "madvise", "readlink", "rseq",
    }
)  # fmt: skip
"""What the runtime's init, a Go program, and the C library of the sandbox's own init call besides
while the filter is in place. A profile may lack it; then the record has denials that are not the
program's doing."""

START = "@start"

_ELEMENTARY = (
    _set(
        "@basic-io",
        "Read, write, copy and wait through descriptors that are already open, and make pipes.",
        "close close_range copy_file_range dup dup2 dup3 fadvise64 fcntl ioctl lseek pipe pipe2 "
        "poll pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile "
        "splice tee vmsplice write writev",
    ),
    _set(
        "@file-system",
        "Open, create, rename, remove and describe files, as far as the mounts allow.",
        "access cachestat chdir chmod chown creat faccessat faccessat2 fallocate fchdir fchmod "
        "fchmodat fchmodat2 fchown fchownat fgetxattr file_getattr file_setattr flistxattr flock "
        "fremovexattr fsetxattr fstat fstatfs ftruncate futimesat getcwd getdents getdents64 "
        "getxattr getxattrat "
        "lchown lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lsetxattr "
        "lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 readlink readlinkat "
        "removexattr removexattrat rename renameat renameat2 rmdir setxattr setxattrat stat "
        "statfs statx symlink symlinkat truncate umask unlink unlinkat utime utimensat utimes",
    ),
    _set(
        "@process",
        "Start, wait for and signal processes and threads of the same sandbox.",
        "arch_prctl clone execve execveat exit exit_group fork futex futex_requeue futex_wait "
        "futex_waitv futex_wake get_robust_list getcpu getpgid getpgrp getpid getppid getrandom "
        "getrusage getsid gettid kill personality pidfd_open pidfd_send_signal prctl "
        "restart_syscall rseq rt_sigqueueinfo rt_tgsigqueueinfo sched_yield set_robust_list "
        "set_tid_address setpgid setsid sysinfo tgkill times tkill uname uprobe uretprobe vfork "
        "wait4 waitid",
    ),
    # libnuma tries set_mempolicy in every program that is linked with it: ps, for one.
    _set(
        "@memory",
        "Map, protect, lock and advise on a process's own memory.",
        "brk get_mempolicy madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap "
        "mprotect mremap mseal munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect "
        "remap_file_pages set_mempolicy",
    ),
    _set(
        "@signal",
        "Handle signals.",
        "pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend "
        "rt_sigtimedwait sigaltstack signalfd signalfd4",
    ),
    _set(
        "@timer",
        "Read the clocks, sleep and set timers; setting a clock is refused.",
        "alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep "
        "setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_settime "
        "timerfd_create timerfd_gettime timerfd_settime",
    ),
    _set(
        "@io-event",
        "Wait for events on many descriptors: poll, select, epoll, eventfd.",
        "epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd "
        "eventfd2 poll ppoll pselect6 select",
    ),
    _set(
        "@sync",
        "Write files and memory through to storage.",
        "fdatasync fsync msync sync sync_file_range syncfs",
    ),
    _set(
        "@ipc",
        "Pipes, Unix sockets, System V IPC and POSIX message queues, all inside the sandbox.",
        "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget "
        "msgrcv msgsnd pipe pipe2 semctl semget semop semtimedop shmat shmctl shmdt shmget "
        "socketpair " + _SOCKET_CALLS,
    ),
    _set(
        "@credentials",
        "Read one's own ids and capabilities, and give up what one has.",
        "capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid "
        "setfsuid setgid setgroups setregid setresgid setresuid setreuid setuid",
    ),
    _set(
        "@resources",
        "Read resource limits, priorities and scheduling, and lower one's own.",
        "getpriority getrlimit ioprio_get ioprio_set prlimit64 sched_get_priority_max "
        "sched_get_priority_min sched_getaffinity sched_getattr sched_getparam "
        "sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr "
        "sched_setparam sched_setscheduler setpriority setrlimit",
    ),
    _set(
        "@sandbox",
        "Confine oneself further with Landlock.",
        "landlock_add_rule landlock_create_ruleset landlock_restrict_self",
    ),
    _set(
        "@aio",
        "Old asynchronous I/O (libaio), which only some databases use.",
        "io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit",
    ),
    _set(
        "@watch-files",
        "Be told what happens to files (inotify): also what other calls do to the host's /usr.",
        "inotify_add_watch inotify_init inotify_init1 inotify_rm_watch",
    ),
    _set(
        "@network-io",
        "Internet sockets (TCP, UDP) and routing queries, within the sandbox's own network.",
        _SOCKET_CALLS,
    ),
    SyscallSet(
        name=START,
        help="The few calls without which no program starts; all of them are in other sets, too.",
        names=START_NEEDS | INIT_ASKS,
    ),
)

_COMPOSITE = (
    SyscallSet(
        name="@local",
        help="What an ordinary program needs that does not use the network.",
        includes=(
            "@basic-io", "@file-system", "@process", "@memory", "@signal", "@timer", "@io-event",
            "@sync", "@ipc", "@credentials", "@resources", "@sandbox",
        ),
    ),
    SyscallSet(
        name="@default",
        help="What an ordinary program needs: @local, @network-io and @watch-files.",
        includes=("@local", "@network-io", "@watch-files"),
    ),
)  # fmt: skip

SETS: Mapping[str, SyscallSet] = {entry.name: entry for entry in (*_ELEMENTARY, *_COMPOSITE)}


def _because(reason: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


REFUSED: Mapping[str, str] = {
    **_because(
        "answers ENOSYS so that libc falls back to clone, whose flags a filter can see", "clone3"
    ),
    **_because("loads code into the kernel", "init_module finit_module delete_module"),
    **_because("replaces the running kernel", "kexec_load kexec_file_load"),
    **_because("stops the host", "reboot"),
    **_because("changes the host's swap", "swapon swapoff"),
    **_because(
        "changes mounts",
        "mount umount2 pivot_root chroot fsconfig fsmount fsopen fspick mount_setattr move_mount "
        "open_tree open_tree_attr",
    ),
    **_because(
        "enters or makes namespaces, of users only where the host has no guard", "setns unshare"
    ),
    **_because("loads programs into the kernel", "bpf"),
    **_because("watches the kernel and other processes", "perf_event_open lookup_dcookie"),
    **_because(
        "does I/O that neither seccomp nor the record sees",
        "io_uring_enter io_uring_register io_uring_setup",
    ),
    **_because("opens files past the mounts, by handle", "open_by_handle_at"),
    **_because("takes descriptors out of other processes", "pidfd_getfd"),
    **_because("a nested filter could hide denials from the record", "seccomp"),
    **_because("sets the host's clock", "settimeofday clock_settime clock_adjtime adjtimex"),
    **_because("changes the host's accounting and quotas", "acct quotactl quotactl_fd"),
    **_because("reads and clears the kernel's log", "syslog"),
    **_because("gives access to I/O ports", "ioperm iopl"),
    **_because("watches file access of the whole host", "fanotify_init fanotify_mark"),
    **_because("hangs up terminals", "vhangup"),
    **_because("renames the host", "sethostname setdomainname"),
    **_because("changes security labels", "lsm_set_self_attr"),
    **_because(
        "does not exist in the kernel any more",
        "_sysctl afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms getpmsg "
        "get_thread_area nfsservctl putpmsg query_module security set_thread_area tuxcall uselib "
        "vserver",
    ),
}  # fmt: skip
"""In no set, and a profile cannot allow them by name either: name to reason."""

BY_NAME_ONLY: Mapping[str, str] = {
    **_because("controls other processes of the sandbox: for debuggers", "ptrace"),
    **_because(
        "reads or writes the memory of other processes of the sandbox",
        "process_vm_readv process_vm_writev process_madvise process_mrelease",
    ),
    **_because("compares kernel objects of two processes", "kcmp"),
    **_because(
        "makes files without a mount, which may be executed: a hole in noexec where the host has "
        "no guard",
        "memfd_create memfd_secret",
    ),
    **_because("handles page faults in user space, which helps to win races", "userfaultfd"),
    **_because(
        "uses the kernel's keyrings, which no namespace divides", "add_key keyctl request_key"
    ),
    **_because("makes file handles, useful only with open_by_handle_at", "name_to_handle_at"),
    **_because(
        "places memory on NUMA nodes",
        "mbind migrate_pages move_pages set_mempolicy_home_node",
    ),
    **_because("changes segment descriptors: for 16-bit code", "modify_ldt"),
    **_because("describes mounts and file systems", "listmount statmount sysfs ustat"),
    **_because("describes security labels", "lsm_get_self_attr lsm_list_modules"),
}
"""In no set; a profile may allow one by name with a reason: name to what speaks against it."""

ENOSYS = frozenset({"clone3"})
"""Answered with ENOSYS instead of EPERM, so that libc uses the older call."""

# clone(2): the flags that make a namespace (linux/sched.h). The kernel takes the low 32 bits;
# the high ones must be zero. CLONE_NEWTIME lies in the byte of the exit signal and means
# something in clone3 only; no signal has a number that high, so it is refused as well.
_CLONE_NAMESPACES = (
    0x00020000  # CLONE_NEWNS
    | 0x02000000  # CLONE_NEWCGROUP
    | 0x04000000  # CLONE_NEWUTS
    | 0x08000000  # CLONE_NEWIPC
    | 0x10000000  # CLONE_NEWUSER
    | 0x20000000  # CLONE_NEWPID
    | 0x40000000  # CLONE_NEWNET
    | 0x00000080  # CLONE_NEWTIME
)

# personality(2): PER_LINUX, PER_LINUX32, each with and without UNAME26, and the query. The rest
# switches off ASLR (ADDR_NO_RANDOMIZE), maps page zero or makes readable memory executable.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# ioctl(2): both push input into a terminal as if it had been typed (CVE-2017-5226 and its kin).
# The kernel reads the command as unsigned int, and musl passes it sign-extended: only the low
# 32 bits count, so only they are compared.
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

# ioctl(2): makes the host load the module of a line discipline.
_TIOCSETD = 0x5423

# fcntl(2): locks of an open file description belong to no process, so nobody could say which
# call holds the kernel memory that they take: see `linux.locks`.
_F_OFD_SETLK, _F_OFD_SETLKW = 37, 38
# And two that tell of, or hold up, what others do to a shared file: leases and dnotify.
_F_SETLEASE, _F_NOTIFY = 1024, 1026

# clone(2): a process that shares its descriptors without being a thread leaves its record locks
# behind when it ends, under the number of a process that is no more.
_CLONE_FILES, _CLONE_THREAD = 0x400, 0x10000

# setsockopt(2) at SOL_SOCKET: programs for the kernel's BPF compiler, also on AF_UNIX sockets. The
# kernel frees them on a shared work queue: some thousand of them, freed at once, were seen to stop
# every later filter of a 6.18 host for good (bpf_prog_pack_free waits for vfree, which waits for
# its place on the same queue). No ordinary program attaches one. Both arguments are 32 bits wide.
_SOL_SOCKET = 1
_SOCKET_PROGRAMS = (26, 50, 51, 52)  # SO_ATTACH_FILTER, _BPF, _REUSEPORT_CBPF, _REUSEPORT_EBPF

# prctl(2): a nested filter hides denials; PR_SET_MM moves the argv that the record reads from
# the kernel; core scheduling can keep a sibling CPU idle.
_PR_SET_SECCOMP, _PR_SET_MM, _PR_SCHED_CORE = 22, 35, 62

# mknod(2): the mode is 16 bits wide. Regular files, FIFOs and sockets; no devices. The low
# twelve bits are permissions.
_NODE_TYPES = (0o000000, 0o100000, 0o010000, 0o140000)
_NODE_TYPE_BITS = ALL_BITS & ~0o7777


def _any_of(index: int, values: Iterable[int], mask: int = ALL_BITS) -> Alternatives:
    return tuple((masked(index, mask, value),) for value in values)


def _no_socket_programs() -> Alternatives:
    level = masked(1, LOW_32, _SOL_SOCKET)
    harmless = not_equal(2, _SOCKET_PROGRAMS, LOW_32)
    return (
        *not_equal(1, (_SOL_SOCKET,), LOW_32),
        *((level, *rules) for rules in harmless),
    )


_CLONE_NEVER = (ALL_BITS & ~LOW_32) | _CLONE_NAMESPACES

CONDITIONS: Mapping[str, Alternatives] = {
    "clone": (
        (masked(0, _CLONE_NEVER | _CLONE_FILES, 0),),
        (masked(0, _CLONE_NEVER | _CLONE_FILES | _CLONE_THREAD, _CLONE_FILES | _CLONE_THREAD),),
    ),
    "ioctl": not_equal(1, (_TIOCSTI, _TIOCLINUX, _TIOCSETD), LOW_32),
    "fcntl": not_equal(1, (_F_OFD_SETLK, _F_OFD_SETLKW, _F_SETLEASE, _F_NOTIFY), LOW_32),
    "mknod": _any_of(1, _NODE_TYPES, _NODE_TYPE_BITS),
    "mknodat": _any_of(2, _NODE_TYPES, _NODE_TYPE_BITS),
    "setsockopt": _no_socket_programs(),
    "personality": _any_of(0, _PERSONALITIES),
    "prctl": not_equal(0, (_PR_SET_SECCOMP, _PR_SET_MM, _PR_SCHED_CORE), LOW_32),
}
"""Rules that hold in every profile. `socket` and `socketpair` depend on the sets: `rules_for`."""

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_RAW, _SOCK_SEQPACKET = 1, 2, 3, 5
_IPPROTO_TCP, _IPPROTO_UDP, _NETLINK_ROUTE = 6, 17, 0
_SOCK_FLAGS = 0o4000 | 0o2000000  # SOCK_NONBLOCK, SOCK_CLOEXEC


def _sockets(family: int, kinds: Mapping[int, tuple[int, ...]]) -> Alternatives:
    return tuple(
        (equal(0, family), masked(1, ALL_BITS & ~_SOCK_FLAGS, kind), equal(2, protocol))
        for kind, protocols in kinds.items()
        for protocol in protocols
    )


_UNIX_SOCKETS = _sockets(_AF_UNIX, {_SOCK_STREAM: (0,), _SOCK_DGRAM: (0,), _SOCK_SEQPACKET: (0,)})
_INTERNET = {_SOCK_STREAM: (0, _IPPROTO_TCP), _SOCK_DGRAM: (0, _IPPROTO_UDP)}
# A netlink socket is "raw" by name only: the kernel treats RAW and DGRAM alike (netlink(7)).
_NETWORK_SOCKETS = (
    *_sockets(_AF_INET, _INTERNET),
    *_sockets(_AF_INET6, _INTERNET),
    *_sockets(_AF_NETLINK, {_SOCK_RAW: (_NETLINK_ROUTE,), _SOCK_DGRAM: (_NETLINK_ROUTE,)}),
)

SOCKETS_OF_SET: Mapping[str, Alternatives] = {
    "@ipc": _UNIX_SOCKETS,
    "@network-io": _NETWORK_SOCKETS,
}
"""Which sockets may be made, by the set that grants them."""


def expand_sets(names: Iterable[str]) -> frozenset[str]:
    """Give the elementary sets that the sets `names` come to."""
    found: set[str] = set()
    for name in names:
        includes = SETS[name].includes
        found |= expand_sets(includes) if includes else {name}
    return frozenset(found)


def members(name: str) -> frozenset[str]:
    """Give the system calls of the set `name`, with those of the sets that it includes."""
    return frozenset().union(*(SETS[part].names for part in expand_sets((name,))))


def sets_with(syscall: str) -> tuple[str, ...]:
    """Give the elementary sets that hold `syscall`."""
    return tuple(entry.name for entry in _ELEMENTARY if syscall in entry.names)


def elementary_sets() -> frozenset[str]:
    """Give the names of the sets that include no others."""
    return frozenset(entry.name for entry in _ELEMENTARY)


def rules_for(policy: SyscallPolicy) -> Mapping[str, Alternatives]:
    """Give for each allowed call its alternatives, or () where any argument will do.

    Calls that are not a key are denied with every argument.
    """
    rules: dict[str, Alternatives] = {}
    for name in sorted(policy.allow):
        if name == "socket":
            families = socket_rules(policy.sets)
            if families:
                rules[name] = families
        elif name == "socketpair":
            rules[name] = _UNIX_SOCKETS
        else:
            rules[name] = CONDITIONS.get(name, ())
    return rules


def socket_rules(sets: frozenset[str]) -> Alternatives:
    """Give what socket(2) may make under the elementary `sets`; nothing where that is empty."""
    return tuple(
        rule for name, sockets in SOCKETS_OF_SET.items() if name in sets for rule in sockets
    )


def known_names() -> frozenset[str]:
    """Give the names of all system calls of x86_64."""
    return frozenset(NUMBERS)


def known(name: str) -> bool:
    """Say whether `name` is a system call of x86_64."""
    return name in NUMBERS
