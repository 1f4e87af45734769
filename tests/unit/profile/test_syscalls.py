"""The table of system calls: nothing forgotten, nothing dangerous in it, every bit read."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.profile.arguments import ALL_BITS, denials, evaluate
from supervisor.profile.model import SyscallPolicy
from supervisor.profile.syscall_numbers import NUMBERS
from supervisor.profile.syscalls import (
    BY_NAME_ONLY,
    CONDITIONS,
    ENOSYS,
    INIT_ASKS,
    REFUSED,
    SETS,
    START_NEEDS,
    elementary_sets,
    expand_sets,
    known,
    known_names,
    members,
    rules_for,
    sets_with,
    socket_rules,
)

ALL_SETS = frozenset().union(*(members(name) for name in SETS))
WORDS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 5, 6, 8, 10, 16, 17, 22, 35, 62, 0x5412, 0x541C, 0x20000]),
    st.integers(min_value=0, max_value=ALL_BITS),
)
HIGH = [1 << 32, 1 << 47, 1 << 63, 0xFFFFFFFF00000000]

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK, AF_BLUETOOTH = (
    1, 2, 10, 16, 17, 38, 40, 31,
)  # fmt: skip
STREAM, DGRAM, RAW, SEQPACKET = 1, 2, 3, 5
NONBLOCK, CLOEXEC = 0o4000, 0o2000000


def policy(*sets: str, also: frozenset[str] = frozenset()) -> SyscallPolicy:
    names = frozenset().union(*(members(name) for name in sets))
    return SyscallPolicy(allow=names | also, kill=frozenset(), sets=expand_sets(sets))


def allowed(name: str, *arguments: int, sets: tuple[str, ...] = ("@default",)) -> bool:
    rules = rules_for(policy(*sets))
    return name in rules and evaluate(rules[name], (*arguments, 0, 0, 0, 0, 0, 0)[:6])


def test_every_known_call_is_in_a_set_or_says_why_not() -> None:
    assert set(NUMBERS) == ALL_SETS | set(BY_NAME_ONLY) | set(REFUSED)


def test_the_tables_do_not_overlap() -> None:
    assert not set(BY_NAME_ONLY) & set(REFUSED)
    assert not ALL_SETS & (set(BY_NAME_ONLY) | set(REFUSED))


def test_every_set_has_one_sentence_of_help() -> None:
    assert [s.name for s in SETS.values() if not s.help.endswith(".") or "\n" in s.help] == []


def test_default_is_local_network_and_watching() -> None:
    assert members("@default") == members("@local") | members("@network-io") | members(
        "@watch-files"
    )
    assert expand_sets(["@default"]) == expand_sets(["@local", "@network-io", "@watch-files"])
    assert "@aio" not in expand_sets(["@default"])


NEVER_IN_DEFAULT = [
    "init_module", "finit_module", "delete_module", "mount", "umount2", "fsopen", "fsconfig",
    "fsmount", "fspick", "move_mount", "open_tree", "open_tree_attr", "mount_setattr", "ptrace",
    "process_vm_readv", "process_vm_writev", "pidfd_getfd", "bpf", "perf_event_open",
    "userfaultfd", "keyctl", "add_key", "request_key", "kexec_load", "kexec_file_load", "reboot",
    "swapon", "swapoff", "io_uring_setup", "io_uring_enter", "io_uring_register",
    "open_by_handle_at", "name_to_handle_at", "setns", "unshare", "chroot", "pivot_root",
    "memfd_create", "memfd_secret", "seccomp", "settimeofday", "clock_settime", "acct",
    "quotactl", "quotactl_fd", "syslog", "iopl", "ioperm", "kcmp", "vhangup", "lookup_dcookie",
    "nfsservctl", "fanotify_init", "fanotify_mark", "process_madvise", "move_pages", "mbind",
    "clone3",
]  # fmt: skip


@pytest.mark.parametrize("name", NEVER_IN_DEFAULT)
def test_default_never_holds(name: str) -> None:
    assert known(name)
    assert name not in members("@default")
    assert name not in rules_for(policy("@default", "@aio"))


@pytest.mark.parametrize("name", sorted(ENOSYS))
def test_what_answers_enosys_cannot_be_allowed(name: str) -> None:
    assert name in REFUSED


def test_what_a_program_needs_to_start_is_in_local_without_sockets() -> None:
    sets = ["@basic-io", "@file-system", "@process", "@memory", "@signal", "@timer", "@resources"]
    assert frozenset().union(*(members(name) for name in sets)) >= START_NEEDS
    assert members("@local") >= START_NEEDS


def test_the_least_set_is_what_starts_a_program() -> None:
    assert members("@start") == START_NEEDS | INIT_ASKS
    assert "@start" in elementary_sets()
    assert not elementary_sets() & {"@local", "@default"}


def test_rules_have_a_key_for_each_allowed_call_and_no_other() -> None:
    wanted = policy("@default")
    assert set(rules_for(wanted)) == wanted.allow


def test_sets_with_names_elementary_sets() -> None:
    assert sets_with("readv") == ("@basic-io",)
    assert sets_with("read") == ("@basic-io", "@start")
    assert sets_with("socket") == ("@ipc", "@network-io")
    assert sets_with("bpf") == ()


def test_known_names() -> None:
    assert known_names() == set(NUMBERS)
    assert not known("cacheflush")


# --- clone


def test_ordinary_clone_flags() -> None:
    pthread_create = 0x3D0F00
    vfork_like = 0x00004111
    for flags in (17, 0x01200011, pthread_create, vfork_like):
        assert allowed("clone", flags)


@pytest.mark.parametrize(
    "flag",
    [0x80, 0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000],
)
def test_no_namespace_flag_of_clone(flag: int) -> None:
    assert not allowed("clone", flag | 17)
    assert not allowed("clone", flag)


@pytest.mark.parametrize("high", HIGH)
def test_high_bits_of_clone(high: int) -> None:
    assert not allowed("clone", 17 | high)


# --- ioctl, prctl


@pytest.mark.parametrize("command", [0x5401, 0x5410, 0x5413, 0x541B, 0x541D, 0x80045430, 0, 0x5421])
def test_ordinary_ioctls(command: int) -> None:
    assert allowed("ioctl", 0, command)
    sign_extended = command | 0xFFFFFFFF00000000 if command >> 31 else command
    assert allowed("ioctl", 0, sign_extended)


@pytest.mark.parametrize("high", [0, *HIGH])
@pytest.mark.parametrize("command", [0x5412, 0x541C])
def test_nothing_is_pushed_into_a_terminal(command: int, high: int) -> None:
    assert not allowed("ioctl", 0, command | high)


@given(st.integers(min_value=0, max_value=ALL_BITS))
@example(0x5423)
def test_ioctl_holds_for_all_but_three_commands(command: int) -> None:
    assert allowed("ioctl", 3, command) == (command & 0xFFFFFFFF not in (0x5412, 0x541C, 0x5423))


@pytest.mark.parametrize("option", [15, 16, 38, 4, 36, 0x59616D61])
def test_ordinary_prctls(option: int) -> None:
    assert allowed("prctl", option)


@pytest.mark.parametrize("high", [0, *HIGH])
@pytest.mark.parametrize("option", [22, 35, 62])
def test_prctls_that_are_denied(option: int, high: int) -> None:
    assert not allowed("prctl", option | high)


# --- personality, mknod


@pytest.mark.parametrize("persona", [0, 8, 0x20000, 0x20008, 0xFFFFFFFF])
def test_usual_personalities(persona: int) -> None:
    assert allowed("personality", persona)


@pytest.mark.parametrize(
    "persona", [0x0040000, 0x0100000, 0x0400000, 4, 0x1 << 32, 0x8 | 1 << 63, ALL_BITS]
)
def test_unusual_personalities(persona: int) -> None:
    assert not allowed("personality", persona)


@pytest.mark.parametrize(("name", "place"), [("mknod", 1), ("mknodat", 2)])
def test_nodes(name: str, place: int) -> None:
    def make(mode: int) -> bool:
        return allowed(name, *([0] * place), mode)

    for mode in (0o644, 0o100644, 0o010600, 0o140777, 0o107777):
        assert make(mode), oct(mode)
    for mode in (0o020666, 0o060660, 0o040755, 0o120777, 0o170000, 0o100644 | 1 << 16, 1 << 32):
        assert not make(mode), oct(mode)


# --- sockets


@pytest.mark.parametrize("flags", [0, NONBLOCK, CLOEXEC, NONBLOCK | CLOEXEC])
@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [(AF_UNIX, STREAM, 0), (AF_UNIX, DGRAM, 0), (AF_UNIX, SEQPACKET, 0), (AF_INET, STREAM, 0),
     (AF_INET, STREAM, 6), (AF_INET, DGRAM, 0), (AF_INET, DGRAM, 17), (AF_INET6, STREAM, 6),
     (AF_INET6, DGRAM, 17), (AF_NETLINK, RAW, 0), (AF_NETLINK, DGRAM, 0)],
)  # fmt: skip
def test_sockets_of_default(family: int, kind: int, protocol: int, flags: int) -> None:
    assert allowed("socket", family, kind | flags, protocol)
    assert allowed("socket", family, kind | flags, protocol, sets=("@local",)) == (
        family == AF_UNIX
    )


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [(AF_INET, RAW, 0), (AF_INET, RAW, 1), (AF_INET6, RAW, 58), (AF_INET, DGRAM, 1),
     (AF_INET, STREAM, 132), (AF_INET, STREAM, 262), (AF_INET, DGRAM, 6), (AF_INET, 6, 33),
     (AF_INET, 10, 0), (AF_PACKET, RAW, 0), (AF_PACKET, DGRAM, 3), (AF_ALG, SEQPACKET, 0),
     (AF_VSOCK, STREAM, 0), (AF_BLUETOOTH, RAW, 1), (AF_NETLINK, RAW, 2), (AF_NETLINK, RAW, 6),
     (AF_NETLINK, RAW, 9), (AF_NETLINK, RAW, 16), (AF_UNIX, RAW, 0), (0, STREAM, 0), (44, RAW, 0)],
)  # fmt: skip
def test_sockets_that_no_profile_gets(family: int, kind: int, protocol: int) -> None:
    assert not allowed("socket", family, kind, protocol)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("high", HIGH)
def test_high_bits_of_socket(high: int, place: int) -> None:
    arguments = [AF_INET, STREAM, 6]
    assert allowed("socket", *arguments)
    arguments[place] |= high
    assert not allowed("socket", *arguments)


@pytest.mark.parametrize("flag", [1 << 4, 1 << 10, 1 << 12, 1 << 18, 1 << 20, 1 << 31])
def test_unknown_flags_of_a_socket_type(flag: int) -> None:
    assert not allowed("socket", AF_INET, STREAM | flag, 0)


def test_only_unix_sockets_come_in_pairs() -> None:
    assert allowed("socketpair", AF_UNIX, STREAM | CLOEXEC, 0)
    assert not allowed("socketpair", AF_INET, STREAM, 0)
    assert not allowed("socketpair", 30, SEQPACKET, 0)  # AF_TIPC


def test_without_a_set_for_it_no_socket_at_all() -> None:
    bare = policy("@basic-io", also=frozenset({"socket"}))
    assert "socket" not in rules_for(bare)
    assert socket_rules(bare.sets) == ()


# --- both sides of the filter


@pytest.mark.parametrize("name", [*sorted(CONDITIONS), "socket", "socketpair"])
@given(arguments=st.tuples(WORDS, WORDS, WORDS))
def test_denials_are_the_other_side(name: str, arguments: tuple[int, int, int]) -> None:
    rules = rules_for(policy("@default"))[name]
    inverse = denials(rules)
    assert inverse
    assert evaluate(rules, arguments) != evaluate(inverse, arguments)


@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32])
@pytest.mark.parametrize("level", [0, 1, 2, 6, 41, 0xFFFFFFFF])
def test_no_program_is_attached_to_a_socket(level: int, high: int) -> None:
    """And IPV6_V6ONLY, which has the number of SO_ATTACH_FILTER at another level, is left."""
    for option in (0, 1, 2, 25, 26, 27, 49, 50, 51, 52, 53, 0xFFFFFFFF):
        allowed = level != 1 or option not in (26, 50, 51, 52)
        arguments = (3, level | high, option | high, 0, 0, 0)
        assert evaluate(CONDITIONS["setsockopt"], arguments) == allowed
        assert evaluate(denials(CONDITIONS["setsockopt"]), arguments) != allowed
