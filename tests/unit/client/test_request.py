"""The request that goes out: what is inline, what is uploaded, what is refused here already."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from supervisor.call.types import BLOB_CHUNK_BYTES_MAX, STDIN_CHUNK_BYTES_MAX, Correlation, Digest
from supervisor.client.request import INLINE_FILES_BYTES_MAX, Stored, prepare, read_some, upload_of
from supervisor.errors import InvalidRequest


def test_argv_takes_text_bytes_and_paths() -> None:
    prepared = prepare(["a", b"\xff", Path("/c")], profile="p")
    assert list(prepared.execute.command.argv) == [b"a", b"\xff", b"/c"]


@pytest.mark.parametrize("argv", ["ls -l", b"ls", Path("ls")])
def test_one_string_is_no_argv(argv: str) -> None:
    with pytest.raises(TypeError):
        prepare(argv, profile="p")


def test_everything_arrives() -> None:
    request = prepare(
        ["a"],
        profile="p",
        env={"A": "1", "B": b"\xff"},
        cwd="/work/x",
        outputs=["*.png"],
        stdin=b"in",
        timeout=1.5,
        correlation=Correlation(agent="g", session="s", workflow="w", traceparent="t"),
        kill_on_disconnect=True,
    ).execute
    assert dict(request.command.env) == {"A": b"1", "B": b"\xff"}
    assert request.command.working_directory == b"/work/x"
    assert list(request.outputs) == ["*.png"]
    assert (request.stdin, request.stdin_open) == (b"in", False)
    assert (request.timeout.seconds, request.timeout.nanos) == (1, 500_000_000)
    assert request.correlation.traceparent == "t"
    assert request.kill_on_disconnect


def test_a_request_id_is_always_set() -> None:
    first, second = (prepare(["a"], profile="p").execute.request_id for _ in range(2))
    assert uuid.UUID(first) != uuid.UUID(second)
    assert prepare(["a"], profile="p", request_id="mine").execute.request_id == "mine"


def test_a_request_id_may_be_a_uuid() -> None:
    given = uuid.uuid4()
    assert prepare(["a"], profile="p", request_id=given).execute.request_id == str(given)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stdin": "text"},
        {"stdin": None},
        {"stdin": io.StringIO("text")},
        {"outputs": "*.txt"},
        {"outputs": b"*.txt"},
        {"request_id": 7},
        {"files": {"a": None}},
        {"files": {"a": "/etc/passwd"}},
    ],
    ids=str,
)
def test_other_types_are_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(TypeError, match=name if name != "files" else "a: give"):
        prepare(["a"], profile="p", **wrong)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"A": 1}, "env['A']: give its value as text or bytes, not int"),
        ({"A": None}, "env['A']: give its value as text or bytes, not NoneType"),
        ({7: "x"}, "env: the name of a variable is text, not int: 7"),
    ],
)
def test_a_variable_of_another_type_is_named(env: Any, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        prepare(["a"], profile="p", env=env)
    assert str(caught.value) == said


def test_no_timeout_is_not_zero() -> None:
    assert not prepare(["a"], profile="p").execute.HasField("timeout")


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), 1e300])
def test_timeout_is_a_number(timeout: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(["a"], profile="p", timeout=timeout)
    assert caught.value.reason == "TIMEOUT_INVALID"


def test_argv_too_long() -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(["a" * 1000] * 11_000, profile="p")
    assert caught.value.reason == "ARGV_TOO_LONG"


def test_small_files_are_inline_and_keep_that_they_are_programs(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(b"#!")
    script.chmod(0o700)
    prepared = prepare(["a"], profile="p", files={"a.txt": b"A", "bin/s": script})
    first, second = prepared.execute.files
    assert (first.path, first.data, first.mode) == (b"a.txt", b"A", 0)
    assert (second.path, second.data, second.mode) == (b"bin/s", b"#!", 0o755)
    assert not prepared.uploads


def test_what_the_daemon_has_is_named_by_its_digest() -> None:
    digest = Digest.of(b"x" * 9)
    files = {"d/\udcff": Stored(digest=digest, mode=0o600), "b": b"here"}
    prepared = prepare(["x"], profile="python", files=files)
    assert prepared.uploads == ()
    one, other = prepared.execute.files
    assert (one.path, one.mode, one.WhichOneof("content")) == (b"d/\xff", 0o600, "digest")
    assert (one.digest.sha256, one.digest.size_bytes) == (digest.sha256, 9)
    assert (other.path, other.data) == (b"b", b"here")


def test_what_has_no_room_is_uploaded(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(INLINE_FILES_BYTES_MAX + 1))
    half = bytes(INLINE_FILES_BYTES_MAX // 2 + 1)
    prepared = prepare(["a"], profile="p", files={"l": large, "x": half, "y": half, "z": b"1"})
    kinds = {file.path: file.WhichOneof("content") for file in prepared.execute.files}
    assert kinds == {b"l": "digest", b"x": "data", b"y": "digest", b"z": "data"}
    assert [upload.digest for upload in prepared.uploads] == [
        Digest.of(large.read_bytes()),
        Digest.of(half),
    ]


def test_upload_announces_the_digest_once_and_cuts_into_pieces(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * (2 * BLOB_CHUNK_BYTES_MAX + 1))
    first, *rest = upload_of(path).messages()
    assert first.digest.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [len(message.data) for message in rest] == [BLOB_CHUNK_BYTES_MAX] * 2 + [1]
    assert not any(message.HasField("digest") for message in rest)


def test_a_file_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(["a"], profile="p", files={"a": tmp_path / "none"})
    assert caught.value.reason == "FILE_UNREADABLE"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "device"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f"
    with socket.socket(socket.AF_UNIX) as bound:
        match kind:
            case "fifo":
                os.mkfifo(path)
            case "socket":
                bound.bind(str(path))
            case "folder":
                path.mkdir()
            case "device":
                path = Path(os.devnull)
        for read in (lambda: prepare(["a"], profile="p", files={"a": path}),
                     lambda: upload_of(path)):  # fmt: skip
            with pytest.raises(InvalidRequest) as caught:
                read()
            assert caught.value.reason == "FILE_UNREADABLE"
            assert caught.value.metadata["path"] == str(path)


def test_a_file_that_was_replaced_before_its_upload(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    upload = upload_of(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InvalidRequest) as caught:
        upload.messages()
    assert caught.value.reason == "FILE_UNREADABLE"


class Growing(io.FileIO):
    """A file that gets longer with every look at it."""

    def read(self, size: int | None = -1, /) -> bytes:
        with Path(os.fsdecode(self.name)).open("ab") as end:
            end.write(bytes(BLOB_CHUNK_BYTES_MAX))
        return super().read(size)


@pytest.mark.timeout(20)
def test_a_file_that_grows_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(INLINE_FILES_BYTES_MAX + 1))
    monkeypatch.setattr("supervisor.client.request._open", lambda path: Growing(path))
    for read in (lambda: prepare(["a"], profile="p", files={"a": path}), lambda: upload_of(path)):
        with pytest.raises(InvalidRequest) as caught:
            read()
        assert caught.value.reason == "FILE_UNREADABLE"


def test_an_upload_ends_at_the_size_that_it_announced(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    upload = upload_of(path)
    path.write_bytes(b"abcdef")
    assert b"".join(message.data for message in upload.messages()) == b"abc"


def test_a_file_without_a_size_is_read() -> None:
    """The kernel's own files say 0."""
    (file,) = prepare(["a"], profile="p", files={"a": Path("/proc/version")}).execute.files
    assert file.data == Path("/proc/version").read_bytes()


@pytest.mark.parametrize("content", ["text", None])
def test_text_is_no_content(content: Any) -> None:
    with pytest.raises(TypeError, match="bytes"):
        upload_of(content)


@pytest.mark.parametrize("extra", [-1, 0])
def test_stdin_that_fits_is_whole(extra: int) -> None:
    data = bytes(STDIN_CHUNK_BYTES_MAX + extra)
    prepared = prepare(["a"], profile="p", stdin=data)
    rest = prepared.stdin.read() if prepared.stdin else b""
    assert prepared.execute.stdin + rest == data


def test_more_stdin_is_written_later() -> None:
    data = os.urandom(STDIN_CHUNK_BYTES_MAX + 10)
    prepared = prepare(["a"], profile="p", stdin=io.BytesIO(data))
    assert prepared.stdin is not None
    assert prepared.execute.stdin_open
    assert prepared.execute.stdin + read_some(prepared.stdin) == data


def test_a_pipe_that_does_not_block_has_not_ended() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    with os.fdopen(reader, "rb", buffering=0) as source:
        late = threading.Timer(0.1, lambda: (os.write(writer, b"late"), os.close(writer)))
        late.start()
        assert read_some(source) == b"late"
        late.join()
        assert read_some(source) == b""


def test_a_pipe_is_not_waited_for() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source, os.fdopen(writer, "wb"):
        prepared = prepare(["a"], profile="p", stdin=source)
        assert (prepared.execute.stdin, prepared.stdin) == (b"", source)
        assert prepared.execute.stdin_open
