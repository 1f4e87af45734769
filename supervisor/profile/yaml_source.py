"""A YAML reader that keeps positions, and errors that point at the character.

It reads the plain part of YAML: mappings, lists and scalars. Whatever makes a file mean more
than it says is refused: anchors, aliases, tags, merge keys, directives, several documents,
duplicate keys, nulls, and the words that YAML 1.1 takes for booleans. Scalars are strings but
for `true`, `false` and plain decimal numbers.

`validate` runs a pydantic model over a document and turns each error into a `Problem` with its
line and column. Nothing here knows what a profile is; the daemon's configuration uses it too.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml import events as yaml_events
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from supervisor.errors import ProfileError

BYTES_MAX = 64 * 1024
DEPTH_MAX = 16

Location = tuple[str | int, ...]
Plain = bool | int | float | str | list["Plain"] | dict[str, "Plain"]
ModelT = TypeVar("ModelT", bound=BaseModel)

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,17}", re.ASCII)
_WORDS_FOR_TRUE = {"yes", "on", "true"}
_WORDS_FOR_FALSE = {"no", "off", "false"}
_WORDS_FOR_NULL = {"", "~", "null"}
# C0, DEL, C1, surrogates, the separators that YAML 1.1 takes for line breaks, and what turns
# the direction of text round and so lets a file look other than it reads.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A span of one line; `line` and `column` count from 1."""

    line: int
    column: int
    width: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong, where, and what to do about it; `source` is the text of the line."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""
    source: str = ""
    width: int = 1

    def render(self) -> str:
        """Give `file:line:col: message`, the line itself, a caret below it, and the hint."""
        text = f"{self.file}:{self.line}:{self.column}: {self.message}"
        if self.source.strip():
            before = self.source[: self.column - 1]
            indent = "".join("\t" if letter == "\t" else " " for letter in before)
            carets = "^" * max(1, min(self.width, len(self.source) - len(before)))
            text += f"\n    {self.source}\n    {indent}{carets}"
        return text + (f"\n    hint: {self.hint}" if self.hint else "")


class ProblemsFound(ProfileError):
    """A `ProfileError` that still has its `problems` apart; the message is all of them."""

    def __init__(self, reason: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            reason,
            "\n".join(problem.render() for problem in self.problems),
            metadata={"problems": str(len(self.problems))},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed file: plain `data`, and for each path in it the marks of its key and value."""

    file: str
    lines: tuple[str, ...]
    data: dict[str, Plain]
    values: Mapping[Location, Mark]
    keys: Mapping[Location, Mark]

    def position_of(self, location: Location) -> tuple[int, int]:
        """Give line and column of the value at `location`, or of the nearest thing around it."""
        mark = self._nearest(location)
        return mark.line, mark.column

    def problem(
        self, location: Location, message: str, hint: str = "", *, at_key: bool = False
    ) -> Problem:
        """Make a problem that points at the value at `location`, or at its key."""
        mark = self.keys.get(location) if at_key else None
        return problem_at(self.file, self.lines, mark or self._nearest(location), message, hint)

    def _nearest(self, location: Location) -> Mark:
        for length in range(len(location), 0, -1):
            mark = self.values.get(location[:length])
            if mark is not None:
                return mark
        return self.values[()]


def problem_at(
    file: str, lines: tuple[str, ...], mark: Mark, message: str, hint: str = ""
) -> Problem:
    """Make a problem at `mark`, with the text of its line."""
    source = lines[mark.line - 1] if mark.line <= len(lines) else ""
    return Problem(
        file=file, line=mark.line, column=mark.column, message=message, hint=hint,
        source=source, width=mark.width,
    )  # fmt: skip


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give a hint that names the nearest of `known`, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {found[0]!r}?" if found else ""


def refuse(
    message: str, hint: str = "", *, at_key: bool = False, below: str = ""
) -> PydanticCustomError:
    """Make the error that a validator raises, so that its hint reaches the `Problem`.

    `below` is a key of the mapping that is validated: the problem points at its value.
    """
    context = {"message": message, "hint": hint, "at_key": at_key, "below": below}
    return PydanticCustomError("stockade", "{message}", context)


def load_document(path: Path, *, reason: str = "PROFILE_INVALID") -> Document:
    """Read and parse the YAML file `path`.

    Raises:
        ProblemsFound: with `reason`; the file cannot be read or is not the plain YAML that is
            allowed here.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(BYTES_MAX + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise ProblemsFound(reason, [_first_line(str(path), message)]) from error
    return parse_document(content, str(path), reason=reason)


def parse_document(content: bytes, file: str, *, reason: str = "PROFILE_INVALID") -> Document:
    """Parse `content`, which came from `file`.

    Raises:
        ProblemsFound: with `reason`; it is not the plain YAML that is allowed here.
    """
    if len(content) > BYTES_MAX:
        message = f"is larger than {BYTES_MAX // 1024} KiB"
        raise ProblemsFound(reason, [_first_line(file, message)])
    try:
        text = content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = Problem(file=file, line=line, column=1, message="is not UTF-8")
        raise ProblemsFound(reason, [problem]) from error
    lines = tuple(text.split("\n"))
    strange = [
        problem_at(
            file, (), Mark(line=number, column=found.start() + 1),
            f"the character U+{ord(found.group()):04X} is not allowed",
        )
        for number, line in enumerate(lines, 1)
        for found in _FORBIDDEN.finditer(line)
    ]  # fmt: skip
    if strange:
        raise ProblemsFound(reason, strange[:1])
    builder = _Builder(file=file, lines=lines)
    try:
        data = builder.build(text)
    except YAMLError as error:
        raise ProblemsFound(reason, [builder.from_yaml_error(error)]) from error
    if builder.problems:
        raise ProblemsFound(reason, builder.problems)
    if not isinstance(data, dict):
        raise ProblemsFound(reason, [builder.not_a_mapping(data)])
    return Document(file=file, lines=lines, data=data, values=builder.values, keys=builder.keys)


def validate(document: Document, model: type[ModelT], *, reason: str = "PROFILE_INVALID") -> ModelT:
    """Make a `model` out of `document`.

    Raises:
        ProblemsFound: with `reason`, one problem for each error that pydantic finds.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems = _all_from_pydantic(document, model, error.errors())
        unique = dict.fromkeys(problems)
        raise ProblemsFound(
            reason, sorted(unique, key=lambda found: (found.line, found.column))
        ) from error


def dotted(location: Location) -> str:
    """Write a location as people do: `files.write[0].size`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _first_line(file: str, message: str, hint: str = "") -> Problem:
    return Problem(file=file, line=1, column=1, message=message, hint=hint)


class _TooDeep(YAMLError):
    def __init__(self, mark: Mark) -> None:
        super().__init__("too deep")
        self.mark = mark


@dataclass(slots=True, kw_only=True)
class _Builder:
    """Builds plain data out of the parser's events, and notes what is not allowed."""

    file: str
    lines: tuple[str, ...]
    problems: list[Problem] = field(default_factory=list)
    values: dict[Location, Mark] = field(default_factory=dict)
    keys: dict[Location, Mark] = field(default_factory=dict)

    def build(self, text: str) -> Plain | None:
        """Parse `text`; None where there is no document. Lets YAMLError through."""
        stream: Iterator[yaml_events.Event] = iter(YAML(typ="safe", pure=True).parse(text))
        data: Plain | None = None
        documents = 0
        for event in stream:
            if not isinstance(event, yaml_events.DocumentStartEvent):
                continue
            documents += 1
            if event.version or event.tags:
                self._note(event, "YAML directives are not allowed", "remove the line with %")
            if documents > 1:
                self._note(event, "a second document begins here", "one file, one document")
                break
            data = self._node(next(stream), stream, ())
        return data

    def from_yaml_error(self, error: YAMLError) -> Problem:
        if isinstance(error, _TooDeep):
            return problem_at(
                self.file, self.lines, error.mark, f"nested deeper than {DEPTH_MAX} levels"
            )
        if isinstance(error, MarkedYAMLError):
            where = error.problem_mark or error.context_mark
            what = " ".join(part for part in (error.context, error.problem) if part)
            if where is not None:
                mark = Mark(line=where.line + 1, column=where.column + 1)
                return problem_at(self.file, self.lines, mark, f"not YAML: {what}")
        return _first_line(self.file, f"not YAML: {str(error).splitlines()[0]}")

    def not_a_mapping(self, data: Plain | None) -> Problem:
        if data is None:
            return _first_line(self.file, "is empty", "write at least the keys that are required")
        mark = self.values.get((), Mark(line=1, column=1))
        return problem_at(self.file, self.lines, mark, "must be a mapping of keys to values")

    def _note(self, event: yaml_events.Event, message: str, hint: str = "") -> None:
        self._note_at(self._mark(event), message, hint)

    def _note_at(self, mark: Mark, message: str, hint: str) -> None:
        self.problems.append(problem_at(self.file, self.lines, mark, message, hint))

    def _mark(self, event: yaml_events.Event) -> Mark:
        start, end = event.start_mark, event.end_mark
        line, column = start.line, start.column
        width = end.column - column if end.line == line else len(self.lines[line]) - column
        return Mark(line=line + 1, column=column + 1, width=max(1, width))

    def _node(
        self, event: yaml_events.Event, stream: Iterator[yaml_events.Event], location: Location
    ) -> Plain:
        if len(location) > DEPTH_MAX:
            raise _TooDeep(self._mark(event))
        self.values[location] = self._mark(event)
        self._check_plain_node(event)
        if isinstance(event, yaml_events.MappingStartEvent):
            return self._mapping(stream, location)
        if isinstance(event, yaml_events.SequenceStartEvent):
            items: list[Plain] = []
            while not isinstance(part := next(stream), yaml_events.SequenceEndEvent):
                items.append(self._node(part, stream, (*location, len(items))))
            return items
        if isinstance(event, yaml_events.ScalarEvent):
            return self._scalar(event, location)
        return ""  # an alias, which has been noted

    def _mapping(self, stream: Iterator[yaml_events.Event], location: Location) -> dict[str, Plain]:
        found: dict[str, Plain] = {}
        while not isinstance(key := next(stream), yaml_events.MappingEndEvent):
            self._check_plain_node(key)
            if not isinstance(key, yaml_events.ScalarEvent):
                self._note(key, "a key must be a plain word")
                self._node(key, stream, (*location, "?"))
                self._node(next(stream), stream, (*location, "?"))
                continue
            name = str(key.value)
            if name == "<<" and not key.style:
                self._note(key, "merge keys are not allowed", "use extends: or use:")
            elif not name:
                self._note(key, "a key must not be empty")
            elif name in found:
                first = self.keys[(*location, name)]
                self._note(key, f"duplicate key {name!r}", f"the first is in line {first.line}")
            self.keys[(*location, name)] = self._mark(key)
            found[name] = self._node(next(stream), stream, (*location, name))
        return found

    def _check_plain_node(self, event: yaml_events.Event) -> None:
        if isinstance(event, yaml_events.AliasEvent):
            hint = 'write the value out; what begins with a * needs quotes: "*.example.com"'
            self._note(event, "aliases are not allowed", hint)
        elif getattr(event, "anchor", None):
            self._note(event, "anchors are not allowed", "write the value out where it is needed")
        elif getattr(event, "tag", None):
            self._note(event, "tags are not allowed", "write the plain value")

    def _scalar(self, event: yaml_events.ScalarEvent, location: Location) -> Plain:
        text = str(event.value)
        if event.style:
            return self._quoted(event, text)
        if text in ("true", "false"):
            return text == "true"
        word = text.lower()
        if word in _WORDS_FOR_NULL:
            # An empty value has no place of its own: the parser is already at the next token.
            mark = self.keys.get(location) if not text else None
            what = f"{dotted(location) or 'this'} has no value"
            self._note_at(mark or self._mark(event), what, "give it one, or leave the key out")
        elif word in _WORDS_FOR_TRUE | _WORDS_FOR_FALSE:
            meant = "true" if word in _WORDS_FOR_TRUE else "false"
            self._note(
                event, f"{text!r} can be read as a word or as {meant}",
                f'write {meant}, or "{text}" in quotes for the word',
            )  # fmt: skip
        elif _INTEGER.fullmatch(text):
            return int(text)
        elif _FLOAT.fullmatch(text):
            return float(text)
        return text

    def _quoted(self, event: yaml_events.ScalarEvent, text: str) -> str:
        found = _FORBIDDEN.search(text)
        if found:
            self._note(event, f"the character U+{ord(found.group()):04X} is not allowed")
        return text


_MESSAGES = {
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}


def _all_from_pydantic(
    document: Document, model: type[BaseModel], details: Sequence[ErrorDetails]
) -> list[Problem]:
    """Make problems; a line that may hold a secret is shown with none of them."""
    problems = [_from_pydantic(document, model, detail) for detail in details]
    hidden = {problem.line for problem in problems if not problem.source}
    return [replace(one, source="") if one.line in hidden else one for one in problems]


def _from_pydantic(document: Document, model: type[BaseModel], detail: ErrorDetails) -> Problem:
    problem = _told(document, model, detail)
    shown = problem.hint.startswith("did you mean")  # a slip in a key
    place = detail["loc"]
    secret = place[:1] in (("secrets",), ("sinks",)) or place[:2] == ("record", "key")
    if secret and detail["type"] in _MAY_SHOW_A_SECRET and not shown:
        # Who writes a secret itself where its source belongs does not find it in logs, too.
        return replace(problem, source="")
    return problem


_MAY_SHOW_A_SECRET = frozenset({"extra_forbidden", "dict_type", "model_type"})


def _told(document: Document, model: type[BaseModel], detail: ErrorDetails) -> Problem:
    location = _in_document(document, detail["loc"])
    context = detail.get("ctx", {})
    kind = detail["type"]
    if kind == "extra_forbidden":
        name = str(location[-1])
        hint = did_you_mean(name, _fields_at(model, location[:-1])) or _instead(location)
        where = f" in {dotted(location[:-1])}" if location[:-1] else ""
        return document.problem(location, f"unknown key {name!r}{where}", hint, at_key=True)
    if kind == "missing":
        name = str(detail["loc"][-1])
        where = f"{dotted(location)}: " if location else ""
        return document.problem(location, f"{where}the key {name!r} is missing")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _of_no_type(document, location, context)
    if kind == "stockade":
        message, hint = str(context["message"]), str(context["hint"])
        at_key = bool(context["at_key"])
        location = _in_document(document, (*location, str(context["below"])))
    else:
        message, hint, at_key = _plain_message(kind, detail), "", detail["loc"][-1:] == ("[key]",)
        if kind == "string_type" and isinstance(detail["input"], bool | int | float):
            hint = "put it in quotes"
        elif kind in ("list_type", "tuple_type") and isinstance(detail["input"], str):
            hint = f"write [{detail['input']}]"
        elif location[:1] == ("egress",) and len(location) == 2 and "mapping" in message:
            hint = 'write {host: api.example.com, port: 443, why: "…"}'
        elif context.get("class_name") == "Secret":
            hint = "say where it is from: {file: /path}, {credential: NAME} or {command: [PROGRAM]}"
    where = f"{dotted(location)}: " if location else ""
    return document.problem(location, where + message, hint, at_key=at_key)


def _of_no_type(document: Document, location: Location, context: Mapping[str, Any]) -> Problem:
    key = str(context["discriminator"]).strip("'")
    if "tag" not in context:
        return document.problem(location, f"{dotted(location)}: the key {key!r} is missing")
    location, tag, known = (*location, key), str(context["tag"]), str(context["expected_tags"])
    hint = did_you_mean(tag, known.replace("'", "").split(", "))
    return document.problem(location, f"{dotted(location)}: {tag!r} is none of {known}", hint)


_INSTEAD = {
    "secrets": "a profile names a secret; where it is from, the daemon's configuration says",
    "egress": "every rule is for TCP; UDP never leaves a sandbox",
}
"""What helps with a key that no entry of such a list has, and that is like none."""

_INSTEAD_OF = {
    "secrets": ("value", "file", "command", "credential", "source", "token", "from"),
    "egress": ("protocol", "proto", "udp", "tcp", "transport"),
}


def _instead(location: Location) -> str:
    if len(location) == 3 and isinstance(location[1], int):
        key = str(location[0])
        return _INSTEAD[key] if location[2] in _INSTEAD_OF.get(key, ()) else ""
    return ""


def _plain_message(kind: str, detail: ErrorDetails) -> str:
    if kind in _MESSAGES:
        return _MESSAGES[kind]
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if message != detail["msg"] and detail["msg"].startswith("Input"):
        return f"must be {message}"
    return message


def _in_document(document: Document, location: Location) -> Location:
    """Leave out what pydantic adds of its own: tags of unions, `[key]`, missing keys."""
    found: Location = ()
    for part in location:
        if (*found, part) in document.values:
            found = (*found, part)
    return found


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    models = [model]
    for part in location:
        if isinstance(part, int):
            continue
        inner = [entry for each in models for entry in _named(each, part)]
        models = inner or models
    return sorted({name for each in models for name in _names(each)})


def _names(model: type[BaseModel]) -> list[str]:
    return [entry.alias or name for name, entry in model.model_fields.items()]


def _named(model: type[BaseModel], name: str) -> list[type[BaseModel]]:
    for own, entry in model.model_fields.items():
        if name in (own, entry.alias):
            return list(_models_in(entry.annotation))
    return []


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models_in(part)
