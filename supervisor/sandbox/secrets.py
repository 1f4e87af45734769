"""Secrets of the daemon, read when a call needs them: from a file, a credential, or a command.

A value is held for as long as its call, goes to the broker alone, and stands in no message, log or
record. Whatever is wrong with a source keeps the call from starting; whoever made the call is told
what, and the hint, which says where, is for the daemon's log alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable, Mapping
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
            HostError: `SECRET_UNAVAILABLE`; the message holds nothing of what was read, and no
                path of the daemon's.
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


class CallSecrets:
    """The secrets of one call: each is read once, and one that could not be had stays so."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._values: dict[str, str] = {}
        self._failed: dict[str, HostError] = {}

    async def value(self, name: str) -> str:
        """Give the secret `name`.

        Raises:
            HostError: `SECRET_UNAVAILABLE`.
        """
        if name in self._failed:
            raise self._failed[name]
        if name not in self._values:
            try:
                self._values[name] = await self._secrets.value(name)
            except HostError as error:
                self._failed[name] = error
                raise
        return self._values[name]

    async def known(self, names: Iterable[str]) -> dict[str, bytes]:
        """Give the values of those that can be had; whoever needs the others is told then."""
        for name in names:
            with contextlib.suppress(HostError):
                await self.value(name)
        return {name: value.encode("ascii") for name, value in self._values.items()}


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
        raise _unavailable(name, f"its file {error.why}", hint) from error
    except Foreign as error:
        raise _unavailable(name, f"its file {error.why}", f"chown root {path}") from error
    except NotPrivate as error:
        raise _unavailable(name, f"its file {error.why}", f"the file is {path}") from error


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
    raw, hint = b"", f"the command is {command[0]}"
    try:
        async with asyncio.timeout(COMMAND_DEADLINE_S):
            raw = await _read_all(pipe.read)
            if len(raw) <= _RAW_MAX:
                await _readable(pidfd)
    except TimeoutError:
        why = f"its command was not done within {COMMAND_DEADLINE_S:g} s"
        raise _unavailable(name, why, hint) from None
    finally:
        os.close(pipe.read)
        status = _end(pid, pidfd)
    if len(raw) > _RAW_MAX:
        raise _unavailable(name, f"its command wrote more than {VALUE_BYTES_MAX} bytes", hint)
    if status != 0:
        how = f"exited with {status}" if status > 0 else f"was ended by signal {-status}"
        raise _unavailable(name, f"its command {how}", hint)
    return raw


def _spawn(name: str, command: tuple[str, ...], writing: int) -> int:
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return process.spawn(command, fds={0: nothing, 1: writing, 2: nothing})
    except OSError as error:
        why = f"its command cannot be run: {error.strerror}"
        raise _unavailable(name, why, f"the command is {command[0]}") from error
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
