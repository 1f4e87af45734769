"""A copy of a state folder in which something is no file is named, and not read."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.audit.verify import verify
from supervisor.audit.verify_files import STRAY_MAX, strange_files
from tests.support.records import begin, make_finished, opened


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))


def link_to_nothing(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_kernel_memory(path: Path) -> None:
    path.symlink_to("/proc/self/mem")  # S_ISREG, and reading it fails or waits


MAKERS = [
    fifo,
    bound_socket,
    link_to_nothing,
    link_to_device,
    link_to_itself,
    link_to_kernel_memory,
]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    async def write() -> None:
        async with opened(tmp_path) as store:
            await (await begin(store, "call-1")).finish(make_finished())

    asyncio.run(write())
    return tmp_path


def test_a_folder_as_it_should_be(state: Path) -> None:
    assert list(strange_files(state)) == []
    assert verify(state).ok


def test_what_is_no_blob_is_named(state: Path) -> None:
    blobs = state / "blobs"
    (blobs / "part/anything").write_bytes(b"not finished")
    unnamed = blobs / "sha256/ab" / ("ab" + 62 * "0")
    unnamed.write_bytes(b"left by a crash")
    assert verify(state).ok
    strays = ("note", "sha256/notes", "sha256/ab/note.zst", f"sha256/ab/cd{62 * '0'}.zst")
    for name in strays:
        (blobs / name).write_bytes(b"stray")
    (blobs / "sha256/other").mkdir()
    said = [problem.message for problem in verify(state).problems]
    named = sorted((*strays, "sha256/other"))
    assert sorted(said) == [f"blobs/{name} does not belong among blobs" for name in named]
    for number in range(STRAY_MAX):
        (blobs / f"more-{number}").touch()
    assert verify(state).problems[-1].message == "5 more do not belong among blobs"


def test_rooms_may_be_links_to_folders_elsewhere(
    state: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "blobs"
    (state / "blobs").rename(elsewhere)
    (state / "blobs").symlink_to(elsewhere)
    assert verify(state).ok


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "place",
    ["log/00000000000000000009.seg", "log/durable", "tlog/checkpoint", "tlog/tile/x", "keys/call-1",
     "blobs/part/x", "lock", "log.pub", "log.first.pub"],
)  # fmt: skip
def test_what_is_no_file_is_named_and_nothing_is_read(
    state: Path, place: str, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = state / place
    path.parent.mkdir(exist_ok=True, parents=True)
    path.unlink(missing_ok=True)
    monkeypatch.chdir(path.parent)
    make(path)
    report = verify(state)
    said = "a link" if path.is_symlink() and "/" in place else "no file"
    assert [one.message for one in report.problems] == [f"{place} is {said}"]
    assert (report.ok, report.entries) == (False, 0)


@pytest.mark.parametrize("room", ["log", "tlog", "keys", "blobs"])
def test_a_file_in_the_place_of_a_room(state: Path, room: str) -> None:
    if (state / room).exists():
        (state / room).rename(state / "aside")
    (state / room).write_bytes(b"")
    assert [one.message for one in verify(state).problems] == [f"{room} is no folder"]


@pytest.mark.parametrize("place", ["log/00000000000000000009.seg", "keys/deeper"])
def test_a_folder_in_the_place_of_a_file(state: Path, place: str) -> None:
    (state / place).mkdir(parents=True)
    assert [one.message for one in verify(state).problems] == [f"{place} is no file"]


@pytest.mark.parametrize("room", ["tlog", "blobs", "log"])
def test_a_link_that_leads_round_in_a_circle(state: Path, room: str) -> None:
    (state / room / "loop").symlink_to("..")
    assert [one.message for one in verify(state).problems] == [f"{room}/loop is a link"]


@pytest.mark.parametrize("room", ["tlog", "blobs"])
def test_folders_in_folders_without_end(state: Path, room: str) -> None:
    (state / room).joinpath(*["a"] * 900).mkdir(parents=True)
    (problem,) = verify(state).problems
    assert problem.message.endswith("/a has folders in it, 16 levels down")


def test_a_room_is_no_link_into_the_kernel(state: Path) -> None:
    (state / "tlog").rename(state / "aside")
    (state / "tlog").symlink_to("/proc")
    assert [one.message for one in verify(state).problems] == ["tlog is no folder"]
