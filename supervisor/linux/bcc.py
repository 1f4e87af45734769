"""BCC's tools on this host: which are installed, which look at chosen cgroups only, and what the
kernel lacks for them.

They are guests: nothing of ours needs them. They are compiled on the host each time, so most need
kprobes and the kernel's headers, where our own probes need neither.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from supervisor.errors import HostError, InvalidRequest
from supervisor.linux.host import run_program

SUFFIX = "-bpfcc"
"""Of Debian's names: opensnoop-bpfcc."""

OPTION = "--cgroupmap"
HELP_S = 30.0
SCRIPT_BYTES_MAX = 1 << 20


def tools(path: str) -> dict[str, Path]:
    """Give the tools in the folders of `path` (as in $PATH), by name without suffix; the first of
    a name counts. Folders and programs that anybody but root could write are passed over."""
    found: dict[str, Path] = {}
    for folder in path.split(os.pathsep):
        if not folder.startswith("/") or not _is_roots(Path(folder)):
            continue
        for tool in sorted(Path(folder).glob(f"*{SUFFIX}")):
            if os.access(tool, os.X_OK) and _is_roots(tool):
                found.setdefault(tool.name.removesuffix(SUFFIX), tool)
    return found


def find_tool(name: str, path: str) -> Path:
    """Give the path of a tool, named with or without its suffix.

    Raises:
        HostError: `TOOL_MISSING`.
    """
    found = tools(path)
    tool = found.get(name.removesuffix(SUFFIX))
    if tool is not None:
        return tool
    if found:
        known = ", ".join(name for name, tool in found.items() if mentions_option(tool))
        raise HostError(
            "TOOL_MISSING",
            f"{name.removesuffix(SUFFIX)}{SUFFIX} is not in any folder of root's in {path}",
            hint=f"of those that are there, these can look at calls: {known or 'none'}",
        )
    raise HostError(
        "TOOL_MISSING", f"there are no BCC tools in any folder of root's in {path}",
        hint="apt-get install bpfcc-tools",
    )  # fmt: skip


def mentions_option(tool: Path) -> bool:
    """Say whether a tool's script mentions --cgroupmap: quick, for lists."""
    with tool.open("rb") as script:
        return OPTION.encode() in script.read(SCRIPT_BYTES_MAX)


def require_option(tool: Path, path: str) -> None:
    """Refuse a tool that does not take --cgroupmap, by its own --help.

    Raises:
        HostError: `TOOL_BROKEN`: it does not even give its help.
        InvalidRequest: `CGROUPMAP_UNSUPPORTED`.
    """
    try:
        said = run_program([os.fspath(tool), "--help"], HELP_S)
    except (HostError, subprocess.TimeoutExpired) as error:
        raise HostError(
            "TOOL_BROKEN", str(getattr(error, "message", error)),
            hint="apt-get install python3-bpfcc",
        ) from error  # fmt: skip
    if OPTION not in said:
        known = ", ".join(name for name, other in tools(path).items() if mentions_option(other))
        raise InvalidRequest(
            "CGROUPMAP_UNSUPPORTED",
            f"{tool.name} takes no {OPTION}, so it would look at the whole host",
            hint=f"of those that are there, these can look at calls: {known or 'none'}",
        )


def kernel_lacks(root: Path = Path("/")) -> Iterator[str]:
    """Say what this kernel lacks that most tools need, each with a way out."""
    release = os.uname().release
    if not (root / "sys/bus/event_source/devices/kprobe").exists():
        yield "this kernel has no kprobes: it was built without CONFIG_KPROBE_EVENTS"
    modules = root / "lib/modules" / release
    places = [modules / "build", modules / "source", root / "sys/kernel/kheaders.tar.xz"]
    if not any(place.exists() for place in places):
        yield f"the headers of this kernel are missing: apt-get install linux-headers-{release}"


def _is_roots(path: Path) -> bool:
    """Say whether nobody but root can write it, or put another in its place."""
    try:
        real = path.resolve(strict=True)
        for place in (real, *real.parents):
            status = place.stat()
            theirs = stat.S_IWOTH | (stat.S_IWGRP if status.st_gid else 0)
            sticky = place != real and status.st_mode & stat.S_ISVTX
            if status.st_uid or (status.st_mode & theirs and not sticky):
                return False
    except OSError:
        return False  # what cannot be looked at is not run
    return True
