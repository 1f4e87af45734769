"""Terminals of sandboxes: a pair of pseudo-terminals in a mount of devpts that only one has.

We open the master in the sandbox's mount and keep it, before anything runs there; nothing comes
out of the sandbox. The other side of the pair is held as well: while somebody has it open, a
program that closes all that it has of its terminal, and opens it again later, is no hang-up. We
never read or write it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import RuntimeFailed

TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
IUTF8 = 0x4000
"""asm-generic/ioctls.h and asm-generic/termbits.h: what `termios` has no names for."""

HOSTS_OWN = Path("/dev/pts")
UNLOCKED = struct.pack("i", 0)
OPEN_FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
IFLAG = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalPair:
    """Both sides of a terminal, close-on-exec; `master` does not block."""

    master: int
    peer: int


def open_terminal(folder: Path, *, rows: int, columns: int) -> TerminalPair:
    """Make the first terminal of the devpts mounted on `folder`: pts/0, of this size (pty(7)).

    Raises:
        RuntimeFailed: `TERMINAL_NOT_PRIVATE`: it is the host's mount, or has terminals already.
        OSError: as the kernel says.
    """
    with contextlib.ExitStack() as stack:
        master = os.open(folder / "ptmx", OPEN_FLAGS | os.O_NONBLOCK)
        stack.callback(os.close, master)
        number = struct.unpack("I", fcntl.ioctl(master, TIOCGPTN, bytes(4)))[0]
        if number or _is_hosts(master):
            raise RuntimeFailed(
                "TERMINAL_NOT_PRIVATE", f"{folder} is not the sandbox's alone: pts/{number}"
            )
        fcntl.ioctl(master, TIOCSPTLCK, UNLOCKED)
        peer = fcntl.ioctl(master, TIOCGPTPEER, OPEN_FLAGS)
        stack.callback(os.close, peer)
        set_size(master, rows=rows, columns=columns)
        attributes = termios.tcgetattr(master)
        # Else the line discipline rubs out half a character.
        attributes[IFLAG] |= IUTF8
        termios.tcsetattr(master, termios.TCSANOW, attributes)
        stack.pop_all()
    return TerminalPair(master=master, peer=peer)


def set_size(fd: int, *, rows: int, columns: int) -> None:
    """Set the size; what runs in the foreground gets SIGWINCH where it changes (ioctl_tty(2))."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _is_hosts(fd: int) -> bool:
    return HOSTS_OWN.is_dir() and os.fstat(fd).st_dev == HOSTS_OWN.stat().st_dev
