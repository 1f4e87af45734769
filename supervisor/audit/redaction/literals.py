"""Finds exact secrets in a stream: values that we know, however they were spelt on the way.

A value becomes needles: itself, each longer line of it, each longer string in it where it is JSON,
and of each of these the spellings that programs write: base64 (both alphabets, at the three
places in a group of three bytes that it may begin at, with or without padding, broken into lines),
percent-encoding, hex, JSON strings, quoting for shells. What is long is cut into pieces.

The first bytes of all needles are one expression for RE2, whose automaton reads each byte once,
however many they are; where it stops, the needles that begin so are compared.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import re2

from supervisor.audit.redaction.patience import Patience

SECRET_BYTES_MIN = 4
SECRET_BYTES_MAX = 64 * 1024
SECRETS_MAX = 256
LINE_BYTES_MIN = 8
SPELLING_BYTES_MIN = 6
PIECE_BYTES = 96
NEEDLES_BYTES_MAX = 2 * 1024 * 1024
JSON_LEAVES_MAX = 256
PREFIX_BYTES = 8
AUTOMATON_BYTES = 96 * 1024 * 1024
LOOKS_MAX = 16
"""At beginnings of needles near the end of the data; where there are more, it is held back."""
LOOK_BYTES = 16
"""As many bytes as one look at a beginning counts for."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_MARKER = re.compile(rb"-----(BEGIN|END) [A-Z0-9 ]+-----")
_BREAK = rb"(?:\r?\n|\\n|\\r\\n)?"
_BREAKS = re.compile(rb"\r?\n|\\n|\\r\\n")
_BREAK_BYTES = 4  # of the longest
_BROKEN_BREAK = rb"(?:\r|\\(?:r\\?)?)?"
_BROKEN_BREAKS = (b"\r", b"\\", b"\\r", b"\\r\\")


class RedactionFailed(Exception):
    """It is not known what of the data is secret: none of it may be stored, only its digest.

    Its message never holds any of the data.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    """A secret that we know, by the name that replaces it."""

    name: str
    value: bytes

    def __repr__(self) -> str:
        """Name it, and no more."""
        return f"Literal(name={self.name!r})"


class Literals:
    """Exact secrets, made ready to be found; it never changes and may be shared.

    `too_short` names those that are not looked for: what has less than `SECRET_BYTES_MIN` bytes
    is everywhere. Whoever hands such a secret out has to say so in the record.
    """

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        if len(secrets) > SECRETS_MAX:
            raise RedactionFailed(f"more than {SECRETS_MAX} secrets")
        owners: dict[tuple[bytes, bool], Literal] = {}
        short = []
        for name, value in secrets.items():
            _check(name, value)
            if len(value) < SECRET_BYTES_MIN:
                short.append(name)
                continue
            literal = Literal(name=name, value=value)
            for one in needles(value):
                owners.setdefault(one, literal)
        self.too_short = tuple(short)
        self.names = tuple(name for name in secrets if name not in short)
        if sum(len(needle) for needle, _ in owners) > NEEDLES_BYTES_MAX:
            raise RedactionFailed(
                f"the secrets need more than {NEEDLES_BYTES_MAX} bytes of needles"
            )
        self.longest = max((_reach(*one) for one in owners), default=0)
        # By their first bytes, so that few are compared; the longest first.
        self._plain: dict[bytes, list[tuple[bytes, Literal]]] = {}
        self._wrapped: dict[bytes, list[tuple[bytes, Literal]]] = {}
        for (needle, may_wrap), literal in sorted(
            owners.items(), key=lambda item: (-len(item[0][0]), item[0])
        ):
            group = self._wrapped if may_wrap else self._plain
            group.setdefault(needle[:PREFIX_BYTES], []).append((needle, literal))
        self._lengths = sorted({len(prefix) for prefix in (*self._plain, *self._wrapped)})
        self._pattern = self._begun = None
        if owners:
            self._pattern = _compiled(self._plain, self._wrapped, _tree)
            self._begun = _compiled(self._plain, self._wrapped, _open_tree, "\\z")

    def spans(
        self,
        data: bytes,
        start: int,
        limit: int,
        *,
        base: int = 0,
        patience: Patience | None = None,
    ) -> Iterator[tuple[int, int, Literal]]:
        """Give (from, to, secret) of all that begins in [start, limit), by where it begins.

        Where one begins, the longest is given; what overlaps is given, too. `patience` counts what
        only begins as a secret, in the stream that the data is of, from `base` on; where it is at
        its end, that is given.
        """
        if self._pattern is None:
            return
        patience = patience or Patience()
        start = max(start, patience.resume - base)
        end = min(len(data), limit + self.longest)
        while start < limit and (found := self._pattern.search(data, start, end)) is not None:
            first = found.start()
            if first >= limit:
                return
            longest = max(self._at(data, first), key=lambda one: one[0], default=None)
            if longest is not None:
                yield first, *longest
            elif not patience.lasts(base + first, LOOK_BYTES):
                yield first, found.end(), self._owner(data, first)
                first = found.end() - 1
                patience.resume = base + first + 1
            start = first + 1

    def open_from(self, data: bytes, start: int) -> int:
        """Give the first place from `start` on at which what comes behind the data may still
        decide on a secret; the data's end where there is none."""
        start = max(start, len(data) - self.longest)
        if self._pattern is None or self._begun is None:
            return len(data)
        begun = self._begun.search(data, start)
        first = len(data) if begun is None else int(begun.start())
        # The first bytes of a needle may be there as a whole, too.
        looks = 0
        while (found := self._pattern.search(data, start)) is not None and found.start() < first:
            looks += 1
            if looks > LOOKS_MAX or self._may_grow(data, found.start()):
                return int(found.start())
            start = found.start() + 1
        return first

    def _owner(self, data: bytes, first: int) -> Literal:
        """Give a secret of which a needle has the first bytes that are here."""
        near, joined = data[first : first + PREFIX_BYTES], _joined(data, first)
        for length in self._lengths:
            for groups, prefix in ((self._plain, near), (self._wrapped, joined)):
                if prefix[:length] in groups:
                    return groups[prefix[:length]][0][1]
        raise RedactionFailed("what was found begins as no needle does")

    def _may_grow(self, data: bytes, first: int) -> bool:
        """Say whether the data ends within a needle that begins here."""
        joined = _joined(data, first)
        left = data[first:]
        for length in self._lengths:
            for needle, _ in self._plain.get(left[:length], ()):
                if len(needle) > len(left) and needle.startswith(left):
                    return True
            for needle, _ in self._wrapped.get(joined[:length], ()):
                if _ends_in_wrapped(data, first, needle):
                    return True
        return False

    def _at(self, data: bytes, first: int) -> Iterator[tuple[int, Literal]]:
        """Give (to, secret) of the needles that begin at a place."""
        joined = _joined(data, first)
        for length in self._lengths:
            for needle, literal in self._plain.get(data[first : first + length], ()):
                if data.startswith(needle, first):
                    yield first + len(needle), literal
                    break
            for needle, literal in self._wrapped.get(joined[:length], ()):
                end = _end_of_wrapped(data, first, needle)
                if end is not None:
                    yield end, literal
                    break


def _joined(data: bytes, first: int) -> bytes:
    """Give the bytes from a place on without line breaks, as many as a needle is looked up by."""
    seen = data[first : first + PREFIX_BYTES * (1 + _BREAK_BYTES)]
    return _BREAKS.sub(b"", seen) if b"\n" in seen or b"\\" in seen else seen


def _ends_in_wrapped(data: bytes, at: int, needle: bytes) -> bool:
    """Say whether the data ends within a needle that begins here, maybe within a line break."""
    for place, byte in enumerate(needle):
        if place and (found := _BREAKS.match(data, at)) is not None:
            at = found.end()
        if at >= len(data) or (place and data[at:] in _BROKEN_BREAKS):
            return True
        if data[at] != byte:
            return False
        at += 1
    return False


def _end_of_wrapped(data: bytes, at: int, needle: bytes) -> int | None:
    """Say where a needle ends that begins here and may have line breaks in it."""
    if data.startswith(needle, at):
        return at + len(needle)
    for place, byte in enumerate(needle):
        if place and (found := _BREAKS.match(data, at)) is not None:
            at = found.end()
        if at >= len(data) or data[at] != byte:
            return None
        at += 1
    return at


def mac8(key: bytes, secret: bytes) -> str:
    """Give what stands for a secret: equal for equal secrets, and of no use without the key."""
    return hmac.new(key, secret, hashlib.sha256).hexdigest()[:8]


def needles(value: bytes) -> Iterator[tuple[bytes, bool]]:
    """Give what to look for, and of each whether line breaks may be in it."""
    for part in _parts(value):
        yield from ((piece, False) for piece in _pieces(part))
        for spelling in _spellings(part):
            yield from ((piece, False) for piece in _pieces(spelling) if _is_long(piece))
        for spelling in _base64(part):
            yield from ((piece, True) for piece in _pieces(spelling) if _is_long(piece))


def _check(name: str, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise RedactionFailed("a secret's name has other characters than letters, digits and ._-")
    if len(value) > SECRET_BYTES_MAX:
        raise RedactionFailed(f"the secret {name} has more than {SECRET_BYTES_MAX} bytes")


def _is_long(piece: bytes) -> bool:
    return len(piece) >= SPELLING_BYTES_MIN


def _parts(value: bytes) -> dict[bytes, None]:
    """Give the value, its lines, and the strings in it where it is JSON; each once."""
    wholes = [value, *_leaves(value)]
    parts = dict.fromkeys(wholes)
    for whole in wholes:
        stripped = whole.strip()
        if len(stripped) >= SECRET_BYTES_MIN:
            parts[stripped] = None
        for line in re.split(rb"[\r\n]+", whole):
            line = line.strip()
            if len(line) >= LINE_BYTES_MIN and not _MARKER.fullmatch(line):
                parts[line] = None
    return parts


def _leaves(value: bytes) -> list[bytes]:
    """Give the longer strings of a JSON value; a value that is none has none."""
    if value.lstrip()[:1] not in (b"{", b"["):
        return []
    try:
        root = json.loads(value)
    except (ValueError, RecursionError):
        return []  # it is no JSON: it is found as the text it is
    leaves: list[bytes] = []
    left = [root]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
        elif isinstance(one, str) and len(one) >= LINE_BYTES_MIN:
            leaves.append(one.encode(errors="surrogatepass"))
        if len(leaves) > JSON_LEAVES_MAX:
            raise RedactionFailed(f"a secret with more than {JSON_LEAVES_MAX} strings in it")
    return leaves


def _pieces(needle: bytes) -> Iterator[bytes]:
    """Cut what is long, so that what has to be held back stays short."""
    if len(needle) <= PIECE_BYTES:
        yield needle
        return
    for start in range(0, len(needle) - PIECE_BYTES + 1, PIECE_BYTES):
        yield needle[start : start + PIECE_BYTES]
    yield needle[-PIECE_BYTES:]


def _spellings(part: bytes) -> Iterator[bytes]:
    yield part.hex().encode()
    yield part.hex().upper().encode()
    for safe in ("", "/", "-._~!$&'()*+,;=:@/?"):
        escaped = quote(part, safe=safe)
        yield escaped.encode()
        yield escaped.replace("%20", "+").encode()
        yield re.sub("%[0-9A-F]{2}", lambda found: found.group().lower(), escaped).encode()
    everything = "".join(f"%{byte:02X}" for byte in part)
    yield from (everything.encode(), everything.lower().encode())
    text = part.decode("utf-8", "surrogateescape")
    yield from (spelling.encode("utf-8", "surrogateescape") for spelling in _quoted(text))


def _quoted(text: str) -> Iterator[str]:
    """Give a text as it stands between the quotes of JSON, of shells and of Python."""
    for ascii_only in (True, False):
        plain = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield plain
        yield plain.replace("/", "\\/")
        yield re.sub("[<>&]", lambda found: f"\\u{ord(found.group()):04x}", plain)
        yield json.dumps(plain)[1:-1]
    yield shlex.quote(text).removeprefix("'").removesuffix("'")
    yield text.replace("'", "'\\''")
    yield re.sub(r'([\\"$`])', r"\\\1", text)
    yield re.sub(r'([\\"$`!])', r"\\\1", text)
    yield re.sub(r"([^\w@%+=:,./-])", r"\\\1", text)
    yield re.sub(r"(['\\])", r"\\\1", text).replace("\n", "\\n").replace("\t", "\\t")
    yield repr(text)[1:-1]


def _base64(part: bytes) -> Iterator[bytes]:
    """Give the characters of base64 that this part alone decides, wherever it begins."""
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + part)
        # The first character or two, and the last before any padding, hold bits of neighbours.
        first = (0, 2, 3)[shift]
        over = (shift + len(part)) % 3
        inner = encoded[first : len(encoded) - (0, 3, 2)[over]]
        spellings = [inner]
        if over:
            spellings += [encoded[first:].rstrip(b"="), encoded[first:]]
        for spelling in spellings:
            yield spelling
            yield spelling.replace(b"+", b"-").replace(b"/", b"_")


def _reach(needle: bytes, may_wrap: bool) -> int:
    return len(needle) + (len(needle) - 1) * _BREAK_BYTES if may_wrap else len(needle)


_Write = Callable[[Sequence[bytes], int, bytes], bytes]


def _compiled(
    plain: Iterable[bytes], wrapped: Iterable[bytes], write: _Write, end: str = ""
) -> re2._Regexp:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.never_capture = True
    options.max_mem = AUTOMATON_BYTES
    both = ((sorted(plain), b""), (sorted(wrapped), _BREAK))
    pattern = b"|".join(write(prefixes, 0, between) for prefixes, between in both if prefixes)
    try:
        return re2.compile(b"(?:" + pattern + b")" + end.encode(), options)
    except re2.error:
        raise RedactionFailed("the secrets cannot be made into an automaton") from None
    finally:
        re2.purge()  # its cache would keep the secrets after us


def _tree(prefixes: Sequence[bytes], depth: int, between: bytes) -> bytes:
    """Write sorted prefixes as an expression in which no beginning is there twice."""
    if len(prefixes[0]) == depth:
        return b""  # the shortest ends here; those that go on are found with it
    branches = [
        (first, _tree(list(group), depth + 1, between))
        for first, group in itertools.groupby(prefixes, key=lambda one: one[depth : depth + 1])
    ]
    written = (re2.escape(first) + (between if rest else b"") + rest for first, rest in branches)
    return b"(?:" + b"|".join(written) + b")"


def _open_tree(prefixes: Sequence[bytes], depth: int, between: bytes) -> bytes:
    """Write sorted prefixes as an expression for the beginnings of each, but not for all of it."""
    branches = []
    for first, group in itertools.groupby(
        (one for one in prefixes if len(one) > depth + 1), key=lambda one: one[depth : depth + 1]
    ):
        rest = _open_tree(list(group), depth + 1, between)
        more = between + (rest + b"?" if rest else b"")
        broken = b"|" + _BROKEN_BREAK if between else b""
        branches.append(re2.escape(first) + b"(?:" + more + broken + b")?")
    return b"(?:" + b"|".join(branches) + b")" if branches else b""
