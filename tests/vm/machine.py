"""Boot a distribution's kernel in QEMU, and run one program of this machine in it.

The guest's root is this machine's /usr, /etc, checkout and virtual environment, shared read-only
through virtiofs, with a tmpfs over them: what is built here runs there, and nothing of it comes
back but text. Its first process is systemd, which mounts the cgroup file systems as it does in
production. There is no network device, and KVM is not asked for.
"""

from __future__ import annotations

import contextlib
import logging
import lzma
import os
import re
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SYSTEMD = Path("/usr/lib/systemd/systemd")
MODULES = (
    "virtio_pci", "virtiofs", "overlay", "veth",
    # What a program may have sockets of, where a host has it: nothing loads them here by itself.
    "sctp", "dccp_ipv4", "l2tp_ip", "l2tp_ip6", "smc", "vsock", "af_key", "rds_tcp",
    # How one who may change the network leads packets elsewhere.
    "sch_ingress", "cls_u32", "act_mirred",
)  # fmt: skip
CACHE = Path("/var/cache/stockade/vm")
"""Where `.ci/kernels` puts kernels: one below each name of a series."""

MEMORY_MIB = 3072
CPUS = 2
# Without cmpxchg16b, which QEMU 7.2 gets wrong without KVM: Linux 6.12 allocates memory with it,
# and panics as it boots; without it, it has another way.
CPU = "max,-cx16"
# The processors' clock is the same for all of them: Linux takes it for one that may differ unless
# it is told, and reads the HPET instead, which QEMU has to play at each look.
COMMAND_LINE = "console=ttyS0 panic=-1 mitigations=off tsc=reliable systemd.show_status=0"
SHARE_S = 20.0
BOOTS_MAX = 3
PANIC = "Kernel panic"
POLL_S = 0.1
NICE = 5
"""A machine is in no daemon's way: the host's tests run beside it, and their lane that computes has
as much of the processors (`tests/lanes.py`)."""
CPIO_FILE, CPIO_FOLDER = 0o100755, 0o040755

log = logging.getLogger(__name__)

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
PATH=/bin
mount -t proc proc /proc
for module in $(cat /modules/order); do insmod "/modules/$module" || echo "no $module"; done
mount -t virtiofs -o ro share /lower
mount -t tmpfs -o mode=755,size=1500m tmpfs /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /root
cd /root
mkdir -p proc sys dev run tmp var/lib var/tmp root
chmod 1777 var/tmp
for link in bin lib lib32 lib64 libx32 sbin; do ln -s "usr/$link" "$link"; done
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs dev dev
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mkdir /kept
for path in $(cat /shared); do mkdir -p "/kept$path"; mount --bind "/root$path" "/kept$path"; done
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
for path in $(cat /shared); do mkdir -p "/root$path"; mount --move "/kept$path" "/root$path"; done
mount -t securityfs securityfs sys/kernel/security
ip link set lo up
mkdir -p run/systemd/system
cp /guest.service run/systemd/system
cp /command run/command
exec switch_root /root /usr/lib/systemd/systemd --unit=guest.service
"""

UNIT = """[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh /run/command
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel and its modules, as a package lays them out."""

    image: Path
    modules: Path

    @property
    def release(self) -> str:
        """Give what `uname -r` says in it."""
        return self.modules.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The programs that a machine is made with; `prefix` is where they were unpacked."""

    prefix: Path
    qemu: Path
    virtiofsd: Path
    busybox: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of a command in a guest: its exit code (None: it never ended) and its output."""

    code: int | None
    output: str
    console: str


def prefix() -> Path:
    """Give the folder into which packages were unpacked."""
    return Path(os.environ.get("STOCKADE_VM", CACHE))


def kernels(top: Path) -> list[Kernel]:
    """List the kernels that are unpacked in `top`, or in the folders right below it."""
    found = []
    for folder in (top, *sorted(top.glob("*"))):
        for modules in sorted((folder / "lib/modules").glob("*")):
            image = folder / "boot" / f"vmlinuz-{modules.name}"
            if image.is_file():
                found.append(Kernel(image=image, modules=modules))
    return found


def missing(top: Path) -> str:
    """Say why there is no machine, as `.ci/kernels` left it."""
    try:
        return (top / "missing").read_text().strip()
    except FileNotFoundError:
        return f"QEMU, or what is below {top}, is not whole: make vm-kernels"


def tools(top: Path) -> Tools | None:
    """Find the programs; None where one is missing."""

    def first(*patterns: str) -> Path | None:
        for pattern in patterns:
            for path in (top / pattern, Path("/") / pattern):
                if os.access(path, os.X_OK):
                    return path
        return None

    qemu = first("usr/bin/qemu-system-x86_64")
    virtiofsd = first("usr/libexec/virtiofsd", "usr/lib/qemu/virtiofsd")
    busybox = first("bin/busybox", "usr/bin/busybox")
    systemd = os.access(SYSTEMD, os.X_OK)
    if qemu is None or virtiofsd is None or busybox is None or not systemd:
        return None
    return Tools(prefix=top, qemu=qemu, virtiofsd=virtiofsd, busybox=busybox)


def run(
    tools: Tools,
    kernel: Kernel,
    argv: Sequence[str],
    *,
    timeout_s: float,
    boot: str = "",
    stop: threading.Event,
) -> Run:
    """Boot `kernel`, run `argv` in the checkout as root, and power off; `stop` ends it at once.

    `boot` is added to the kernel's command line. A kernel that panics before it has come to our
    first command is booted again, since QEMU's emulation gets an instruction wrong at times.
    """
    for _ in range(BOOTS_MAX - 1):
        done = _run(tools, kernel, argv, timeout_s=timeout_s, boot=boot, stop=stop)
        if done.code is not None or done.output.strip() or PANIC not in done.console:
            return done
        log.warning("%s panicked as it was booted:\n%s", kernel.release, done.console[-2000:])
    return _run(tools, kernel, argv, timeout_s=timeout_s, boot=boot, stop=stop)


def _run(
    tools: Tools,
    kernel: Kernel,
    argv: Sequence[str],
    *,
    timeout_s: float,
    boot: str,
    stop: threading.Event,
) -> Run:
    with (
        tempfile.TemporaryDirectory(prefix="stockade-vm-") as folder,
        _share(tools, Path(folder)) as socket,
    ):
        scratch = Path(folder)
        output, console, initramfs = (scratch / n for n in ("output", "console", "initramfs"))
        command = f"uname -r\ncd {ROOT}\nexport PYTHONPATH={ROOT}\n{shlex.join(argv)}\n"
        end = 'echo "ended: $?"\nsync\necho b >/proc/sysrq-trigger\nsleep 60\n'
        initramfs.write_bytes(_initramfs(tools, kernel, command + end))
        machine = [
            "nice", "-n", str(NICE), "timeout", "--signal=KILL", str(timeout_s), str(tools.qemu),
            "-L", str(tools.prefix / "usr/share/qemu"),
            "-L", str(tools.prefix / "usr/share/seabios"),
            "-machine", "q35,accel=tcg", "-cpu", CPU, "-smp", str(CPUS), "-m", f"{MEMORY_MIB}M",
            "-object", f"memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on",
            "-numa", "node,memdev=memory",
            "-chardev", f"socket,id=share,path={socket}",
            "-device", "vhost-user-fs-pci,chardev=share,tag=share",
            "-nodefaults", "-nographic", "-no-reboot",
            "-serial", f"file:{console}", "-serial", f"file:{output}",
            "-kernel", str(kernel.image), "-initrd", str(initramfs),
            "-append", f"{COMMAND_LINE} {boot}",
        ]  # fmt: skip
        said_by_qemu = scratch / "qemu"
        with (
            said_by_qemu.open("wb") as log_file,
            subprocess.Popen(
                machine, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file,
                env=_environment(tools),
            ) as process,
        ):  # fmt: skip
            while process.poll() is None:
                if stop.wait(POLL_S):
                    # timeout(1) passes it on.
                    process.terminate()
                    process.wait()
        said = output.read_text(errors="replace").replace("\r", "") if output.exists() else ""
        said_by_kernel = console.read_text(errors="replace") if console.exists() else ""
        qemu_said = said_by_qemu.read_text(errors="replace")
        body, _, code = said.rpartition("ended: ")
        if not code.strip().isdecimal():
            return Run(code=None, output=said, console=said_by_kernel + qemu_said)
        return Run(code=int(code), output=body, console=said_by_kernel + qemu_said)


def _ours() -> list[Path]:
    """List what the guest needs of ours, also where it lies below /tmp: a name has no space."""
    venv = (ROOT / ".venv").resolve()
    ours = [ROOT] if venv.is_relative_to(ROOT) else [ROOT, venv]
    if any(len(str(path).split()) != 1 for path in ours):
        raise OSError(f"{ours}: a machine cannot share a path with spaces in it")
    return ours


def _environment(tools: Tools) -> dict[str, str]:
    places = [tools.prefix / place / "x86_64-linux-gnu" for place in ("usr/lib", "lib")]
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH": ":".join(map(str, places))}


@contextlib.contextmanager
def _share(tools: Tools, folder: Path) -> Iterator[Path]:
    """Serve /usr, /etc and the checkout, read-only, from a mount namespace of its own."""
    socket = folder / "virtiofs.sock"
    # Not below `folder`, which is removed with all that is in it: this one stays empty for us.
    tree = Path(tempfile.mkdtemp(prefix="stockade-vm-share-"))
    lines = ["set -e", f"mount -t tmpfs -o mode=755 share {tree}"]
    for source in (Path("/usr"), Path("/etc"), *_ours()):
        target = shlex.quote(f"{tree}{source}")
        lines.append(f"mkdir -p {target}")
        lines.append(f"mount --bind {shlex.quote(str(source))} {target}")
        lines.append(f"mount -o remount,bind,ro {target}")
    server = [
        str(tools.virtiofsd), f"--socket-path={socket}", "-o", f"source={tree}",
        "-o", "cache=always", "-o", "sandbox=chroot", "-o", "no_posix_lock",
    ]  # fmt: skip
    lines.append(f"exec {shlex.join(server)}")
    log = (folder / "virtiofsd.log").open("wb")
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(lines)],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(tools),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + SHARE_S
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise OSError((folder / "virtiofsd.log").read_text(errors="replace"))
            time.sleep(POLL_S)
        yield socket
    finally:
        process.kill()
        process.wait()
        log.close()
        tree.rmdir()


def _initramfs(tools: Tools, kernel: Kernel, command: str) -> bytes:
    """Give a cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    files = {
        "init": INIT.encode(),
        "command": command.encode(),
        "guest.service": UNIT.encode(),
        "shared": "\n".join(map(str, _ours())).encode(),
        "bin/busybox": tools.busybox.read_bytes(),
    }
    modules = _modules(kernel)
    files |= {f"modules/{name}.ko": content for name, content in modules.items()}
    files["modules/order"] = "".join(f"{name}.ko\n" for name in modules).encode()
    folders = ("bin", "modules", "proc", "lower", "upper", "root", "dev")
    entries = [(name, CPIO_FOLDER, b"") for name in folders]
    entries += [(name, CPIO_FILE, content) for name, content in files.items()]
    return b"".join(_cpio(*entry) for entry in [*entries, ("TRAILER!!!", 0, b"")])


def _cpio(name: str, mode: int, content: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    fields = [0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0]
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4)


def _modules(kernel: Kernel) -> dict[str, bytes]:
    """Read the modules that are not built in, each after what it depends on."""
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        pattern = name.replace("_", "[-_]")
        paths = list((kernel.modules / "kernel").rglob(f"{pattern}.ko*"))
        if not paths or name in found:
            return
        content = paths[0].read_bytes()
        if paths[0].suffix == ".xz":
            content = lzma.decompress(content)
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in depends.group(1).decode().split(",") if depends else ():
            if other:
                add(other.replace("-", "_"))
        found[name] = content

    for name in MODULES:
        add(name)
    return found
