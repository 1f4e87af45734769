"""`stockade completion`, and what completes the names of profiles, calls and sinks.

Completion asks the daemon and must never be slow or noisy: a short deadline, and nothing at all
where the daemon does not answer.
"""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem, get_completion_class

from supervisor.call.events import Wall
from supervisor.call.safe import command as shown
from supervisor.call.safe import shorten
from supervisor.errors import StockadeError

DEADLINE_S = 0.5
CALLS_MAX = 50
SHELLS = ("bash", "zsh", "fish")
HELP_WIDTH = 60


@click.command("completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the script that makes SHELL complete verbs, options, profiles and calls.

    \b
    Examples:
      eval "$(stockade completion bash)"                       # in ~/.bashrc
      eval "$(stockade completion zsh)"                        # in ~/.zshrc
      stockade completion fish > ~/.config/fish/completions/stockade.fish

    \b
    Exit codes:
      0  printed
      2  a shell that is not known
    """
    root = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"{shell} is not known to click")
    click.echo(kind(root, {}, "stockade", "_STOCKADE_COMPLETE").source())


def profile_names(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the name of a profile."""

    def ask() -> list[CompletionItem]:
        with _client(context) as client:
            return [CompletionItem(item.name, help=item.why) for item in client.profiles()]

    return _matching(ask, incomplete)


def live_call_ids(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the id of a live call."""

    def ask() -> list[CompletionItem]:
        with _client(context) as client:
            return [
                CompletionItem(call.call_id, help=shown(call.argv, HELP_WIDTH))
                for call in client.list_calls(limit=CALLS_MAX, live_only=True)
            ]

    return _matching(ask, incomplete)


def call_ids(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a call, the live and the latest."""

    def ask() -> list[CompletionItem]:
        with _client(context) as client:
            return [
                CompletionItem(call.call_id, help=shown(call.argv, HELP_WIDTH))
                for call in client.list_calls(limit=CALLS_MAX)
            ]

    return _matching(ask, incomplete)


def sink_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a sink."""

    def ask() -> list[CompletionItem]:
        with _client(context) as client:
            return [
                CompletionItem(sink.name, help=f"{sink.kind}, {sink.status}")
                for sink in client.sinks()
            ]

    return _matching(ask, incomplete)


def system_calls(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a system call, without a daemon."""
    from supervisor.profile.syscalls import known_names

    return [CompletionItem(name) for name in sorted(known_names()) if name.startswith(incomplete)]


def walls(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a wall, without a daemon."""
    return [CompletionItem(wall) for wall in Wall if wall.startswith(incomplete)]


def _matching(ask: Callable[[], list[CompletionItem]], incomplete: str) -> list[CompletionItem]:
    try:
        items = ask()
    except StockadeError:
        return []  # A shell's prompt is no place for an error; the command itself will say it.
    return [
        CompletionItem(item.value, help=shorten(item.help or "", HELP_WIDTH))
        for item in items
        if item.value.startswith(incomplete)
    ]


def _client(context: click.Context):  # type: ignore[no-untyped-def]
    from supervisor.client import Retry, Supervisor

    address = context.find_root().params.get("address") or context.params.get("address")
    return Supervisor(address, timeout=DEADLINE_S, retry=Retry(attempts_max=0))
