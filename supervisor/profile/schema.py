"""The door: pydantic models of a profile file and of a fragment, closed and strict.

A key stands here only if something enforces it. What the design has and this version does not
enforce yet (two runtimes) is known by name so that its refusal can say so. The entries of `egress:`
and `secrets:` are in `endpoints`.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from typing import Annotated, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, Discriminator, Tag, model_validator

from supervisor.profile import fields, syscalls, units
from supervisor.profile.endpoints import EgressEntry, RuleName, SecretEntry
from supervisor.profile.fields import EnvName, Name, Why, between, duration_ms, render_ms, size_of
from supervisor.profile.syscall_numbers import NUMBERS
from supervisor.profile.walls import ALWAYS, HOST_WALLS
from supervisor.profile.yaml_source import did_you_mean, refuse

WALL_MS_MAX = 24 * 3_600_000
CPU_MS_MAX = 64 * WALL_MS_MAX
MEMORY_BYTES_MIN = 16 << 20
MEMORY_BYTES_MAX = 4 << 40
PIDS_MIN, PIDS_MAX = 2, 65_536
FILES_MIN, FILES_MAX = 16, 1_048_576
OUTPUT_BYTES_MAX = 1 << 40
EGRESS_BYTES_MAX = 1 << 40
MOUNT_BYTES_MAX = 1 << 40
PATH_CHARACTERS_MAX = 1024
ENV_CHARACTERS_MAX = 4096

RUNTIME = "runc"
ENFORCE, OBSERVE = "enforce", "observe"
TERMINAL_DENY, TERMINAL_ALLOW = "deny", "allow"
RUNTIMES = (RUNTIME, "crun")
_RUNTIMES_TO_COME = ("runsc", "docker")
NOT_WRITABLE = ("/proc", "/sys", "/dev", "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32",
                "/lib64", "/libx32", "/boot")  # fmt: skip
NOT_READABLE = ("/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/var/lib/stockade")
"""The kernel's own, and where sockets of other services are: a socket is a way out."""

_OCI = re.compile(r"oci:([a-z0-9][a-z0-9._/-]{0,127})@sha256:([0-9a-f]{64})", re.ASCII)


def _not_yet(what: str) -> NoReturn:
    raise refuse(
        f"this version does not enforce {what} yet, and accepts no key that enforces nothing",
        "leave it out",
    )


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise refuse(f"{text!r} is not an absolute path", "begin with /")
    if len(text) > PATH_CHARACTERS_MAX:
        raise refuse(f"is longer than {PATH_CHARACTERS_MAX} characters")
    normal = "/" + posixpath.normpath(text).lstrip("/")
    if text != normal or "\n" in text or "\t" in text:
        raise refuse(f"{text!r} is not normalised", f"write {normal}")
    if text == "/":
        raise refuse("must not be the root directory", "name the folder that is meant")
    return text


def under(path: str, folder: str) -> bool:
    """Say whether `path` is `folder` or lies in it; both are normalised."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _writable_path(text: str) -> str:
    for folder in NOT_WRITABLE:
        if under(text, folder):
            raise refuse(f"{text} must not be writable: {folder} belongs to the image")
    return text


def _readable_path(text: str) -> str:
    for folder in NOT_READABLE:
        if under(text, folder) or under(folder, text):
            raise refuse(f"{text} cannot be shown to a sandbox: {folder} is not for reading")
    return text


def _runtime(text: str) -> str:
    if text in _RUNTIMES_TO_COME:
        _not_yet(f"runtime: {text}")
    if text not in RUNTIMES:
        hint = did_you_mean(text.lower(), RUNTIMES) or f"write {' or '.join(RUNTIMES)}"
        raise refuse(f"{text!r} is not a runtime", hint)
    return text


def _wall(text: str) -> str:
    known = " and ".join(HOST_WALLS)
    if text in ALWAYS:
        raise refuse(
            f"{text!r} is no choice: it stands around every call, or the call does not start",
            f"require: is for what a host may lack: {known}",
        )
    if text not in HOST_WALLS:
        hint = did_you_mean(text, HOST_WALLS)
        raise refuse(f"{text!r} is not a wall that a host may lack", hint or f"there are {known}")
    return text


def _image(text: str) -> str:
    if text == "host" or _OCI.fullmatch(text):
        return text
    if text.startswith("dir:"):
        _path(text.removeprefix("dir:"))
        return text
    if text.startswith("oci:"):
        raise refuse(
            f"{text!r} is not pinned to a digest",
            "write oci:NAME@sha256:… with 64 hexadecimal digits; a tag can change under us",
        )
    raise refuse(
        f"{text!r} is not an image",
        did_you_mean(text, ("host",)) or "write host, dir:/path or oci:NAME@sha256:…",
    )


REDACT_SECRETS, REDACT_PII = "secrets", "pii"
REDACTS = (REDACT_SECRETS, REDACT_PII)


def _mode(text: str) -> str:
    if text not in (ENFORCE, OBSERVE):
        hint = did_you_mean(text, (ENFORCE, OBSERVE)) or f"write {ENFORCE} or {OBSERVE}"
        raise refuse(f"{text!r} is not a mode", hint)
    return text


def _terminal(text: str) -> str:
    choices = (TERMINAL_DENY, TERMINAL_ALLOW)
    if text not in choices:
        hint = did_you_mean(text, choices) or f"write {' or '.join(choices)}"
        raise refuse(f"{text!r} does not say whether there may be a terminal", hint)
    return text


def _capture(text: str) -> str:
    if text not in ("full", "digest"):
        if not text[:1].isdigit():
            hint = did_you_mean(text, ("full", "digest"))
            raise refuse(f"{text!r} is not a way to record", hint or "full, digest or a size: 8MiB")
        if size_of(text) == 0:
            raise refuse("must be more than 0B", "digest stores nothing but the digest")
    return text


def _env_value(value: object) -> object:
    if isinstance(value, bool | int | float):
        raise refuse("must be a string", "put it in quotes")
    if isinstance(value, str) and len(value) > ENV_CHARACTERS_MAX:
        raise refuse(f"is longer than {ENV_CHARACTERS_MAX} characters")
    return value


def _by_name(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        names = [name for name, number in NUMBERS.items() if number == value]
        hint = f"write {names[0]}" if names else "no system call of x86_64 has this number"
        raise refuse(f"{value} is a number; system calls are named", hint)
    return value


def _syscall(text: str) -> str:
    if text.startswith("@"):
        raise refuse(f"{text!r} is a set", "a set stands alone, without name: and why:")
    if not syscalls.known(text):
        hint = did_you_mean(text, NUMBERS)
        raise refuse(f"{text!r} is not a system call of x86_64", hint)
    return text


def _allowed_syscall(text: str) -> str:
    _syscall(text)
    if text in syscalls.REFUSED:
        raise refuse(f"{text} can never be allowed: {syscalls.REFUSED[text]}")
    return text


def _killed_syscall(text: str) -> str:
    if text.startswith("@"):
        raise refuse("kill takes single system calls", "name those that no honest program makes")
    _syscall(text)
    if text in syscalls.ENOSYS:
        raise refuse(f"{text} must not kill: libc tries it first, then clone")
    if text in syscalls.START_NEEDS:
        raise refuse(f"{text} must not kill: no program starts without it")
    return text


def _set_name(text: str) -> str:
    if not text.startswith("@"):
        if syscalls.known(text):
            _allowed_syscall(text)
            raise refuse(f"{text} needs a reason", f'write {{name: {text}, why: "…"}}')
        sets = {name.removeprefix("@"): name for name in syscalls.SETS}
        hint = did_you_mean(text, {**dict.fromkeys(NUMBERS), **sets})
        for bare, name in sets.items():
            hint = hint.replace(f"'{bare}'", f"'{name}'")
        raise refuse(f"{text!r} is neither a set nor a system call", hint)
    if text not in syscalls.SETS:
        near = ", ".join(difflib.get_close_matches(text, list(syscalls.SETS), n=3, cutoff=0.0))
        hint = did_you_mean(text, syscalls.SETS) or f"the nearest are {near}"
        raise refuse(f"there is no set {text!r}", hint)
    return text


def _set_or_syscall(text: str) -> str:
    return _set_name(text) if text.startswith("@") else _syscall(text)


Wall = Annotated[str, AfterValidator(_wall)]
Path = Annotated[str, AfterValidator(_path)]
Capture = Annotated[str, AfterValidator(_capture)]


class Closed(BaseModel):
    """A mapping with these keys and no others, without any conversion of types."""

    model_config = fields.CLOSED


class ReadEntry(Closed):
    """A path of the host, shown read-only."""

    path: Annotated[Path, AfterValidator(_readable_path)]
    why: Why


class WriteEntry(Closed):
    """A writable tmpfs."""

    path: Annotated[Path, AfterValidator(_writable_path)]
    size: Annotated[
        int, BeforeValidator(size_of), between(4096, MOUNT_BYTES_MAX, units.render_size)
    ]
    exec: bool = False
    why: Why | None = None

    @model_validator(mode="after")
    def _exec_has_a_reason(self) -> WriteEntry:
        if self.exec and self.why is None:
            raise refuse(
                f"{self.path} is writable and executable: the key 'why' is missing",
                "say which programs are made there",
            )
        return self


class Files(Closed):
    """What the sandbox sees besides its image."""

    read: list[ReadEntry] = []
    write: list[WriteEntry] = []


class SyscallEntry(Closed):
    """A single system call and the reason for it."""

    name: Annotated[str, AfterValidator(_allowed_syscall)]
    why: Why


def _kind_of_entry(value: object) -> str:
    return "single" if isinstance(value, dict | SyscallEntry) else "set"


AllowEntry = Annotated[
    Annotated[str, AfterValidator(_set_name), Tag("set")] | Annotated[SyscallEntry, Tag("single")],
    Discriminator(_kind_of_entry),
]


class Syscalls(Closed):
    """What may be called; everything else is denied. What is watched is let through and told."""

    allow: list[AllowEntry] = []
    kill: list[Annotated[str, BeforeValidator(_by_name), AfterValidator(_killed_syscall)]] = []
    watch: list[Annotated[str, BeforeValidator(_by_name), AfterValidator(_set_or_syscall)]] = []


class LimitsEntry(Closed):
    """Limits of a call; what is left out comes from the parent."""

    wall: Annotated[int, BeforeValidator(duration_ms), between(1, WALL_MS_MAX, render_ms)] = 0
    cpu: Annotated[int, BeforeValidator(duration_ms), between(1000, CPU_MS_MAX, render_ms)] = 0
    memory: Annotated[
        int,
        BeforeValidator(size_of),
        between(MEMORY_BYTES_MIN, MEMORY_BYTES_MAX, units.render_size),
    ] = 0
    pids: Annotated[int, between(PIDS_MIN, PIDS_MAX)] = 0
    files: Annotated[int, between(FILES_MIN, FILES_MAX)] = 0
    output: Annotated[
        int, BeforeValidator(size_of), between(1, OUTPUT_BYTES_MAX, units.render_size)
    ] = 0
    egress: Annotated[
        int, BeforeValidator(size_of), between(1, EGRESS_BYTES_MAX, units.render_size)
    ] = 0


def _redact(text: str) -> str:
    if text not in REDACTS:
        hint = did_you_mean(text, REDACTS) or "secrets, pii, or {off: why not}"
        raise refuse(f"{text!r} is not what can be redacted", hint)
    return text


class NoRedaction(Closed):
    """That the record holds what looks like a credential, and the reason for it."""

    off: Why


RedactEntry = Annotated[
    Annotated[str, AfterValidator(_redact), Tag("single")] | Annotated[NoRedaction, Tag("off")],
    Discriminator(lambda value: "off" if isinstance(value, dict | NoRedaction) else "single"),
]


class RecordEntry(Closed):
    """What of each stream is stored, and what is taken out of it first."""

    stdin: Capture = ""
    stdout: Capture = ""
    stderr: Capture = ""
    redact: RedactEntry = REDACT_SECRETS


class DropFiles(Closed):
    """Paths that the parent or a fragment gave."""

    read: list[Path] = []
    write: list[Path] = []


class DropSyscalls(Closed):
    """Sets or single calls that the parent or a fragment gave."""

    allow: list[Annotated[str, BeforeValidator(_by_name), AfterValidator(_set_or_syscall)]] = []
    kill: list[Annotated[str, BeforeValidator(_by_name), AfterValidator(_syscall)]] = []
    watch: list[Annotated[str, BeforeValidator(_by_name), AfterValidator(_set_or_syscall)]] = []


class Drop(Closed):
    """What is taken away from what the parent and the fragments gave."""

    files: DropFiles = DropFiles()
    egress: list[RuleName] = []
    secrets: list[Name] = []
    syscalls: DropSyscalls = DropSyscalls()
    require: list[Wall] = []
    env: list[EnvName] = []


class Body(Closed):
    """What a profile and a fragment have in common."""

    why: Why
    require: list[Wall] = []
    runtime: Annotated[str, AfterValidator(_runtime)] = ""
    image: Annotated[str, AfterValidator(_image)] = ""
    files: Files = Files()
    egress: list[EgressEntry] = []
    secrets: list[SecretEntry] = []
    syscalls: Syscalls = Syscalls()
    env: dict[EnvName, Annotated[str, BeforeValidator(_env_value)]] = {}
    terminal: Annotated[str, AfterValidator(_terminal)] = ""
    limits: LimitsEntry = LimitsEntry()
    record: RecordEntry = RecordEntry()


class ProfileFile(Body):
    """A profile: `profiles/NAME.yaml`."""

    profile: Name
    extends: Name | None = None
    use: list[Name] = []
    drop: Drop = Drop()
    mode: Annotated[str, AfterValidator(_mode)] = ENFORCE


class FragmentFile(Body):
    """A fragment: `profiles/fragments/NAME.yaml`."""

    fragment: Name


PROFILE_KEYS = (
    "profile", "extends", "use", "drop", "why", "require", "runtime", "image", "files", "egress",
    "secrets", "syscalls", "env", "terminal", "limits", "record", "mode",
)  # fmt: skip
"""The keys of a profile in the order in which they must stand."""

FRAGMENT_KEYS = (
    "fragment", "why", "require", "runtime", "image", "files", "egress", "secrets",
    "syscalls", "env", "terminal", "limits", "record",
)  # fmt: skip
"""The keys of a fragment in the order in which they must stand."""
