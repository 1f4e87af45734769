"""A real host for sandboxes, in a folder of its own, with no engine above it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from supervisor.call.events import Denied
from supervisor.call.types import CallRequest, InputFile
from supervisor.engine.engine import new_call_id
from supervisor.profile.load import ProfileSet
from supervisor.profile.model import EffectiveProfile
from supervisor.sandbox import Sandbox, SandboxHost, SandboxOptions, find_cell
from supervisor.sandbox.host import RUNTIMES
from tests.support.leftovers import Footprint

ROOT = Path(__file__).resolve().parents[3]


def shipped(name: str = "python", **changes: Any) -> EffectiveProfile:
    """Give a profile as it is shipped, with some of its values changed."""
    profile = ProfileSet.load([ROOT / "profiles"]).effective(name)
    return replace(profile, digest=profile.digest + json.dumps(sorted(changes)), **changes)


def content(file: InputFile) -> Iterator[bytes]:
    """Give what a file holds, as the engine does."""
    assert file.data is not None
    yield file.data


def request(*argv: str, **changes: Any) -> CallRequest:
    """Give a request for a program."""
    made = CallRequest(
        request_id="unit", profile="python", argv=tuple(os.fsencode(word) for word in argv)
    )
    return replace(made, **changes)


@contextlib.asynccontextmanager
async def sandbox_host() -> AsyncIterator[SandboxHost]:
    """Open a host, and see that nothing of it is left in the end."""
    runtime = Path(tempfile.mkdtemp(prefix="stockade-unit-"))
    runtime.chmod(0o711)
    options = SandboxOptions(state=runtime / "state", runtime=runtime, cell=find_cell())
    try:
        host = SandboxHost(options)
        host.open()
        try:
            yield host
        finally:
            await host.end_brokers()
            host.close()
        left = Footprint(folders=(host.folder,), cgroup=host.parent).leftovers()
        assert left == []
    finally:
        shutil.rmtree(runtime)


def traces(host: SandboxHost) -> list[str]:
    """Name everything that a sandbox of `host` has on disk and in the kernel right now."""
    found = []
    for name in ("bundles", *(kind.NAME for kind in RUNTIMES)):
        found += [str(path) for path in (host.folder / name).iterdir() if path.name != ".cache"]
    found += Footprint(folders=(host.folder / "bundles",), cgroup="no-such").leftovers()
    for tree in host.hierarchies.trees:
        parent = tree / host.parent
        if parent.is_dir():
            found += [str(path) for path in parent.iterdir() if path.is_dir()]
    return found


def descriptors() -> dict[str, str]:
    """Give the open descriptors of this process that stand for something of a sandbox."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(entry.readlink())
            if target.startswith(("pipe:", "anon_inode:", "/proc", "/work", "/tmp/stockade", "/")):
                found[entry.name] = target
    return found


def made(
    host: SandboxHost,
    told: list[Denied],
    profile: EffectiveProfile | None = None,
    wanted: CallRequest | None = None,
) -> Sandbox:
    """Make a sandbox that was not prepared yet."""
    return Sandbox(
        host, new_call_id(), profile or shipped(), wanted or request("true"), told.extend, _lose
    )


def _lose(count: int) -> None:
    raise AssertionError(f"{count} denials were lost")
