"""The OCI spec: what stands in every one, what each key of a profile changes, and arguments that
reach the program byte for byte."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.oci.spec import (
    AUTHORITIES_PATH,
    CAPABILITY_SETS,
    CELL_PATH,
    GATE_FD,
    GID,
    ID_RANGE,
    MASKED,
    STATUS_FD,
    TERMINAL_PATH,
    UID,
    Program,
    SandboxPlaces,
    build_spec,
    escape,
)
from supervisor.profile.model import (
    EffectiveProfile,
    Image,
    ImageKind,
    ReadPath,
    SyscallPolicy,
    WritableMount,
)
from tests.style.tree import ROOT
from tests.support.records import make_profile
from tests.support.rounds import rounds

CELL = ROOT / "cell/.output/cell"
PLACES = SandboxPlaces(
    call_id="call-1",
    root="/run/stockade/roots/one",
    devices="/run/stockade/dev",
    cgroup="/stockade/one/call-1",
    cell="/usr/lib/stockade/cell",
    listener="/run/stockade/seccomp.sock",
    uid_base=0x40000000,
)
WORK = WritableMount(path="/work", size_bytes=1 << 20)
PROFILE = replace(make_profile(), write=(WORK,), read=(ReadPath(path="/opt/tools", why="Tests."),))
PROGRAM = Program(argv=(b"true",), env={}, working_directory=b"/work")


def spec_of(
    profile: EffectiveProfile = PROFILE,
    places: SandboxPlaces = PLACES,
    program: Program = PROGRAM,
) -> Any:
    return build_spec(profile, places, program)


def mounts_of(spec: Any) -> dict[str, Any]:
    return {mount["destination"]: mount for mount in spec["mounts"]}


def test_no_capability_and_no_way_to_get_one() -> None:
    process = spec_of()["process"]
    assert process["capabilities"] == {name: [] for name in CAPABILITY_SETS}
    assert process["noNewPrivileges"] is True
    assert process["user"]["uid"] == UID != 0
    assert process["user"]["gid"] == GID != 0
    assert "additionalGids" not in process["user"]


def test_every_namespace_is_its_own() -> None:
    namespaces = spec_of()["linux"]["namespaces"]
    assert {one["type"] for one in namespaces} == {
        "pid", "ipc", "uts", "mount", "network", "cgroup", "user",
    }  # fmt: skip
    assert all("path" not in one for one in namespaces), "a path would join another's"


def test_ids_of_the_sandbox_are_nobody_on_the_host() -> None:
    linux = spec_of()["linux"]
    wanted = [{"containerID": 0, "hostID": PLACES.uid_base, "size": ID_RANGE}]
    assert linux["uidMappings"] == linux["gidMappings"] == wanted


def test_the_root_is_read_only_and_mounts_do_not_propagate() -> None:
    spec = spec_of()
    assert spec["root"] == {"path": PLACES.root, "readonly": True}
    assert spec["linux"]["rootfsPropagation"] == "private"


def test_nothing_of_the_host_is_bound_writable() -> None:
    binds = [mount for mount in spec_of()["mounts"] if mount["type"] == "bind"]
    assert {mount["source"] for mount in binds} == {
        PLACES.cell, PLACES.devices, "/usr", "/opt/tools",
    }  # fmt: skip
    for mount in binds:
        assert {"ro", "nosuid", "rprivate"} <= set(mount["options"]), mount
        assert "nodev" in mount["options"] or mount["destination"] == "/dev"


def test_no_mount_has_setuid_programs_and_only_dev_has_devices() -> None:
    for path, mount in mounts_of(spec_of()).items():
        assert "nosuid" in mount["options"], path
        assert "nodev" in mount["options"] or path in ("/dev", "/dev/pts"), path


def test_devices_are_ours_and_read_only() -> None:
    """And bound, so that the runtime leaves them alone."""
    mount = mounts_of(spec_of())["/dev"]
    assert (mount["type"], mount["source"]) == ("bind", PLACES.devices)
    assert {"bind", "ro", "nosuid", "noexec"} <= set(mount["options"])


def test_nothing_is_executed_from_what_can_be_written() -> None:
    for path, mount in mounts_of(spec_of()).items():
        assert "ro" in mount["options"] or "noexec" in mount["options"], path


def test_no_device_and_no_core_file() -> None:
    spec = spec_of()
    assert spec["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    core = {"type": "RLIMIT_CORE", "hard": 1, "soft": 1}
    assert core in spec["process"]["rlimits"]


def test_what_the_kernel_tells_of_the_host_is_hidden() -> None:
    linux = spec_of()["linux"]
    assert {"/proc/kcore", "/proc/keys", "/proc/kallsyms"} <= set(linux["maskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(linux["readonlyPaths"])


def test_a_spec_is_json() -> None:
    program = Program(
        argv=(b"\xff\xfe%", "ü".encode()),
        env={"A": bytes(range(1, 256))},
        working_directory=b"/\x80",
    )
    spec = spec_of(program=program)
    assert json.loads(json.dumps(spec)) == spec


def paths_that_differ(one: Any, other: Any, path: str = "") -> set[str]:
    """Name each place where two specs differ; lists are compared as wholes."""
    if isinstance(one, dict) and isinstance(other, dict):
        found: set[str] = set()
        for key in one.keys() | other.keys():
            found |= paths_that_differ(one.get(key), other.get(key), f"{path}.{key}")
        return found
    return set() if one == other else {path.lstrip(".")}


def limited(**changes: Any) -> EffectiveProfile:
    return replace(PROFILE, limits=replace(PROFILE.limits, **changes))


def with_syscalls(**changes: Any) -> EffectiveProfile:
    return replace(PROFILE, syscalls=replace(PROFILE.syscalls, **changes))


ENFORCED = [
    (replace(PROFILE, write=(replace(WORK, size_bytes=2 << 20),)), "mounts"),
    (replace(PROFILE, write=(replace(WORK, exec=True),)), "mounts"),
    (replace(PROFILE, write=(replace(WORK, path="/home"),)), "mounts"),
    (replace(PROFILE, write=(WORK, replace(WORK, path="/tmp"))), "mounts"),
    (replace(PROFILE, read=()), "mounts"),
    (replace(PROFILE, read=(ReadPath(path="/opt/others", why="Tests."),)), "mounts"),
    (replace(PROFILE, image=Image(kind=ImageKind.DIR, path="/srv/image")), "mounts"),
    (replace(PROFILE, image=Image(kind=ImageKind.OCI, digest="0" * 64)), "mounts"),
    (limited(memory_bytes=1 << 20), "linux.resources.memory"),
    (limited(pids=7), "linux.resources.pids"),
    (limited(files=7), "process.rlimits"),
    (with_syscalls(allow=frozenset({"ptrace"})), "linux.seccomp.syscalls"),
    (with_syscalls(kill=frozenset({"read"})), "linux.seccomp.syscalls"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "where"), ENFORCED)
def test_each_key_changes_its_place_and_no_other(changed: EffectiveProfile, where: str) -> None:
    differing = paths_that_differ(spec_of(), spec_of(changed))
    assert differing
    assert all(path == where or path.startswith(where + ".") for path in differing), differing


def test_the_sets_decide_which_sockets_are_made() -> None:
    allow = frozenset({"socket"})
    found = [
        spec_of(with_syscalls(allow=allow, sets=frozenset(sets)))["linux"]["seccomp"]["syscalls"]
        for sets in ((), ("@ipc",), ("@network-io",), ("@ipc", "@network-io"))
    ]
    assert len({json.dumps(rules) for rules in found}) == len(found)


def test_limits_are_the_profile_s_figures() -> None:
    spec = spec_of(limited(memory_bytes=123 << 20, pids=5, files=99))
    resources = spec["linux"]["resources"]
    # "swap" is memory and swap together: the same figure leaves no swap.
    assert resources["memory"] == {"limit": 123 << 20, "swap": 123 << 20}
    assert resources["pids"] == {"limit": 5}
    assert {"type": "RLIMIT_NOFILE", "hard": 99, "soft": 99} in spec["process"]["rlimits"]


def test_a_writable_mount_is_a_tmpfs_of_that_size() -> None:
    mount = mounts_of(spec_of(replace(PROFILE, write=(replace(WORK, size_bytes=12345),))))["/work"]
    assert (mount["type"], mount["source"]) == ("tmpfs", "tmpfs")
    assert {"size=12345", "noexec", "nosuid", "nodev", f"uid={UID}", f"gid={GID}"} <= set(
        mount["options"]
    )
    assert any(option.startswith("nr_inodes=") for option in mount["options"])


def test_exec_takes_noexec_away_and_nothing_else() -> None:
    without = mounts_of(spec_of())["/work"]["options"]
    executable = replace(PROFILE, write=(replace(WORK, exec=True),))
    assert set(without) - set(mounts_of(spec_of(executable))["/work"]["options"]) == {"noexec"}


def test_parents_are_mounted_before_what_is_below_them() -> None:
    paths = ["/work/cache/deep", "/work", "/work/cache", "/home"]
    profile = replace(PROFILE, write=tuple(replace(WORK, path=path) for path in paths))
    order = [mount["destination"] for mount in spec_of(profile)["mounts"]]
    places = [order.index(path) for path in ("/work", "/work/cache", "/work/cache/deep")]
    assert places == sorted(places)


def test_an_image_of_its_own_hides_the_host_s_programs() -> None:
    image = Image(kind=ImageKind.OCI, name="tools", digest="0" * 64)
    assert "/usr" in mounts_of(spec_of())
    assert "/usr" not in mounts_of(spec_of(replace(PROFILE, image=image)))


def test_the_runtime_s_init_inherits_nothing() -> None:
    process = spec_of(program=replace(PROGRAM, env={"LD_PRELOAD": b"/work/evil.so"}))["process"]
    assert process["env"] == ["CELL_LD_PRELOAD=/work/evil.so"]
    assert process["args"] == [CELL_PATH, "3", "/work", "true"]


def test_a_runtime_that_needs_a_gate_has_cell_wait_there() -> None:
    spec = spec_of(places=replace(PLACES, gate=True))
    assert spec["process"]["args"][:2] == [CELL_PATH, f"{STATUS_FD},{GATE_FD}"]


def test_a_terminal_is_the_program_s_and_not_the_runtime_s() -> None:
    spec = spec_of(places=replace(PLACES, gate=True, terminal=True))
    assert spec["process"]["args"][1] == f"{STATUS_FD},{GATE_FD}:{TERMINAL_PATH}"
    assert spec["process"]["terminal"] is False
    options = mounts_of(spec)["/dev/pts"]["options"]
    assert {"newinstance", f"uid={UID}", f"gid={GID}", "nosuid", "noexec"} <= set(options)


def test_a_file_is_not_bound_as_a_folder_is() -> None:
    """Crun makes only folders recursively read-only; below a file there is nothing to be so."""
    shown = replace(PROFILE, read=(ReadPath(path="/srv/one", why="x"),))
    for plain, options in ((frozenset({"/srv/one"}), {"bind"}), (frozenset(), {"rbind", "rro"})):
        mount = mounts_of(spec_of(shown, replace(PLACES, plain=plain)))["/srv/one"]
        assert set(mount["options"]) == {"ro", "nosuid", "nodev", "rprivate", *options}


def test_what_the_runtime_would_cover_with_the_host_s_null_gets_the_sandbox_s() -> None:
    spec = spec_of(places=replace(PLACES, covered=("/proc/keys",)))
    assert set(spec["linux"]["maskedPaths"]) == {*MASKED} - {"/proc/keys"}
    mount = mounts_of(spec)["/proc/keys"]
    assert mount["source"] == f"{PLACES.devices}/null"
    # A device on a nodev mount could not be opened.
    assert {"ro"} <= set(mount["options"])
    assert "nodev" not in mount["options"]


# The real init, on this side of the walls: what goes in comes out.

NO_NUL = st.binary(max_size=64).map(lambda data: data.replace(b"\0", b"%"))
NAME = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,15}\Z")
ALL_BYTES = bytes(range(1, 256))


@functools.cache
def built_cell() -> Path:
    subprocess.run(["make", "-s", "-C", ROOT / "cell"], check=True)
    return CELL


def run_cell(program: Program) -> tuple[bytes, str]:
    """Give what a program writes under the real init, and the init's word on its end."""
    read, write = os.pipe()
    arguments, variables = program.for_cell()
    command = [built_cell(), str(write), *arguments]
    with os.fdopen(read, "rb") as status:
        with os.fdopen(write, "wb"):
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                pass_fds=(write,),
                env={"LEAKED": "1", **dict(variable.split("=", 1) for variable in variables)},
                check=False,
            )
        return done.stdout, status.read().decode()


def child(*arguments: bytes, env: Mapping[str, bytes] | None = None) -> bytes:
    program = Program(argv=arguments, env=env or {}, working_directory=b"/")
    output, word = run_cell(program)
    assert word == "ready\nexit 0\n"
    return output


@settings(max_examples=rounds(60))
@given(st.lists(NO_NUL, max_size=5))
def test_arguments_reach_the_program_as_they_are(arguments: list[bytes]) -> None:
    # printf repeats its format for each argument, so every end shows.
    output = child(b"/usr/bin/printf", b"[%s]\\n", *arguments)
    assert output == b"".join(b"[" + one + b"]\n" for one in arguments or [b""])


@settings(max_examples=rounds(40))
@given(st.dictionaries(NAME, NO_NUL, max_size=5))
def test_the_environment_is_exactly_what_was_asked_for(env: dict[str, bytes]) -> None:
    output = child(b"/usr/bin/env", b"--null", env=env)
    found = sorted(output.split(b"\0")[:-1])
    assert found == sorted(name.encode() + b"=" + value for name, value in env.items())


def test_every_byte_but_nul() -> None:
    assert child(b"/usr/bin/printf", b"%s", ALL_BYTES) == ALL_BYTES
    assert child(b"/usr/bin/printenv", b"V", env={"V": ALL_BYTES}) == ALL_BYTES + b"\n"


def test_the_directory_may_have_any_name(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/%41 \xff\n"
    Path(os.fsdecode(folder)).mkdir()
    program = Program(argv=(b"/usr/bin/pwd", b"-P"), env={}, working_directory=folder)
    assert run_cell(program) == (folder + b"\n", "ready\nexit 0\n")


def test_what_cannot_be_run_is_told() -> None:
    missing = Program(argv=(b"/nowhere/at-all",), env={}, working_directory=b"/")
    assert run_cell(missing) == (b"", "ready\nexec 2\n")
    nowhere = Program(argv=(b"/usr/bin/true",), env={}, working_directory=b"/nowhere")
    assert run_cell(nowhere) == (b"", "ready\nchdir 2\n")


@given(st.binary(max_size=200).map(lambda data: data.replace(b"\0", b"")))
def test_escaped_text_is_utf8_without_loss(data: bytes) -> None:
    text = escape(data)
    parts = text.encode("utf-8").split(b"%")
    undone = parts[0] + b"".join(bytes([int(part[:2], 16)]) + part[2:] for part in parts[1:])
    assert undone == data


def test_syscalls_of_a_profile_are_not_taken_from_another() -> None:
    other = SyscallPolicy(allow=frozenset({"ptrace"}), kill=frozenset(), sets=frozenset())
    first = json.dumps(spec_of())
    spec_of(replace(PROFILE, syscalls=other))
    assert json.dumps(spec_of()) == first


def test_the_authorities_of_one_sandbox() -> None:
    def bound(places: SandboxPlaces) -> list[Any]:
        return [one for one in spec_of(places=places)["mounts"] if "certs" in one["destination"]]

    assert bound(PLACES) == []
    (mount,) = bound(replace(PLACES, authorities="/run/stockade/bundles/one/authorities.pem"))
    assert mount["destination"] == AUTHORITIES_PATH
    assert mount["source"] == "/run/stockade/bundles/one/authorities.pem"
    assert {"bind", "ro", "nosuid", "nodev"} <= set(mount["options"])
