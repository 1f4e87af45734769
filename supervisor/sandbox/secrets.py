"""Secrets of the daemon, read when a call needs them: from a file, a credential, or a command.

A value is held for as long as its call, goes to the broker alone, and stands in no message, log or
record. Whatever is wrong with a source keeps the call from starting.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.egress.control import SECRET_VALUE
from supervisor.errors import HostError
from supervisor.linux import process
from supervisor.linux.fds import make_pipe
from supervisor.linux.private import Exposed, Foreign, NotPrivate, read_private

VALUE_BYTES_MAX = 8 * 1024
COMMAND_DEADLINE_S = 10.0

_RAW_MAX = VALUE_BYTES_MAX + len("\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSource:
    """Where a secret is from: exactly one of the three is not empty. `credential` is a file in the
    folder that systemd gives its services, `command` an absolute path and arguments."""

    file: str = ""
    credential: str = ""
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """All secrets of the configuration by name; `credentials` is systemd's folder, None without."""

    sources: Mapping[str, SecretSource] = field(default_factory=dict)
    credentials: Path | None = None

    async def value(self, name: str) -> str:
        """Read the secret `name` now.

        Raises:
            HostError: `SECRET_UNAVAILABLE`; the message holds nothing of what was read.
        """
        source = self.sources.get(name)
        if source is None:
            raise _unavailable(
                name, "the configuration names no source", f"secrets: {{{name}: {{file: /path}}}}"
            )
        if source.command:
            raw = await _output(name, source.command)
        else:
            raw = await asyncio.to_thread(_content, name, self._path(name, source))
        return _text(name, raw)

    def _path(self, name: str, source: SecretSource) -> Path:
        if source.file:
            return Path(source.file)
        if self.credentials is None:
            raise _unavailable(
                name,
                f"no credential {source.credential}: systemd gave this daemon none",
                "LoadCredential= in the unit, or file: instead",
            )
        return self.credentials / source.credential


def _unavailable(name: str, why: str, hint: str = "") -> HostError:
    return HostError(
        "SECRET_UNAVAILABLE", f"the secret {name}: {why}", hint=hint, metadata={"secret": name}
    )


def _text(name: str, raw: bytes) -> str:
    value = raw[:-2] if raw.endswith(b"\r\n") else raw.removesuffix(b"\n")
    if len(value) > VALUE_BYTES_MAX:
        raise _unavailable(name, f"it is longer than {VALUE_BYTES_MAX} bytes")
    if not SECRET_VALUE.fullmatch(value):
        why = "it is empty" if not value else "it holds what no header can"
        raise _unavailable(name, why, "one line of printable ASCII, without blanks around it")
    return value.decode("ascii")


def _content(name: str, path: Path) -> bytes:
    try:
        return read_private(path, _RAW_MAX)
    except Exposed as error:
        hint = f"make a new secret, chmod 0600 {path}"
        raise _unavailable(name, str(error), hint) from error
    except Foreign as error:
        raise _unavailable(name, str(error), f"chown root {path}") from error
    except NotPrivate as error:
        raise _unavailable(name, str(error)) from error


async def _output(name: str, command: tuple[str, ...]) -> bytes:
    """Run `command` without a shell, our environment or a terminal, and give what it writes.

    What it writes on standard error is dropped: it may hold the secret.
    """
    pipe = make_pipe()
    try:
        pid = _spawn(name, command, pipe.write)
    except HostError:
        os.close(pipe.read)
        raise
    finally:
        os.close(pipe.write)
    pidfd = process.adopt(pid)
    raw = b""
    try:
        async with asyncio.timeout(COMMAND_DEADLINE_S):
            raw = await _read_all(pipe.read)
            if len(raw) <= _RAW_MAX:
                await _readable(pidfd)
    except TimeoutError:
        why = f"{command[0]} was not done within {COMMAND_DEADLINE_S:g} s"
        raise _unavailable(name, why) from None
    finally:
        os.close(pipe.read)
        status = _end(pid, pidfd)
    if len(raw) > _RAW_MAX:
        raise _unavailable(name, f"{command[0]} wrote more than {VALUE_BYTES_MAX} bytes")
    if status != 0:
        how = f"exited with {status}" if status > 0 else f"was ended by signal {-status}"
        raise _unavailable(name, f"{command[0]} {how}")
    return raw


def _spawn(name: str, command: tuple[str, ...], writing: int) -> int:
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return process.spawn(command, fds={0: nothing, 1: writing, 2: nothing})
    except OSError as error:
        raise _unavailable(name, f"{command[0]} cannot be run: {error.strerror}") from error
    finally:
        os.close(nothing)


async def _read_all(descriptor: int) -> bytes:
    """Read a pipe to its end, or one byte more than is of use."""
    os.set_blocking(descriptor, False)
    found = bytearray()
    while len(found) <= _RAW_MAX:
        await _readable(descriptor)
        chunk = os.read(descriptor, _RAW_MAX + 1 - len(found))
        if not chunk:
            break
        found += chunk
    return bytes(found)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _end(pid: int, pidfd: int) -> int:
    """Kill what is left of the command's session and give its exit code, or minus its signal.

    It is killed before its status is taken: until then nobody else can have its number.
    """
    try:
        os.killpg(pid, signal.SIGKILL)
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    finally:
        # Where it has not ended yet, the daemon reaps it with the orphans.
        process.disown(pid)
        os.close(pidfd)
    if ended is None:
        return -signal.SIGKILL
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
