"""Files into /work and out of it: no link leads anywhere, nothing is read that is no file."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.call.types import Digest, InputFile
from supervisor.errors import InvalidRequest
from supervisor.oci.spec import UID
from supervisor.sandbox import files
from supervisor.sandbox.files import Glob, collect_outputs, place_inputs

ENOUGH = 1 << 20
ROOT_RANGE = -UID
"""A "range" whose sandbox user is the user with id 0: tests that are root may be that."""


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "work"
    folder.mkdir()
    yield folder
    for parent, names, _ in os.walk(folder):
        for name in names:
            Path(parent, name).chmod(0o700, follow_symlinks=True)


Store = Callable[[Iterator[bytes]], Digest]


def keeping(kept: list[bytes]) -> Store:
    def store(chunks: Iterator[bytes]) -> Digest:
        data = b"".join(chunks)
        kept.append(data)
        return Digest.of(data)

    return store


def collect(work: Path, *patterns: str, size_bytes_max: int = ENOUGH) -> files.Collected:
    fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return collect_outputs(fd, patterns, size_bytes_max, keeping([]))
    finally:
        os.close(fd)


def taken(work: Path, *patterns: str) -> set[bytes]:
    return {file.path for file in collect(work, *patterns).outputs}


def skipped(work: Path, *patterns: str, size_bytes_max: int = ENOUGH) -> dict[bytes, str]:
    collected = collect(work, *patterns, size_bytes_max=size_bytes_max)
    return {one.path: one.reason for one in collected.skipped}


# Out.


def test_a_file_is_kept_with_digest_and_mode(work: Path) -> None:
    (work / "result").write_bytes(b"42")
    (work / "result").chmod(0o4751)
    [output] = collect(work, "result").outputs
    assert output.path == b"result"
    assert output.digest == Digest(sha256=hashlib.sha256(b"42").hexdigest(), size_bytes=2)
    assert output.mode == 0o751


def test_nothing_asked_for_nothing_taken(work: Path) -> None:
    (work / "result").write_bytes(b"42")
    assert collect(work).outputs == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "real", "loop", "missing"])
def test_a_link_is_never_followed(work: Path, target: str) -> None:
    (work.parent / "outside").write_text("secret")
    (work / "real").write_text("real")
    (work / "loop").symlink_to(target if target != "real" else "real")
    assert taken(work, "**") == {b"real"}
    assert skipped(work, "**") == {b"loop": files.NOT_REGULAR}


def test_a_folder_that_is_a_link_is_not_entered(work: Path) -> None:
    outside = work.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (work / "folder").symlink_to("../outside")
    (work / "self").symlink_to(".")
    assert taken(work, "**", "folder/secret", "self/**") == set()


def test_what_is_no_file_is_not_opened(work: Path) -> None:
    os.mkfifo(work / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(work / "socket"))
        assert skipped(work, "*") == {b"fifo": files.NOT_REGULAR, b"socket": files.NOT_REGULAR}


@pytest.mark.root
def test_a_device_is_not_opened(work: Path) -> None:
    os.mknod(work / "zero", 0o020666, os.makedev(1, 5))
    assert skipped(work, "*") == {b"zero": files.NOT_REGULAR}


def test_what_becomes_something_else_meanwhile_is_not_taken(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cannot happen after everything is dead; the check stands on the open file all the same."""
    (work / "file").write_text("file")
    real = os.stat

    def swap(name: bytes, **options: object) -> os.stat_result:
        status = real(name, **options)  # type: ignore[arg-type]
        (work / "file").unlink()
        os.mkfifo(work / "file")
        return status

    monkeypatch.setattr(files.os, "stat", swap)
    assert skipped(work, "*") == {b"file": files.NOT_REGULAR}


def test_hard_links_each_count(work: Path) -> None:
    (work / "one").write_bytes(b"x" * 600)
    (work / "two").hardlink_to(work / "one")
    assert taken(work, "*") == {b"one", b"two"}
    assert skipped(work, "*", size_bytes_max=1000) == {b"two": files.TOO_LARGE}


def test_a_sparse_file_is_not_read(work: Path) -> None:
    with (work / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (work / "after").write_text("small")
    collected = collect(work, "*")
    assert [one.path for one in collected.outputs] == [b"after"]
    assert [(one.path, one.reason) for one in collected.skipped] == [(b"sparse", files.TOO_LARGE)]


def test_names_are_bytes(work: Path) -> None:
    for name in (b"\xff\xfe", b"new\nline", b"\x1b[2J", "é".encode(), b"a b"):
        (work / os.fsdecode(name)).write_text("x")
    assert taken(work, "*") == {b"\xff\xfe", b"new\nline", b"\x1b[2J", "é".encode(), b"a b"}
    assert taken(work, "?") == {"é".encode()}
    assert taken(work, "??") == {b"\xff\xfe"}
    assert taken(work, "[é]") == {"é".encode()}


def test_the_listing_fits_into_an_entry(work: Path) -> None:
    for number in range(500):
        (work / (f"{number:04}" + "x" * 200)).write_text("")
    collected = collect(work, "*")
    assert collected.listing_bytes <= files.LISTING_BYTES_MAX
    assert 0 < len(collected.outputs) < 500
    assert {one.reason for one in collected.skipped} == {files.TOO_MANY}
    assert len(collected.skipped) == files.SKIPPED_MAX


def test_a_tree_deeper_than_is_walked_is_told(work: Path) -> None:
    folder = os.open(work, os.O_RDONLY)
    for _ in range(files.DEPTH_MAX + 3):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    collected = collect(work, "**")
    assert collected.outputs == []
    assert [one.reason for one in collected.skipped] == [files.TOO_MANY]


def test_a_tree_with_more_entries_than_are_walked_is_told(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "WALK_ENTRIES_MAX", 5)
    for number in range(9):
        (work / str(number)).write_text("x")
    collected = collect(work, "*")
    assert len(collected.outputs) == 5
    assert [(one.path, one.reason) for one in collected.skipped] == [(b"5", files.TOO_MANY)]


def test_what_cannot_be_read_is_told(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "file").write_text("x")
    real = os.open

    def refuse(path: object, flags: int, *rest: int, **options: int) -> int:
        if path == b"file":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *rest, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(files.os, "open", refuse)
    assert skipped(work, "*") == {b"file": files.UNREADABLE}


def test_no_descriptor_is_left_open(work: Path) -> None:
    for number in range(5):
        (work / str(number)).mkdir()
        (work / str(number) / "file").write_text("x")
    before = set(Path("/proc/self/fd").iterdir())
    assert len(taken(work, "**")) == 5
    assert set(Path("/proc/self/fd").iterdir()) == before


# Globs.


@pytest.mark.parametrize(
    ("pattern", "path", "wanted"),
    [
        ("*", "a", True),
        ("*", "a/b", False),
        ("*", ".hidden", True),
        ("**", "a", True),
        ("**", "a/b/c", True),
        ("a/**", "a/b/c", True),
        ("a/**", "b/a", False),
        ("**/c", "c", True),
        ("**/c", "a/b/c", True),
        ("**/c", "a/b/d", False),
        ("a/**/c", "a/c", True),
        ("a/**/c", "a/b/b/c", True),
        ("a/*/c", "a/c", False),
        ("*.py", "x.py", True),
        ("*.py", "x.pyc", False),
        ("[ab]?", "a1", True),
        ("[!ab]?", "a1", False),
        ("a**", "abc", True),
        ("a**", "abc/d", False),
        ("**/**/x", "x", True),
        ("x/**/**", "x", True),
        ("[", "[", True),
        ("a\n", "a\n", True),
        ("a", "a\n", False),
    ],
)
def test_globs(pattern: str, path: str, wanted: bool) -> None:
    assert Glob(pattern).matches(os.fsencode(path).split(b"/")) is wanted


def test_a_glob_of_many_stars_takes_no_time() -> None:
    """Exponential matching would not end: this has more ways than could be tried."""
    assert not Glob("/".join(["**"] * 30 + ["x"])).matches([b"a"] * files.DEPTH_MAX)
    assert not Glob("*a" * 40 + "b").matches([b"a" * 200])


def test_folders_below_which_nothing_can_be_named_are_not_entered(work: Path) -> None:
    (work / "deep/er").mkdir(parents=True)
    (work / "deep/er/x").write_text("x")
    (work / "deep").chmod(0)
    assert collect(work, "*.txt", "other/**").skipped == []
    (work / "deep").chmod(0o700)
    assert taken(work, "deep/*/x") == {b"deep/er/x"}


def test_what_takes_too_long_is_left(work: Path) -> None:
    for name in "abc":
        (work / name).write_text(name)
    answers = iter([True, False])
    fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    found = collect_outputs(fd, ["*"], ENOUGH, keeping([]), lambda: next(answers))
    os.close(fd)
    assert [file.path for file in found.outputs] == [b"a"]
    assert [(one.path, one.reason) for one in found.skipped] == [(b"b", files.TOO_LATE)]


PARTS = st.lists(st.sampled_from(["a", "b", "*", "?", "**", "[ab]", "ab"]), min_size=1, max_size=5)
NAMES = st.lists(st.sampled_from(["a", "b", "ab", "c"]), min_size=1, max_size=5)


@given(PARTS, NAMES)
def test_globs_agree_with_a_regular_expression(parts: list[str], names: list[str]) -> None:
    """`**` written as "any parts", the rest as one part without a slash."""
    expression = ""
    translated = {"*": "[^/]*/", "?": "[^/]/", "[ab]": "[ab]/", "**": "(?:[^/]+/)*"}
    for part in parts:
        expression += translated.get(part, f"{part}/")
    wanted = re.fullmatch(expression, "/".join(names) + "/") is not None
    assert Glob("/".join(parts)).matches([name.encode() for name in names]) is wanted


# In.


def file(path: bytes, data: bytes = b"data", mode: int = 0o640) -> InputFile:
    return InputFile(path=path, digest=Digest.of(data), data=data, mode=mode)


def place(work: Path, *inputs: InputFile) -> None:
    def content(one: InputFile) -> Iterator[bytes]:
        assert one.data is not None
        yield from (one.data[:2], one.data[2:])

    fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        place_inputs(fd, inputs, ROOT_RANGE, content)
    finally:
        os.close(fd)


@pytest.mark.root
def test_inputs_lie_where_they_were_asked_for(work: Path) -> None:
    place(work, file(b"a"), file(b"deep/er/b", b"other", 0o755), file(b"deep/c"), file(b"\xff"))
    assert (work / "a").read_bytes() == b"data"
    assert (work / "a").stat().st_mode & 0o7777 == 0o640
    assert (work / "deep/er/b").read_bytes() == b"other"
    assert (work / "deep/er/b").stat().st_mode & 0o7777 == 0o755
    assert (work / "deep").stat().st_mode & 0o777 == 0o755
    assert (work / "\udcff").exists()


@pytest.mark.root
@pytest.mark.parametrize("path", [b"link/file", b"out", b"there"])
def test_an_input_never_goes_through_a_link_or_over_a_file(work: Path, path: bytes) -> None:
    outside = work.parent / "outside"
    outside.mkdir()
    (work / "link").symlink_to("../outside")
    (work / "out").symlink_to("../outside/file")
    (work / "there").write_text("before")
    with pytest.raises(InvalidRequest) as caught:
        place(work, file(path))
    assert caught.value.reason == "FILE_PATH_INVALID"
    assert list(outside.iterdir()) == []
    assert (work / "there").read_text() == "before"


@pytest.mark.root
def test_a_full_mount_is_told(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(InvalidRequest) as caught:
        place(work, file(b"a"))
    assert caught.value.reason == "FILES_TOO_LARGE"


@pytest.mark.root
def test_inputs_belong_to_the_sandboxs_user(tmp_path: Path) -> None:
    base = 1879048192
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o711)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        place_inputs(fd, [file(b"folder/a")], base, lambda one: iter([b"data"]))
    finally:
        os.close(fd)
    for path in (tmp_path / "folder", tmp_path / "folder/a"):
        assert (path.stat().st_uid, path.stat().st_gid) == (base + UID, base + UID)
