"""A merged layer becomes an `EffectiveProfile`: a value with canonical JSON and a digest.

The canonical JSON holds everything that is enforced, in base units, with sets of system calls
expanded and the rules on their arguments as a digest: two profiles with the same digest are the
same policy, also across versions of the tables. Of a profile that observes it also holds what it
would enforce, which is where learning begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from supervisor.call.types import Json, canonical_json
from supervisor.profile import syscalls, units
from supervisor.profile.layers import (
    ALLOW,
    EGRESS,
    KILL,
    READ,
    REQUIRE,
    SECRETS,
    WATCH,
    WRITE,
    Key,
    Layer,
    Sourced,
    Value,
    render_value,
)
from supervisor.profile.model import (
    Capture,
    EffectiveProfile,
    EgressRule,
    Image,
    ImageKind,
    Inspect,
    Limits,
    PortRange,
    ProfileLine,
    ReadPath,
    RecordPolicy,
    Redact,
    SecretUse,
    SyscallPolicy,
    WritableMount,
)
from supervisor.profile.schema import (
    ENFORCE,
    OBSERVE,
    RUNTIME,
    TERMINAL_ALLOW,
    TERMINAL_DENY,
)

T = TypeVar("T")

CANONICAL_VERSION = 1
_SECTIONS = ("runtime", "image", "env", "terminal", "limits", "record")


def resolve(
    name: str, lineage: tuple[str, ...], why: Sourced, mode: Sourced | None, layer: Layer
) -> EffectiveProfile:
    """Make the effective profile of `layer`, which must have passed `lint.check_merged`."""
    image = parse_image(_text(layer, ("image",)))
    runtime = _text(layer, ("runtime",)) if ("runtime",) in layer.scalars else RUNTIME
    require = tuple(sorted(layer.items[REQUIRE]))
    read = tuple(_sorted(layer, READ, ReadPath))
    write = tuple(_sorted(layer, WRITE, WritableMount))
    egress = tuple(_sorted(layer, EGRESS, EgressRule))
    secrets = tuple(_sorted(layer, SECRETS, SecretUse))
    chosen = str(mode.value) if mode else ENFORCE
    written = _written_policy(layer)
    policy = widened(written, layer.without) if chosen == OBSERVE else written
    terminal = _text(layer, ("terminal",)) if ("terminal",) in layer.scalars else TERMINAL_DENY
    env = {key[1]: str(s.value) for key, s in sorted(layer.scalars.items()) if key[0] == "env"}
    limits = _limits(layer)
    record = RecordPolicy(
        stdin=parse_capture(_text(layer, ("record", "stdin"))),
        stdout=parse_capture(_text(layer, ("record", "stdout"))),
        stderr=parse_capture(_text(layer, ("record", "stderr"))),
        redact=_redact(layer),
    )
    canonical = canonical_json(
        {
            "version": CANONICAL_VERSION,
            "name": name,
            "why": str(why.value),
            "require": cast("list[Json]", list(require)),
            "runtime": runtime,
            "image": str(image),
            "files": {"read": [_plain(path) for path in read], "write": [_plain(m) for m in write]},
            "egress": [_canonical_rule(rule) for rule in egress],
            "secrets": [_plain(secret) for secret in secrets],
            "syscalls": {
                **_canonical_syscalls(policy, written, layer),
                **({"written": _names(written)} if chosen == OBSERVE else {}),
            },
            "env": cast("dict[str, Json]", env),
            "terminal": terminal,
            "limits": _plain(limits),
            "record": {
                "stdin": _plain(record.stdin),
                "stdout": _plain(record.stdout),
                "stderr": _plain(record.stderr),
                "redact": _plain(record.redact),
            },
            "mode": chosen,
        }
    )
    return EffectiveProfile(
        name=name, lineage=lineage, why=str(why.value), require=require, runtime=runtime,
        image=image, read=read, write=write, syscalls=policy, env=env, limits=limits,
        record=record, mode=chosen,
        canonical=canonical, digest=hashlib.sha256(canonical).hexdigest(),
        lines=tuple(_lines(name, why, mode, layer)), egress=egress, secrets=secrets,
        terminal=terminal == TERMINAL_ALLOW,
    )  # fmt: skip


def _written_policy(layer: Layer) -> SyscallPolicy:
    return SyscallPolicy(
        allow=layer.allowed(),
        kill=frozenset(layer.items[KILL]),
        sets=syscalls.expand_sets(n for n in layer.items[ALLOW] if n.startswith("@")),
        watch=layer.watched(),
    )


def widened(policy: SyscallPolicy, without: Iterable[str]) -> SyscallPolicy:
    """Give what a profile that observes lets through: whatever any set holds, and what it allows by
    name; all of it is watched.

    What it kills or has dropped by name (`without`) stays denied: somebody decided that. So do the
    calls that are in no set, and the rules on arguments.
    """
    sets = syscalls.elementary_sets()
    every = frozenset[str]().union(*(syscalls.SETS[name].names for name in sets))
    allow = (policy.allow | every) - policy.kill - frozenset(without)
    return SyscallPolicy(allow=allow, kill=policy.kill, sets=sets, watch=allow)


def parse_image(text: str) -> Image:
    """Give the image that `text`, checked by the schema, names."""
    if text.startswith("dir:"):
        return Image(kind=ImageKind.DIR, path=text.removeprefix("dir:"))
    if text.startswith("oci:"):
        name, _, digest = text.removeprefix("oci:").partition("@sha256:")
        return Image(kind=ImageKind.OCI, name=name, digest=digest)
    return Image(kind=ImageKind.HOST)


def parse_capture(text: str) -> Capture:
    """Give the capture that `text`, checked by the schema, names."""
    if text in ("full", "digest"):
        return Capture(mode=text)
    return Capture(mode="head", bytes_max=units.parse_size(text))


def _redact(layer: Layer) -> Redact:
    if ("record", "redact") not in layer.scalars:
        return Redact()  # what looks like a credential is taken out
    return cast("Redact", layer.scalars["record", "redact"].value)


def _limits(layer: Layer) -> Limits:
    def number(name: str) -> int:
        return cast("int", layer.scalars["limits", name].value)

    return Limits(
        wall_s=number("wall") / 1000,
        cpu_s=number("cpu") / 1000,
        memory_bytes=number("memory"),
        pids=number("pids"),
        files=number("files"),
        output_bytes=number("output"),
        egress_bytes=number("egress") if ("limits", "egress") in layer.scalars else 0,
    )


def _names(policy: SyscallPolicy) -> dict[str, Json]:
    return {
        "allow": cast("list[Json]", sorted(policy.allow)),
        "sets": cast("list[Json]", sorted(policy.sets)),
    }


def _canonical_syscalls(
    policy: SyscallPolicy, written: SyscallPolicy, layer: Layer
) -> dict[str, Json]:
    rules: dict[str, Json] = {
        name: [
            [[rule.index, rule.op, f"{rule.value:#x}", f"{rule.mask:#x}"] for rule in conjunction]
            for conjunction in alternatives
        ]
        for name, alternatives in syscalls.rules_for(policy).items()
        if alternatives
    }
    return {
        **_names(policy),
        "kill": cast("list[Json]", sorted(policy.kill)),
        "watch": cast("list[Json]", sorted(written.watch)),
        "enosys": cast("list[Json]", sorted(syscalls.ENOSYS)),
        "arguments_sha256": hashlib.sha256(canonical_json(rules)).hexdigest(),
        "why": {n: str(s.value) for n, s in layer.items[ALLOW].items() if not n.startswith("@")},
    }


def _canonical_rule(rule: EgressRule) -> Json:
    return {
        "host": rule.host,
        "cidr": rule.cidr,
        "ports": [[each.low, each.high] for each in rule.ports],
        "inspect": None if rule.inspect is None else str(rule.inspect),
        "private": rule.private,
        "methods": cast("list[Json]", list(rule.methods)),
        "paths": cast("list[Json]", list(rule.paths)),
        "why": rule.why,
    }


def rules_of(canonical: Mapping[str, Any]) -> tuple[EgressRule, ...]:
    """Give the rules in a profile's canonical JSON; records of older versions have none."""
    return tuple(
        EgressRule(
            host=rule["host"],
            cidr=rule["cidr"],
            ports=tuple(PortRange(low=low, high=high) for low, high in rule["ports"]),
            inspect=None if rule["inspect"] is None else Inspect(rule["inspect"]),
            private=rule["private"],
            methods=tuple(rule["methods"]),
            paths=tuple(rule["paths"]),
            why=rule["why"],
        )
        for rule in canonical.get("egress", ())
    )


def _plain(value: Redact | ReadPath | WritableMount | SecretUse | Limits | Capture) -> Json:
    return {name: cast("Json", getattr(value, name)) for name in value.__dataclass_fields__}


def _text(layer: Layer, key: Key) -> str:
    return str(layer.scalars[key].value)


def _sorted(layer: Layer, key: Key, kind: type[T]) -> Iterator[T]:
    for _, sourced in sorted(layer.items[key].items()):
        if isinstance(sourced.value, kind):
            yield sourced.value


def _lines(name: str, why: Sourced, mode: Sourced | None, layer: Layer) -> Iterator[ProfileLine]:
    start = Sourced(value=name, origin=replace(why.origin, location=("profile",)))
    yield _line("profile", name, start)
    yield _line("why", str(why.value), why)
    for position, (wall, sourced) in enumerate(sorted(layer.items[REQUIRE].items())):
        yield _line(f"require[{position}]", wall, sourced)
    if ("runtime",) not in layer.scalars:
        yield ProfileLine(path="runtime", value=RUNTIME, file="", line=0)
    for section in _SECTIONS[:2]:
        yield from _scalar_lines(layer.scalars, section)
    for key in (READ, WRITE, EGRESS, SECRETS):
        for position, (_, sourced) in enumerate(sorted(layer.items[key].items())):
            yield _line(f"{'.'.join(key)}[{position}]", _written(sourced.value), sourced)
    if mode is not None and mode.value == OBSERVE:
        yield _line("syscalls.allow", "every set; each call that is let through is told", mode)
    for key in (ALLOW, KILL, WATCH):
        for position, (entry, sourced) in enumerate(sorted(layer.items[key].items())):
            value: Json = {"name": entry, "why": str(sourced.value)} if sourced.value else entry
            yield _line(f"{'.'.join(key)}[{position}]", value, sourced)
    for position, (entry, sourced) in enumerate(sorted(layer.without.items())):
        yield _line(f"drop.syscalls.allow[{position}]", entry, sourced)
    if ("terminal",) not in layer.scalars:
        yield ProfileLine(path="terminal", value=TERMINAL_DENY, file="", line=0)
    for section in _SECTIONS[2:]:
        yield from _scalar_lines(layer.scalars, section)
    if mode is None:
        yield ProfileLine(path="mode", value=ENFORCE, file="", line=0)
    else:
        yield _line("mode", str(mode.value), mode)


def _scalar_lines(scalars: Mapping[Key, Sourced], section: str) -> Iterator[ProfileLine]:
    for key, sourced in sorted(scalars.items()):
        if key[0] != section:
            continue
        rendered = render_value(key, sourced.value)
        value: Json = sourced.value if rendered == str(sourced.value) else rendered  # type: ignore[assignment]
        if isinstance(sourced.value, Redact):
            value = sourced.value.written()
        yield _line(".".join(key), value, sourced)


def _written(value: Value) -> Json:
    if isinstance(value, ReadPath):
        return {"path": value.path, "why": value.why}
    if isinstance(value, WritableMount):
        written: dict[str, Json] = {
            "path": value.path,
            "size": units.render_size(value.size_bytes),
            "exec": value.exec,
        }
        return {**written, "why": value.why} if value.why else written
    if isinstance(value, EgressRule):
        return written_rule(value)
    if isinstance(value, SecretUse):
        return _plain(value)
    if isinstance(value, Redact):
        return value.written()
    return value


def written_rule(rule: EgressRule) -> Json:
    """Give a rule as it could stand in a profile."""
    written: dict[str, Json] = {"host": rule.host} if rule.host else {"cidr": rule.cidr}
    ports: list[Json] = [p.low if p.low == p.high else str(p) for p in rule.ports]
    written["port"] = ports if len(ports) > 1 else ports[0]
    if rule.inspect is not None:
        written["inspect"] = str(rule.inspect)
    if rule.private:
        written["private"] = True
    for name, values in (("methods", rule.methods), ("paths", rule.paths)):
        if values:
            written[name] = cast("list[Json]", list(values))
    return {**written, "why": rule.why}


def _line(path: str, value: Json, sourced: Sourced) -> ProfileLine:
    origin = sourced.origin
    parts = origin.document.file.split("/")
    name = "/".join(parts[-2:]) if parts[-2:-1] == ["fragments"] else parts[-1]
    line, _ = origin.document.position_of(origin.location)
    return ProfileLine(path=path, value=value, file=name, line=line)
