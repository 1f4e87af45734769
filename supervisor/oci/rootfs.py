"""The root folder of a sandbox: mount points, and the few files of /etc that programs need.

The files are made up, not bound: nothing of the host's /etc is visible but its certificates, its
linker cache and its alternatives, as copies. A root folder is read-only and holds nothing of a
call, so calls under one profile share it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from supervisor.call.events import CELL_PATH
from supervisor.errors import HostError
from supervisor.oci.images import ImageStore
from supervisor.oci.spec import AUTHORITIES_PATH, GID, UID
from supervisor.profile.model import EffectiveProfile, ImageKind, terminates

PASSWD = f"root:x:0:0:root:/:/usr/sbin/nologin\nsandbox:x:{UID}:{GID}:sandbox:/work:/bin/sh\n"
GROUP = f"root:x:0:\nsandbox:x:{GID}:\n"
HOSTS = "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n"
NSSWITCH = (
    "passwd: files\ngroup: files\nshadow: files\n"
    "hosts: {hosts}\nservices: files\nprotocols: files\n"
)
RESOLV = "# No names can be resolved from inside a sandbox.\n"
BROKER_RESOLV = (
    "# The broker answers for the names of the profile, and for no others.\nnameserver 127.0.0.1\n"
)

USR_LINKS = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
MOUNT_POINTS = ("proc", "dev", "usr", "tmp", "etc", "run", "var")
COPIED = (
    "ld.so.cache",
    "ld.so.conf",
    "mime.types",
    "protocols",
    "services",
    "ssl/certs/ca-certificates.crt",
)
"""Files of the host's /etc that hold no secret and that programs cannot do without."""

LINKED = ("alternatives", "ssl/certs")
"""Folders of the host's /etc whose links are made again. They lead below /usr: to the programs that
were chosen, and to the authorities by their hash, which is how OpenSSL looks for them."""


class RootFolders:
    """Root folders by what they are made from, under a folder of the daemon's own.

    `mount_overlay` puts a root folder over an image; the engine passes the one of room linux.
    """

    def __init__(
        self,
        folder: Path,
        images: ImageStore,
        mount_overlay: Callable[[list[Path], Path], None],
    ) -> None:
        self._folder = folder
        self._images = images
        self._mount_overlay = mount_overlay
        self._ready: dict[str, Path] = {}

    def path(self, profile: EffectiveProfile) -> Path:
        """Give the root folder for calls under `profile`, making it where it is missing or stale.

        Raises:
            HostError: `READ_PATH_MISSING`, `IMAGE_NOT_FOUND`, `IMAGE_NOT_MOUNTED`,
                `ROOT_FOLDER_STALE`.
        """
        key = self._key(profile)
        if key not in self._ready or not self._ready[key].is_dir():
            self._ready[key] = self._make(profile, self._folder / key)
        return self._ready[key]

    def _key(self, profile: EffectiveProfile) -> str:
        stamps = [_stamp(Path("/etc") / name) for name in (*COPIED, *LINKED)]
        value = [profile.digest, stamps, [_stamp(Path(path.path)) for path in profile.read]]
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]

    def _make(self, profile: EffectiveProfile, target: Path) -> Path:
        if target.exists():
            raise HostError("ROOT_FOLDER_STALE", f"{target} is left from another daemon")
        try:
            skeleton = _skeleton(profile, target / "skeleton")
            if profile.image.kind is ImageKind.HOST:
                return skeleton
            return self._over_image(profile, skeleton, target / "root")
        except BaseException:
            # Half a folder would hide the reason from the next call, and outlive its remedy.
            shutil.rmtree(target)
            raise

    def _over_image(self, profile: EffectiveProfile, skeleton: Path, root: Path) -> Path:
        image = self._image_folder(profile)
        root.mkdir()
        try:
            self._mount_overlay([skeleton, image], root)
        except OSError as error:
            raise HostError("IMAGE_NOT_MOUNTED", f"image: {profile.image}: {error}") from error
        return root

    def _image_folder(self, profile: EffectiveProfile) -> Path:
        if profile.image.kind is ImageKind.OCI:
            return self._images.root_folder(profile.image.digest)
        folder = Path(profile.image.path)
        if not folder.is_dir():
            raise HostError("IMAGE_NOT_FOUND", f"image: {profile.image}: {folder} is no folder")
        return folder


def _skeleton(profile: EffectiveProfile, skeleton: Path) -> Path:
    """Make what lies above the image: mount points, and the files that are made up."""
    skeleton.mkdir(parents=True)
    _made_up(skeleton, names=bool(profile.egress))
    for mount in profile.write:
        _directory(skeleton, mount.path)
    for read in profile.read:
        _like(skeleton, read.path)
    if profile.image.kind is ImageKind.HOST:
        # Hundreds of links: only where somebody may be reached.
        _of_host(skeleton, LINKED if profile.egress else LINKED[:1])
    authorities = skeleton / AUTHORITIES_PATH.lstrip("/")
    if terminates(profile) and not authorities.exists():
        _write(authorities, "")  # a mount point: each call has an authority of its own
    # Whatever the daemon's umask is: the sandbox's own user, nobody here, has to pass through.
    for folder, _, _ in os.walk(skeleton.parent):
        Path(folder).chmod(0o755)
    for mount in profile.write:
        # runc gives a tmpfs the mode of the folder below it, whatever its options say
        # (libcontainer/rootfs_linux.go, mountToRootfs).
        _directory(skeleton, mount.path).chmod(0o1777)
    return skeleton


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    return [status.st_mtime_ns, status.st_ino, status.st_mode]


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o644)


def _made_up(root: Path, *, names: bool) -> None:
    for name in MOUNT_POINTS:
        (root / name).mkdir()
    etc = root / "etc"
    _write(etc / "passwd", PASSWD)
    _write(etc / "group", GROUP)
    _write(etc / "hosts", HOSTS)
    _write(etc / "hostname", "sandbox\n")
    _write(etc / "resolv.conf", BROKER_RESOLV if names else RESOLV)
    _write(etc / "nsswitch.conf", NSSWITCH.format(hosts="files dns" if names else "files"))
    cell = root / CELL_PATH.lstrip("/")
    _write(cell, "")


def _of_host(root: Path, linked: Iterable[str]) -> None:
    for name in USR_LINKS:
        if Path("/", name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for name in COPIED:
        source = Path("/etc") / name
        if source.is_file():
            target = root / "etc" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o644)
    for name in linked:
        folder = root / "etc" / name
        folder.mkdir(parents=True, exist_ok=True)
        if Path("/etc", name).is_dir():
            for link in Path("/etc", name).iterdir():
                if link.is_symlink():
                    (folder / link.name).symlink_to(link.readlink())
    (root / "etc/localtime").symlink_to("/usr/share/zoneinfo/Etc/UTC")


def _directory(root: Path, path: str) -> Path:
    folder = root / path.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _like(root: Path, path: str) -> None:
    """Make a mount point of the same kind as the host's `path`."""
    source = Path(path)
    if source.is_dir():
        _directory(root, path)
    elif source.is_file():
        _write(root / path.lstrip("/"), "")
    else:
        raise HostError(
            "READ_PATH_MISSING", f"files.read: {path}: no such file or folder on this host"
        )
