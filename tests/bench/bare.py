"""`runc run` of the bundle that Stockade makes for a call, and nothing around it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from supervisor.linux import cgroup, process
from supervisor.linux.devices import make_devices, remove_mount
from supervisor.linux.host import find_program
from supervisor.oci.images import ImageStore
from supervisor.oci.rootfs import RootFolders
from supervisor.oci.spec import Program, SandboxPlaces, build_spec
from supervisor.profile.load import ProfileSet

ROOT = Path(__file__).resolve().parents[2]
CGROUP = "stockade-bench"
UID_BASE = 3_000_000_000
UIDS = 65_536


class Bare:
    """Bundles that are alike but for their cgroup and user ids, one for each thread at most."""

    def __init__(self, folder: Path, *, bundles: int, argv: list[str]) -> None:
        self._folder = folder
        self._runc = find_program("runc")
        self._free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        profile = ProfileSet.load([ROOT / "profiles"]).effective("base")
        roots = RootFolders(folder / "roots", ImageStore(folder / "images"), _no_overlay)
        self._devices = folder / "dev"
        make_devices(self._devices)
        for number in range(bundles):
            places = SandboxPlaces(
                call_id=str(number),
                root=str(roots.path(profile)),
                devices=str(self._devices),
                cgroup=f"/{CGROUP}/{number}",
                cell=str(ROOT / "cell/.output/cell"),
                listener=str(folder / "listener"),
                uid_base=UID_BASE + number * UIDS,
            )
            program = Program(
                argv=[os.fsencode(argument) for argument in argv],
                env={name: value.encode() for name, value in profile.env.items()},
                working_directory=b"/work",
            )
            bundle = folder / str(number)
            bundle.mkdir()
            spec = build_spec(profile, places, program)
            (bundle / "config.json").write_text(json.dumps(spec))
            self._free.put(bundle)

    def run(self) -> None:
        """Run the bundle from create to delete.

        Raises:
            RuntimeError: runc failed.
        """
        bundle = self._free.get()
        try:
            command = [
                self._runc, "--root", str(self._folder / "runc"),
                "run", "--bundle", str(bundle), "--preserve-fds", "1", f"bench-{bundle.name}",
            ]  # fmt: skip
            pid = process.spawn(command, fds=dict.fromkeys((0, 1, 2, 3), self._null))
            _, status = os.waitpid(pid, 0)
            if status:
                again = subprocess.run(command, check=False, capture_output=True, text=True)
                raise RuntimeError(f"runc run: {status}: {again.stderr}")
        finally:
            self._free.put(bundle)

    def close(self) -> None:
        """Remove the cgroups and the devices."""
        os.close(self._null)
        remove_mount(self._devices)
        cgroup.Cgroup(cgroup.detect(), CGROUP).destroy()


def _no_overlay(lower: list[Path], target: Path) -> None:
    raise AssertionError(f"an image of the host needs no overlay: {lower}, {target}")


@contextlib.contextmanager
def bare(folder: Path, *, bundles: int, argv: list[str]) -> Iterator[Bare]:
    """Give what runs the bundle; closes the seccomp descriptors that runc hands over."""
    folder.mkdir()
    with _listener(folder / "listener"):
        runs = Bare(folder, bundles=bundles, argv=argv)
        try:
            yield runs
        finally:
            runs.close()
            shutil.rmtree(folder)


@contextlib.contextmanager
def _listener(path: Path) -> Iterator[None]:
    """Take each seccomp descriptor and close it: a denied call then fails with ENOSYS."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(128)
        thread = threading.Thread(target=_take_all, args=(server,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _take_all(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # shut down
            return
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 1 << 16, 4)
            for fd in fds:
                os.close(fd)
