"""Replaces secrets in a stream, whatever its chunks are, and in single values.

What is held back is what may be the beginning of a secret: from the first byte on at which what
has not come yet may still decide on a needle or a rule. It has at most as many bytes as the longest
of these, and mostly none. So what comes out does not depend on where the chunks end, nor on how
long they take to come. What has no longest length (a token's tail, a private key) is followed by
state: its bytes go into the HMAC and are dropped, and its mark comes with its end, or after
`TAIL_BYTES_MAX`.

Spans that overlap become one, so that no part of either is left; it is named after the first
literal in it, else after the first rule. A replacement reads `[REDACTED:name:hmac8]`: equal
secrets can be told to be equal, and that is all. A program may print such a text itself: what was
redacted is what `found` says.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import hmac
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from supervisor.audit.redaction.found import Found
from supervisor.audit.redaction.literals import Literal, Literals, RedactionFailed, mac8
from supervisor.audit.redaction.patience import Effort
from supervisor.audit.redaction.rules import Rule, Rules
from supervisor.audit.redaction.validators import is_value

BLOCK_BYTES = 256 * 1024
FOUND_MAX = 4096
TAIL_BYTES_MAX = 64 * 1024
"""Of one replacement. What goes on gets another; but what ends with `until` has lost its end then,
and would swallow all that follows."""
KEY_BYTES_MIN = 16
_NAMED = re.compile(rb"-{0,2}([A-Za-z0-9_][A-Za-z0-9_.-]*)=", re.ASCII)
"""What stands before a value in one argument: text that has a `=` somewhere is no name."""
_OPTION = re.compile(rb"-{1,2}([A-Za-z0-9_][A-Za-z0-9_.-]*)", re.ASCII)
"""What may stand before a value as an argument of its own."""

DEPTH_MAX = 64
ITEMS_MAX = 20_000

_OVER = "the stream has ended, or its redaction had failed"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
_P = ParamSpec("_P")
_T = TypeVar("_T")
_S = TypeVar("_S")


@dataclass(slots=True, eq=False)
class _Span:
    """A secret in the stream; offsets are the stream's."""

    start: int
    end: int
    name: str
    is_literal: bool
    mac: hmac.HMAC | None = None
    hmac8: str = ""


@dataclass(slots=True, eq=False)
class _Tail:
    """A secret whose end is not reached yet."""

    span: _Span
    rule: Rule
    taken: int = 0


@dataclass(slots=True, eq=False)
class _Open:
    """What is being replaced, and may still grow."""

    start: int
    end: int
    label: _Span = field(repr=False)


def fails_closed(
    method: Callable[Concatenate[_S, _P], _T],
) -> Callable[Concatenate[_S, _P], _T]:
    """Turn whatever goes wrong into the one error; its cause is dropped, as it may hold data."""

    @functools.wraps(method)
    def guarded(self: _S, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(self, *args, **kwargs)
        except RedactionFailed:
            raise
        except Exception as error:  # noqa: BLE001 (nothing may be stored, whatever it was)
            raise RedactionFailed(f"the redactor failed: {type(error).__name__}") from None

    return cast("Callable[Concatenate[_S, _P], _T]", guarded)


class Redactor:
    """Redacts one stream; `found` lists the first `FOUND_MAX` of `found_total` replacements.

    `released` is how many bytes of the unredacted stream what came out so far stands for.
    """

    def __init__(
        self, literals: Literals, rules: Rules, key: bytes, effort: Effort | None = None
    ) -> None:
        if len(key) < KEY_BYTES_MIN:
            raise RedactionFailed(f"a key of less than {KEY_BYTES_MIN} bytes")
        self._literals, self._rules, self._key = literals, rules, key
        self._data = b""  # from `_base` on; one byte before `released` is kept for a \b
        self._base = 0
        self._rules_at = 0
        self._effort = effort or Effort()
        self._open: _Open | None = None
        self._tail: _Tail | None = None
        self._is_over = False
        self.released = 0
        self.found: list[Found] = []
        self.found_total = 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; give what is known to be clean.

        Raises:
            RedactionFailed: and so does all that follows.
        """
        if self._is_over:
            raise RedactionFailed(_OVER)
        if not data:
            return b""
        return self._advance(data, is_last=False)

    @property
    def settled(self) -> int:
        """Give how many bytes of the unredacted stream are wholly told by what came out so far:
        what is being replaced right now has been released, and its replacement comes later."""
        return self.released if self._open is None else self._open.start

    def finish(self) -> bytes:
        """Give the rest. After it nothing can be fed.

        Raises:
            RedactionFailed: as `feed`.
        """
        return self._advance(b"", is_last=True)

    @fails_closed
    def _advance(self, data: bytes, *, is_last: bool) -> bytes:
        if self._is_over:
            raise RedactionFailed(_OVER)
        self._is_over = True  # until this step is through
        out: list[bytes] = []
        for start in range(0, max(len(data), 1), BLOCK_BYTES):
            self._data += data[start : start + BLOCK_BYTES]
            out += self._step(is_last=is_last)
        self._is_over = is_last
        return b"".join(out)

    def _step(self, *, is_last: bool) -> Iterator[bytes]:
        at = self.released
        ruled, limit = self._ruled(is_last=is_last)
        for span in heapq.merge(ruled, self._literal_spans(limit), key=_order):
            if self._joins(span):
                continue
            if self._open is not None:
                yield self._replaced(self._open)
                at = self._open.end
            yield self._data[at - self._base : span.start - self._base]
            at = span.start
            self._open = _Open(span.start, span.end, span)
        if self._open is not None and (self._open.end < limit or is_last):
            yield self._replaced(self._open)
            at = self._open.end
            self._open = None
        if self._open is None:
            yield self._data[at - self._base : limit - self._base]
        self.released = limit
        self._data = self._data[max(limit - 1 - self._base, 0) :]
        self._base = max(limit - 1, self._base)

    def _ruled(self, *, is_last: bool) -> tuple[list[_Span], int]:
        """Give what the rules find, and up to where all is decided, for them and for literals."""
        data, base = self._data, self._base
        known = limit = base + len(data)
        if not is_last:
            known = limit = base + self._literals.open_from(data, self.released - base)
        spans: list[_Span] = []
        self._rules_at = max(self._rules_at, self.released)
        if (former := self._tail) is not None:
            spans += self._follow(known, is_last)
            if self._open is not None:
                self._open.end = max(self._open.end, former.span.end)
        if self._tail is None:
            if not is_last:
                limit = min(limit, base + self._rules.open_from(data, self._rules_at - base))
            spans += self._rule_spans(limit, known, is_last)
        if self._tail is not None:  # whether what follows belongs to it is not known
            limit = min(limit, self._tail.span.end)
        return spans, max(limit, self.released)

    def _joins(self, span: _Span) -> bool:
        """Say whether a span is part of what is open, which then grows."""
        group = self._open
        if group is None or span.start > group.end:
            return False
        label = group.label
        is_full = group.end - group.start >= TAIL_BYTES_MAX
        if span.start == group.end and (
            is_full or not (span.is_literal and label.is_literal and span.name == label.name)
        ):
            return False  # one behind the other; pieces of one literal are one
        if is_full and span.end > group.end:
            span.start = group.end
            return False
        group.end = max(group.end, span.end)
        if span.is_literal and not label.is_literal:
            group.label = span
        return True

    def _replaced(self, group: _Open) -> bytes:
        label = group.label
        hmac8 = label.mac.hexdigest()[:8] if label.mac is not None else label.hmac8
        length = group.end - group.start
        found = Found(offset=group.start, length=length, rule=label.name, hmac8=hmac8)
        self.found_total += 1
        if len(self.found) < FOUND_MAX:
            self.found.append(found)
        return found.mark

    def _literal_spans(self, limit: int) -> Iterator[_Span]:
        base, patience = self._base, self._effort.literals
        found = self._literals.spans(
            self._data, self.released - base, limit - base, base=base, patience=patience
        )
        for first, end, literal in found:
            yield _Span(
                start=self._base + first,
                end=self._base + end,
                name=literal.name,
                is_literal=True,
                hmac8=self._literal_mac(literal),
            )

    def _literal_mac(self, literal: Literal) -> str:
        return mac8(self._key, literal.value)

    def _rule_spans(self, limit: int, known: int, is_last: bool) -> Iterator[_Span]:
        """Give what the rules find up to `limit`, or a tail that has not ended."""
        while True:
            data, base = self._data, self._base
            patience = self._effort.rules
            match = self._rules.find(
                data, self._rules_at - base, limit - base, base=base, patience=patience
            )
            if match is None:
                self._rules_at = max(self._rules_at, limit)
                return
            rule, first, end = match
            mac = hmac.new(self._key, data[first:end], hashlib.sha256)
            span = _Span(base + first, base + end, rule.id, False, mac=mac)
            self._rules_at = span.end
            yield span
            if rule.odd is not None:
                self._tail = _Tail(span, rule)
                yield from self._follow(known, is_last)
                if self._tail is not None:
                    return

    def _follow(self, limit: int, is_last: bool) -> Iterator[_Span]:
        """Follow the tail as far as it is known, and no further than a literal may begin; give the
        spans that go on where one is full."""
        while (tail := self._tail) is not None:
            self._follow_one(tail, limit, is_last)
            if self._tail is tail:
                return
            if self._tail is not None:
                yield self._tail.span

    def _follow_one(self, tail: _Tail, limit: int, is_last: bool) -> None:
        odd_of, mac = tail.rule.odd, tail.span.mac
        if odd_of is None or mac is None:
            raise RedactionFailed("there is no tail to follow")
        data, rule = self._data, tail.rule
        start = tail.span.end - self._base
        known = len(data)
        if not is_last:
            known = max(start, min(limit - self._base, known - rule.ahead))
        odd, stop = _end_of_tail(odd_of, data, start, known)
        ended = odd or (is_last and stop == known)
        if rule.until is not None:
            end = rule.until.search(data, start)
            if end is not None and (end.start() <= stop if ended else end.start() < known):
                stop, ended = end.end(), True
        room = TAIL_BYTES_MAX - tail.taken
        is_full = stop - start > room
        stop = min(stop, start + room)
        mac.update(data[start:stop])
        tail.span.end = self._rules_at = self._base + stop
        tail.taken += stop - start
        if is_full and rule.until is None:
            mac = hmac.new(self._key, digestmod=hashlib.sha256)
            more = _Span(tail.span.end, tail.span.end, rule.id, False, mac=mac)
            self._tail = _Tail(more, rule)
        elif is_full or ended:
            self._tail = None


class ValueRedactor:
    """Redacts what is at hand as a whole: argv, the environment, errors, names, JSON.

    Each method gives the clean value and what was replaced in it, and raises `RedactionFailed`.
    """

    def __init__(self, literals: Literals, rules: Rules, key: bytes) -> None:
        self._literals, self._rules, self._key = literals, rules, key
        self._effort, self._looking = Effort(), Effort()

    def redact_bytes(self, data: bytes, *, pointer: str = "") -> tuple[bytes, list[Found]]:
        """Redact bytes; `pointer` says where they are from."""
        redactor = Redactor(self._literals, self._rules, self._key, self._effort)
        try:
            clean = redactor.feed(data) + redactor.finish()
        finally:
            self._effort.next_value(len(data))
        if redactor.found_total > len(redactor.found):
            raise RedactionFailed(f"more than {FOUND_MAX} secrets in one value")
        return clean, [replace(one, pointer=pointer) for one in redactor.found]

    @fails_closed
    def is_clean(self, values: Sequence[bytes]) -> bool:
        """Say whether there is nothing to replace in values, arguments by their names among them:
        one look at all of them together. It may say no where there is nothing."""
        joined, looking = b"\0".join(values), self._looking
        looking.next_value(len(joined))
        patience = looking.rules
        if self._rules.find(joined, 0, len(joined), patience=patience) is not None:
            return False
        spans = self._literals.spans(joined, 0, len(joined), patience=looking.literals)
        if next(spans, None) is not None:
            return False
        found = (_NAMED.match(one) or _OPTION.fullmatch(one) for one in values)
        names = (one[1] for one in found if one is not None)
        return not any(self._rules.is_telling(name) for name in names)

    @fails_closed
    def redact_text(self, text: str, *, pointer: str = "") -> tuple[str, list[Found]]:
        """Redact a text; offsets are of its UTF-8, and bytes that are none come back as they were
        (`surrogateescape`)."""
        clean, found = self.redact_bytes(_encoded(text), pointer=pointer)
        return clean.decode("utf-8", "surrogateescape"), found

    @fails_closed
    def redact_argv(self, argv: Sequence[bytes]) -> tuple[list[bytes], list[Found]]:
        """Redact arguments; by their names the one behind `--password`, and what follows `=`."""
        clean: list[bytes] = []
        found: list[Found] = []
        name = b""
        for place, argument in enumerate(argv):
            named = _NAMED.match(argument)
            if named is not None and self._rules.of_name(name, argument) is None:
                one, more = self._assigned(argument[: named.end(1)], argument, f"/{place}")
            else:
                one, more = self._value(name, argument, f"/{place}")
            clean.append(one)
            found += more
            name = option_name(argument)
        return clean, found

    @fails_closed
    def redact_environment(
        self, environment: Mapping[bytes, bytes]
    ) -> tuple[dict[bytes, bytes], list[Found]]:
        """Redact the values of variables, also by their names."""
        clean: dict[bytes, bytes] = {}
        found: list[Found] = []
        for name, value in environment.items():
            pointer = f"/{_escaped(name.decode('utf-8', 'backslashreplace'))}"
            shown, more = self.redact_bytes(name)
            if more:
                pointer = f"/{_escaped(shown.decode('utf-8', 'backslashreplace'))}"
                found += [replace(one, pointer=pointer) for one in more]
            if shown in clean:
                raise RedactionFailed("two names are one when they are redacted")
            clean[shown], more = self._value(name, value, pointer)
            found += more
        return clean, found

    @fails_closed
    def redact_json(self, value: Json) -> tuple[Json, list[Found]]:
        """Redact the strings, the numbers and the names in a JSON value."""
        walk = _Walk(self)
        return walk.clean(value, b"", "", 0), walk.found

    def _assigned(self, name: bytes, whole: bytes, pointer: str) -> tuple[bytes, list[Found]]:
        """Redact `name=value`."""
        cut = len(name) + 1
        clean, found = self.redact_bytes(whole, pointer=pointer)
        rule = self._rules.of_name(name.lstrip(b"-"), whole[cut:])
        if rule is None or any(
            (one.offset, one.length) == (cut, len(whole) - cut) for one in found
        ):
            return clean, found
        if any(one.offset < cut < one.offset + one.length for one in found):
            return self._as_whole(rule, whole, pointer)
        head, before = self.redact_bytes(whole[:cut], pointer=pointer)
        tail, (one,) = self._as_whole(rule, whole[cut:], pointer)
        return head + tail, [*before, replace(one, offset=cut)]

    def _as_whole(self, rule: Rule, value: bytes, pointer: str) -> tuple[bytes, list[Found]]:
        hmac8 = mac8(self._key, value)
        found = Found(offset=0, length=len(value), rule=rule.id, hmac8=hmac8, pointer=pointer)
        return found.mark, [found]

    def _value(self, name: bytes, value: bytes, pointer: str) -> tuple[bytes, list[Found]]:
        """Redact a value that has a name: as a whole where a rule says so by the name."""
        rule = self._rules.of_name(name, value) if name and value else None
        clean, found = self.redact_bytes(value, pointer=pointer)
        if rule is None or any(one.length == len(value) for one in found):
            return clean, found
        return self._as_whole(rule, value, pointer)


def name_before_value(argument: bytes) -> tuple[bytes, int]:
    """Give the name that an argument, as `--password=x`, has for its own value, and where that
    begins; b"" for none."""
    named = _NAMED.match(argument)
    return (named[1], named.end()) if named is not None else (b"", 0)


def option_name(argument: bytes) -> bytes:
    """Give the name that an argument, as `--password`, has for the next one; b"" for none."""
    option = _OPTION.fullmatch(argument)
    return option[1] if option is not None else b""


class _Walk:
    """Walks one JSON value."""

    def __init__(self, redactor: ValueRedactor) -> None:
        self._redactor = redactor
        self._items = 0
        self.found: list[Found] = []

    def clean(self, value: Json, name: bytes, pointer: str, depth: int) -> Json:
        self._items += 1
        if depth > DEPTH_MAX or self._items > ITEMS_MAX:
            raise RedactionFailed(f"a value deeper than {DEPTH_MAX} or of more than {ITEMS_MAX}")
        if isinstance(value, dict):
            return self._mapping(value, pointer, depth)
        if isinstance(value, list):
            return [
                self.clean(one, name, f"{pointer}/{place}", depth + 1)
                for place, one in enumerate(value)
            ]
        if value is None or isinstance(value, bool):
            return value  # has no room for a secret
        if not isinstance(value, str | int | float):
            raise RedactionFailed(f"{type(value).__name__} is nothing of JSON")
        data = _encoded(value if isinstance(value, str) else str(value))
        # {"pass": 12} may be a result: in JSON no name decides alone.
        clean, found = self._redactor._value(name if is_value(data) else b"", data, pointer)
        self.found += found
        return clean.decode("utf-8", "surrogateescape") if found else value

    def _mapping(self, value: dict[str, Json], pointer: str, depth: int) -> dict[str, Json]:
        clean: dict[str, Json] = {}
        for key, one in value.items():
            shown, found = self._redactor.redact_text(key)
            below = f"{pointer}/{_escaped(shown)}"
            self.found += [replace(each, pointer=below) for each in found]
            if shown in clean:
                raise RedactionFailed("two names are one when they are redacted")
            clean[shown] = self.clean(one, _encoded(key), below, depth + 1)
        return clean


def _end_of_tail(odd_of: Any, data: bytes, start: int, known: int) -> tuple[bool, int]:
    """Say whether something odd begins in [start, known), and up to where the tail goes."""
    at = start
    while at < known and (found := odd_of.search(data, at)) is not None and found.start() < known:
        if any(first >= 0 for first, _ in map(found.span, range(1, odd_of.groups + 1))):
            return True, int(found.start())
        if found.end() > known:
            return False, int(found.start())  # a whole that is looked at again with what comes
        at = found.end()
    return False, known


def _order(span: _Span) -> tuple[int, bool]:
    """Sort by where they begin, literals first."""
    return span.start, not span.is_literal


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")  # a lone half, as JSON's \ud800 makes it


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
