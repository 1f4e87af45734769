"""Images of one's own, as a folder and as an OCI layout: their files, read-only, and nobody
else's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited, Failed
from supervisor.client import FinishedCall
from tests.support.daemon import Daemon, running_daemon
from tests.support.images import make_layout, make_root
from tests.support.profiles import with_profiles

EXPECTED_ROOT = {"bin", "etc", "opt", "proc", "dev", "work", "tmp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A daemon with profiles for both kinds of image, and the root that both were made from."""

    daemon: Daemon
    root: Path
    layout: Path
    digest: str


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imported]:
    folder = tmp_path_factory.mktemp("images")
    root = make_root(folder)
    layout = make_layout(root, folder / "layout")
    digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    config = with_profiles(
        folder / "profiles",
        unpacked=f"image: oci:tiny@{digest}",
        folder=f"image: dir:{root}",
        missing=f"image: oci:tiny@sha256:{'0' * 64}",
        gone=f"image: dir:{folder}/no-such-folder",
    )
    with running_daemon(config=config, folder=folder) as daemon:
        done = daemon.command("image", "import", str(layout), "tiny", "--state", str(daemon.state))
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode() == f"image: oci:tiny@{digest}\n"
        bare = digest.removeprefix("sha256:")
        yield Imported(daemon=daemon, root=root, layout=layout, digest=bare)


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("profile", ["unpacked", "folder"])
def test_a_program_of_the_image(imported: Imported, profile: str) -> None:
    before = contents(imported.root)
    targets = ["/work/x", "/tmp/x", "/x", "/bin/x", "/etc/image", "/bin/hello", "/opt/x"]
    for _ in range(2):
        call = imported.daemon.client.run(["/bin/hello", *targets], profile=profile)
        assert call.outcome == Exited(code=0), call.stderr
        first, *lines, root = call.stdout.decode().splitlines()
        assert first == "of the image"
        assert lines[:2] == ["write /work/x: done", "write /tmp/x: done"]
        assert all("Read-only file system" in line for line in lines[2:]), lines
        assert set(root.split()[1:]) >= EXPECTED_ROOT
        assert call.denials == ()
    assert contents(imported.root) == before


@pytest.mark.parametrize("profile", ["unpacked", "folder"])
def test_nothing_of_the_host_is_in_it(imported: Imported, profile: str) -> None:
    call = run(imported, profile, "/bin/sh", "-c", "true")
    assert isinstance(call.outcome, Failed)
    assert call.outcome.reason == "EXEC_FAILED"
    call = run(imported, profile, "/usr/bin/python3")
    assert isinstance(call.outcome, Failed)


@pytest.mark.parametrize("profile", ["missing", "gone"])
def test_an_image_that_is_not_there(imported: Imported, profile: str) -> None:
    call = run(imported, profile, "/bin/hello")
    assert isinstance(call.outcome, Failed)
    assert call.outcome.reason == "IMAGE_NOT_FOUND"
    assert call.exit_code == 125


def test_ls_and_rm(imported: Imported) -> None:
    """A second name for the same image, listed and removed; the files stay for the first."""
    daemon = imported.daemon
    state = ("--state", str(daemon.state), "--json")
    done = daemon.command("image", "import", str(imported.layout), "other", *state)
    assert json.loads(done.stdout)["digest"] == imported.digest
    listed = json.loads(daemon.command("image", "ls", *state).stdout)
    assert [(image["name"], image["digest"]) for image in listed] == [
        ("other", imported.digest),
        ("tiny", imported.digest),
    ]
    assert daemon.command("image", "rm", "other", *state).returncode == 0
    assert daemon.command("image", "rm", "other", *state).returncode == 3
    assert run(imported, "unpacked", "/bin/hello").ok


def test_a_layout_that_is_none(imported: Imported, tmp_path: Path) -> None:
    daemon = imported.daemon
    done = daemon.command("image", "import", str(tmp_path), "bad", "--state", str(daemon.state))
    assert done.returncode == 2
    assert b"[IMAGE_LAYOUT_INVALID]" in done.stderr


def run(imported: Imported, profile: str, *argv: str) -> FinishedCall:
    return imported.daemon.client.run(argv, profile=profile)
