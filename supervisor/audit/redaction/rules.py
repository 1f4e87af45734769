"""The pack of rules: what credentials look like, as data that is checked when it is loaded.

A rule is an expression of RE2 whose match has a longest length, so that it is known how much of a
stream has to be held back. Its first group, or else the whole of it, is the secret. What may be
longer is followed by state instead: `tail` is a class of bytes that go on with the secret, `until`
an expression that ends it (for private keys in PEM), and `ends` one whose group, by being there,
shows that it has ended before; what it matches without the group belongs to the secret. A rule
`of: name` looks at the name of a value (in JSON, in the environment, before an argument), and takes
the whole value.

Rules are tried in their order: where two match at one place, the first is taken whose check agrees.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from re import _constants, _parser  # type: ignore[attr-defined]  # the only reader of widths
from types import ModuleType
from typing import Any, Literal

import re2
from pydantic import BaseModel, ConfigDict, Field

from supervisor.audit.redaction.growth import beginnings
from supervisor.audit.redaction.patience import Patience
from supervisor.audit.redaction.prefilter import Prefilter
from supervisor.audit.redaction.validators import VALIDATORS
from supervisor.profile import yaml_source
from supervisor.profile.yaml_source import Document, Problem, ProblemsFound

RULES_MAX = 200
EXPRESSION_CHARACTERS_MAX = 400
MATCH_BYTES_MIN = 4
MATCH_BYTES_MAX = 1024
UNTIL_BYTES_MAX = 128
AUTOMATON_BYTES = 64 * 1024 * 1024
STEP_BYTES = 16 * 1024
STEP_BYTES_MIN = 256
"""Below it, and in a step in which something matches, RE2 looks."""

REASON = "RULES_INVALID"
PACK = "rules.yaml"

_ID = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
_AT_ALLOWED = {"AT_BOUNDARY", "AT_NON_BOUNDARY"}


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=_ID, max_length=40)
    regex: str = Field(min_length=1, max_length=EXPRESSION_CHARACTERS_MAX)
    of: Literal["text", "name"] = "text"
    check: str | None = None
    tail: str | None = Field(default=None, max_length=100)
    until: str | None = Field(default=None, max_length=100)
    ends: str | None = Field(default=None, max_length=200)
    optional: bool = False


class _Pack(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(ge=1)
    rules: list[_Rule] = Field(min_length=1, max_length=RULES_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule, compiled. `odd` finds what is none of its tail's, as its group, and what belongs to
    it as a whole, without one."""

    id: str
    source: str
    of: str
    longest: int
    group: int
    check: Callable[[bytes], bool] | None
    odd: re2._Regexp | None
    until: re2._Regexp | None
    ahead: int
    """Bytes behind a place that decide on whether the tail ends there."""
    is_optional: bool

    def accepts(self, secret: bytes) -> bool:
        """Say whether its check takes what its expression found."""
        return self.check is None or self.check(secret)


class Rules:
    """Rules made ready to be found together; it never changes and may be shared.

    With `hyperscan` (`prefilter.open_hyperscan`) the same is found in less time.
    """

    def __init__(
        self, rules: Sequence[Rule], *, version: int = 1, hyperscan: ModuleType | None = None
    ) -> None:
        self.version = version
        self.all = tuple(rules)
        self._text = tuple(rule for rule in rules if rule.of == "text")
        self._names = tuple((re2_compile(r.source), r) for r in rules if r.of == "name")
        self.longest = max((max(rule.longest, rule.ahead) for rule in self._text), default=0)
        self._any = _whole_compile("|".join(f"(?:{one.source})" for one in self._text))
        self._each = tuple(re2_compile(one.source) for one in self._text)
        self._which = _set_of(self._text) if self._text else None
        begun = "|".join(beginnings(one.source) for one in self._text)
        self._begun = re2_compile(f"(?:{begun})\\z")
        self.prefilter = None
        if hyperscan is not None and self._text:
            self.prefilter = Prefilter(hyperscan, [one.source for one in self._text])

    def find(
        self,
        data: bytes,
        start: int,
        limit: int,
        *,
        base: int = 0,
        patience: Patience | None = None,
    ) -> tuple[Rule, int, int] | None:
        """Give the first rule that matches from [start, limit) on, with its secret's span; the
        match ends where the secret does, or behind it. `patience` counts what a check refuses,
        in the stream that the data is of, from `base` on."""
        patience = patience or Patience()
        if self._which is None:
            return None
        if self.prefilter is None:
            return self._search(data, start, limit, base, patience)
        while start < limit:
            # As much as decides on what begins in the step, and the byte before it.
            stop = min(limit, start + STEP_BYTES)
            seen = data[max(start - 1, 0) : stop + self.longest + 1]
            is_clean = stop - start >= STEP_BYTES_MIN and self.prefilter.is_clean(seen)
            if not is_clean:
                found = self._search(data, start, stop, base, patience)
                if found is not None:
                    return found
            start = stop
        return None

    def _search(
        self, data: bytes, start: int, limit: int, base: int, patience: Patience
    ) -> tuple[Rule, int, int] | None:
        end = min(len(data), limit + self.longest + 1)
        while start < limit and (found := self._any.search(data, start, end)) is not None:
            at = found.start()
            if at >= limit:
                return None
            for place in self._candidates(data, at):
                match = self._each[place].match(data, at, end)
                if match is None:
                    continue
                rule = self._text[place]
                first, last = match.span(rule.group)
                if rule.accepts(data[first:last]) or not patience.lasts(
                    base + at, match.end() - at
                ):
                    return rule, first, last
            start = at + 1
        return None

    def open_from(self, data: bytes, start: int) -> int:
        """Give the first place from `start` on at which what comes behind the data may still
        decide on a match; the data's end where there is none."""
        start = max(start, len(data) - self.longest - 1)
        begun = self._begun.search(data, start)
        return len(data) if begun is None else int(begun.start())

    def _candidates(self, data: bytes, at: int) -> Sequence[int]:
        """Give the places of the rules that may match here, in their order."""
        before = data[at - 1 : at] if at else b"\n"
        which = self._which
        places = which and which.Match(before + data[at : at + self.longest + 1])
        # Some rule does: where the set ran out of memory it says none, and all are tried.
        return sorted(places) if places else range(len(self._each))

    def is_telling(self, name: bytes) -> bool:
        """Say whether a value of that name may be a secret whatever it looks like."""
        return self.telling(name) is not None

    def telling(self, name: bytes) -> Rule | None:
        """Give the rule by which a value of that name may be a secret whatever it looks like."""
        return next((rule for pattern, rule in self._names if pattern.search(name)), None)

    def of_name(self, name: bytes, value: bytes) -> Rule | None:
        """Give the rule by which the value of that name is a secret; an empty one is none."""
        for pattern, rule in self._names if value else ():
            if pattern.search(name) is not None and rule.accepts(value):
                return rule
        return None


def _set_of(rules: Sequence[Rule]) -> re2.Set:
    """Make what says which rules match behind the first byte; that byte decides on boundaries."""
    together = re2.Set.MatchSet(_options())
    for rule in rules:
        together.Add(f"(?s:.)(?:{rule.source})".encode("latin-1"))
    together.Compile()
    return together


def shipped(*, optional: bool = False, hyperscan: ModuleType | None = None) -> Rules:
    """Give the pack that is part of the package; `optional` adds its rules for personal data."""
    content = resources.files(__package__).joinpath(PACK).read_bytes()
    return _from(yaml_source.parse_document(content, PACK, reason=REASON), optional, hyperscan)


def load(path: Path, *, optional: bool = False) -> Rules:
    """Read a pack from a file.

    Raises:
        ProfileError: `RULES_INVALID`, with file, line, column and caret.
    """
    return _from(yaml_source.load_document(path, reason=REASON), optional)


def re2_compile(source: str) -> re2._Regexp:
    """Compile an expression over bytes.

    Raises:
        re2.error: RE2 does not take it.
    """
    return re2.compile(source.encode("latin-1"), _options())


def _whole_compile(source: str) -> re2._Regexp:
    """Compile what only says where it matches: without groups no more than the automaton runs."""
    options = _options()
    options.never_capture = True
    return re2.compile(source.encode("latin-1"), options)


def _options() -> re2.Options:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = AUTOMATON_BYTES
    return options


def _from(document: Document, optional: bool, hyperscan: ModuleType | None = None) -> Rules:
    pack = yaml_source.validate(document, _Pack, reason=REASON)
    problems = list(_problems(document, pack))
    if problems:
        raise ProblemsFound(REASON, problems)
    made = [_made(rule) for rule in pack.rules]
    wanted = [rule for rule in made if optional or not rule.is_optional]
    return Rules(wanted, version=pack.version, hyperscan=hyperscan)


def _made(rule: _Rule) -> Rule:
    return Rule(
        id=rule.id,
        source=rule.regex,
        of=rule.of,
        longest=_width(rule.regex)[1],
        group=re2_compile(rule.regex).groups,
        check=VALIDATORS[rule.check] if rule.check else None,
        odd=re2_compile(_odd(rule)) if rule.tail else None,
        until=re2_compile(rule.until) if rule.until else None,
        ahead=max((_width(one)[1] for one in (rule.until, rule.ends) if one), default=0),
        is_optional=rule.optional,
    )


def _odd(rule: _Rule) -> str:
    byte = f"([^{(rule.tail or '')[1:-1]}])"
    return f"{rule.ends}|{byte}" if rule.ends else byte


def _problems(document: Document, pack: _Pack) -> Iterator[Problem]:
    seen: set[str] = set()
    for place, rule in enumerate(pack.rules):
        for key, message in _complaints(rule, seen):
            yield document.problem(("rules", place, key), message)
        seen.add(rule.id)


def _complaints(rule: _Rule, seen: set[str]) -> Iterator[tuple[str, str]]:
    if rule.id in seen:
        yield "id", f"{rule.id} is there twice"
    if rule.check is not None and rule.check not in VALIDATORS:
        yield "check", f"there is no check {rule.check!r}: {', '.join(VALIDATORS)}"
    if why := _fault(rule.regex, MATCH_BYTES_MIN, MATCH_BYTES_MAX, 1, rule.of == "name"):
        yield "regex", why
    elif rule.tail is not None and not _ends_in_secret(rule.regex):
        yield "regex", "with a tail the group has to end the expression"
    if rule.of == "name" and (rule.tail or rule.until):
        yield "of", "a rule of names takes the whole value: it has no tail"
    if rule.tail is not None and not re.fullmatch(r"\[[^\[\]^](?:[^\[\]]|\\[\[\]])*\]", rule.tail):
        yield "tail", "is no class of bytes as [A-Za-z0-9_-]"
    elif rule.tail is not None and (why := _fault(rule.tail, 1, 1, 0, False)):
        yield "tail", why
    if rule.until is not None and rule.tail is None:
        yield "until", "needs a tail: the bytes that may come before the end"
    elif rule.until is not None and (why := _fault(rule.until, 1, UNTIL_BYTES_MAX, 0, False)):
        yield "until", why
    if rule.ends is not None and rule.until is None:
        yield "ends", "needs an until: the tail ends there, if nowhere else"
    elif rule.ends is not None and (why := _fault(rule.ends, 1, UNTIL_BYTES_MAX, 1, False)):
        yield "ends", why


def _ends_in_secret(source: str) -> bool:
    return re2_compile(source).groups == 0 or source.endswith(")")


def _fault(source: str, least: int, most: int, groups: int, is_name: bool) -> str:
    """Say what is wrong with an expression; "" where nothing is."""
    try:
        compiled = re2_compile(source)
        tree = _parser.parse(source.encode("latin-1"))
    except UnicodeEncodeError:
        return "has characters above U+00FF: rules look at bytes"
    except (re2.error, re.error, RecursionError, OverflowError) as error:
        return f"is not understood: {str(error)[:100]}"
    low, high = tree.getwidth()
    if compiled.groups > groups:
        return f"has {compiled.groups} groups; (?:…) makes none"
    if is_name:
        return ""  # a name is seen whole, so that anchors and any length are right
    if any(at not in _AT_ALLOWED for at in _anchors(tree)):
        return "has an anchor: a stream has no begin and no lines; \\b is allowed"
    if high > most:
        return f"has no longest match, or one of more than {most} bytes: say {{1,40}} for +"
    return f"may match less than {least} bytes" if low < least else ""


def _anchors(tree: Any) -> Iterator[str]:
    """Give the names of the anchors in a tree of Python's."""
    if isinstance(tree, tuple) and len(tree) == 2 and tree[0] is _constants.AT:
        yield str(tree[1])
    elif isinstance(tree, tuple | list | _parser.SubPattern):
        for part in tree:
            yield from _anchors(part)


def _width(source: str) -> tuple[int, int]:
    low, high = _parser.parse(source.encode("latin-1")).getwidth()
    return low, high
