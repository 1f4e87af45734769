"""`stockade kill`: stop calls, by id, by agent, or all of them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from supervisor.cli import output as out
from supervisor.cli.completion import call_ids
from supervisor.cli.session import daemon_options, session
from supervisor.errors import CallStateError, StockadeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.client import Call, Supervisor

SWEEPS_MAX = 10
"""New calls may start while others are stopped; a sweep that finds none ends it."""


class SignalName(click.ParamType[int]):
    """A signal by name or number: KILL, SIGTERM, 15."""

    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Give the number."""
        text = str(value).upper()
        if text.isdigit() and 0 < int(text) <= signal.NSIG - 1:
            return int(text)
        known = signal.Signals.__members__
        name = text if text.startswith("SIG") else f"SIG{text}"
        if name not in known:
            self.fail(f"{value!r} is not a signal as KILL, TERM or 15", param, ctx)
        return int(known[name])

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete a name, with SIG in front where that was begun."""
        given = incomplete.upper()
        names = list(signal.Signals.__members__)
        if not given.startswith("SIG"):
            names = [name.removeprefix("SIG") for name in names]
        return [CompletionItem(name) for name in names if name.startswith(given)]


@click.command("kill", short_help="Stop calls.")
@click.option("--agent", help="All live calls that gave this agent's name.")
@click.option("--all", "everything", is_flag=True, help="All live calls that you may see.")
@click.option(
    "-s",
    "--signal",
    "number",
    type=SignalName(),
    default="KILL",
    show_default=True,
    help="KILL ends every process of the call; another signal goes to its program.",
)
@click.option("--why", default="", help="Why, for the record.")
@click.argument("calls", nargs=-1, metavar="[CALL]...", shell_complete=call_ids)
@daemon_options
@click.pass_context
def command(
    context: click.Context,
    /,
    calls: tuple[str, ...],
    agent: str | None,
    everything: bool,
    number: int,
    why: str,
) -> None:
    """Stop calls: the named ones, those of an agent, or all. What was done is counted at the end.

    An agent's name is what its client said: it finds calls, it proves nothing. With --json, one
    document: `signal`, and the ids under `signalled`, `ended` (had ended before) and `failed`.

    \b
    Examples:
      stockade kill 0199a3f2-6c1d-7b4e-9a55-3f0c8d2e71b6
      stockade kill --agent writer --why 'runaway loop'
      stockade kill --all
      stockade kill --signal TERM $(stockade ps --ids)

    \b
    Exit codes:
      0  every call was signalled or had ended
      3  one of the named calls is not there
      7  no daemon answers; other failures as in `stockade --help`
    """
    if sum(map(bool, (calls, agent, everything))) != 1:
        raise click.UsageError("give either CALLs, --agent or --all")
    current = session()
    result = _Result()
    with current.client() as client:
        if calls:
            _kill(client, dict.fromkeys(calls), number, why, result)
        else:
            _sweep(client, lambda call: everything or call.correlation.agent == agent,
                   number, why, result)  # fmt: skip
    if current.json:
        out.document(
            {
                "signal": number,
                "signalled": result.signalled,
                "ended": result.ended,
                "failed": [call_id for call_id, _ in result.failed],
            }
        )
    else:
        _say(result, number)
    for _, error in result.failed:
        out.report(error, as_json=current.json)
    if result.failed:
        context.exit(result.failed[0][1].exit_code)


class _Result:
    """What became of each call."""

    def __init__(self) -> None:
        self.signalled: list[str] = []
        self.ended: list[str] = []
        self.failed: list[tuple[str, StockadeError]] = []


def _kill(
    client: Supervisor, call_ids: Iterable[str], number: int, why: str, result: _Result
) -> None:
    for call_id in call_ids:
        try:
            client.signal(call_id, number, why=why)
        except CallStateError:
            result.ended.append(call_id)
        except StockadeError as error:
            if error.code == "UNAVAILABLE":
                raise
            result.failed.append((call_id, error))
        else:
            result.signalled.append(call_id)


def _sweep(
    client: Supervisor, wanted: Callable[[Call], bool], number: int, why: str, result: _Result
) -> None:
    """Signal what is live until a look finds nothing that was not signalled before."""
    seen: set[str] = set()
    for _ in range(SWEEPS_MAX):
        live = [call.call_id for call in client.list_calls(live_only=True) if wanted(call)]
        new = [call_id for call_id in live if call_id not in seen]
        if not new:
            return
        seen.update(new)
        _kill(client, new, number, why, result)
    out.note(f"new calls kept coming; gave up after {SWEEPS_MAX} looks")


def _say(result: _Result, number: int) -> None:
    name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
    click.echo(f"{out.count(len(result.signalled), 'call')} sent {name}")
    if result.ended:
        click.echo(f"{len(result.ended)} had ended before")
