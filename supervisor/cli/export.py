"""`stockade export`: the sinks that the record is sent to, how they do, and what to do about it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.call.safe import safe
from supervisor.cli import dead_letters
from supervisor.cli import output as out
from supervisor.cli.completion import sink_names
from supervisor.cli.moment import Moment
from supervisor.cli.session import daemon_options, json_option, session
from supervisor.errors import ProfileError, StockadeError

if TYPE_CHECKING:
    from supervisor.client.sinks import Sink, SinkTest
    from supervisor.profile.yaml_source import Problem

EXIT_FAILS = StockadeError.exit_code
EXIT_PROBLEMS = ProfileError.exit_code
WATCH_S = 2.0
WAIT_MAX_S = 3600
WAITING_S = 5.0
"""How often it is said that a test still waits."""

COLUMNS = (
    "SINK", "TYPE", "FORMAT", "STATE", "BEHIND", "BYTES", "OLDEST", "LAST ACK", "RETRIES", "DEAD",
    "WHY",
)  # fmt: skip


@click.group("export", short_help="See to the sinks that the record is sent to.")
def command() -> None:
    """See how the sinks do that the record is sent to, and do something about it: `sinks:` of the
    daemon's configuration names them. Whatever changes something is on record (`export` entries of
    `audit log`).

    It is for callers with `exports: manage`; `status` and `dlq list` are for those with `exports:
    see` or `audit: all`, too.

    \b
    Examples:
      stockade export status
      stockade export test siem
      stockade export replay siem --from 2026-01-31
      stockade export dlq list siem
      stockade export lint && stockade export reload

    \b
    Exit codes:
      0  done
      1  a sink fails, or what was sent did not arrive
      2  the configuration is wrong
      3  there is no such sink, entry or dead letter
      4  you may not
      7  no daemon answers; `lint` needs none
    """


command.add_command(dead_letters.command)


class Place(click.ParamType[tuple[int | None, int | None]]):
    """A place in the log: the index of an entry, or a time as `Moment` takes it."""

    name = "place"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | None, int | None]:
        """Give an index, or nanoseconds since the epoch."""
        text = str(value)
        if text.isdecimal() and text.isascii():
            if int(text) >= 1 << 63:
                self.fail(f"{value!r} is no index of an entry", param, ctx)
            return int(text), None
        return None, Moment().convert(value, param, ctx)


@command.command("status", short_help="Say how the sinks do.")
@click.option(
    "--watch",
    is_flag=True,
    help=f"Say it again every {WATCH_S:g} s, until interrupted; with --json, a line each time.",
)
@daemon_options
@click.pass_context
def status(context: click.Context, /, watch: bool) -> None:
    """Say of each sink whether it gets on, and how far it is behind the log: BEHIND in entries and
    BYTES, and how old the OLDEST of them is; how long ago the other side acknowledged something;
    how many tries were made again since the sink's process began; and how many dead letters wait,
    which are events that the other side refused for good.

    A sink is running; failing, since when: the other side does not take what it is sent, and is
    tried again; or stopped: its process does not run, and WHY says why. An event that waits is in
    the log until it has arrived: nothing is lost by waiting.

    With --json, one document: a list of `name`, `kind`, `format`, `status` (running, failing,
    stopped), `why`, `failing_since`, `acknowledged` (all entries below it have arrived),
    `acknowledged_at`, `lag_entries`, `lag_bytes`, `lag_s`, `events`, `retries`, `dead_letters`,
    `replaying_from`.

    \b
    Examples:
      stockade export status
      stockade export status --watch
      stockade export status --json | jq '.[] | select(.lag_s > 60) | .name'

    \b
    Exit codes:
      0  all sinks get on, also where there is none
      1  one fails or is stopped
      4  you may not see sinks; other failures as in `stockade --help`
    """
    with session().client() as client:
        while True:
            sinks = client.sinks()
            if session().json:
                (out.line if watch else out.document)(sinks)
            else:
                if watch and sys.stdout.isatty():
                    click.clear()
                _tell(sinks)
            if not watch:
                break
            sys.stdout.flush()
            time.sleep(WATCH_S)
    if any(sink.fails for sink in sinks):
        context.exit(EXIT_FAILS)


def _tell(sinks: tuple[Sink, ...]) -> None:
    now_s = _now_s()
    out.table(
        COLUMNS,
        [
            (
                sink.name,
                sink.kind,
                sink.format,
                _state(sink, now_s),
                sink.lag_entries,
                out.size(sink.lag_bytes),
                out.age(sink.lag_s) if sink.lag_s else "",
                _age(sink.acknowledged_at_ns, now_s) or ("" if sink.acknowledged else "never"),
                sink.retries or "",
                sink.dead_letters or "",
                sink.why,
            )
            for sink in sinks
        ],
        empty="no sinks: the record stays on this host",
    )


def _state(sink: Sink, now_s: float) -> str:
    since = _age(sink.failing_since_ns, now_s)
    words = [str(sink.status) + (f" {since}" if since else "")]
    if sink.replaying_from is not None:
        words.append(f"again from {sink.replaying_from}")
    return ", ".join(words)


def _now_s() -> float:
    return time.time()


def _age(time_ns: int, now_s: float) -> str:
    return out.age(now_s - time_ns / 1e9) if time_ns else ""


@command.command("test", short_help="Send a sink an event, and wait until it has arrived.")
@click.option(
    "--timeout",
    type=click.IntRange(min=1, max=WAIT_MAX_S),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait.",
)
@click.argument("name", metavar="SINK", shell_complete=sink_names)
@daemon_options
@click.pass_context
def test(context: click.Context, /, name: str, timeout: int) -> None:
    """Put an entry on record that says who tests SINK, and wait until the other side has
    acknowledged it, as any other entry: it goes the whole way. What waits before it goes first.

    The event has the kind `export` and the action `test`: look for its index at the other side.
    Other sinks get it, too.

    With --json, one document: `index`, `acknowledged`, `refused` (why it is a dead letter),
    `waited_s`, and `sink`, as `status` tells of it.

    \b
    Examples:
      stockade export test siem
      stockade export test --timeout 120 lake

    \b
    Exit codes:
      0  it has arrived
      1  it has not, so far: it is sent again until it has; or the other side refused it
      3  there is no such sink; other failures as in `stockade --help`
    """
    last: SinkTest | None = None
    said_s = 0.0
    with session().client() as client:
        for last in client.test_sink(name, wait=timeout):
            waits = not last.acknowledged and last.waited_s - said_s >= WAITING_S
            if waits and not session().json:
                said_s = last.waited_s
                out.note(f"entry {last.index} waits: {_why(last)}")
    if last is None:
        raise StockadeError("TEST_UNTOLD", "the daemon said nothing of the test")
    if session().json:
        out.document(last)
    elif last.refused:
        out.note(f"entry {last.index} was refused by {name}, and is a dead letter: {last.refused}")
    elif last.acknowledged:
        out.note(
            f"entry {last.index} was acknowledged by {name} after {out.duration(last.waited_s)}"
        )
    else:
        out.note(
            f"entry {last.index} was not acknowledged by {name} within {out.duration(timeout)}: "
            f"{_why(last)}; it arrives once that is over"
        )
    if last.refused or not last.acknowledged:
        context.exit(EXIT_FAILS)


def _why(test: SinkTest) -> str:
    sink, before = test.sink, test.index - test.sink.acknowledged
    if not sink.fails and before > 0:
        return f"of entries before it, {before} {'has' if before == 1 else 'have'} not arrived yet"
    if not sink.fails and sink.kind == "syslog":
        return "syslog acknowledges nothing, so nothing has to show for seconds that it is lost"
    if not sink.fails:
        return "the other side has yet to acknowledge it, or it waits for more to go with (linger:)"
    since = f" since {out.moment(sink.failing_since_ns)}" if sink.failing_since_ns else ""
    return f"the sink is {sink.status}{since}" + (f": {sink.why}" if sink.why else "")


@command.command("replay", short_help="Send a sink again what it had.")
@click.option(
    "--from",
    "place",
    type=Place(),
    required=True,
    metavar="INDEX|TIME",
    help="The first entry, by its index or by a time: 2h, 7d, 2026-01-31, or RFC 3339.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.argument("name", metavar="SINK", shell_complete=sink_names)
@daemon_options
def replay(place: tuple[int | None, int | None], yes: bool, name: str) -> None:
    """Send SINK everything from an entry on again, up to where it was; it goes on from there. Each
    event has the `uid` that it had: who keeps events by it gets no second one.

    What it had acknowledged stays acknowledged. A daemon that is stopped meanwhile does not go on
    with it. How many entries it is, is said before; on a terminal it is asked whether to.

    With --json, one document: `index`, `entries`.

    \b
    Examples:
      stockade export replay siem --from 2h
      stockade export replay siem --from 120000 --yes

    \b
    Exit codes:
      0  it is sent again; `status` says how far that is
      1  it is not to be, after all
      2  no terminal to ask on, and no --yes
      3  there is no such sink or entry, or the sink is yet to come to it
    """
    index, time_ns = place
    with session().client() as client:
        planned = client.replay_sink(name, index=index, time_ns=time_ns, dry_run=True)
        what = f"{out.count(planned.entries, 'entry', 'entries')} from {planned.index} on"
        out.confirm(f"{name} gets {what} again", yes=yes)
        done = client.replay_sink(name, index=planned.index)
    if session().json:
        out.document(done)
    else:
        what = f"{out.count(done.entries, 'entry', 'entries')} from {done.index} on"
        out.note(f"{name} gets {what} again")


@command.command("reload", short_help="Have the daemon read its sinks again.")
@daemon_options
def reload() -> None:
    """Have the daemon read its configuration again, and have the sinks of that, without a restart.
    A sink that is otherwise now goes on where it was, and so does one that had been there before;
    one that did not change is left alone. Where anything in the file is wrong, nothing changes:
    `lint` says it before.

    All else in the configuration is read at the start only. What changed there is named.

    With --json, one document: `added`, `removed`, `changed`, `unchanged`: sinks by their names;
    `ignored`: other keys that changed.

    \b
    Examples:
      stockade export lint && stockade export reload

    \b
    Exit codes:
      0  read
      2  the configuration is wrong or not guarded; nothing changed
      5  a secret cannot be had; nothing changed
    """
    with session().client() as client:
        done = client.reload_sinks()
    if session().json:
        out.document(done)
        return
    for what in ("added", "removed", "changed", "unchanged"):
        if names := getattr(done, what):
            out.field(what, ", ".join(names))
    if not (done.added or done.removed or done.changed):
        out.note("no sink changed")
    if done.ignored:
        out.note(f"changed as well, and needs a restart: {', '.join(done.ignored)}")


@command.command("lint", short_help="Check the configuration of sinks, without a daemon.")
@click.argument(
    "path", metavar="[FILE]", required=False, type=click.Path(path_type=Path, dir_okay=False)
)
@json_option
@click.pass_context
def lint(context: click.Context, /, path: Path | None) -> None:
    """Check the configuration FILE, as the daemon would at its start, and say which sinks it has;
    /etc/stockade/config.yaml where none is given. Each problem comes with file, line, column and a
    caret; files that others could write are problems, too, and so are certificates, keys and files
    of secrets that are missing, as far as you may look. No secret is read, and nothing is sent:
    `test` does that.

    With --json, one document: a list of `level`, `file`, `line`, `column`, `message`, `hint`.

    \b
    Examples:
      stockade export lint
      stockade export lint ./config.yaml && sudo install ./config.yaml /etc/stockade/

    \b
    Exit codes:
      0  nothing is wrong
      2  there are problems, or there is no such file
    """
    from supervisor.api.config import DEFAULT_PATH
    from supervisor.api.guarded import require_guarded
    from supervisor.api.sinks import missing
    from supervisor.cli.serve import configuration, configuration_file
    from supervisor.profile.yaml_source import Problem, ProblemsFound

    source = configuration_file(path)
    problems: tuple[Problem, ...] = ()
    told = ""
    try:
        config = configuration(source)
        names = ", ".join(config.sinks)
        told = f"{out.count(len(config.sinks), 'sink')}{f': {names}' if names else ''}; "
        if source is None:
            told = f"there is no {DEFAULT_PATH}, so there are no sinks; "
        problems = tuple(
            Problem(file=str(source or ""), line=0, column=0, message=message)
            for message in missing(config)
        )
        require_guarded(config, source=source, profiles=())
    except ProblemsFound as found:
        problems = found.problems
    except ProfileError as error:
        place = str(source or "")
        problem = Problem(file=place, line=0, column=0, message=error.message, hint=error.hint)
        problems = (*problems, problem)
    if session().json:
        out.document([{"level": "error", **out.to_json(problem)} for problem in problems])
    else:
        for problem in problems:
            click.echo(safe(_rendered(problem), lines=True))
        out.note(f"{told}{out.count(len(problems), 'problem')}")
    if problems:
        context.exit(EXIT_PROBLEMS)


def _rendered(problem: Problem) -> str:
    """Give a problem as text; one of a file as a whole has no place in it."""
    if problem.line:
        return problem.render()
    return problem.message + (f"\n    hint: {problem.hint}" if problem.hint else "")
