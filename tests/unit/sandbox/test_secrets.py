"""Secrets are read from where the configuration says, or not at all, and never shown."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import HostError
from supervisor.linux import process
from supervisor.sandbox import secrets
from supervisor.sandbox.secrets import VALUE_BYTES_MAX, CallSecrets, Secrets, SecretSource

VALUE = "Bearer t0ken-that-nobody-may-see"
SH = "/bin/sh"


def read(source: SecretSource | None, *, credentials: Path | None = None) -> str:
    sources = {} if source is None else {"s": source}
    return asyncio.run(Secrets(sources=sources, credentials=credentials).value("s"))


def refused(source: SecretSource | None, *, credentials: Path | None = None) -> str:
    """Give the message of the refusal, in which nothing of the value stands, and no path."""
    with pytest.raises(HostError) as caught:
        read(source, credentials=credentials)
    error = caught.value
    assert (error.reason, error.metadata) == ("SECRET_UNAVAILABLE", {"secret": "s"})
    assert "t0ken" not in f"{error} {error.__cause__} {error.__context__}"
    assert error.message.startswith("the secret s: ")
    assert "/" not in error.message
    if source is not None:
        return f"{error.message}; {error.hint}"
    return error.message


def sh(script: str, *arguments: str) -> SecretSource:
    return SecretSource(command=(SH, "-c", script, "sh", *arguments))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(VALUE + "\n")
    path.chmod(0o600)
    return path


def test_from_a_file(file: Path) -> None:
    assert read(SecretSource(file=str(file))) == VALUE


def test_from_a_credential(file: Path) -> None:
    source = SecretSource(credential="secret")
    assert read(source, credentials=file.parent) == VALUE
    assert "systemd gave this daemon none" in refused(source)
    assert "cannot be opened" in refused(source, credentials=file.parent / "none")


def test_from_a_command() -> None:
    assert read(sh('echo "$1 $2"', *VALUE.split())) == VALUE


def test_none_that_is_configured() -> None:
    assert "names no source" in refused(None)


def test_it_is_read_anew_each_time(file: Path) -> None:
    source = SecretSource(file=str(file))
    assert read(source) == VALUE
    file.write_text("other")
    assert read(source) == "other"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"a", "a"),
        (b"a\n", "a"),
        (b"a\r\n", "a"),
        (b"a b", "a b"),
        (b"x" * VALUE_BYTES_MAX, "x" * VALUE_BYTES_MAX),
        (b"x" * VALUE_BYTES_MAX + b"\r\n", "x" * VALUE_BYTES_MAX),
        (b"", None),
        (b"\n", None),
        (b"a\n\n", None),
        (b"a\nX-Evil: 1", None),
        (b"a\rb", None),
        (b"a\r", None),
        (b"a\0", None),
        (b"a\tb", None),
        (b" a", None),
        (b"a ", None),
        (b"\xe9", None),
        (b"x" * (VALUE_BYTES_MAX + 1), None),
        (b"x" * (VALUE_BYTES_MAX + 1) + b"\n", None),
        (b"x" * (1 << 20), None),
    ],
)
@pytest.mark.parametrize("how", ["file", "command"])
def test_what_a_value_is(how: str, content: bytes, value: str | None, file: Path) -> None:
    file.write_bytes(content)
    source = SecretSource(file=str(file))
    if how == "command":
        source = SecretSource(command=("/bin/cat", str(file)))
    if value is None:
        refused(source)
    else:
        assert read(source) == value


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o644])
def test_a_file_that_is_open_to_others(mode: int, file: Path) -> None:
    file.chmod(mode)
    told = refused(SecretSource(file=str(file)))
    assert f"its file (mode {mode:04o}) is open to others; " in told
    assert told.endswith(f"chmod 0600 {file}")
    file.chmod(0o640)
    assert read(SecretSource(file=str(file))) == VALUE


def test_somebody_elses_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    told = refused(SecretSource(file=str(file)))
    assert "belongs to user" in told and told.endswith(f"; chown root {file}")


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert "no plain file" in refused(SecretSource(file=str(fifo)))
    assert "no plain file" in refused(SecretSource(file=str(tmp_path)))
    told = refused(SecretSource(file=str(tmp_path / "none")))
    assert "cannot be opened" in told and told.endswith(f"; the file is {tmp_path / 'none'}")


def test_a_command_that_fails() -> None:
    assert refused(sh(f"echo {VALUE}; exit 3")).endswith("exited with 3; the command is /bin/sh")
    assert "its command was ended by signal 15" in refused(sh(f"echo {VALUE}; kill -15 $$"))
    told = refused(SecretSource(command=("/nothing/here",)))
    assert "cannot be run" in told and told.endswith("; the command is /nothing/here")


def test_a_command_gets_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_DAEMON", "x")
    assert read(sh('echo "[$OF_THE_DAEMON$(cat)]"')) == "[]"
    assert read(sh(f"echo {VALUE.split()[1]} >&2; echo fine")) == "fine"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(secrets, "COMMAND_DEADLINE_S", 0.3)
    yield


def gone(pid: int) -> bool:
    """Say whether a process has ended, in good time."""
    for _ in range(200):
        process.reap_strangers()
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "script",
    [
        "echo $$ > $1; echo t0ken; exec sleep 1000",
        "sleep 1000 & echo $! > $1; echo t0ken",  # what is left holds the pipe
        "exec >&-; echo $$ > $1; exec sleep 1000",
        "echo $$ > $1; exec yes t0ken",  # too much
        "(exec >&-; exec sleep 1000) & echo $! > $1; sleep 0.05; exit 1",
    ],
)
def test_a_command_that_does_not_end_is_killed(script: str, tmp_path: Path, soon: None) -> None:
    note = tmp_path / "pid"
    refused(sh(script, str(note)))
    assert gone(int(note.read_text()))


def test_a_call_that_is_given_up_ends_the_command(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    async def main() -> None:
        source = sh("echo $$ > $1; exec sleep 1000", str(note))
        task = asyncio.create_task(Secrets(sources={"s": source}).value("s"))
        while not (note.exists() and note.read_text()):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert gone(int(note.read_text()))


def test_nothing_stays_behind() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        assert read(sh("echo a")) == "a"
        refused(sh("exit 1"))
        refused(SecretSource(command=("/nothing/here",)))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_a_call_reads_each_secret_once(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    path.chmod(0o600)
    missing = tmp_path / "missing"
    sources = {"api": SecretSource(file=str(path)), "none": SecretSource(file=str(missing))}
    held = CallSecrets(Secrets(sources=sources))

    async def scenario() -> None:
        assert await held.known(["api", "none"]) == {"api": b"first"}
        path.write_text("second\n")
        missing.write_text("there now\n")
        missing.chmod(0o600)
        assert await held.value("api") == "first"
        with pytest.raises(HostError) as caught:
            await held.value("none")
        assert caught.value.reason == "SECRET_UNAVAILABLE"

    asyncio.run(scenario())
