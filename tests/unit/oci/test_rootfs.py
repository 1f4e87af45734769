"""Root folders: made-up files, mount points, what is copied, and when they are stale."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.call.events import CELL_PATH
from supervisor.errors import HostError
from supervisor.oci import rootfs
from supervisor.oci.images import ImageStore
from supervisor.oci.rootfs import RootFolders
from supervisor.oci.spec import AUTHORITIES_PATH, GID, UID
from supervisor.profile.model import (
    EgressRule,
    Image,
    ImageKind,
    Inspect,
    PortRange,
    ReadPath,
    WritableMount,
)
from tests.support.records import make_profile

MADE_UP = {
    ".stockade/cell", "etc/passwd", "etc/group", "etc/hosts", "etc/hostname", "etc/resolv.conf",
    "etc/nsswitch.conf",
}  # fmt: skip
PROFILE = make_profile()


class Overlays:
    """Remembers what was to be mounted."""

    def __init__(self) -> None:
        self.mounted: list[tuple[list[Path], Path]] = []

    def __call__(self, lower: list[Path], target: Path) -> None:
        assert target.is_dir()
        self.mounted.append((lower, target))


def folders(tmp_path: Path, overlays: Overlays | None = None) -> RootFolders:
    (tmp_path / "roots").mkdir(exist_ok=True)
    images = ImageStore(tmp_path / "state")
    return RootFolders(tmp_path / "roots", images, overlays or Overlays())


def files_below(root: Path) -> Iterator[str]:
    for parent, _, names in os.walk(root):
        for name in names:
            path = Path(parent) / name
            if not path.is_symlink():
                yield str(path.relative_to(root))


def test_only_made_up_files_and_named_copies(tmp_path: Path) -> None:
    root = folders(tmp_path).path(PROFILE)
    found = set(files_below(root))
    assert found >= MADE_UP
    assert found - MADE_UP <= {f"etc/{name}" for name in rootfs.COPIED}
    for secret in ("shadow", "gshadow", "ssh", "machine-id", "sudoers"):
        assert not (root / "etc" / secret).exists()
        assert secret not in " ".join(rootfs.COPIED)


def test_accounts_and_names_are_not_the_host_s(tmp_path: Path) -> None:
    etc = folders(tmp_path).path(PROFILE) / "etc"
    accounts = [line.split(":")[:4] for line in (etc / "passwd").read_text().splitlines()]
    assert accounts == [["root", "x", "0", "0"], ["sandbox", "x", str(UID), str(GID)]]
    assert (etc / "hostname").read_text() == "sandbox\n"
    assert "nameserver" not in (etc / "resolv.conf").read_text()
    assert "hosts: files\n" in (etc / "nsswitch.conf").read_text()


def test_names_are_asked_of_the_broker_where_there_is_one(tmp_path: Path) -> None:
    rule = EgressRule(host="api.github.com", ports=(PortRange(low=443, high=443),), why="a test")
    etc = folders(tmp_path).path(replace(PROFILE, egress=(rule,), digest="other")) / "etc"
    assert "nameserver 127.0.0.1\n" in (etc / "resolv.conf").read_text()
    assert "hosts: files dns\n" in (etc / "nsswitch.conf").read_text()


def test_a_file_of_authorities_can_be_laid_over_where_tls_is_terminated(tmp_path: Path) -> None:
    rule = EgressRule(
        host="api.github.com",
        ports=(PortRange(low=443, high=443),),
        inspect=Inspect.TERMINATE,
        why="a test",
    )
    image = Image(kind=ImageKind.DIR, path=str(tmp_path))
    for egress, there in (((rule,), True), ((replace(rule, inspect=None),), False)):
        changed = replace(PROFILE, egress=egress, image=image, digest=f"other {there}")
        overlays = Overlays()
        folders(tmp_path, overlays).path(changed)
        ((lower, _),) = overlays.mounted
        assert (lower[0] / AUTHORITIES_PATH.lstrip("/")).exists() is there


def test_openssl_finds_the_host_s_authorities_by_their_hash(tmp_path: Path) -> None:
    rule = EgressRule(host="api.github.com", ports=(PortRange(low=443, high=443),), why="a test")
    there = folders(tmp_path)
    certs = there.path(replace(PROFILE, egress=(rule,), digest="other")) / "etc/ssl/certs"
    without = there.path(PROFILE) / "etc/ssl/certs"
    assert not [link for link in without.iterdir() if link.is_symlink()]
    links = {link.name: link.readlink() for link in certs.iterdir() if link.is_symlink()}
    by_hash = [links.get(str(to), to) for name, to in links.items() if name.endswith(".0")]
    assert [to for to in by_hash if str(to).startswith("/usr/") and to.is_file()]


def test_copies_are_files_of_their_own(tmp_path: Path) -> None:
    root = folders(tmp_path).path(PROFILE)
    copied = [name for name in rootfs.COPIED if (root / "etc" / name).exists()]
    assert copied
    for name in copied:
        copy, source = root / "etc" / name, Path("/etc") / name
        assert copy.read_bytes() == source.read_bytes()
        assert copy.stat().st_ino != source.stat().st_ino
        assert copy.stat().st_nlink == 1


def test_everyone_may_read_and_nobody_write(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        root = folders(tmp_path).path(PROFILE)
    finally:
        os.umask(old)
    for name in MADE_UP:
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o644, name
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        mode = stat.S_IMODE(folder.stat().st_mode)
        assert mode == 0o755, folder


def test_mount_points_are_there(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("")
    profile = replace(
        PROFILE,
        write=(WritableMount(path="/work", size_bytes=1), WritableMount(path="/a/b", size_bytes=1)),
        read=(ReadPath(path=str(tool), why="t"), ReadPath(path="/usr/share", why="t")),
    )
    root = folders(tmp_path).path(profile)
    for name in ("proc", "dev", "usr", "tmp", "work", "a/b", "usr/share"):
        assert (root / name).is_dir(), name
    assert (root / str(tool).lstrip("/")).is_file()
    assert (root / CELL_PATH.lstrip("/")).is_file()
    # The tmpfs takes its mode from here.
    assert stat.S_IMODE((root / "work").stat().st_mode) == 0o1777


def test_the_host_s_layout_of_usr(tmp_path: Path) -> None:
    root = folders(tmp_path).path(PROFILE)
    for name in rootfs.USR_LINKS:
        if Path("/", name).is_symlink():
            assert (root / name).readlink() == Path(f"usr/{name}")
        else:
            assert not (root / name).exists()
    assert (root / "etc/localtime").readlink() == Path("/usr/share/zoneinfo/Etc/UTC")


def test_a_root_folder_is_made_once(tmp_path: Path) -> None:
    roots = folders(tmp_path)
    path = roots.path(PROFILE)
    (path / "mark").write_text("")
    assert roots.path(PROFILE) == path
    assert (path / "mark").exists()


def test_profiles_do_not_share_one(tmp_path: Path) -> None:
    roots = folders(tmp_path)
    assert roots.path(PROFILE) != roots.path(make_profile(name="other"))


def test_a_changed_source_makes_a_new_one(tmp_path: Path) -> None:
    """A path that was a file and is a folder now needs another mount point."""
    source = tmp_path / "source"
    source.write_text("a file")
    profile = replace(PROFILE, read=(ReadPath(path=str(source), why="Tests."),))
    roots = folders(tmp_path)
    old = roots.path(profile)
    source.unlink()
    source.mkdir()
    new = roots.path(profile)
    assert new != old
    assert (new / str(source).lstrip("/")).is_dir()
    assert (old / str(source).lstrip("/")).is_file()


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    profile = replace(PROFILE, read=(ReadPath(path=str(tmp_path / "nowhere"), why="Tests."),))
    with pytest.raises(HostError) as raised:
        folders(tmp_path).path(profile)
    assert raised.value.reason == "READ_PATH_MISSING"


def test_a_path_that_appears_later_is_found(tmp_path: Path) -> None:
    source = tmp_path / "late"
    profile = replace(PROFILE, read=(ReadPath(path=str(source), why="Tests."),))
    roots = folders(tmp_path)
    for _ in range(2):  # a failed attempt must not stand in the way of the next
        with pytest.raises(HostError) as raised:
            roots.path(profile)
        assert raised.value.reason == "READ_PATH_MISSING"
    source.mkdir()
    assert (roots.path(profile) / str(source).lstrip("/")).is_dir()


def test_what_another_daemon_left_is_not_used(tmp_path: Path) -> None:
    folders(tmp_path).path(PROFILE)
    with pytest.raises(HostError) as raised:
        folders(tmp_path).path(PROFILE)
    assert raised.value.reason == "ROOT_FOLDER_STALE"


def test_a_folder_as_image_lies_below_the_made_up_files(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    overlays = Overlays()
    profile = replace(PROFILE, image=Image(kind=ImageKind.DIR, path=str(image)))
    root = folders(tmp_path, overlays).path(profile)
    [(lower, target)] = overlays.mounted
    assert target == root
    skeleton, below = lower
    assert below == image
    assert (skeleton / "etc/passwd").is_file()
    # Nothing of the host's: the image has its own.
    assert not (skeleton / "bin").exists()
    assert set(files_below(skeleton)) == MADE_UP


def test_an_image_of_the_store(tmp_path: Path) -> None:
    digest = "ab" * 32
    image = tmp_path / "state/images/sha256" / digest / "bundle/rootfs"
    image.mkdir(parents=True)
    overlays = Overlays()
    profile = replace(PROFILE, image=Image(kind=ImageKind.OCI, name="tools", digest=digest))
    folders(tmp_path, overlays).path(profile)
    assert overlays.mounted[0][0][1] == image


@pytest.mark.parametrize(
    "image",
    [Image(kind=ImageKind.OCI, name="x", digest="0" * 64), Image(kind=ImageKind.DIR, path="/no")],
)
def test_an_image_that_is_not_there(tmp_path: Path, image: Image) -> None:
    roots = folders(tmp_path)
    for _ in range(2):
        with pytest.raises(HostError) as raised:
            roots.path(replace(PROFILE, image=image))
        assert raised.value.reason == "IMAGE_NOT_FOUND"


def test_an_image_that_cannot_be_mounted(tmp_path: Path) -> None:
    def refuse(lower: list[Path], target: Path) -> None:
        raise OSError(22, "a path of an overlay holds ':'")

    (tmp_path / "roots").mkdir()
    (tmp_path / "image").mkdir()
    roots = RootFolders(tmp_path / "roots", ImageStore(tmp_path / "state"), refuse)
    image = Image(kind=ImageKind.DIR, path=str(tmp_path / "image"))
    with pytest.raises(HostError) as raised:
        roots.path(replace(PROFILE, image=image))
    assert raised.value.reason == "IMAGE_NOT_MOUNTED"
    assert not list((tmp_path / "roots").iterdir())
