"""A profile out of what calls did: as little as they needed, for a human to accept. Pure.

The system calls are what was made, and what was allowed without being watched: of the latter nobody
knows whether it is needed, so it stays. `@start` is always there, since no program starts without
it. The rest is covered by sets and single names, see `covers`. What was denied is never allowed
here, unless somebody names it: it stands in a comment. Everything that is no system call stays as
it was, except that a learned profile enforces.

A host that was asked for in vain is never learned, and cannot be accepted: which hosts those are
was chosen by what ran, and a name says nothing about who is behind it. A program that was talked
into sending something away would write the rule for it. Somebody who knows the host writes that.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisor.call.safe import host, safe, shorten, word
from supervisor.errors import InvalidRequest, InvariantError, ProfileError
from supervisor.profile import syscalls
from supervisor.profile.fields import WHY_CHARACTERS_MAX
from supervisor.profile.layers import layer_of
from supervisor.profile.lint import LINES_MAX, check_layout, check_merged
from supervisor.profile.reach import NETWORK
from supervisor.profile.render import Allowed, Single, render, watched_entries
from supervisor.profile.schema import (
    ENFORCE,
    OBSERVE,
    PROFILE_KEYS,
    ProfileFile,
)
from supervisor.profile.yaml_source import parse_document, validate

SOCKET, SOCKETPAIR = "socket", "socketpair"
SET_OF_FAMILY: Mapping[int, str] = {
    1: "@ipc", 2: "@network-io", 10: "@network-io", 16: "@network-io",
}  # fmt: skip
"""Which set lets socket(2) make a family, by the numbers of linux/socket.h."""

COMMENT_CHARACTERS_MAX = 160
NAME_CHARACTERS_MAX = 60
"""Of a name that a call may have chosen: no more, so that it leaves room for others."""

CALLS_NAMED_MAX = 3


@dataclass(slots=True, kw_only=True)
class Evidence:
    """What calls under one profile did, by how often.

    `made` are system calls that were let through and watched, `families` of the sockets among
    them; `denied` could be allowed, `denied_arguments` are allowed with other arguments only.
    `hosts` were asked for by name, in vain; `destinations` are all else that the network wall held
    against, and `others` what the other walls did. `incomplete` says why there may be more than is
    known.
    """

    calls: list[str] = field(default_factory=list)
    made: dict[str, int] = field(default_factory=dict)
    families: set[int] = field(default_factory=set)
    denied: dict[str, int] = field(default_factory=dict)
    denied_arguments: dict[str, int] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=dict)
    destinations: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    incomplete: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """Sets and single names that hold all that is needed; `excess` is what they hold besides."""

    sets: tuple[str, ...]
    singles: tuple[str, ...]
    excess: tuple[str, ...]

    @property
    def items(self) -> int:
        """Count the entries."""
        return len(self.sets) + len(self.singles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A learned profile: `text` is its file, `diff` leads there from the profile that ran."""

    name: str
    text: str
    diff: str
    cover: Cover
    incomplete: tuple[str, ...]


def covers(needed: frozenset[str], forced: frozenset[str]) -> tuple[Cover, ...]:
    """Give the ways to hold all of `needed` that are worth a look, the tightest first.

    The tightest has `@start`, the `forced` sets, every other set that holds nothing that is not
    needed or held already, and single names. Each next one holds more than is needed, and has
    fewer entries. Of those that hold equally much the one with fewest entries is given, of those
    the one with fewest sets, and of those the first by name: it depends on nothing else. So no set
    of a cover can be left out, unless it is forced, and none can be replaced by single names
    without more entries or the same number of them.
    """
    fixed = sorted({syscalls.START} | forced)
    free = sorted(syscalls.elementary_sets() - set(fixed))
    index = {name: 1 << place for place, name in enumerate(sorted(_universe(needed)))}
    wanted = sum(index[name] for name in needed)
    bits = [sum(index[name] for name in syscalls.SETS[one].names) for one in free]
    base = 0
    for one in fixed:
        base |= sum(index[name] for name in syscalls.SETS[one].names)
    held = [base] * (1 << len(free))
    for choice in range(1, len(held)):
        lowest = choice & -choice
        held[choice] = held[choice ^ lowest] | bits[lowest.bit_length() - 1]
    best: dict[int, tuple[int, int, list[str], int]] = {}
    for choice, holds in enumerate(held):
        excess = (holds & ~wanted).bit_count()
        count = choice.bit_count()
        rank = (count + (wanted & ~holds).bit_count(), count)
        known = best.get(excess)
        if known is None or rank <= known[:2]:
            chosen = [one for place, one in enumerate(free) if choice >> place & 1]
            if known is None or (*rank, chosen) < known[:3]:
                best[excess] = (*rank, chosen, choice)
    return tuple(_worth_it(needed, fixed, best))


def _worth_it(
    needed: frozenset[str], fixed: list[str], best: Mapping[int, tuple[int, int, list[str], int]]
) -> Iterator[Cover]:
    fewest = None
    for excess in sorted(best):
        entries, _, chosen, _ = best[excess]
        if fewest is None or entries < fewest:
            fewest = entries
            sets = (*fixed, *chosen)
            holds = frozenset[str]().union(*(syscalls.SETS[name].names for name in sets))
            yield Cover(
                sets=tuple(sorted(sets, key=lambda name: (name != syscalls.START, name))),
                singles=tuple(sorted(needed - holds)),
                excess=tuple(sorted(holds - needed)),
            )


def _universe(needed: frozenset[str]) -> set[str]:
    names = set(needed)
    for one in syscalls.elementary_sets():
        names |= syscalls.SETS[one].names
    return names


def learn(
    canonical: Mapping[str, Any],
    digest: str,
    evidence: Evidence,
    accept: Sequence[str] = (),
    name: str | None = None,
) -> Learned:
    """Learn a profile from `evidence` of calls under the one whose canonical JSON is given.

    `accept` are system calls that were denied and that a human wants to be allowed; `name` is what
    the learned profile is called, where it is not to replace the one that ran.

    Raises:
        InvalidRequest: `NOTHING_WATCHED`, `NOT_DENIED`, `OTHER_WALL`, `OTHER_ARGUMENTS`, `KILLS`,
            `ALLOWED_BY_SET`, `NEVER_ALLOWED`.
        ProfileError: `LEARNED_TOO_LONG`.
    """
    ruled = canonical["syscalls"]
    written = ruled.get("written", ruled)
    watched = frozenset(ruled["allow"] if canonical["mode"] == OBSERVE else ruled.get("watch", ()))
    if not watched:
        raise InvalidRequest(
            "NOTHING_WATCHED",
            f"of calls under {canonical['name']} no system call was watched",
            hint="run them under a profile with mode: observe, or with syscalls: "
            '{watch: ["@default"]}, and learn from those',
        )
    _check_accepted(accept, evidence, ruled["kill"])
    allowed = frozenset(written["allow"])
    needed = syscalls.members(syscalls.START) | set(evidence.made) | set(accept)
    needed |= allowed - watched
    forced = _forced(needed, watched, written, evidence)
    if canonical.get("egress"):  # older records have no such key
        forced |= {NETWORK}  # what the profile reaches stays, so sockets do, too
    comments = list(_comments(canonical, digest, evidence, accept))
    before = _before(canonical, written)
    named = {**canonical, "name": name or canonical["name"]}
    for cover in covers(needed, forced):
        text = _written(named, ruled, cover, evidence, accept, comments)
        if text.count("\n") <= LINES_MAX:
            break
    else:
        raise ProfileError(
            "LEARNED_TOO_LONG",
            f"what was learned does not fit into the {LINES_MAX} lines of a profile",
            hint="move files, egress and env of the profile that ran into a fragment",
        )
    _check(named["name"], text)
    diff = difflib.unified_diff(
        before.splitlines(keepends=True),
        text.splitlines(keepends=True),
        f"{canonical['name']}.yaml as it ran",
        f"{named['name']}.yaml learned",
    )
    return Learned(
        name=named["name"], text=text, diff="".join(diff), cover=cover,
        incomplete=tuple(evidence.incomplete),
    )  # fmt: skip


def _check_accepted(accept: Sequence[str], evidence: Evidence, kill: Sequence[str]) -> None:
    for name in accept:
        if name not in evidence.denied:
            raise _not_denied(name, evidence)
        if name in kill:
            raise InvalidRequest("KILLS", f"{name} is in syscalls.kill of the profile that ran")
        if name in (SOCKET, SOCKETPAIR):
            raise _by_set(name)
        if name in syscalls.REFUSED or not syscalls.known(name):
            why = syscalls.REFUSED.get(name, "it has no name here")
            raise InvalidRequest("NEVER_ALLOWED", f"{name} can never be allowed: {why}")


def _not_denied(name: str, evidence: Evidence) -> InvalidRequest:
    """Say why a system call cannot be accepted that the list of system calls did not deny."""
    arguments = [one for one in evidence.denied_arguments if one.partition("(")[0] == name]
    if arguments and name in (SOCKET, SOCKETPAIR):
        return _by_set(name)
    if arguments:
        return InvalidRequest(
            "OTHER_ARGUMENTS",
            f"{name} is allowed, and was denied for its arguments only: {', '.join(arguments)}",
            hint="no entry of syscalls.allow opens these; the program has to do without",
        )
    if any(one.partition(" ")[0] == name for one in evidence.destinations):
        return InvalidRequest(
            "OTHER_WALL",
            f"{name} was denied by the network wall, not by the list of system calls",
            hint="--accept takes system calls only; a way out is a rule of egress, written by "
            "somebody who knows the host",
        )
    for told in evidence.others:
        wall, _, what = told.partition(" ")
        if what.partition(" ")[0] == name:
            return InvalidRequest(
                "OTHER_WALL",
                f"{name} was denied by the {wall} wall, not by the list of system calls",
                hint="--accept takes system calls only",
            )
    return InvalidRequest(
        "NOT_DENIED", f"{name} was not denied in these calls",
        hint=f"denied were: {', '.join(sorted(evidence.denied)) or 'none'}",
    )  # fmt: skip


def _by_set(name: str) -> InvalidRequest:
    return InvalidRequest(
        "ALLOWED_BY_SET", f"which sockets {name} may make is said by sets",
        hint="add @ipc for Unix sockets or @network-io for TCP and UDP by hand",
    )  # fmt: skip


def _forced(
    needed: frozenset[str],
    watched: frozenset[str],
    written: Mapping[str, Any],
    evidence: Evidence,
) -> frozenset[str]:
    """Give the sets without which a socket that is needed could not be made."""
    deciding = frozenset(syscalls.SOCKETS_OF_SET)
    if SOCKET in needed and SOCKET not in watched:
        return deciding & frozenset(written["sets"])
    forced = {SET_OF_FAMILY[number] for number in evidence.families if number in SET_OF_FAMILY}
    if not forced and {SOCKET, SOCKETPAIR} & needed:
        forced = {"@ipc"}  # a profile that allows one of them alone is refused
    return frozenset(forced)


def _written(
    canonical: Mapping[str, Any],
    ruled: Mapping[str, Any],
    cover: Cover,
    evidence: Evidence,
    accept: Sequence[str],
    comments: Sequence[str],
) -> str:
    singles = tuple(
        Single(name=name, why=_why(name, ruled["why"].get(name, ""), evidence, name in accept))
        for name in cover.singles
    )
    holds = frozenset[str]().union(*(syscalls.SETS[name].names for name in cover.sets))
    return render(
        canonical,
        Allowed(sets=_composed(cover.sets), singles=singles),
        watch=watched_entries(ruled["watch"], holds | set(cover.singles)),
        mode=ENFORCE,
        comments=comments,
    )


def _composed(sets: Sequence[str]) -> tuple[str, ...]:
    """Write the sets that include others for all of their parts, where all are there."""
    left = list(sets)
    for name in ("@default", "@local"):
        parts = syscalls.expand_sets((name,))
        if parts <= set(left):
            left = [name, *(one for one in left if one not in parts | {syscalls.START})]
    return tuple(left)


def _why(name: str, given: str, evidence: Evidence, accepted: bool) -> str:
    if accepted:
        denied = f"DENIED {_times(evidence.denied[name])}, accepted by hand, in {_calls(evidence)}"
        return denied[:WHY_CHARACTERS_MAX]
    if name not in evidence.made:
        return given or "allowed before, and not watched"
    made = f"made {_times(evidence.made[name])}"
    if name in syscalls.BY_NAME_ONLY:
        made += f" in {_calls(evidence)}"
    room = WHY_CHARACTERS_MAX - len(made) - 2
    return f"{given[:room]}; {made}" if given else made[:WHY_CHARACTERS_MAX]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _calls(evidence: Evidence) -> str:
    more = len(evidence.calls) - CALLS_NAMED_MAX
    named = ", ".join(evidence.calls[:CALLS_NAMED_MAX])
    return named + (f" and {more} more" if more > 0 else "")


def _before(canonical: Mapping[str, Any], written: Mapping[str, Any]) -> str:
    """Write down the profile that ran."""
    allow = frozenset(written["allow"])
    sets = [name for name in sorted(written["sets"]) if syscalls.members(name) <= allow]
    holds = frozenset[str]().union(*(syscalls.SETS[name].names for name in sets))
    why = canonical["syscalls"]["why"]
    singles = tuple(
        Single(name=name, why=why.get(name, "left of a set")) for name in sorted(allow - holds)
    )
    return render(
        canonical,
        Allowed(sets=_composed(sets), singles=singles),
        watch=watched_entries(canonical["syscalls"]["watch"], allow),
        mode=canonical["mode"],
    )


def _comments(
    canonical: Mapping[str, Any], digest: str, evidence: Evidence, accept: Sequence[str]
) -> Iterator[str]:
    source = f"{canonical['name']} (mode {canonical['mode']}, sha256:{digest[:12]})"
    yield f"Learned from {_calls(evidence)} under {source}. Read it before you use it."
    if evidence.incomplete:
        yield _line("INCOMPLETE, there may be more: ", evidence.incomplete, between="; ")
    if evidence.programs:
        yield _counted("Programs that ran: ", evidence.programs, _whole)
    kill = frozenset(canonical["syscalls"]["kill"])
    never = kill | frozenset(syscalls.REFUSED)
    by_hand = {n: c for n, c in evidence.denied.items() if n not in never | set(accept)}
    if by_hand:
        yield _counted("DENIED, and left out (--accept NAME takes one in): ", by_hand)
    killed = {n: c for n, c in evidence.denied.items() if n in kill}
    if killed:
        yield _counted("DENIED, and ended the call by syscalls.kill: ", killed)
    for_good = {n: c for n, c in evidence.denied.items() if n in never - kill}
    if for_good:
        yield _counted("DENIED for good, in every profile: ", for_good)
    if evidence.denied_arguments:
        yield _counted("DENIED with these arguments: ", evidence.denied_arguments)
    if evidence.hosts:
        yield _counted(
            "DENIED hosts, never learned (a program chose them): ", evidence.hosts, _host
        )
    if evidence.destinations:
        yield _counted("DENIED ways out: ", evidence.destinations, _words)
    if evidence.others:
        yield _counted(f"DENIED by other walls ({_by_wall(evidence)}): ", evidence.others, _told)


def _by_wall(evidence: Evidence) -> str:
    """Count what the other walls held against: no name that a call chose hides how often it was."""
    walls: Counter[str] = Counter()
    for told, count in evidence.others.items():
        walls[told.partition(" ")[0]] += count
    return ", ".join(f"{safe(wall)} x{count}" for wall, count in sorted(walls.items()))


def _whole(name: str) -> str:
    return word(name, NAME_CHARACTERS_MAX)


def _host(name: str) -> str:
    return host(name, NAME_CHARACTERS_MAX)


def _words(destination: str) -> str:
    """Give who denied it, the address, and what else was told: in quotes as one where a word of it
    needs them, since a reason is a sentence with quotes of its own."""
    name, place, rest = (*destination.split(" ", 2), "", "")[:3]
    plain = all(word(part) == part and "," not in part for part in rest.split(" ") if part)
    told = shorten(safe(rest), NAME_CHARACTERS_MAX)
    whole = told if plain else json.dumps(told, ensure_ascii=False)
    return " ".join(part for part in (safe(name), place and _whole(place), whole) if part)


def _told(told: str) -> str:
    """Give wall, name and detail; only the last may be more than a word, and a call's to choose."""
    wall, name, detail = (*told.split(" ", 2), "", "")[:3]
    return " ".join(part for part in (safe(wall), safe(name), detail and _whole(detail)) if part)


def _counted(head: str, counts: Mapping[str, int], shown: Callable[[str], str] = safe) -> str:
    """Give a line of names with how often each was, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return _line(
        head,
        [f"{shown(name)} x{count}" for name, count in ordered],
        [count for _, count in ordered],
    )


def _line(
    head: str, items: Sequence[str], counts: Sequence[int] = (), *, between: str = ", "
) -> str:
    """Give a line with as many of the items as fit; what does not fit is counted, never cut."""
    line, left, times = head, len(items), sum(counts)
    for place, item in enumerate(items):
        longer = line + (between if line != head else "") + safe(item)
        rest = times - (counts[place] if counts else 0)
        if len(longer) + len(_more(left - 1, rest, between)) <= COMMENT_CHARACTERS_MAX:
            line, left, times = longer, left - 1, rest
    return line + (_more(left, times, between) if line != head else f"{left} that are too long")


def _more(left: int, times: int, between: str) -> str:
    counted = f" (x{times})" if times else ""
    return f"{between}and {left} more{counted}" if left else ""


def _check(name: str, text: str) -> None:
    """Make sure that what was written is a profile without a problem: anything else is a bug."""
    document = parse_document(text.encode(), f"{name}.yaml")
    body = validate(document, ProfileFile)
    layer, problems = layer_of(document, body)
    problems += [*check_layout(document, PROFILE_KEYS, name), *check_merged(layer, document)]
    if problems:
        raise InvariantError("LEARNED_INVALID", "\n".join(one.render() for one in problems))
