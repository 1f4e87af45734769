"""One file's say as a layer, and the law by which layers merge.

Scalars: the child wins. Lists: union. Removal only with `drop:`. Mappings merge by key, and a
list's entries have an identity (a path, a name), so that a child can restate one. Fragments lie
between the parent and the profile; two of them that disagree on one value are an error, never a
winner. Nothing depends on the order in which entries or fragments are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from supervisor.profile import syscalls, units
from supervisor.profile.endpoints import secret_identity
from supervisor.profile.model import EgressRule, ReadPath, Redact, SecretUse, WritableMount
from supervisor.profile.schema import (
    REDACT_PII,
    Body,
    Drop,
    NoRedaction,
    SyscallEntry,
)
from supervisor.profile.yaml_source import Document, Location, Problem, did_you_mean

Value = str | int | ReadPath | WritableMount | EgressRule | SecretUse | Redact
Key = tuple[str, ...]

REQUIRE: Key = ("require",)
READ: Key = ("files", "read")
WRITE: Key = ("files", "write")
EGRESS: Key = ("egress",)
SECRETS: Key = ("secrets",)
ALLOW: Key = ("syscalls", "allow")
KILL: Key = ("syscalls", "kill")
WATCH: Key = ("syscalls", "watch")
LISTS = (REQUIRE, READ, WRITE, EGRESS, SECRETS, ALLOW, KILL, WATCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value stands."""

    document: Document
    location: Location

    def problem(self, message: str, hint: str = "") -> Problem:
        """Make a problem that points here."""
        return self.document.problem(self.location, message, hint)

    def __str__(self) -> str:
        return f"{self.document.file}:{self.document.position_of(self.location)[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sourced:
    """A value and where it stands. For a syscall the value is the reason, "" for a set."""

    value: Value
    origin: Origin


def _no_items() -> dict[Key, dict[str, Sourced]]:
    return {key: {} for key in LISTS}


@dataclass(slots=True, kw_only=True)
class Layer:
    """Values by key: `scalars` such as ("limits", "wall"), `items` by list and identity.

    `without` are system calls that a set would give and that were dropped by name.
    """

    scalars: dict[Key, Sourced] = field(default_factory=dict)
    items: dict[Key, dict[str, Sourced]] = field(default_factory=_no_items)
    without: dict[str, Sourced] = field(default_factory=dict)

    def copy(self) -> Layer:
        """Give a layer that can be changed without changing this one."""
        return Layer(
            scalars=dict(self.scalars),
            items={key: dict(entries) for key, entries in self.items.items()},
            without=dict(self.without),
        )

    def allowed(self) -> frozenset[str]:
        """Give the names of all system calls that are allowed."""
        names: set[str] = set()
        for entry in self.items[ALLOW]:
            names |= syscalls.members(entry) if entry.startswith("@") else {entry}
        return frozenset(names - set(self.without))

    def watched(self) -> frozenset[str]:
        """Give the names of all system calls that are to be watched, as far as they are allowed:
        what is denied is told anyway."""
        names: set[str] = set()
        for entry in self.items[WATCH]:
            names |= syscalls.members(entry) if entry.startswith("@") else {entry}
        return self.allowed() & names


def layer_of(document: Document, body: Body) -> tuple[Layer, list[Problem]]:
    """Give the layer of one file; an entry that stands twice in a list is a problem."""
    layer, problems = Layer(), []
    for key, value in _scalars(body):
        layer.scalars[key] = Sourced(value=value, origin=Origin(document=document, location=key))
    for key, position, identity, value in _items(body):
        origin = Origin(document=document, location=(*key, position))
        first = layer.items[key].get(identity)
        if first is not None:
            line = str(first.origin).rpartition(":")[2]
            problems.append(
                origin.problem(f"{identity} stands here twice", f"the first is in line {line}")
            )
        layer.items[key][identity] = Sourced(value=value, origin=origin)
    return layer, problems


def _scalars(body: Body) -> Iterator[tuple[Key, Value]]:
    if body.runtime:
        yield ("runtime",), body.runtime
    if body.image:
        yield ("image",), body.image
    for name, value in body.env.items():
        yield ("env", name), value
    if body.terminal:
        yield ("terminal",), body.terminal
    for part in ("limits", "record"):
        section = getattr(body, part)
        for name in sorted(section.model_fields_set):
            value = getattr(section, name)
            yield (part, name), _redact(value) if name == "redact" else value


def _redact(value: str | NoRedaction) -> Redact:
    return Redact(pii=value == REDACT_PII) if isinstance(value, str) else Redact(off=value.off)


def _items(body: Body) -> Iterator[tuple[Key, int, str, Value]]:
    for position, wall in enumerate(body.require):
        yield REQUIRE, position, wall, wall
    for position, read in enumerate(body.files.read):
        yield READ, position, read.path, ReadPath(path=read.path, why=read.why)
    for position, write in enumerate(body.files.write):
        mount = WritableMount(
            path=write.path, size_bytes=write.size, exec=write.exec, why=write.why or ""
        )
        yield WRITE, position, write.path, mount
    for position, place in enumerate(body.egress):
        yield EGRESS, position, place.rule.name, place.rule
    for position, secret in enumerate(body.secrets):
        yield SECRETS, position, secret_identity(secret.use), secret.use
    for position, entry in enumerate(body.syscalls.allow):
        if isinstance(entry, SyscallEntry):
            yield ALLOW, position, entry.name, entry.why
        else:
            yield ALLOW, position, entry, ""
    for position, name in enumerate(body.syscalls.kill):
        yield KILL, position, name, ""
    for position, name in enumerate(body.syscalls.watch):
        yield WATCH, position, name, ""


def merge_fragments(
    fragments: Mapping[str, Layer], use: Mapping[str, Origin]
) -> tuple[Layer, list[Problem]]:
    """Unite `fragments`; every value on which two of them disagree is a problem at `use`."""
    united, problems = Layer(), []
    for name, layer in fragments.items():
        for what, one, other in _both_give(united, layer):
            if not _agree(one.value, other.value):
                problems.append(
                    use[name].problem(
                        f"two fragments disagree on {what}: {one.origin} and {other.origin}",
                        "use one of them, or make them agree",
                    )
                )
        united = merge(united, layer)
    return united, problems


def _both_give(one: Layer, other: Layer) -> Iterator[tuple[str, Sourced, Sourced]]:
    for key in one.scalars.keys() & other.scalars.keys():
        yield ".".join(key), one.scalars[key], other.scalars[key]
    for key in (WRITE, EGRESS, SECRETS):
        for name in one.items[key].keys() & other.items[key].keys():
            yield name, one.items[key][name], other.items[key][name]


def _agree(one: Value, other: Value) -> bool:
    # What differs between two reasons for the same thing is only the wording.
    if isinstance(one, WritableMount | EgressRule | SecretUse):
        return type(one) is type(other) and replace(one, why="") == replace(other, why="")
    return one == other


def merge(parent: Layer, child: Layer) -> Layer:
    """Lay `child` over `parent`."""
    merged = parent.copy()
    merged.scalars.update(child.scalars)
    for key in LISTS:
        merged.items[key].update(child.items[key])
    # Only its own name brings back a call that was dropped by name: a set may hold it for
    # reasons that have nothing to do with why it was dropped.
    for entry in child.items[ALLOW]:
        merged.without.pop(entry, None)
    merged.without.update(child.without)
    return merged


def apply_drop(layer: Layer, drop: Drop, own: Layer, document: Document) -> list[Problem]:
    """Take what `drop` names out of `layer`; `own` is what the same file adds.

    Dropping what is not there is a problem: it is a typing error, or the parent has changed.
    """
    problems: list[Problem] = []

    def check(location: Location, there: bool, what: str, known: list[str]) -> bool:
        if not there:
            problems.append(
                document.problem(
                    location,
                    f"{what} cannot be dropped: neither the parent nor a fragment gives it",
                    did_you_mean(what, known),
                )
            )
        return there

    listed = (
        (REQUIRE, drop.require),
        (READ, drop.files.read),
        (WRITE, drop.files.write),
        (EGRESS, drop.egress),
        (KILL, drop.syscalls.kill),
        (WATCH, drop.syscalls.watch),
    )
    for key, identities in listed:
        for position, identity in enumerate(identities):
            location: Location = ("drop", *key, position)
            if check(location, identity in layer.items[key], identity, list(layer.items[key])):
                del layer.items[key][identity]
    for position, name in enumerate(drop.secrets):
        secrets = layer.items[SECRETS]
        named = [one for one, sourced in secrets.items() if _secret_name(sourced) == name]
        known = [_secret_name(sourced) for sourced in secrets.values()]
        check(("drop", *SECRETS, position), bool(named), name, known)
        for one in named:
            del secrets[one]
    for position, name in enumerate(drop.env):
        given = [key[1] for key in layer.scalars if key[0] == "env"]
        if check(("drop", "env", position), name in given, name, given):
            del layer.scalars["env", name]
    for position, entry in enumerate(drop.syscalls.allow):
        location = ("drop", *ALLOW, position)
        origin = Origin(document=document, location=location)
        check(location, _drop_allowed(layer, entry, origin), entry, list(layer.items[ALLOW]))
    problems += _added_again(drop, own, document)
    return problems


def _secret_name(sourced: Sourced) -> str:
    return sourced.value.name if isinstance(sourced.value, SecretUse) else ""


def _drop_allowed(layer: Layer, entry: str, origin: Origin) -> bool:
    """Drop the set or call `entry`; say whether it was there."""
    entries = layer.items[ALLOW]
    if not entry.startswith("@"):
        listed = entries.pop(entry, None)
        return _without(layer, entry, origin) or listed is not None
    parts = syscalls.expand_sets((entry,))
    there = False
    for name in [name for name in entries if name.startswith("@")]:
        held = syscalls.expand_sets((name,))
        if held & parts:
            there = True
            sourced = entries.pop(name)
            for part in sorted(held - parts):
                entries.setdefault(part, sourced)
    return there


def _without(layer: Layer, name: str, origin: Origin) -> bool:
    if name not in layer.allowed():
        return False
    layer.without[name] = Sourced(value="", origin=origin)
    return True


def _added_again(drop: Drop, own: Layer, document: Document) -> Iterator[Problem]:
    granted = syscalls.expand_sets(name for name in own.items[ALLOW] if name.startswith("@"))
    dropped: tuple[tuple[Key, list[str]], ...] = (
        (REQUIRE, drop.require),
        (READ, drop.files.read),
        (WRITE, drop.files.write),
        (EGRESS, drop.egress),
        (ALLOW, drop.syscalls.allow),
        (KILL, drop.syscalls.kill),
        (WATCH, drop.syscalls.watch),
    )
    for key, identities in dropped:
        for position, identity in enumerate(identities):
            whole_set = (
                key is ALLOW
                and identity.startswith("@")
                and syscalls.expand_sets((identity,)) <= granted
            )
            if identity in own.items[key] or whole_set:
                yield document.problem(
                    ("drop", *key, position),
                    f"{identity} is dropped and added in the same file",
                    "an entry with the same path or name replaces the parent's without drop:",
                )


def render_value(key: Key, value: Value) -> str:
    """Write a scalar as it would stand in YAML."""
    if isinstance(value, int):
        if key in (("limits", "wall"), ("limits", "cpu")):
            return units.render_duration(value / 1000)
        if key in (("limits", "memory"), ("limits", "output"), ("limits", "egress")):
            return units.render_size(value)
    return str(value)
