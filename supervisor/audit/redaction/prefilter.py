r"""Says by Hyperscan that no rule matches in a text, in less time than RE2 takes to say it.

It only ever spares RE2 a look: what matches, where, and what that means is RE2's to say, so that
the result is the same. For that, nothing that RE2 takes may be missed here:

- each expression is handed over with nothing in it that two libraries may read in two ways: a
  class, a `.`, a `\s` and whatever has upper and lower case as the bytes that RE2 takes them for;
  what is left out of it is its beginning, and how often at most a longer part comes;
- where one cannot be handed over, RE2 looks at everything;
- any answer but a scan that came to its end without a match sends RE2 to look;
- the library is the one release whose answers were compared with RE2's. Vectorscan, which newer
  packages have under the same name, misses matches in 5.4.12: `[\x00-\xff]*` between two words.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
from collections.abc import Sequence
from re import _parser  # type: ignore[attr-defined]  # the only reader of expressions
from types import ModuleType
from typing import Any

import re2

from supervisor.audit.redaction.growth import BOUNDARIES, EXACT_MAX, single, writes_one_byte
from supervisor.errors import HostError

RELEASE = b"Version: 5.4.2 "
"""The last one of Hyperscan under a free licence (BSD-3-Clause)."""

REST_BYTES_MIN = 4
"""So long has what is left of an expression to be where its beginning is not looked for."""

_EVERY_BYTE = bytes(range(256))


def open_hyperscan() -> ModuleType:
    """Load the library, and see that it is the right one and works on this processor.

    Raises:
        HostError: `HYPERSCAN_MISSING`, `HYPERSCAN_UNSUITABLE`.
    """
    try:
        library = importlib.import_module("hyperscan")
    except ImportError as error:
        why = f"the package hyperscan is not there: {error}"
        raise _refused("HYPERSCAN_MISSING", why) from None
    try:
        info = bytes(_database(library, [b"try"]).info())
    except library.error as error:
        why = f"Hyperscan does not work here: {error}"
        raise _refused("HYPERSCAN_UNSUITABLE", why) from None
    if not info.startswith(RELEASE):
        why = f"not the release that was compared with RE2: {info.decode(errors='replace')}"
        raise _refused("HYPERSCAN_UNSUITABLE", why)
    return library


class Prefilter:
    """Says of a text that none of some expressions matches in it; it may be shared by threads."""

    def __init__(self, library: ModuleType, sources: Sequence[str]) -> None:
        self._library = library
        self._database: Any = None
        written = [_written(source) for source in sources]
        taken = [one for one in written if one is not None]
        with contextlib.suppress(library.error):  # RE2 does it all then, as it does without us
            self._database = _database(library, taken) if len(taken) == len(written) else None
        self._own = threading.local()

    @property
    def is_used(self) -> bool:
        """Say whether the library takes all of the expressions: RE2 would have to look anyway."""
        return self._database is not None

    def is_clean(self, data: bytes) -> bool:
        """Say that nothing matches; False where it may, or is not known."""
        if not self.is_used:
            return False
        try:
            self._database.scan(data, match_event_handler=_stop, scratch=self._scratch())
        except self._library.ScanTerminated:
            return False
        return True

    def _scratch(self) -> Any:
        """Give this thread's: two scans must not share one."""
        if not hasattr(self._own, "scratch"):
            self._own.scratch = self._library.Scratch(self._database)
        return self._own.scratch


def _stop(*_: object) -> bool:
    """End the scan at the first match."""
    return True


def _refused(reason: str, why: str) -> HostError:
    return HostError(
        reason,
        f"record.redact.engine: {why}",
        hint="pip install 'stockade[hyperscan]' (x86-64, Python 3.11 or 3.12), or engine: re2",
    )


def _database(library: ModuleType, expressions: Sequence[bytes]) -> Any:
    database = library.Database(mode=library.HS_MODE_BLOCK)
    count = len(expressions)
    database.compile(
        expressions=list(expressions), ids=list(range(count)), elements=count, flags=[0] * count
    )
    return database


def _written(source: str) -> bytes | None:
    """Write an expression for Hyperscan, which finds it wherever RE2 does; None where it is not
    known how."""
    tree = _parser.parse(source.encode("latin-1"))
    try:
        return _items(list(_without_beginning(tree)), tree.state.flags).encode()
    except ValueError:
        return None


def _without_beginning(tree: Any) -> Any:
    """Leave out what stands before the first fixed byte, where the expression begins with a class:
    there are many of it in any text. Where the whole matches, the rest does."""
    kinds = [str(kind) for kind, _ in tree]
    plain = next((place for place, kind in enumerate(kinds) if kind not in _LOOSE), len(kinds))
    if "IN" not in kinds[:plain] and not any("REPEAT" in kind for kind in kinds[:plain]):
        return tree
    rest = tree[plain:]
    is_fixed = plain < len(kinds) and kinds[plain] == "LITERAL"
    return rest if is_fixed and rest.getwidth()[0] >= REST_BYTES_MIN else tree


_LOOSE = {"AT", "IN", "MAX_REPEAT", "MIN_REPEAT"}


def _items(items: Sequence[Any], flags: int) -> str:
    return "".join(_item(item, flags) for item in items)


def _item(item: Any, flags: int) -> str:
    kind, value = str(item[0]), item[1]
    if writes_one_byte(item):
        return _class(single(item, flags))
    match kind:
        case "BRANCH":
            return f"(?:{'|'.join(_items(list(one), flags) for one in value[1])})"
        case "SUBPATTERN":
            _, add, remove, inner = value
            return f"(?:{_items(list(inner), (flags | add) & ~remove)})"
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, most, inner = int(value[0]), int(value[1]), list(value[2])
            is_one = len(inner) == 1 and writes_one_byte(inner[0])
            upto = str(most) if is_one or most <= EXACT_MAX else ""
            return f"(?:{_items(inner, flags)}){{{least},{upto}}}"
        case "AT" if str(value) in BOUNDARIES:
            return BOUNDARIES[str(value)]
    raise ValueError(f"it is not known how to hand over {kind}")


@functools.lru_cache(maxsize=4096)
def _class(source: str) -> str:
    """Write the bytes that RE2 takes an expression of one byte for."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    taken = re2.compile(source.encode("latin-1"), options).findall(_EVERY_BYTE)
    if not taken:
        raise ValueError(f"{source} takes no byte")
    written = "".join(f"\\x{byte[0]:02x}" for byte in taken)
    return f"[{written}]" if len(taken) > 1 else written
