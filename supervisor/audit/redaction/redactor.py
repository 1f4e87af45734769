"""Replaces secrets in a stream, whatever its chunks are, and in single values.

A stream is looked at in windows. Whether something begins at a byte is known once as many bytes
follow as the longest needle and the longest rule have; what comes later is held back. So what
comes out does not depend on where the chunks end. What has no longest length (a token's tail, a
private key) is followed by state: its bytes go into the HMAC and are dropped.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Concatenate, ParamSpec, TypeVar, cast

from supervisor.audit.redaction.literals import Literal, Literals, RedactionFailed, mac8
from supervisor.audit.redaction.rules import Rule, Rules

STEP_BYTES = 4096
"""So much is gathered before it is looked at: small chunks cost no scan each."""
BLOCK_BYTES = 256 * 1024
FOUND_MAX = 4096
TAIL_BYTES_MAX = 64 * 1024
"""Of what ends with `until`: a longer one has lost its end, and would swallow all that follows."""
KEY_BYTES_MIN = 16
DEPTH_MAX = 64
ITEMS_MAX = 20_000

_OVER = "the stream has ended, or its redaction had failed"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
_P = ParamSpec("_P")
_T = TypeVar("_T")
_S = TypeVar("_S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was replaced: where in the unredacted stream, by which rule, and the HMAC's begin.

    In a value that is no stream, `pointer` (RFC 6901) says in which part of it.
    """

    offset: int
    length: int
    rule: str
    hmac8: str
    pointer: str = ""


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


def _fails_closed(
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

    def __init__(self, literals: Literals, rules: Rules, key: bytes) -> None:
        if len(key) < KEY_BYTES_MIN:
            raise RedactionFailed(f"a key of less than {KEY_BYTES_MIN} bytes")
        self._literals, self._rules, self._key = literals, rules, key
        # What begins before the limit has the byte behind its longest match in sight, too: that
        # byte decides on a \b.
        self._hold = max(literals.longest, rules.longest)
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._data = b""  # from `_base` on; one byte before `released` is kept for a \b
        self._base = 0
        self._rules_at = 0
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
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        return self._advance(is_last=False) if self._waiting_bytes >= STEP_BYTES else b""

    def finish(self) -> bytes:
        """Give the rest. After it nothing can be fed.

        Raises:
            RedactionFailed: as `feed`.
        """
        return self._advance(is_last=True)

    @_fails_closed
    def _advance(self, *, is_last: bool) -> bytes:
        if self._is_over:
            raise RedactionFailed(_OVER)
        self._is_over = True  # until this step is through
        waiting = b"".join(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        out: list[bytes] = []
        for start in range(0, max(len(waiting), 1), BLOCK_BYTES):
            self._data += waiting[start : start + BLOCK_BYTES]
            ends = is_last and start + BLOCK_BYTES >= len(waiting)
            out += self._step(is_last=ends)
        self._is_over = is_last
        return b"".join(out)

    def _step(self, *, is_last: bool) -> Iterator[bytes]:
        end = self._base + len(self._data)
        limit = end if is_last else max(self.released, end - self._hold)
        at = self.released
        self._rules_at = max(self._rules_at, at)
        ruled = list(self._rule_spans(limit, is_last))
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

    def _joins(self, span: _Span) -> bool:
        """Say whether a span is part of what is open, which then grows."""
        group = self._open
        if group is None or span.start > group.end:
            return False
        label = group.label
        if span.start == group.end and not (
            span.is_literal and label.is_literal and span.name == label.name
        ):
            return False  # one behind the other; pieces of one literal are one
        group.end = max(group.end, span.end)
        if span.is_literal and not label.is_literal:
            group.label = span
        return True

    def _replaced(self, group: _Open) -> bytes:
        label = group.label
        hmac8 = label.mac.hexdigest()[:8] if label.mac is not None else label.hmac8
        self.found_total += 1
        if len(self.found) < FOUND_MAX:
            self.found.append(
                Found(
                    offset=group.start,
                    length=group.end - group.start,
                    rule=label.name,
                    hmac8=hmac8,
                )
            )
        return f"[REDACTED:{label.name}:{hmac8}]".encode()

    def _literal_spans(self, limit: int) -> Iterator[_Span]:
        found = self._literals.spans(self._data, self.released - self._base, limit - self._base)
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

    def _rule_spans(self, limit: int, is_last: bool) -> Iterator[_Span]:
        """Give what the rules find from where they stand, up to `limit` or an end not in sight."""
        if self._tail is not None:
            span = self._tail.span
            ended = self._follow(is_last)
            if self._open is not None:
                self._open.end = max(self._open.end, span.end)
            if not ended:
                return
        while True:
            data, base = self._data, self._base
            match = self._rules.find(data, self._rules_at - base, limit - base)
            if match is None:
                self._rules_at = max(self._rules_at, limit)
                return
            rule, first, end = match
            mac = hmac.new(self._key, data[first:end], hashlib.sha256)
            span = _Span(base + first, base + end, rule.id, False, mac=mac)
            self._rules_at = span.end
            if rule.odd is not None:
                self._tail = _Tail(span, rule)
                ended = self._follow(is_last)
                yield span
                if not ended:
                    return
            else:
                yield span

    def _follow(self, is_last: bool) -> bool:
        """Follow the tail as far as it is known; say whether it has ended."""
        tail = self._tail
        odd_of, mac = (tail.rule.odd, tail.span.mac) if tail is not None else (None, None)
        if tail is None or odd_of is None or mac is None:
            raise RedactionFailed("there is no tail to follow")
        data, rule = self._data, tail.rule
        start = tail.span.end - self._base
        known = len(data) if is_last else max(start, len(data) - rule.until_longest)
        odd = odd_of.search(data, start, known) if known > start else None
        stop: int = odd.start() if odd is not None else known
        ended = odd is not None or is_last
        if rule.until is not None:
            end = rule.until.search(data, start)
            if end is not None and (end.start() <= stop if ended else end.start() < known):
                stop, ended = end.end(), True
            room = TAIL_BYTES_MAX - tail.taken
            if stop - start >= room:
                stop, ended = start + room, True
        mac.update(data[start:stop])
        tail.span.end = self._rules_at = self._base + stop
        tail.taken += stop - start
        if ended:
            self._tail = None
        return ended


class ValueRedactor:
    """Redacts what is at hand as a whole: argv, the environment, errors, names, JSON.

    Each method gives the clean value and what was replaced in it, and raises `RedactionFailed`.
    """

    def __init__(self, literals: Literals, rules: Rules, key: bytes) -> None:
        self._literals, self._rules, self._key = literals, rules, key

    def redact_bytes(self, data: bytes, *, pointer: str = "") -> tuple[bytes, list[Found]]:
        """Redact bytes; `pointer` says where they are from."""
        redactor = Redactor(self._literals, self._rules, self._key)
        clean = redactor.feed(data) + redactor.finish()
        if redactor.found_total > len(redactor.found):
            raise RedactionFailed(f"more than {FOUND_MAX} secrets in one value")
        return clean, [replace(one, pointer=pointer) for one in redactor.found]

    @_fails_closed
    def redact_text(self, text: str, *, pointer: str = "") -> tuple[str, list[Found]]:
        """Redact a text; offsets are of its UTF-8, and bytes that are none come back as they were
        (`surrogateescape`)."""
        clean, found = self.redact_bytes(_encoded(text), pointer=pointer)
        return clean.decode("utf-8", "surrogateescape"), found

    @_fails_closed
    def redact_argv(self, argv: Sequence[bytes]) -> tuple[list[bytes], list[Found]]:
        """Redact arguments; by their names the one behind `--password`, and what follows `=`."""
        clean: list[bytes] = []
        found: list[Found] = []
        name = b""
        for place, argument in enumerate(argv):
            before, equals, _ = argument.partition(b"=")
            if equals and self._rules.of_name(name, argument) is None:
                one, more = self._assigned(before, argument, f"/{place}")
            else:
                one, more = self._value(name, argument, f"/{place}")
            clean.append(one)
            found += more
            is_option = argument.startswith(b"-") and not equals
            name = argument.lstrip(b"-") if is_option else b""
        return clean, found

    @_fails_closed
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

    @_fails_closed
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
        return f"[REDACTED:{rule.id}:{hmac8}]".encode(), [found]

    def _value(self, name: bytes, value: bytes, pointer: str) -> tuple[bytes, list[Found]]:
        """Redact a value that has a name: as a whole where a rule says so by the name."""
        rule = self._rules.of_name(name, value) if name and value else None
        clean, found = self.redact_bytes(value, pointer=pointer)
        if rule is None or any(one.length == len(value) for one in found):
            return clean, found
        return self._as_whole(rule, value, pointer)


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
        text = value if isinstance(value, str) else str(value)
        clean, found = self._redactor._value(name, _encoded(text), pointer)
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
