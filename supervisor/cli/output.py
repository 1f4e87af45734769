"""How the command line prints: tables for people, JSON for programs, errors on standard error.

Whatever is printed as text goes through `safe`; only `run`, `audit cat` and `audit replay --raw`
write bytes as they are. JSON is one document, or one line for each event of a stream: times are
RFC 3339 in UTC with nanoseconds, sizes are bytes, bytes that are not UTF-8 are `{"base64": …}`.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import click

from supervisor.call import outcome
from supervisor.call.events import CallEvent, Output
from supervisor.call.safe import safe
from supervisor.call.types import text
from supervisor.cli import standard
from supervisor.errors import StockadeError

SIZE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
KIBI = 1024
NAME_WIDTH = 10
MIN_WIDTH = 40
CALL_COLUMN = "CALL"
WHOLE_ID_WIDTH_MIN = 80
"""Of a terminal, in columns."""


def document(value: Any) -> None:
    """Print one JSON document."""
    text = json.dumps(to_json(value), indent=2, ensure_ascii=False)
    if not _is_text(text):  # A file's name that is no UTF-8.
        text = json.dumps(to_json(value), indent=2)
    click.echo(text)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def line(value: Any) -> None:
    """Print one line of JSON, at once."""
    sys.stdout.write(json.dumps(to_json(value)) + "\n")
    sys.stdout.flush()


def note(message: str, *, lines: bool = False) -> None:
    """Say something beside the result, on standard error: one line, unless `lines` are ours."""
    _say(f"stockade: {safe(message, lines=lines)}")


def confirm(what: str, *, yes: bool) -> None:
    """Say what is about to be done, and ask on the terminal whether to, unless `yes`.

    Raises:
        click.UsageError: there is no terminal to ask on.
        click.exceptions.Exit: it is not to be done.
    """
    if yes:
        return
    if not standard.asks():
        raise click.UsageError(f"{safe(what)}: say --yes, as there is no terminal to ask on")
    if not click.confirm(f"stockade: {safe(what)}. Go on?", err=True):
        raise click.exceptions.Exit(StockadeError.exit_code)


def line_end(end: str) -> None:
    """Say how lines end on standard error: in a raw terminal, a line feed goes straight down."""
    _line_end[0] = end


_line_end = ["\n"]


def _say(text: str) -> None:
    try:
        click.echo(f"{text}\n".replace("\n", _line_end[0]), err=True, nl=False)
    except OSError:
        standard.discard(sys.stderr)  # There is nobody left to tell.


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "") -> None:
    """Print a table; on a terminal with rich, otherwise in plain aligned columns."""
    cells = [[safe(cell) for cell in row] for row in rows]
    if not cells and empty:
        note(empty)
        return
    if sys.stdout.isatty():
        _rich_table(columns, cells)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in [list(columns), *cells]:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def columns() -> int | None:
    """Give the width of the terminal; None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def paragraph(name: str, text: str, width: int, *, indent: int = 2) -> None:
    """Print a named text in lines of at most `width` columns, the name standing out."""
    hanging = " " * (indent + NAME_WIDTH)
    first = " " * indent + name.ljust(NAME_WIDTH)
    for row in textwrap.wrap(
        safe(text), max(width, MIN_WIDTH), initial_indent=first, subsequent_indent=hanging
    ):
        click.echo(row)


def heading(title: str) -> None:
    """Print the title of a section."""
    click.echo(click.style(safe(title), bold=True) if sys.stdout.isatty() else safe(title))


def field(name: str, value: object, *, width: int = 12) -> None:
    """Print one named value, indented; nothing where it is empty."""
    if value not in ("", None):
        click.echo(f"  {name.ljust(width)}  {safe(value)}")


def report(error: StockadeError, *, as_json: bool) -> None:
    """Print an error with its reason and hint on standard error; with `as_json` as one line of
    JSON, and nothing else."""
    if not as_json:
        _say(f"stockade: {safe(error.message, lines=True)} [{safe(error.reason)}]")
        if error.hint:
            _say(f"  hint: {safe(error.hint, lines=True)}")
        if error.retry_after_s is not None:
            _say(f"  try again in {error.retry_after_s:g} s")
    else:
        body: dict[str, Any] = {
            "reason": error.reason,
            "message": error.message,
            "hint": error.hint,
            "metadata": error.metadata,
        }
        if error.retry_after_s is not None:
            body["retry_after_s"] = error.retry_after_s
        _say(json.dumps({"error": body}))


def to_json(value: Any) -> Any:
    """Give a value of ours as what JSON can hold."""
    if isinstance(value, CallEvent):
        return _event(value)
    if type(value) in outcome.KINDS:
        return {"kind": outcome.kind(value), **_fields(value)}
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return text(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def timestamp(time_ns: int) -> str:
    """Give RFC 3339 in UTC with nanoseconds; empty for 0."""
    if not time_ns:
        return ""
    import datetime

    seconds, nanos = divmod(time_ns, 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"


def moment(time_ns: int) -> str:
    """Give a time for people, in UTC to the second; empty for 0."""
    return timestamp(time_ns)[:19].replace("T", " ") + "Z" if time_ns else ""


def duration(seconds: float) -> str:
    """Give a duration with about three figures and a fitting unit, never with an exponent."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1 or seconds == 0:
            return f"{_figures(seconds * factor)} {unit}"
    return f"{_figures(seconds * 1e6)} µs"


def _figures(value: float) -> str:
    text = f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def age(seconds: float) -> str:
    """Give an age as `12s`, `3m05s`, `2h14m` or `3d`."""
    whole = max(0, int(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    if whole < 60:
        return f"{whole}s"
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{hours}h{minutes_left:02d}m" if hours < 48 else f"{hours // 24}d"


def size(size_bytes: int) -> str:
    """Give a size with a binary unit: `12 B`, `1.5 MiB`."""
    value = float(size_bytes)
    for unit in SIZE_UNITS[:-1]:
        if value < KIBI:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= KIBI
    return f"{value:.1f} {SIZE_UNITS[-1]}"


def count(number: int, one: str, more: str = "") -> str:
    """Give a number with its noun: `1 call`, `2 calls`."""
    return f"{number} {one if number == 1 else more or one + 's'}"


def _event(value: CallEvent) -> dict[str, Any]:
    kind = type(value.event).__name__
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in kind).lstrip("_")
    body = _fields(value.event)
    if isinstance(value.event, Output):
        body["data"] = base64.b64encode(value.event.data).decode()
    head = {"call_id": value.call_id, "sequence": value.sequence, "time": timestamp(value.time_ns)}
    return {**head, "event": name, **body}


def _fields(value: Any) -> dict[str, Any]:
    """Give a dataclass as an object; a field `…_ns` becomes a time under the shorter name."""
    result: dict[str, Any] = {}
    for item in dataclasses.fields(value):
        content = getattr(value, item.name)
        if item.name.endswith("_ns"):
            result[item.name.removesuffix("_ns")] = timestamp(content) or None
        else:
            result[item.name] = to_json(content)
    return result


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        # An id in two pieces cannot be copied. A very narrow terminal would cut it: there it folds.
        whole = column == CALL_COLUMN and console.width >= WHOLE_ID_WIDTH_MIN
        grid.add_column(Text(column), overflow="fold", no_wrap=whole)
    for row in cells:
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)
