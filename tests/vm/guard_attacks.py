"""What the guard denies, as small Python programs: each prints 0 where it works, or an errno.

FOLDER is where a program can write, OTHER a process that is not the call's own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

LOADER = "/lib64/ld-linux-x86-64.so.2"

PRELUDE = """
import ctypes, os, shutil, subprocess
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                      ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
READ, EXEC, PRIVATE, SHARED = 1, 4, 2, 1
def number(result):
    return ctypes.get_errno() if result in (-1, 2**64 - 1) else 0
def call(*arguments):
    return number(libc.syscall(*map(ctypes.c_long, arguments)))
def run(path):
    try:
        return subprocess.run([path]).returncode
    except OSError as error:
        return error.errno
def copy(folder):
    path = os.path.join(folder, "copied")
    shutil.copy("/usr/bin/true", path)
    os.chmod(path, 0o755)
    return path
def mapped(fd, prot, flags=PRIVATE):
    return libc.mmap(None, 4096, prot, flags, fd, 0)
"""

ATTACKS = {
    "exec": "print(run(copy(FOLDER)))",
    "high bits": """
        path = ctypes.create_string_buffer(copy(FOLDER).encode())
        none = (ctypes.c_void_p * 1)()
        child = os.fork()
        if not child:
            os._exit(call(59 | 1 << 32, ctypes.addressof(path), ctypes.addressof(none), 0))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """,
    "memfd": """
        fd = os.memfd_create("hidden")
        with open("/usr/bin/true", "rb") as source, open(fd, "wb", closefd=False) as target:
            shutil.copyfileobj(source, target)
        print(run(f"/proc/{os.getpid()}/fd/{fd}"))
    """,
    "loader": f'print(run_quietly(["{LOADER}", copy(FOLDER)]))',
    "mprotect": """
        fd = os.open(copy(FOLDER), os.O_RDONLY)
        print(number(libc.mprotect(mapped(fd, READ), 4096, READ | EXEC)))
    """,
    "shared memory": """
        fd = os.memfd_create("pages")
        os.ftruncate(fd, 4096)
        print(number(mapped(fd, READ | EXEC, SHARED)))
    """,
    "mount": 'print(number(libc.mount(b"none", b"/root", b"tmpfs", 0, None)))',
    "unmount": "print(number(libc.umount2(FOLDER.encode(), 2)))",
    "new file system": """
        fs = libc.fsopen(b"tmpfs", 0)
        print(number(fs) or number(libc.fsconfig(fs, 6, None, None, 0)))
    """,
    "trace": "print(call(101, 16, OTHER, 0, 0))",
    "read": """
        try:
            os.readlink(f"/proc/{OTHER}/exe")
            print(0)
        except OSError as error:
            print(error.errno)
    """,
    "user namespace": "print(call(272, 0x10000000))",
    "bpf": "ask = (ctypes.c_uint32 * 4)(); print(call(321, 12, ctypes.addressof(ask), 16))",
}

TOLD = {
    "exec": ("exec", "/work/copied"),
    "high bits": ("exec", "/work/copied"),
    "memfd": ("exec", "memfd:hidden: a file in memory"),
    "loader": ("mmap", "/work/copied"),
    "mprotect": ("mprotect", "/work/copied"),
    "shared memory": ("mmap", "memfd:pages: a file in memory"),
    "mount": ("mount", "mount /root"),
    "unmount": ("mount", "unmount /work"),
    "new file system": ("mount", "a new file system"),
    "trace": ("ptrace", "process {other}"),
    "read": ("ptrace", "process {other}"),
    "user namespace": ("userns", "a new one"),
    "bpf": ("bpf", "command 12"),
}
"""What the guard tells of each: name and detail."""

QUIETLY = """
def run_quietly(argv):
    return subprocess.run(argv, stderr=subprocess.DEVNULL).returncode
"""


EACH = """
for name, attack in CODES.items():
    print(name, end="=", flush=True)
    if (child := os.fork()) == 0:
        if libc.unshare(0x20000):  # what it does to mounts is its own
            raise OSError(ctypes.get_errno(), "unshare")
        exec(attack)
        print(end="", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def program(attack: str, folder: str = "/work", other: int = 0) -> str:
    """Give a whole program."""
    return beginning(folder, other) + textwrap.dedent(ATTACKS[attack])


def in_each(attack: str, folders: tuple[str, ...]) -> str:
    """Give a program that tries it in one folder after the other."""
    body = textwrap.indent(textwrap.dedent(ATTACKS[attack]).strip(), "    ")
    return f"{beginning()}for FOLDER in {folders!r}:\n{body}\n"


def all_of(attacks: Iterable[str], folder: str, other: int) -> str:
    """Give a program that runs each in a process and mounts of its own, and prints `NAME=NUMBER`
    lines; as root."""
    codes = {name: textwrap.dedent(ATTACKS[name]) for name in attacks}
    return f"{beginning(folder, other)}CODES = {codes!r}\n{EACH}"


def beginning(folder: str = "/work", other: int = 0) -> str:
    """Give what stands before each: names for what the attacks need."""
    return f"{PRELUDE}{QUIETLY}FOLDER, OTHER = {folder!r}, {other}\n"
