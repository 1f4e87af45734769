"""JSON on one line that nothing can split or forge: what a sandbox chose is inside of a string, and
no character of it moves a terminal's cursor or ends a line for anybody."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

DEPTH_MAX = 64
"""Of values in each other, in what is encoded at once; what lies deeper becomes its own JSON as a
text. `orjson` takes 254, and receivers less."""

TOO_DEEP = "nested too deeply to be told"
UINT64_MAX = 2**64 - 1
INT64_MIN = -(2**63)

_LONE = re.compile("[\ud800-\udfff]")
# DEL and C1, which terminals obey; what ends a line in Unicode; marks that turn its direction.
_ODD = re.compile("[\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def encode(value: Any) -> bytes:
    """Give JSON without a line break. Lone surrogates, which UTF-8 has not, become the six
    characters that JSON would escape them by; integers beyond 64 bits become texts."""
    try:
        data = orjson.dumps(value)
    except orjson.JSONEncodeError:
        data = orjson.dumps(_plain(value, 0))
    if data.isascii() and b"\x7f" not in data:
        return data
    text = data.decode()
    return _ODD.sub(_escape, text).encode()


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _plain(value: Any, depth: int) -> Any:
    """Give what `orjson` takes."""
    if isinstance(value, str):
        return _LONE.sub(_escape, value)
    if type(value) is int:
        return value if INT64_MIN <= value <= UINT64_MAX else str(value)
    if not isinstance(value, dict | list | tuple):
        return value
    if depth == DEPTH_MAX:
        return _as_text(value)
    if not isinstance(value, dict):
        return [_plain(one, depth + 1) for one in value]
    made: dict[str, Any] = {}
    for name, one in value.items():
        key = _LONE.sub(_escape, name)
        while key in made:  # two names that differ in nothing but a surrogate's spelling
            key += "'"
        made[key] = _plain(one, depth + 1)
    return made


def _as_text(value: Any) -> str:
    try:
        return json.dumps(value)
    except (RecursionError, TypeError):
        return TOO_DEEP
