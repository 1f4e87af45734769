r"""Says how a match may begin: an expression for all beginnings of what another one matches.

A stream's bytes can be let go of once no match can begin at them any more. That is known exactly:
where the bytes up to the end of what was seen are no beginning of a match, nothing that comes later
makes them one. RE2 looks for an expression that ends in `\z` from the end backwards, so that the
answer costs as many steps as there are bytes that may begin something: mostly few.

What comes more often than `EXACT_MAX` times in a row is taken to come any number of times: a bit
more than needed is held back, and never less.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from re import _parser  # type: ignore[attr-defined]  # the only reader of expressions
from typing import Any

EXACT_MAX = 4

_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}
BOUNDARIES = {"AT_BOUNDARY": r"\b", "AT_NON_BOUNDARY": r"\B"}
_FLAGS = ((re.IGNORECASE, "i"), (re.DOTALL, "s"), (re.MULTILINE, "m"))


def beginnings(source: str) -> str:
    """Give an expression for every beginning of what `source` matches, also none and all of it.

    Raises:
        ValueError: it holds what is not known here.
        re.error: it is no expression.
    """
    tree = _parser.parse(source.encode("latin-1"))
    return _with_flags(_beginnings(list(tree)), tree.state.flags, 0)


def _beginnings(items: Sequence[Any], rest: str = "") -> str:
    """Give the beginnings of items one after the other, before `rest`: beginnings, too."""
    for item in reversed(items):
        rest = _begins(item, rest)
    return rest


def _begins(item: Any, rest: str) -> str:
    """Give the beginnings of an item, and behind the whole of it, `rest`."""
    kind, value = str(item[0]), item[1]
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, inner = int(value[0]), int(value[1]), list(value[2])
        whole = f"(?:{_source(inner)})"
        fewer = f"{whole}{_times(0, most - 1)}"
        if not _is_single(inner):
            fewer += _beginnings(inner)
        return f"(?:{fewer}|{whole}{_times(least, most)}{rest})"
    if kind == "BRANCH":
        parts = "|".join(_beginnings(list(one)) for one in value[1])
        return f"(?:{parts}|{_one(item)}{rest})"
    if kind == "SUBPATTERN":
        _, add, remove, inner = value
        if not add and not remove:
            return _beginnings(list(inner), rest)
        return f"(?:{_with_flags(_beginnings(list(inner)), add, remove)}|{_one(item)}{rest})"
    return f"(?:{_one(item)}{rest})?"


def writes_one_byte(item: Any) -> bool:
    """Say whether a part of Python's tree is one byte, whichever."""
    return str(item[0]) in ("LITERAL", "NOT_LITERAL", "ANY", "IN")


def single(item: Any, flags: int) -> str:
    """Write a part of Python's tree that is one byte as RE2 reads it, under flags of Python's."""
    return _with_flags(_one(item), flags, 0)


def _is_single(items: Sequence[Any]) -> bool:
    """Say whether it is one byte: a beginning of some of them is some of them."""
    return len(items) == 1 and writes_one_byte(items[0])


def _source(items: Sequence[Any]) -> str:
    return "".join(_one(item) for item in items)


def _one(item: Any) -> str:
    """Write an item as RE2 reads it."""
    kind, value = str(item[0]), item[1]
    match kind:
        case "LITERAL":
            return _byte(value)
        case "NOT_LITERAL":
            return f"[^{_byte(value)}]"
        case "ANY":
            return "."
        case "IN":
            return f"[{''.join(_member(one) for one in value)}]"
        case "BRANCH":
            return f"(?:{'|'.join(_source(list(one)) for one in value[1])})"
        case "SUBPATTERN":
            _, add, remove, inner = value
            return _with_flags(_source(list(inner)), add, remove)
        case "MAX_REPEAT" | "MIN_REPEAT":
            return f"(?:{_source(list(value[2]))}){_times(int(value[0]), int(value[1]))}"
        case "AT" if str(value) in BOUNDARIES:
            return BOUNDARIES[str(value)]
    raise ValueError(f"it is not known how {kind} begins")


def _member(item: Any) -> str:
    kind, value = str(item[0]), item[1]
    match kind:
        case "NEGATE":
            return "^"
        case "LITERAL":
            return _byte(value)
        case "RANGE":
            return f"{_byte(value[0])}-{_byte(value[1])}"
        case "CATEGORY" if str(value) in _CATEGORIES:
            return _CATEGORIES[str(value)]
    raise ValueError(f"it is not known what {kind} is in a class")


def _times(least: int, most: int) -> str:
    """Say how often something comes; exactly where that is seldom, else the automaton is large."""
    return f"{{{least},{most}}}" if most <= EXACT_MAX else "+" if least else "*"


def _byte(value: int) -> str:
    return f"\\x{value:02x}"


def _with_flags(source: str, add: int, remove: int) -> str:
    on = "".join(letter for flag, letter in _FLAGS if add & flag)
    off = "".join(letter for flag, letter in _FLAGS if remove & flag)
    return f"(?{on}{'-' + off if off else ''}:{source})"
