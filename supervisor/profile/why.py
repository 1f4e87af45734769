"""Which line of which file decides about a place, a name, a system call, a path or a denial.

Pure, and about a profile as it is enforced: its canonical JSON, and the lines that its values come
from as far as they are known. Which rule of egress decides is asked of who enforces it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from supervisor.call.events import OTHER_ARGUMENTS, Wall
from supervisor.call.outcome import amount
from supervisor.call.types import Json
from supervisor.errors import InvalidRequest
from supervisor.profile import syscalls
from supervisor.profile.addresses import METADATA_NAMES, NEVER, never, special
from supervisor.profile.arguments import evaluate
from supervisor.profile.explain import checked_at
from supervisor.profile.model import EgressRule
from supervisor.profile.places import LOCALHOST, Place, nearest, parse_place, parse_target, written
from supervisor.profile.reach import NETWORK, by_closeness
from supervisor.profile.render import flow
from supervisor.profile.resolve import rules_of, written_rule
from supervisor.profile.schema import OBSERVE, under
from supervisor.profile.yaml_source import did_you_mean

Decide = Callable[[Place, int], EgressRule | None]

DNS, DIAL, HTTP, SECRET = "dns", "dial", "http", "secret"
SOCKET_ARGUMENTS = 3
# What the kernel denied, and which name its address stands for.
_NAMED = re.compile(r"\S+:([0-9]{1,5}) ((?:tcp|udp)(?:: [a-z ]+)?) \(([^ ()]+)\)", re.ASCII)
# What the broker found wrong with a request, where another rule could find it right. A path with an
# escape, or one that was cut, is left out: how it is compared is not for here.
_METHOD = re.compile(r"the method '?([^'a-z,\\ ]+)'?, (?:not|which) .+", re.ASCII)
_PATH = re.compile(r"the path '(/[^'\\%]*)', not .+", re.ASCII)
_PLACEHOLDER = re.compile(r"the placeholder of secret ([a-z0-9-]+) in .+")


class Line(Protocol):
    """A value of a profile and where it stands."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def value(self) -> Json: ...  # noqa: D102
    @property
    def file(self) -> str: ...  # noqa: D102
    @property
    def line(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a profile says: `text` is the value as YAML; `file` is empty and `line` 0 where it is
    built in, or not known."""

    path: str
    text: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether something is allowed, and by which line: None where none decides. `why` says what is
    checked of what is allowed, or why not; `nearest` is the line that comes closest to allowing it,
    and `hint` says what would."""

    asked: str
    allowed: bool
    why: str
    rule: str = ""
    decided: Said | None = None
    nearest: Said | None = None
    hint: str = ""


class Judge:
    """Answers for one profile; `lines` may be empty, where nobody knows where its values stand."""

    def __init__(
        self, canonical: Mapping[str, Any], lines: Sequence[Line], decide: Decide | None = None
    ) -> None:
        """Take a profile. `decide` gives the rule by which a place is reached at a port."""
        self._canonical = canonical
        self._lines = {line.path: line for line in lines}
        self._rules = rules_of(canonical)
        self._decide: Decide = decide or (lambda place, port: None)
        self._sets = frozenset(canonical["syscalls"]["sets"])

    @property
    def rules(self) -> tuple[EgressRule, ...]:
        """The rules of egress, as they are enforced."""
        return self._rules

    def place(self, place: Place, port: int) -> Answer:
        """Say whether a call may connect to a port of a host or of an address."""
        asked = written(place, port)
        kind = "" if isinstance(place, str) else special(place)
        if place == LOCALHOST or kind == "loopback":
            return self._loopback(asked)
        in_vain = "metadata" if place in METADATA_NAMES else ""
        if kind := in_vain if isinstance(place, str) else never(place):
            why = f"no rule may ever reach it: {kind}"
            return Answer(asked=asked, allowed=False, why=why)
        rule = self._decide(place, port)
        if rule is not None:
            return Answer(
                asked=asked, allowed=True, rule=rule.name, decided=self._of_rule(rule),
                why=checked_at(rule, port),
            )  # fmt: skip
        near = self._covering(place)
        if near:
            return Answer(
                asked=asked, allowed=False, nearest=self._of_rule(near[0]),
                why=f"port {port} is not in {near[0].name}",
                hint=f"add {port} to the port: of that rule",
            )  # fmt: skip
        return replace(self._unnamed(place, port), asked=asked)

    def name(self, host: str) -> Answer:
        """Say whether a call may ask for a host by its name."""
        covering = by_closeness(self._rules, host)
        if not covering:
            return self._unnamed(host, None)
        return Answer(
            asked=host, allowed=True, rule=covering[0].name, decided=self._of_rule(covering[0]),
            why="the name gets an address of its own inside the call",
        )  # fmt: skip

    def syscall(self, name: str) -> Answer:
        """Say whether a call may make a system call.

        Raises:
            InvalidRequest: `SYSCALL_UNKNOWN`.
        """
        if not syscalls.known(name):
            raise InvalidRequest(
                "SYSCALL_UNKNOWN",
                f"{name!r} is neither a system call nor a place with its port",
                hint=did_you_mean(name, syscalls.known_names())
                or "a system call, HOST:PORT, /path or CALL",
            )
        if name in syscalls.REFUSED:
            why = f"no profile can allow it: {syscalls.REFUSED[name]}"
            return Answer(asked=name, allowed=False, why=why)
        ruled = self._canonical["syscalls"]
        if name in ruled["kill"]:
            said = self._naming("syscalls.kill", name)
            return Answer(
                asked=name, allowed=False, rule="syscalls.kill", decided=said,
                why="it ends the whole call",
            )  # fmt: skip
        if name not in ruled["allow"]:
            return self._denied_syscall(name)
        return Answer(
            asked=name, allowed=True, rule="syscalls.allow", decided=self._allowing(name),
            why=self._arguments(name) + (", and is told" if name in ruled["watch"] else ""),
        )  # fmt: skip

    def path(self, path: str) -> Answer:
        """Say whether a call sees a path, and whether it may write there."""
        files = self._canonical["files"]
        for key, why in (("write", "read and write"), ("read", "read only: a path of the host")):
            for index, entry in enumerate(files[key]):
                if under(path, entry["path"]):
                    runs = key == "write" and not entry["exec"]
                    return Answer(
                        asked=path, allowed=True, rule=f"files.{key}",
                        decided=self._of(f"files.{key}[{index}]", entry),
                        why=why + (", no programs run from it" if runs else ""),
                    )  # fmt: skip
        image = self._of("image", self._canonical["image"])
        shown, why, hint = True, "read only, where the image has it", ""
        if self._canonical["image"] == "host" and not under(path, "/usr"):
            shown, hint = False, f'files: {{read: [{{path: {path}, why: "…"}}]}}'
            why = "of the host /usr alone is shown; all else is made up for the call, or not there"
        return Answer(asked=path, allowed=shown, rule="image", decided=image, why=why, hint=hint)

    def program(self, path: str) -> Answer:
        """Say whether a call may run the program at a path, where there is one."""
        found = self.path(path)
        runs = not found.allowed or found.rule != "files.write" or any(
            entry["exec"] for entry in self._canonical["files"]["write"]
            if under(path, entry["path"])
        )  # fmt: skip
        return found if runs else replace(found, allowed=False)

    def rule(self, place: Place, port: int) -> EgressRule | None:
        """Give the rule by which a place is reached at a port."""
        return self._decide(place, port)

    def made(self, name: str, arguments: Sequence[int]) -> Answer:
        """Say whether a call may make a system call that another profile let through, with these
        arguments as far as they are known: those on which profiles differ are those of sockets.

        Raises:
            InvalidRequest: `SYSCALL_UNKNOWN`.
        """
        found = self.syscall(name)
        if found.allowed and name == "socket" and len(arguments) >= SOCKET_ARGUMENTS:
            return self._with_arguments(name, found, {"arguments": arguments})
        return found

    def denial(self, body: Mapping[str, Any]) -> Answer:
        """Say which line decided on a denial, by the body of its entry in the record, or which
        would allow it now."""
        wall, name, detail = str(body["wall"]), str(body["name"]), str(body["detail"])
        asked = f"{wall} {name} {detail}".strip()
        rule = str(body["rule"])
        found: Answer | None = None
        if wall == Wall.SYSCALL and syscalls.known(name):
            found = self.syscall(name)
            if found.allowed and rule.endswith(OTHER_ARGUMENTS):
                found = self._with_arguments(name, found, body)
        elif wall == Wall.NETWORK:
            found = self._network_denial(name, detail, rule)
        elif wall == Wall.LIMIT:
            found = self._limit_denial(rule, body)
        if found is None:
            why = "no line of a profile decides this: it is so in every profile"
            found = Answer(asked=asked, allowed=False, rule=rule, why=why)
        return replace(found, asked=asked)

    def _network_denial(self, name: str, detail: str, rule: str) -> Answer | None:
        """Answer for a place, or a name that was asked for; None where it is neither. Behind it
        stands how it was asked for, and what was wrong besides."""
        asked, _, rest = detail.partition(" ")
        if named := _NAMED.fullmatch(detail):
            asked, rest = f"{named[3]}:{named[1]}", named[2]
        if rest == "udp":
            return Answer(asked="", allowed=False, why="UDP never leaves a sandbox", rule=rule)
        try:
            if name == DNS:
                wrong = rest.partition(": ")[2]
                target = parse_target(asked)
                found = self.name(target) if isinstance(target, str) else None
            else:
                target, port = parse_place(asked)
                wrong = "" if rest == "tcp" else rest
                found = self.place(target, port)
                if found.allowed and wrong:
                    return self._done_there(name, wrong, found, self._decide(target, port))
        except InvalidRequest:
            return None
        if found is not None and found.allowed and wrong:
            return replace(found, allowed=False, why=f"{wrong}; {found.why}")
        return found

    def _done_there(self, name: str, wrong: str, found: Answer, rule: EgressRule | None) -> Answer:
        """Answer for what was denied at a place that is allowed: what another rule could have
        allowed is judged anew, since the rule may be another one by now."""
        right, hint = False, ""
        if rule is not None and name == DIAL and _only_private(wrong):
            right, hint = rule.private, _PRIVATE_HINT
        elif name == DIAL and _kinds(wrong) <= NEVER:
            hint = "no rule opens such an address: the name has to lead elsewhere"
        elif rule is not None and name == HTTP and (asked := _METHOD.fullmatch(wrong)):
            # TRACE shows the headers to whoever asks: it has to be named.
            right = asked[1] in rule.methods or (not rule.methods and asked[1] != "TRACE")
            hint = f"add {asked[1]} to the methods: of that rule"
        elif rule is not None and name == HTTP and (asked := _PATH.fullmatch(wrong)):
            right = not rule.paths or any(_fits(asked[1], path) for path in rule.paths)
            hint = f"add {flow(asked[1])} to the paths: of that rule; a * at the end is any rest"
        elif name == SECRET and (asked := _PLACEHOLDER.fullmatch(wrong)):
            hint = self._secret_hint(asked[1])
        if right:
            return found
        return replace(found, allowed=False, why=f"{wrong}; {found.why}", hint=hint)

    def _secret_hint(self, name: str) -> str:
        for use in self._canonical.get("secrets", ()):  # older records have none
            if use["name"] == name:
                return f"it goes into {use['header']} of requests to {use['host']}, nowhere else"
        return ""

    def _with_arguments(self, name: str, found: Answer, body: Mapping[str, Any]) -> Answer:
        """Answer for a system call that is allowed with other arguments: which sockets may be made
        depends on the profile, all else is so in every profile."""
        arguments, hint = body.get("arguments") or (), ""
        if name == "socket" and arguments:  # none are told of several calls that differ in them
            mine = syscalls.socket_rules(self._sets)
            internet = evaluate(syscalls.SOCKETS_OF_SET[NETWORK], arguments)
            if mine and evaluate(mine, arguments):
                return replace(found, decided=self._granting(NETWORK)) if internet else found
            hint = _SOCKET_HINT if internet else ""
        why = "it is allowed with other arguments only"
        return replace(found, allowed=False, why=why, hint=hint)

    def _limit_denial(self, rule: str, body: Mapping[str, Any]) -> Answer | None:
        mount = rule.removeprefix("files.write: ")
        for path, line in self._lines.items():
            of_mount = path.startswith("files.write[") and isinstance(line.value, dict)
            if path == rule or (of_mount and cast("dict[str, Json]", line.value)["path"] == mount):
                counts = [int(body.get(key) or 0) for key in ("used", "allowed")]
                used, allowed = (amount(str(body["name"]), count) for count in counts)
                why = f"all of it is used: {used} of {allowed}"
                if counts[0] < counts[1]:
                    why = f"{used} of {allowed} were used, and more came at once than was left"
                hint = f"a larger size: of {mount}" if of_mount else f"a larger {rule}"
                return Answer(
                    asked="", allowed=False, rule=rule, decided=self._of(path, line.value), why=why,
                    hint=f"{hint}, where the work needs it",
                )  # fmt: skip
        return None

    def _loopback(self, asked: str) -> Answer:
        if NETWORK not in self._sets:
            why = f"the sandbox's own loopback needs sockets: {NETWORK} is not allowed"
            return Answer(asked=asked, allowed=False, why=why, hint="use: [loopback]")
        why = "the sandbox's own loopback: nothing of the host is there"
        return Answer(
            asked=asked, allowed=True, why=why, rule="syscalls.allow",
            decided=self._granting(NETWORK),
        )  # fmt: skip

    def _unnamed(self, place: Place, port: int | None) -> Answer:
        asked = str(place)
        if isinstance(place, str):
            bare = [rule for rule in self._rules if rule.host == f"*.{place}"]
            if bare:
                return Answer(
                    asked=asked, allowed=False, nearest=self._of_rule(bare[0]),
                    why=f"the * of {bare[0].name} stands for one label or more, never for none",
                    hint="name the host in an entry of its own",
                )  # fmt: skip
            key, value = "host", place
            known = {rule.host: rule for rule in self._rules if rule.host}
        else:
            key, value, known = "cidr", f"{place}/{place.max_prefixlen}", {}
        near = known.get(nearest(asked, known) or "")
        entry = f'{{{key}: {flow(value)}, port: {port or 443}, why: "…"}}'
        return Answer(
            asked=str(place), allowed=False,
            nearest=self._of_rule(near) if near else None,
            why=f"no rule of egress is for {place}" if self._rules else "there is no egress",
            hint=(f"did you mean {near.host!r}? If not: " if near else "") + f"egress: [{entry}]",
        )  # fmt: skip

    def _covering(self, place: Place) -> list[EgressRule]:
        """Give the rules that are for a place at some port, the closest first."""
        if isinstance(place, str):
            return by_closeness(self._rules, place)
        found = [(ipaddress.ip_network(r.cidr), r) for r in self._rules if r.cidr]
        inside = [(net, r) for net, r in found if net.version == place.version and place in net]
        return [r for _, r in sorted(inside, key=lambda pair: -pair[0].prefixlen)]

    def _denied_syscall(self, name: str) -> Answer:
        dropped = self._naming("drop.syscalls.allow", name)
        if dropped is not None:
            return Answer(
                asked=name, allowed=False, rule="drop.syscalls.allow", decided=dropped,
                why="it was taken away by name",
                hint=f'only its name brings it back: {{name: {name}, why: "…"}}',
            )  # fmt: skip
        sets = syscalls.sets_with(name)
        entry = f'"{sets[0]}"' if sets else f'{{name: {name}, why: "…"}}'
        why = "no entry of syscalls.allow holds it"
        if not sets and name in syscalls.BY_NAME_ONLY:
            why += f", and no set does: {syscalls.BY_NAME_ONLY[name]}"
        return Answer(
            asked=name, allowed=False, rule="syscalls.allow", why=why,
            hint=f"syscalls: {{allow: [{entry}]}}",
        )  # fmt: skip

    def _allowing(self, name: str) -> Said:
        """Give the line that allows a system call: its own, or that of a set."""
        if own := self._naming("syscalls.allow", name):
            return own
        if self._canonical["mode"] == OBSERVE and "syscalls.allow" in self._lines:
            return self._of("syscalls.allow", self._lines["syscalls.allow"].value)
        for path, value in self._values("syscalls.allow"):
            known = isinstance(value, str) and value in syscalls.SETS
            if known and name in syscalls.members(str(value)):
                return self._of(path, value)
        held = sorted(self._sets & set(syscalls.sets_with(name)))
        return Said(path="syscalls.allow", text=flow(held[0] if held else name))

    def _granting(self, wanted: str) -> Said:
        """Give the line of a set that holds the elementary set `wanted`."""
        for path, value in self._values("syscalls.allow"):
            known = isinstance(value, str) and value in syscalls.SETS
            if known and wanted in syscalls.expand_sets((str(value),)):
                return self._of(path, value)
        return Said(path="syscalls.allow", text=flow(wanted))

    def _naming(self, key: str, name: str) -> Said | None:
        for path, value in self._values(key):
            if name in (value, value.get("name") if isinstance(value, dict) else None):
                return self._of(path, value)
        return None

    def _values(self, key: str) -> Iterator[tuple[str, Json]]:
        for path, line in self._lines.items():
            if path.startswith(f"{key}["):
                yield path, line.value

    def _arguments(self, name: str) -> str:
        if name in (*syscalls.CONDITIONS, "socket", "socketpair"):
            return "with some arguments only"
        return "with any arguments"

    def _of_rule(self, rule: EgressRule) -> Said:
        index = self._rules.index(rule)
        return self._of(f"egress[{index}]", written_rule(rule))

    def _of(self, path: str, value: Json) -> Said:
        line = self._lines.get(path)
        if line is None:
            return Said(path=path, text=flow(value))
        return Said(path=path, text=flow(line.value), file=line.file, line=line.line)


_SOCKET_HINT = (
    "use: [network], with egress: for the places that it may reach, or use: [loopback] for servers "
    "of its own"
)
_PRIVATE_HINT = "where that is meant: private: true in that rule, or cidr: with the network"


def _fits(path: str, pattern: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def _only_private(refused: str) -> bool:
    """Say whether `private: true` would open each address that was not dialled."""
    return _kinds(refused) <= {"private", "shared"}


def _kinds(refused: str) -> set[str]:
    """Give which kinds of addresses were not dialled, where that is what is told: the last word on
    each, as in "the name leads to 10.0.0.8: private; 100.64.7.8: shared"."""
    return {told.rpartition(": ")[2] for told in refused.split("; ")}


def distinct(bodies: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], int]]:
    """Give each kind of denial once, in the order in which they came, and how often it was told."""
    counts: dict[tuple[str, ...], int] = {}
    first: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for body in bodies:
        key = tuple(str(body[field]) for field in ("wall", "name", "detail", "rule"))
        first.setdefault(key, body)
        counts[key] = counts.get(key, 0) + int(body["count"])
    return [(first[key], count) for key, count in counts.items()]
