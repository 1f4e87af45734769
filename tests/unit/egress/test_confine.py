"""What a broker gave up, each by its effect: tried before, where it works, and after."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.egress import confine
from supervisor.egress.confine import FDS_OF_FLOW, files_of, flows_of
from supervisor.sandbox.uids import FIRST_ID
from tests.style.tree import ROOT

UID = FIRST_ID + 65_000

PROGRAM = """
import ctypes, errno, json, mmap, os, resource, signal, socket, subprocess, sys
sys.path.insert(0, {root!r})
from supervisor.egress.confine import Confinement, RULES, confine, keep
from supervisor.linux.seccomp import Filter
uid, folder = int(sys.argv[1]), sys.argv[2]
victim = subprocess.Popen(["/bin/sleep", "100"])
listener = socket.create_server(("127.0.0.1", 0))
opened = os.open("/dev/null", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def fork():
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)

def execute():
    if (pid := os.fork()) == 0:
        try:
            os.execv("/bin/true", ["true"])
        except OSError:
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise OSError(errno.EPERM, "execv")

def executable_memory():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()

def trace():
    call("ptrace", 16, victim.pid, 0, 0)
    os.waitpid(victim.pid, 0)
    call("ptrace", 17, victim.pid, 0, 0)

def more_files():
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
    except ValueError:  # what Python makes of EPERM
        raise PermissionError(errno.EPERM, "setrlimit")

tries = {{
    "open /etc/passwd": lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)),
    "open by a folder": lambda: os.close(os.open("passwd", os.O_RDONLY, dir_fd=os.open("/etc", 0))),
    "list /": lambda: os.listdir("/"),
    "make a file": lambda: os.close(os.open("/tmp/of-a-broker", os.O_CREAT | os.O_WRONLY, 0o600)),
    "fork": fork,
    "execute": execute,
    "signal another process": lambda: os.kill(victim.pid, 0),
    "signal itself": lambda: os.kill(os.getpid(), 0),
    "trace another process": trace,
    "be root": lambda: os.setresuid(0, 0, 0),
    "have a group": lambda: os.setgroups([0]),
    "unshare": lambda: call("unshare", 0x20000),
    "mount": lambda: call("mount", b"none", folder.encode(), b"tmpfs", 0, None),
    "chroot": lambda: os.chroot("/"),
    "executable memory": executable_memory,
    "set a limit": more_files,
    "a unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "a pair of datagram sockets": lambda: [
        one.close() for one in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)],
    "a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
    "listen": lambda: listener.listen(5),
    "a foreign descriptor": lambda: os.fstat(opened + 100),
}}
keeps = {{
    "a tcp socket": lambda: socket.socket().close(),
    "a pair of sockets": lambda: [one.close() for one in socket.socketpair()],
    "a pipe": lambda: [os.close(fd) for fd in os.pipe()],
    "memory": lambda: bytearray(1 << 20),
    "time": lambda: __import__("time").monotonic(),
}}

def look(what):
    found = {{}}
    for name, attempt in what.items():
        try:
            attempt()
            found[name] = "ok"
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno, "?")
    return found

os.dup2(opened, opened + 100)
before = look({{name: one for name, one in tries.items() if name != "chroot"}})
reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    try:
        to = Confinement(uid=uid, files=64, root=folder, filter=Filter(RULES),
                         parent=os.getppid())
        keep([writing])
        confine(to)
        said = {{"after": look(tries), "kept": look(keeps)}}
    except BaseException as error:
        said = {{"error": repr(error)}}
    for fd in (3, writing):
        try:
            os.write(fd, json.dumps(said).encode())
            break
        except OSError:
            continue
    os._exit(0)
os.close(writing)
after = b""
while part := os.read(reading, 1 << 16):
    after += part
os.waitpid(pid, 0)
os.kill(victim.pid, signal.SIGKILL)
os.waitpid(victim.pid, 0)
print(json.dumps({{"before": before, **json.loads(after)}}))
"""


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("root")
    said = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM.format(root=str(ROOT)), str(UID), str(folder)],
        capture_output=True,
        check=False,
        timeout=120,
    )
    Path("/tmp/of-a-broker").unlink(missing_ok=True)
    assert said.returncode == 0, said.stderr.decode()
    return dict(json.loads(said.stdout))


@pytest.mark.root
def test_nothing_of_it_is_possible_any_more(looked: dict[str, Any]) -> None:
    assert "error" not in looked, looked
    possible = {name for name, result in looked["after"].items() if result == "ok"}
    assert not possible
    assert {name for name, result in looked["after"].items() if result != "EPERM"} <= {
        "fork", "a foreign descriptor",
    }  # fmt: skip
    assert looked["after"]["a foreign descriptor"] == "EBADF"


@pytest.mark.root
def test_all_of_it_was_possible_before(looked: dict[str, Any]) -> None:
    impossible = {name for name, result in looked["before"].items() if result != "ok"}
    assert not impossible


@pytest.mark.root
def test_what_it_needs_it_keeps(looked: dict[str, Any]) -> None:
    assert set(looked["kept"].values()) == {"ok"}


@pytest.mark.root
@pytest.mark.parametrize(("uid", "says"), [(0, "cannot be user 0"), (-1, "cannot be user -1")])
def test_it_is_never_root(uid: int, says: str, tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM.format(root=str(ROOT)), str(uid), str(tmp_path)],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert says in json.loads(said.stdout)["error"]


def test_descriptors_and_flows_are_reckoned_alike() -> None:
    for flows in (1, 7, 1024):
        assert flows_of(files_of(flows)) == flows
    assert flows_of(files_of(1) - 1) == 0
    assert flows_of(0) == 0
    assert files_of(2) - files_of(1) == FDS_OF_FLOW


def test_the_list_has_no_way_to_a_file_or_a_program() -> None:
    for name in (
        "open", "openat", "openat2", "execve", "clone", "clone3", "fork", "kill", "ptrace",
        "mount", "setresuid", "process_vm_readv", "io_uring_setup", "pidfd_getfd",
    ):  # fmt: skip
        assert name not in confine.RULES
