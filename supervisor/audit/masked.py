"""What of an entry may hold a secret, and how it is replaced before the entry is written.

Only what a caller or a program chose is looked at: names of our own, digests and numbers stay.
What is found is told in the entry, as far as there is room. Where redaction fails, nothing of the
value is kept.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from supervisor.audit.codec import process_bytes
from supervisor.audit.masks import Mask, Masks
from supervisor.audit.redaction.argv import ArgvRedactor
from supervisor.audit.redaction.found import Found
from supervisor.audit.redaction.literals import RedactionFailed
from supervisor.audit.redaction.redactor import ValueRedactor
from supervisor.call.events import (
    Denied,
    Finished,
    Flow,
    MoreArgv,
    ProcessEnded,
    Processes,
    ProcessEvent,
    ProgramStarted,
    Watched,
)
from supervisor.call.outcome import Failed, Interrupted
from supervisor.call.types import Json, as_list, as_map, canonical_json, text, untext

if TYPE_CHECKING:
    from supervisor.profile.model import Redact

T = TypeVar("T")
E = TypeVar("E", bound="Denied | Watched | Flow")

QUICK_BYTES_MAX = 4096

FAILED = b"[REDACTED:failed]"
"""In the place of a value that could not be looked through."""

FOUND_TOLD_MAX = 64
POINTER_CHARACTERS_MAX = 128
MASKED_BYTES_MAX = 56 * 1024
"""Of the events of one entry with marks in it; what grows above it goes on in another entry."""

PARTS_MAX = 8
"""Entries that one of processes may become; above it, arguments are one mark."""

PATH_BYTES_MAX = 6144
"""Of a path with marks in it; it is cut there."""

ARGV_BYTES_MIN = 256
"""What stays with a start of which all arguments do not fit."""

PIECE_BYTES = 8 * 1024
"""Of an argv that goes on; as it is written, each byte may need six."""

RESTS_MAX = 256
"""Processes whose argv goes on in another event; of more, it is not stored."""

WHOLE_ARGV = b"[REDACTED:argv]"

_TEXTS = ("name", "detail", "rule", "reason")
"""Of a denial, a watched system call and a connection, besides the program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is stored of a request, by what is the rest of the call masked, and what INTENT says of
    it; None where the profile wants nothing to be masked."""

    request: bytes
    mask: Mask | None
    told: dict[str, Json] | None


def keep(masks: Masks, redact: Redact, secrets: Mapping[str, bytes], canonical: bytes) -> Kept:
    """Clean a request. Takes a while where it is long, or there are secrets."""
    mask = masks.make(redact, secrets)
    if mask is None:
        return Kept(request=canonical, mask=None, told=None)
    masked = Masked(mask)
    request = canonical_json(masked.request(json.loads(canonical)))
    return Kept(request=request, mask=mask, told={**mask.to_json(), "found": masked.told()})


def is_quick(masks: Masks, redact: Redact, secrets: Mapping[str, bytes], canonical: bytes) -> bool:
    """Say whether `keep` takes no longer than an event loop can wait."""
    return not secrets and masks.has(redact) and len(canonical) <= QUICK_BYTES_MAX


def as_it_was(finished: Finished, shown: Finished, stored: Finished) -> Finished:
    """Give a call's end as its caller gets it: as it is on record, but for what was masked."""
    if shown == finished:
        return stored
    return replace(finished, record=stored.record, record_bytes=stored.record_bytes)


def told(found: list[Json]) -> dict[str, Json]:
    """Give what an entry says of what was replaced in it."""
    return {"redactions": found} if found else {}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rest:
    """An argv of which more follows, up to byte `end`."""

    redactor: ArgvRedactor
    end: int


class Masked:
    """Cleans what the entries of one call tell, one after the other."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._values = ValueRedactor(mask.literals, mask.rules, mask.key)
        self._found: list[Found] = []
        self._rest: dict[int, _Rest] = {}
        self._rest_lost = False

    def events(self, events: Sequence[E]) -> list[tuple[E, list[Json]]]:
        """Clean events, each whole and before any of its texts is cut; give what was replaced in
        each, too. Mostly nothing is, and one look at all texts says so."""
        if not self._mask.failed and self._values.is_clean(sorted(_texts_of(events))):
            return [(event, []) for event in events]
        return [self._event(event) for event in events]

    def _event(self, event: E) -> tuple[E, list[Json]]:
        clean = replace(event, **self._said(event))
        found = self.told()
        return (clean if found or clean != event else event), found

    def processes(self, processes: Processes) -> list[tuple[Processes, list[Json]]]:
        """Clean what processes did. Marks may need more room than what they stand for: give the
        parts that an entry can hold, and what was replaced in each."""
        cleaned: list[tuple[ProcessEvent, list[Found]]] = []
        for event in processes.events:
            clean = self._process(event)
            found, self._found = self._found, []
            cleaned.append((clean, found))
        if not any(found for _, found in cleaned):
            clean_events = tuple(clean for clean, _ in cleaned)
            is_same = clean_events == processes.events
            return [(processes if is_same else Processes(events=clean_events), [])]
        whole = zip(processes.events, cleaned, strict=True)
        parts = _parts([_fitting(one, *clean) for one, clean in whole])
        if len(parts) > PARTS_MAX:
            parts = _parts([[(_without_argv(clean), found)] for clean, found in cleaned])
        return [
            (Processes(events=tuple(event for event, _ in part)), self._tell(part))
            for part in parts
        ]

    def _tell(self, part: Sequence[tuple[ProcessEvent, list[Found]]]) -> list[Json]:
        self._found = [
            replace(one, pointer=f"/events/{place}{one.pointer}")
            for place, (_, found) in enumerate(part)
            for one in found
        ]
        return self.told()

    def why(self, said: str) -> tuple[str, list[Json]]:
        """Clean a reason that somebody gave; give what was replaced, too."""
        return self._string(said, "/why"), self.told()

    def request(self, request: Mapping[str, Json]) -> dict[str, Json]:
        """Clean a request, as its canonical JSON has it."""
        files = [
            {**as_map(one), "path": self._text(as_map(one)["path"], f"/files/{place}/path")}
            for place, one in enumerate(as_list(request["files"]))
        ]
        globs = enumerate(as_list(request["outputs"]))
        correlation = as_map(request["correlation"])
        terminal = as_map(request.get("terminal", {}))
        named = {**terminal, **self._texts(terminal, ("term",), "/terminal")}
        return {
            **request,
            **({"terminal": named} if "terminal" in request else {}),
            "argv": self._argv(as_list(request["argv"]), "/argv"),
            "env": self._environment(as_map(request["env"])),
            "working_directory": self._text(request["working_directory"], "/working_directory"),
            "files": list[Json](files),
            "outputs": [self._text(one, f"/outputs/{place}") for place, one in globs],
            "correlation": self._texts(correlation, tuple(correlation), "/correlation"),
        }

    def finished(self, finished: Finished) -> Finished:
        """Clean what is told of a call's end: why, and the paths of files."""
        outcome = finished.outcome
        if isinstance(outcome, Failed | Interrupted):
            outcome = replace(outcome, message=self._string(outcome.message, "/outcome/message"))
        return replace(
            finished,
            outcome=outcome,
            outputs=tuple(
                replace(one, path=self._bytes(one.path, "/outputs")) for one in finished.outputs
            ),
            skipped=tuple(
                replace(one, path=self._bytes(one.path, "/skipped")) for one in finished.skipped
            ),
        )

    def told(self) -> list[Json]:
        """Give what was replaced since the last time, as it stands in an entry."""
        found, self._found = self._found, []
        told: list[Json] = [
            [one.pointer[:POINTER_CHARACTERS_MAX], one.offset, one.length, one.rule, one.hmac8]
            for one in found[:FOUND_TOLD_MAX]
        ]
        return [*told, len(found)] if len(found) > FOUND_TOLD_MAX else told

    def _texts(
        self, body: Mapping[str, Json], names: Sequence[str], pointer: str
    ) -> dict[str, Json]:
        return {name: self._text(body[name], f"{pointer}/{name}") for name in names if name in body}

    def _said(self, event: Denied | Watched | Flow) -> dict[str, Any]:
        said: dict[str, Any] = {"program": self._bytes(event.program, "/program")}
        for name in _TEXTS:
            value = getattr(event, name, None)
            if isinstance(value, str):
                said[name] = self._string(value, f"/{name}")
        return said

    def _process(self, event: ProcessEvent) -> ProcessEvent:
        match event:
            case ProgramStarted():
                path = self._bytes(event.path, "/path")
                directory = self._bytes(event.directory, "/directory")
                argv = tuple(self._started_argv(event))
                return _cut(replace(event, path=path, directory=directory, argv=argv), event)
            case MoreArgv():
                return replace(event, data=self._more_argv(event))
            case ProcessEnded():
                self._rest.pop(event.pid, None)
        return event

    def _started_argv(self, event: ProgramStarted) -> Sequence[bytes]:
        """Clean the beginning of an argv. Where more follows, the last argument may be cut in the
        middle of a secret: what may begin one comes with what follows."""
        self._rest.pop(event.pid, None)
        argv = event.argv
        is_whole = event.argv_bytes <= sum(len(one) + 1 for one in argv)
        if is_whole or not argv or self._mask.failed:
            return self._arguments(argv, "/argv")
        if len(self._rest) >= RESTS_MAX:
            self._rest_lost = True
            return [*self._arguments(argv[:-1], "/argv"), FAILED]
        begin, mask = _begins(argv)[len(argv) - 1], self._mask
        redactor = ArgvRedactor(
            mask.literals, mask.rules, mask.key,
            begin=begin, before=argv[-2] if len(argv) > 1 else b"",
        )  # fmt: skip
        rest = self._rest[event.pid] = _Rest(redactor=redactor, end=event.argv_bytes)
        before = self._arguments(argv[:-1], "/argv")
        at = len(self._found)
        last = self._feed(rest, argv[-1], begin, f"/argv/{len(argv) - 1}")
        self._found[at:] = [
            replace(one, offset=max(one.offset - begin, 0)) for one in self._found[at:]
        ]
        return [*before, last]

    def _more_argv(self, event: MoreArgv) -> bytes:
        rest = self._rest.get(event.pid)
        if rest is None:
            return FAILED if self._rest_lost else self._bytes(event.data, "/data")
        is_last = event.offset + len(event.data) >= rest.end
        if is_last:
            del self._rest[event.pid]
        return self._feed(rest, event.data, event.offset, "/data", is_last=is_last)

    def _feed(
        self, rest: _Rest, data: bytes, offset: int, pointer: str, *, is_last: bool = False
    ) -> bytes:
        def redact() -> tuple[bytes, list[Found]]:
            clean = rest.redactor.feed(data, offset, is_last=is_last)
            found, rest.redactor.found = rest.redactor.found, []
            return clean, found

        return self._guarded(redact, FAILED, pointer)

    def _arguments(self, argv: Sequence[bytes], pointer: str) -> Sequence[bytes]:
        if not self._mask.failed and self._values.is_clean(argv):
            return argv
        failed = [FAILED] * bool(argv)
        return self._guarded(lambda: self._values.redact_argv(argv), failed, pointer)

    def _argv(self, argv: Sequence[Json], pointer: str) -> list[Json]:
        return [text(one) for one in self._arguments([untext(one) for one in argv], pointer)]

    def _environment(self, env: Mapping[str, Json]) -> dict[str, Json]:
        plain = {name.encode(): untext(value) for name, value in env.items()}
        failed = {b"REDACTED": FAILED} if plain else {}
        clean = self._guarded(lambda: self._values.redact_environment(plain), failed, "/env")
        return {name.decode(errors="backslashreplace"): text(one) for name, one in clean.items()}

    def _text(self, value: Json, pointer: str) -> Json:
        return text(self._bytes(untext(value), pointer))

    def _string(self, value: str, pointer: str) -> str:
        data = value.encode(errors="surrogateescape")
        return self._bytes(data, pointer).decode(errors="surrogateescape")

    def _bytes(self, data: bytes, pointer: str) -> bytes:
        if not data or (not self._mask.failed and self._values.is_clean([data])):
            return data
        return self._guarded(lambda: self._values.redact_bytes(data), FAILED, pointer)

    def _guarded(self, redact: Callable[[], tuple[T, list[Found]]], failed: T, pointer: str) -> T:
        try:
            if self._mask.failed:
                raise RedactionFailed(self._mask.failed)
            clean, found = redact()
        except RedactionFailed:
            self._found.append(Found(offset=0, length=0, rule="failed", hmac8="", pointer=pointer))
            return failed
        self._found += [replace(one, pointer=pointer + one.pointer) for one in found]
        return clean


def _texts_of(events: Sequence[Denied | Watched | Flow]) -> set[bytes]:
    """Give the texts that `_said` looks at, each once."""
    texts = {getattr(event, name, None) for event in events for name in _TEXTS}
    said = {text.encode(errors="surrogateescape") for text in texts if isinstance(text, str)}
    return (said | {event.program for event in events}) - {b""}


_Told = tuple[ProcessEvent, list[Found]]


def _without_argv(event: ProcessEvent) -> ProcessEvent:
    match event:
        case ProgramStarted():
            return replace(event, argv=(WHOLE_ARGV,))
        case MoreArgv():
            return replace(event, data=WHOLE_ARGV)
        case ProcessEnded():
            return event


def _cut(clean: ProgramStarted, event: ProgramStarted) -> ProgramStarted:
    """Cut paths that grew too long."""
    cut = set(clean.cut)
    for name in ("path", "directory"):
        if len(getattr(clean, name)) > max(PATH_BYTES_MAX, len(getattr(event, name))):
            clean = replace(clean, **{name: getattr(clean, name)[:PATH_BYTES_MAX]})
            cut.add(name)
    names = ("path", "directory", "argv")
    return replace(clean, cut=tuple(name for name in names if name in cut)) if cut else clean


def _parts(events: Sequence[Sequence[_Told]]) -> list[list[_Told]]:
    """Put events together to what an entry can hold."""
    parts: list[list[_Told]] = [[]]
    size = 0
    for event, found in (one for each in events for one in each):
        length = process_bytes(event)
        if parts[-1] and size + length > MASKED_BYTES_MAX:
            parts.append([])
            size = 0
        parts[-1].append((event, found))
        size += length
    return parts


def _fitting(event: ProcessEvent, clean: ProcessEvent, found: list[Found]) -> list[_Told]:
    """Give a clean event as events that an entry can hold: where all of an argv does not fit, the
    rest follows, as what the kernel had no room for does."""
    if process_bytes(clean) <= MASKED_BYTES_MAX:
        return [(clean, found)]
    rest = clean
    given: list[_Told] = []
    if isinstance(clean, ProgramStarted) and isinstance(event, ProgramStarted):
        if len(clean.argv) != len(event.argv):
            return [(_without_argv(clean), found)]
        started, rest = _divided(event, clean)
        kept, found = _found_in(event, len(started.argv), found)
        given = [(started, kept)]
    if isinstance(rest, MoreArgv):
        given += _pieces(rest, found)
    return given or [(_without_argv(clean), found)]


def _divided(event: ProgramStarted, clean: ProgramStarted) -> tuple[ProgramStarted, MoreArgv]:
    """Divide a start: as many of its arguments as surely fit, and the rest of them."""
    count = size = 0
    for one in clean.argv:
        size += len(one)
        if size > ARGV_BYTES_MIN:
            break
        count += 1
    is_whole = event.argv_bytes <= sum(len(one) + 1 for one in event.argv)
    more = MoreArgv(
        time_ns=event.time_ns,
        pid=event.pid,
        offset=len(b"\0".join(event.argv[:count])),
        data=b"\0" * bool(count) + b"\0".join(clean.argv[count:]) + b"\0" * is_whole,
    )
    return replace(clean, argv=clean.argv[:count]), more


def _found_in(
    event: ProgramStarted, count: int, found: Sequence[Found]
) -> tuple[list[Found], list[Found]]:
    """Give what was replaced in a start with its first `count` arguments, and what in the others:
    that has its offset in the whole argv."""
    kept: list[Found] = []
    rest: list[Found] = []
    begins = _begins(event.argv)
    for one in found:
        name, _, number = one.pointer.removeprefix("/").partition("/")
        if name != "argv" or not number or int(number) < count:
            kept.append(one)
        else:
            offset = begins[int(number)] + one.offset
            rest.append(replace(one, pointer="/data", offset=offset))
    return kept, rest


def _begins(argv: Sequence[bytes]) -> list[int]:
    """Give where each argument begins in an argv."""
    return list(itertools.accumulate((len(one) + 1 for one in argv), initial=0))


def _pieces(rest: MoreArgv, found: Sequence[Found]) -> list[_Told]:
    """Give it in pieces, each with what was replaced where a mark in it begins."""
    starts = range(0, len(rest.data), PIECE_BYTES)
    told: list[list[Found]] = [[] for _ in starts]
    at = 0
    for one in found:
        at = max(at, rest.data.find(one.mark, at))
        told[at // PIECE_BYTES].append(one)
        at = min(at + 1, len(rest.data) - 1)
    pieces = (replace(rest, data=rest.data[start : start + PIECE_BYTES]) for start in starts)
    return list(zip(pieces, told, strict=True))
