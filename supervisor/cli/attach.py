"""`stockade attach`: follow a call that was started before."""

from __future__ import annotations

import click

from supervisor.cli.completion import call_ids
from supervisor.cli.session import daemon_options, session


@click.command("attach", short_help="Follow a call that was started before.")
@click.option(
    "--from-sequence",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="First event wanted, by its sequence in the record.",
)
@click.option("-q", "--quiet", is_flag=True, help="No summary at the end.")
@click.argument("call_id", metavar="CALL", shell_complete=call_ids)
@daemon_options
@click.pass_context
def command(context: click.Context, from_sequence: int, quiet: bool, call_id: str) -> None:
    """Follow CALL, live or finished, from its beginning on, as `run` would have shown it.

    Signals are passed on as by `run`. With --json, one JSON object a line for each event.

    \b
    Examples:
      call=$(stockade run --detach -p shell -- sh -c 'sleep 5; echo done')
      stockade attach $call
      stockade attach --json --from-sequence 10 $call

    \b
    Exit codes:
      as `stockade run`, once the call has ended
      3      there is no such call; other failures as in `stockade --help`
    """
    from supervisor.cli.streaming import follow

    current = session()
    with current.client() as client, client.attach(call_id, from_sequence) as execution:
        _, code = follow(execution, as_json=current.json, quiet=quiet)
    context.exit(code)
