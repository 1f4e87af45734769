"""An effective profile as the text of a file that stands alone: no parent, no fragments.

What is rendered is canonical JSON, as the record keeps it, so a profile can be written down long
after its file has changed. What may be called is the caller's to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.call.types import Json
from supervisor.profile import syscalls
from supervisor.profile.model import Redact
from supervisor.profile.schema import TERMINAL_ALLOW
from supervisor.profile.units import render_duration, render_size

WIDTH = 100
STREAMS = ("stdin", "stdout", "stderr")
_PLAIN = re.compile(r"/?[A-Za-z][A-Za-z0-9._/-]*[A-Za-z0-9]|/", re.ASCII)
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
"""What YAML, of one version or another, does not take for text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """A system call that is allowed by its own name."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What may be called: sets by name, and single calls with their reasons."""

    sets: tuple[str, ...]
    singles: tuple[Single, ...]


def render(
    canonical: Mapping[str, Any],
    allowed: Allowed,
    *,
    watch: Sequence[str],
    mode: str,
    comments: Iterable[str] = (),
) -> str:
    """Give the text of a profile: `canonical` but for its system calls and its mode.

    `watch` are sets and names. Each of `comments` is one line at the top.
    """
    lines = [f"# {comment}" for comment in comments]
    lines += [f"profile: {canonical['name']}", f"why: {_text(canonical['why'])}"]
    if require := canonical.get("require"):  # older records have no such key
        lines += _wrapped("require: ", "[", require, "]")
    lines += [f"runtime: {canonical['runtime']}", f"image: {_scalar(canonical['image'])}"]
    lines += _files(canonical["files"])
    lines += _list("egress", map(_rule, canonical.get("egress", ())))
    if secrets := canonical.get("secrets"):  # older records have neither
        lines += _list("secrets", map(_secret, secrets))
    lines += _syscalls(allowed, sorted(canonical["syscalls"]["kill"]), watch)
    env = [f"{name}: {_text(value)}" for name, value in sorted(canonical["env"].items())]
    lines += _wrapped("env: ", "{", env, "}")
    if canonical.get("terminal") == TERMINAL_ALLOW:  # older records have none
        lines.append(f"terminal: {TERMINAL_ALLOW}")
    lines += _wrapped("limits: ", "{", _limits(canonical["limits"]), "}")
    record = [f"{name}: {_capture(canonical['record'][name])}" for name in STREAMS]
    if redact := canonical["record"].get("redact"):  # older records have no such key
        record.append(f"redact: {flow(Redact(**redact).written())}")
    lines += _wrapped("record: ", "{", record, "}")
    lines.append(f"mode: {mode}")
    return "\n".join(lines) + "\n"


def flow(value: Json) -> str:
    """Give a value as YAML on one line, as it could stand in a profile."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {flow(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return _scalar(value) if isinstance(value, str) else json.dumps(value)


def watched_entries(watch: Iterable[str], allow: Iterable[str]) -> tuple[str, ...]:
    """Give a list of sets and names that watches `watch`, where `allow` is allowed.

    A set stands for two calls or more, where it watches nothing else that is allowed.
    """
    names, within = set(watch), frozenset(allow)
    found: list[str] = []
    for name in sorted(syscalls.elementary_sets()):
        held = syscalls.members(name) & within
        if len(held & names) > 1 and held <= set(watch):
            found.append(name)
            names -= held
    return (*found, *sorted(names & within))


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _scalar(value: str) -> str:
    plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return value if plain else _text(value)


def _wrapped(start: str, opens: str, parts: Iterable[str], closes: str) -> Iterator[str]:
    """Give a list or mapping of YAML on as many lines as it needs."""
    line, indent = start + opens, " " * (len(start) - len(start.lstrip()) + 2)
    parts = list(parts)
    for position, part in enumerate(parts):
        last = position + 1 == len(parts)
        piece = part if last else f"{part},"
        full = len(line) + len(piece) + 1 + len(closes) > WIDTH
        if full and line.strip() not in ("", (start + opens).strip()):
            yield line.rstrip()
            line = indent
        line += piece if last else f"{piece} "
    yield line + closes


def _files(files: Mapping[str, Any]) -> Iterator[str]:
    yield "files:"
    read = (f"{{path: {_scalar(p['path'])}, why: {_text(p['why'])}}}" for p in files["read"])
    yield from _wrapped("  read: ", "[", read, "]")
    yield from _wrapped("  write: ", "[", map(_mount, files["write"]), "]")


def _mount(mount: Mapping[str, Any]) -> str:
    parts = [f"path: {_scalar(mount['path'])}", f"size: {render_size(mount['size_bytes'])}"]
    if mount["exec"]:
        parts.append("exec: true")
    if mount["why"]:
        parts.append(f"why: {_text(mount['why'])}")
    return "{" + ", ".join(parts) + "}"


def _list(key: str, entries: Iterable[str]) -> Iterator[str]:
    """Give a list with one entry a line."""
    entries = list(entries)
    if not entries:
        yield f"{key}: []"
        return
    yield f"{key}:"
    for entry in entries:
        yield f"  - {entry}"


def _rule(rule: Mapping[str, Any]) -> str:
    place = f"host: {_text(rule['host'])}" if rule["host"] else f"cidr: {_text(rule['cidr'])}"
    ports = [str(low) if low == high else f'"{low}-{high}"' for low, high in rule["ports"]]
    parts = [place, f"port: {ports[0]}" if len(ports) == 1 else f"port: [{', '.join(ports)}]"]
    if rule["inspect"]:
        parts.append(f"inspect: {rule['inspect']}")
    if rule["private"]:
        parts.append("private: true")
    parts += [
        f"{name}: [{', '.join(map(_text, rule[name]))}]"
        for name in ("methods", "paths")
        if rule[name]
    ]
    return "{" + ", ".join([*parts, f"why: {_text(rule['why'])}"]) + "}"


def _secret(use: Mapping[str, Any]) -> str:
    parts = [f"name: {use['name']}", f"header: {use['header']}", f"host: {_text(use['host'])}"]
    return "{" + ", ".join([*parts, f"env: {use['env']}", f"why: {_text(use['why'])}"]) + "}"


def _syscalls(allowed: Allowed, kill: Sequence[str], watch: Sequence[str]) -> Iterator[str]:
    allow = [_entry(name) for name in allowed.sets]
    allow += [f"{{name: {one.name}, why: {_text(one.why)}}}" for one in allowed.singles]
    watched = [_entry(name) for name in watch]
    line = f"syscalls: {{allow: [{', '.join(allow)}], kill: [{', '.join(kill)}], "
    line += f"watch: [{', '.join(watched)}]}}"
    if len(line) <= WIDTH:
        yield line
        return
    yield "syscalls:"
    yield from _wrapped("  allow: ", "[", allow, "]")
    yield from _wrapped("  kill: ", "[", kill, "]")
    yield from _wrapped("  watch: ", "[", watched, "]")


def _entry(name: str) -> str:
    return f'"{name}"' if name.startswith("@") else name


def _limits(limits: Mapping[str, Any]) -> Iterator[str]:
    yield f"wall: {render_duration(limits['wall_s'])}"
    yield f"cpu: {render_duration(limits['cpu_s'])}"
    yield f"memory: {render_size(limits['memory_bytes'])}"
    yield f"pids: {limits['pids']}"
    yield f"files: {limits['files']}"
    yield f"output: {render_size(limits['output_bytes'])}"
    if egress := limits.get("egress_bytes"):  # older records have none
        yield f"egress: {render_size(egress)}"


def _capture(capture: Mapping[str, Any]) -> str:
    if capture["bytes_max"] is None:
        return str(capture["mode"])
    return render_size(capture["bytes_max"])
