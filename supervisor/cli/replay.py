"""`stockade audit replay`: what a call wrote, again, as it came; or for a terminal player.

The program's bytes come from a sandbox: unless they are asked for raw, a terminal gets them
without anything that it would obey.
"""

from __future__ import annotations

import base64
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import click

from supervisor.call import outcome
from supervisor.call.safe import SafeStream
from supervisor.call.screen import SafeScreen
from supervisor.call.types import Stream, Terminal
from supervisor.cli import output as out
from supervisor.cli.completion import call_ids
from supervisor.cli.naming import whole_id
from supervisor.cli.session import daemon_options, session
from supervisor.cli.terminal import unprocessed
from supervisor.errors import InvalidRequest

if TYPE_CHECKING:
    from supervisor.cli.playback import Moment, Pace
    from supervisor.client import Call, Record

SLEEP_S_MAX = 3600.0
SPEED_MIN, SPEED_MAX = 0.001, 1e6
NS = 1_000_000_000
STDOUT_NAME = "-"
FILE_MODE = 0o600
SIZES_SHOWN_MAX = 5


class Timer:
    """The time since it was made."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def wait(self, due_s: float) -> None:
        """Wait until `due_s` have passed."""
        while (left_s := self._began_s + due_s - time.monotonic()) > 0:
            time.sleep(min(left_s, SLEEP_S_MAX))


class Interruption:
    """Takes Ctrl-C between asking the daemon and asking it again: gRPC that is interrupted in the
    middle of a call may wait for ever when its channel is closed. A second one is taken at once.
    A context manager."""

    def __init__(self) -> None:
        self._asked = 0
        self._open = False
        self._former: Any = signal.SIG_IGN

    def __enter__(self) -> Self:
        self._former = signal.getsignal(signal.SIGINT)
        if self._former is not signal.SIG_IGN:  # nohup wants it ignored
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._former)

    def between(self, moments: Iterable[Moment]) -> Iterator[Moment]:
        """Give the moments; what is done with one may be interrupted.

        Raises:
            KeyboardInterrupt: it was asked for while the next one was fetched.
        """
        for moment in moments:
            self._open = True
            if self._asked:
                raise KeyboardInterrupt
            yield moment
            self._open = False

    def _note(self, *_: object) -> None:
        self._asked += 1
        if self._open or self._asked > 1:
            raise KeyboardInterrupt


class Finite(click.FloatRange):
    """A range that takes no NaN, which is in every one by click's comparison, and no infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Give the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number to count with", param, ctx)
        return number


@click.command("replay", short_help="Show what a call wrote, with its times.")
@click.option(
    "--speed",
    type=Finite(min=SPEED_MIN, max=SPEED_MAX),
    metavar="X",
    help="So many times as fast.  [default: 1]",
)
@click.option(
    "--idle-max",
    "idle_max_s",
    type=Finite(min=0),
    metavar="S",
    help="Wait no longer than so many seconds where the recording pauses; --speed comes after.",
)
@click.option(
    "--stream",
    "streams",
    type=click.Choice([stream.value for stream in Stream]),
    multiple=True,
    help="Which stream; may be given again.  [default: stdout and stderr]",
)
@click.option("--no-timing", is_flag=True, help="Do not wait.")
@click.option("--raw", is_flag=True, help="The bytes as they were, for the terminal to obey.")
@click.option(
    "--export",
    type=click.Choice(["asciicast"]),
    help="Write a file for terminal players instead: asciicast, version 3.",
)
@click.option(
    "-o",
    "output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Where --export writes, a new file.  [default: -, standard output]",
)
@click.argument("call_id", metavar="CALL", shell_complete=call_ids)
@daemon_options
def command(
    call_id: str,
    speed: float | None,
    idle_max_s: float | None,
    streams: tuple[str, ...],
    no_timing: bool,
    raw: bool,
    export: str | None,
    output: str | None,
) -> None:
    """Write what CALL wrote to standard output and standard error, again, each piece when it came.
    Of a call that still runs, what is on record so far. Ctrl-C ends it.

    What a terminal would obey is shown as an escape, as \\e for ESC; line ends and tabs stay.
    --raw gives the bytes as they were, and says so. Where a stream was cut off or lost, standard
    error says so, there.

    Of a call that had a terminal, what only draws is passed on, and all else left out and counted:
    titles, the clipboard, questions to the terminal. It looks as it did in a terminal that is as
    large; standard error tells the sizes.

    --export asciicast has the escape sequences as they were; bytes that are not UTF-8 are U+FFFD,
    a line end is that of a terminal, the size is the terminal's, or 80x24, the exit code is that
    of `run`, and what is not on record is a marker. --idle-max becomes its `idle_time_limit`.

    With --json, one JSON object a line, and no waiting: `at_s` with `stream`, `offset` and `data`
    in base64, with `rows` and `columns`, or with `missing`.

    \b
    Examples:
      stockade audit replay CALL
      stockade audit replay --speed 4 --idle-max 2 CALL
      stockade audit replay --no-timing --stream stderr CALL
      stockade audit replay --export asciicast -o call.cast CALL

    \b
    Exit codes:
      0    shown or written
      2    the file is there already, or options that do not go together
      3    there is no such record
      8    the bytes are not those that were recorded; other failures as in `stockade --help`
      130  interrupted
    """
    from supervisor.cli.playback import Pace, moments

    as_json = session().json
    timed = speed is not None or no_timing
    if export and (timed or raw or as_json):
        raise click.UsageError("--export takes none of --speed, --no-timing, --raw and --json")
    if output is not None and not export:
        raise click.UsageError("-o is where --export writes")
    if raw and as_json:
        raise click.UsageError("--json has the bytes as they were; give it without --raw")
    if no_timing and (speed is not None or idle_max_s is not None):
        raise click.UsageError("--no-timing waits for nothing; give it alone")
    wanted = tuple(Stream(name) for name in streams) or (Stream.STDOUT, Stream.STDERR)
    with Interruption() as interruption, session().client() as client:
        call_id = whole_id(client, call_id)
        record = client.record(call_id)
        found = interruption.between(
            moments(record, wanted, lambda stream: client.read_output(call_id, stream))
        )
        if export:
            _export(record, found, idle_max_s, output or STDOUT_NAME)
        elif as_json:
            _json(found)
        else:
            pace = None if no_timing else Pace(speed=speed or 1.0, idle_max_s=idle_max_s)
            _play(record, found, pace, raw=raw)
    _note_end(record.call, wanted)


def _tell_sizes(record: Record, terminal: Terminal) -> None:
    """Say which sizes the terminal had, and where ours is smaller."""
    from supervisor.cli.playback import sizes

    had = [(terminal.columns, terminal.rows), *sizes(record)]
    names = list(dict.fromkeys(f"{columns}x{rows}" for columns, rows in had))
    more = f" and {len(names) - SIZES_SHOWN_MAX} others" if len(names) > SIZES_SHOWN_MAX else ""
    out.note(f"a terminal of {', '.join(names[:SIZES_SHOWN_MAX])}{more}")
    if sys.stdout.isatty():
        ours = os.get_terminal_size(sys.stdout.fileno())
        if any(columns > ours.columns or rows > ours.lines for columns, rows in had):
            out.note(f"yours has {ours.columns}x{ours.lines}: it will not look as it did")


def _play(record: Record, moments: Iterable[Moment], pace: Pace | None, *, raw: bool) -> None:
    from supervisor.cli.playback import End, Gap, Piece, terminal_of

    call, terminal = record.call, terminal_of(record)
    if terminal is not None:
        _tell_sizes(record, terminal)
    if raw:
        out.note("raw: your terminal obeys what the program wrote; `reset` mends it")
    timer = Timer()
    screen = _Screen(raw=raw, terminal=terminal is not None)
    with screen:
        for moment in moments:
            if pace is not None:
                timer.wait(pace.due_s(moment.at_ns))
            match moment:
                case Piece(stream=stream, data=data):
                    screen.write(stream, data)
                case Gap(what=what):
                    screen.settle()
                    out.note(what)
                case End(at_ns=at_ns):
                    screen.settle()
                    screen.close()
                    out.note(f"call {call.call_id} {_ended(call)}, +{out.duration(at_ns / NS)}")
    if screen.left_out:
        out.note(f"left out {screen.left_out} sequences that do more than draw; --raw has them")


class _Screen:
    """Standard output for the program's and for what it was given, standard error for its own."""

    def __init__(self, *, raw: bool, terminal: bool) -> None:
        self._safe = None if raw else {stream: SafeStream() for stream in Stream}
        self._drawn = SafeScreen() if terminal and not raw else None
        self._unprocessed = contextlib.ExitStack()
        if raw and terminal and sys.stdout.isatty():
            # What was written for a terminal has its line ends already.
            self._unprocessed.enter_context(unprocessed(sys.stdout.fileno()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave our terminal as it was."""
        if self._drawn is not None:
            self._put(Stream.STDOUT, self._drawn.end())
            if self._drawn.drew:
                self._put(Stream.STDOUT, "\r\n")
                self._drawn.drew = False
        self._unprocessed.close()

    @property
    def left_out(self) -> int:
        """Give how many sequences were not passed on."""
        return self._drawn.left_out if self._drawn is not None else 0

    def write(self, stream: Stream, data: bytes) -> None:
        """Write bytes of a stream, at once."""
        if self._drawn is not None and stream is Stream.STDOUT:
            self._put(stream, self._drawn.feed(data))
            return
        self._put(stream, data if self._safe is None else self._safe[stream].feed(data))

    def settle(self) -> None:
        """Write what waits for the rest of its character: it does not come."""
        for stream, pending in (self._safe or {}).items():
            self._put(stream, pending.end())

    @staticmethod
    def _put(stream: Stream, content: bytes | str) -> None:
        if not content:
            return
        sink = sys.stderr if stream is Stream.STDERR else sys.stdout
        if isinstance(content, str):
            content = content.encode(sink.encoding, "backslashreplace")
        sink.buffer.write(content)
        sink.buffer.flush()


def _json(moments: Iterable[Moment]) -> None:
    from supervisor.cli.playback import Gap, Piece, Size

    for moment in moments:
        line: dict[str, Any] = {"at_s": moment.at_ns / NS}
        match moment:
            case Piece(stream=stream, offset=offset, data=data):
                encoded = base64.b64encode(data).decode()
                out.line({**line, "stream": stream, "offset": offset, "data": encoded})
            case Size(rows=rows, columns=columns):
                out.line({**line, "rows": rows, "columns": columns})
            case Gap(what=what):
                out.line({**line, "missing": what})


def _export(record: Record, moments: Iterable[Moment], idle_max_s: float | None, path: str) -> None:
    from supervisor.cli.asciicast import lines

    with _new_file(path) as file:
        for line in lines(record, moments, idle_max_s=idle_max_s):
            file.write(line.encode("ascii") + b"\n")
        file.flush()


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[BinaryIO]:
    """Give a file that nobody else reads, removed again where it is not written to its end.

    Raises:
        InvalidRequest: `FILE_EXISTS`.
    """
    if path == STDOUT_NAME:
        yield sys.stdout.buffer
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    except FileExistsError as error:
        raise InvalidRequest(
            "FILE_EXISTS", f"{path} is there already", hint="nothing is written over"
        ) from error
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


def _ended(call: Call) -> str:
    if call.finished is None:
        return f"is {call.state}; this is what is on record so far"
    return outcome.describe(call.finished.outcome, started=call.finished.timeline.started_ns > 0)


def _note_end(call: Call, streams: tuple[Stream, ...]) -> None:
    """Say it where the record has less of a stream than there was."""
    from supervisor.cli.streaming import note_truncated

    for summary in call.finished.streams if call.finished else ():
        if summary.stream in streams:
            note_truncated(summary)
